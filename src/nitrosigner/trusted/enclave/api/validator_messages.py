"""
Messages that a validator signs once in its life: deposit, exit, change of withdrawals.

None of them can be slashed, and all of them move money or end something for good: each
has a permission of its own, which `sign_duty` does not imply.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.api.slashing_history import named
from nitrosigner.trusted.enclave.api.validators import described, seed_of
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.https.http_messages import Response, ok
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    SignedVoluntaryExit,
)
from nitrosigner.verdicts import Code, Malformed, Verdict
from nitrosigner.wire import validator_api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

DEPOSIT_CLI_VERSION: Final = "2.7.0"
"""Of the deposit tool whose format this is; launchpads refuse files of old ones."""
MAX_UINT64: Final = (1 << 64) - 1

_deposit: Final = msgspec.json.Decoder(validator_api.DepositDataRequest)
_exit: Final = msgspec.json.Decoder(validator_api.VoluntaryExitRequest)
_bls_change: Final = msgspec.json.Decoder(validator_api.BlsToExecutionChangeRequest)

_Signed = TypeVar("_Signed")


def uint64(text: str, name: str) -> int:
    """
    Return the number that *text* stands for.

    Raises:
        Malformed: It is no number of 64 bits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise Malformed(Code.MALFORMED_REQUEST, f"{name} is not a number")
    number = int(text)
    if number > MAX_UINT64:
        raise Malformed(Code.MALFORMED_REQUEST, f"{name} has more than 64 bits")
    return number


async def signed(
    call: Call, facts: Facts, sign: Callable[[], Awaitable[_Signed]]
) -> _Signed:
    """Do *sign* once the audit log can take it, and count it."""
    call.around.audit.demand()
    counted = call.job.counted
    entered = call.job.clock.monotonic()
    try:
        message = await sign()
    except Verdict as verdict:
        settle(facts, verdict)
        counted.said(verdict)
        raise
    facts.outcome = "signed"
    counted.signed(facts.duty, call.job.clock.monotonic() - entered)
    return message


async def deposit_data(call: Call) -> Response:
    """POST deposit-data."""
    facts, key = await described(call, Operation.SIGN_DEPOSIT)
    facts.duty = "DEPOSIT"
    wanted = read(_deposit, call.request.body)
    amount = uint64(wanted.amount, "amount")
    credentials = bytes.fromhex(wanted.withdrawal_credentials[2:])
    call.around.policy.demand_signature(call.client, key, Operation.SIGN_DEPOSIT)
    deposit = await signed(
        call,
        facts,
        lambda: call.job.keys.deposit_data(
            key.name, withdrawal_credentials=credentials, amount=amount
        ),
    )
    facts.digest = deposit.message_root.hex()
    return ok(
        validator_api.DepositData(
            pubkey=deposit.public_key.hex(),
            withdrawal_credentials=deposit.withdrawal_credentials.hex(),
            amount=deposit.amount,
            signature=deposit.signature.hex(),
            deposit_message_root=deposit.message_root.hex(),
            deposit_data_root=deposit.data_root.hex(),
            fork_version=deposit.fork_version.hex(),
            network_name=deposit.network,
            deposit_cli_version=DEPOSIT_CLI_VERSION,
        )
    )


async def sign_exit(
    call: Call, *, epoch: int, validator_index: int, facts: Facts, name: str
) -> validator_api.SignedVoluntaryExit:
    """Return a signed exit, for both routes that offer one."""
    facts.duty = "VOLUNTARY_EXIT"
    facts.target = epoch
    message: SignedVoluntaryExit = await signed(
        call,
        facts,
        lambda: call.job.keys.voluntary_exit(
            name, validator_index=validator_index, epoch=epoch
        ),
    )
    return validator_api.SignedVoluntaryExit(
        message=validator_api.VoluntaryExit(
            epoch=str(message.epoch), validator_index=str(message.validator_index)
        ),
        signature=named(message.signature),
    )


async def voluntary_exit(call: Call) -> Response:
    """POST voluntary-exit."""
    facts, key = await described(call, Operation.SIGN_VOLUNTARY_EXIT)
    wanted = read(_exit, call.request.body)
    epoch = uint64(wanted.epoch, "epoch")
    validator_index = uint64(wanted.validator_index, "validator_index")
    call.around.policy.demand_signature(call.client, key, Operation.SIGN_VOLUNTARY_EXIT)
    return ok(
        await sign_exit(
            call,
            epoch=epoch,
            validator_index=validator_index,
            facts=facts,
            name=key.name,
        )
    )


async def bls_to_execution_change(call: Call) -> Response:
    """POST bls-to-execution-change."""
    facts, key = await described(call, Operation.SIGN_BLS_CHANGE)
    facts.duty = "BLS_TO_EXECUTION_CHANGE"
    wanted = read(_bls_change, call.request.body)
    validator_index = uint64(wanted.validator_index, "validator_index")
    address = bytes.fromhex(wanted.to_execution_address[2:])
    facts.to = "0x" + address.hex()
    call.around.policy.demand_signature(call.client, key, Operation.SIGN_BLS_CHANGE)
    change = await signed(
        call,
        facts,
        lambda: call.job.keys.bls_to_execution_change(
            key.name,
            validator_index=validator_index,
            to_execution_address=address,
            seed=None if wanted.seed is None else seed_of(wanted.seed),
            index=wanted.index,
        ),
    )
    return ok(
        validator_api.SignedBlsToExecutionChange(
            message=validator_api.BlsToExecutionChange(
                validator_index=str(change.validator_index),
                from_bls_pubkey=named(change.from_bls_public_key),
                to_execution_address="0x" + change.to_execution_address.hex(),
            ),
            signature=named(change.signature),
            metadata=validator_api.BlsToExecutionChangeMetadata(
                network_name=change.network,
                genesis_validators_root=named(change.genesis_validators_root),
            ),
        )
    )


_KEY: Final = f"{PREFIX}/validators/{{key}}"

ROUTES: Final = (
    Route("POST", f"{_KEY}/deposit-data", deposit_data, validators=True),
    Route("POST", f"{_KEY}/voluntary-exit", voluntary_exit, validators=True),
    Route(
        "POST",
        f"{_KEY}/bls-to-execution-change",
        bls_to_execution_change,
        validators=True,
    ),
)
