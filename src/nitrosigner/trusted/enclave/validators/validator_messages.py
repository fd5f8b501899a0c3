"""
What a validator signs rarely and for good: deposits, exits, changes of credentials.

Each is put together here, read as a duty like any other, permitted by the guard and
signed: there is one way to a signature. Who may ask is the policy's business.
"""

from typing import Final

from nitrosigner.trusted.enclave.validators.duty_signing import DutySigning
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    DepositData,
    SignedBlsChange,
    SignedVoluntaryExit,
    ValidatorKey,
)
from nitrosigner.trusted.signing import beacon_deposits
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.beacon_duties import DutyKind, read_duty
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed

_UINT64: Final = (1 << 64) - 1
_ADDRESS_SIZE: Final = 20


class ValidatorMessages:
    """Signs messages in the chain's domains."""

    def __init__(
        self, network: BeaconNetwork, guard: SlashingGuard, signing: DutySigning
    ) -> None:
        self._network = network
        self._guard = guard
        self._signing = signing

    async def deposit(
        self, key: ValidatorKey, withdrawal_credentials: bytes, amount: int
    ) -> DepositData:
        """Sign a deposit of *amount* gwei. See `ValidatorKeys.deposit_data`."""
        beacon_deposits.require_deposit(withdrawal_credentials, amount)
        version = self._network.genesis_version
        body: dict[str, object] = {
            "type": DutyKind.DEPOSIT.value,
            "deposit": {
                "pubkey": _hex(key.public_key),
                "withdrawal_credentials": _hex(withdrawal_credentials),
                "amount": str(amount),
                "genesis_fork_version": _hex(version),
            },
        }
        signature = await self._signed(key, body)
        parts = key.public_key, withdrawal_credentials, amount
        return DepositData(
            public_key=key.public_key,
            withdrawal_credentials=withdrawal_credentials,
            amount=amount,
            signature=signature,
            message_root=beacon_deposits.message_root(*parts),
            data_root=beacon_deposits.data_root(*parts, signature),
            fork_version=version,
            network=self._network.name,
        )

    async def exit(
        self, key: ValidatorKey, validator_index: int, epoch: int
    ) -> SignedVoluntaryExit:
        """Sign an exit. See `ValidatorKeys.voluntary_exit`."""
        body: dict[str, object] = {
            "type": DutyKind.VOLUNTARY_EXIT.value,
            "fork_info": self._fork_info("capella"),
            "voluntary_exit": {
                "epoch": _number(epoch),
                "validator_index": _number(validator_index),
            },
        }
        return SignedVoluntaryExit(
            epoch=epoch,
            validator_index=validator_index,
            signature=await self._signed(key, body),
        )

    async def change(
        self, key: ValidatorKey, validator_index: int, address: bytes
    ) -> SignedBlsChange:
        """Sign a change with *key* itself, a withdrawal key that is kept here."""
        body = self._change(key.public_key, validator_index, address)
        return SignedBlsChange(
            validator_index=validator_index,
            from_bls_public_key=key.public_key,
            to_execution_address=address,
            signature=await self._signed(key, body),
            network=self._network.name,
            genesis_validators_root=self._network.genesis_validators_root,
        )

    async def change_by(
        self, bls: Bls12381, secret: SecretBytes, validator_index: int, address: bytes
    ) -> SignedBlsChange:
        """
        Sign a change with a withdrawal key that is here for this one signature.

        It is no key of ours: it has no record, and is wiped by whoever derived it.
        """
        public_key = bls.public_key(secret)
        body = self._change(public_key, validator_index, address)
        duty = read_duty(body, self._network)
        permit = await self._guard.permit(public_key, _hex(public_key), duty)
        return SignedBlsChange(
            validator_index=validator_index,
            from_bls_public_key=public_key,
            to_execution_address=address,
            signature=bls.sign(secret, permit.message),
            network=self._network.name,
            genesis_validators_root=self._network.genesis_validators_root,
        )

    def _change(
        self, public_key: bytes, validator_index: int, address: bytes
    ) -> dict[str, object]:
        if len(address) != _ADDRESS_SIZE or not any(address):
            raise Malformed(
                Code.MALFORMED_REQUEST, "the address to be paid has 20 bytes, not zero"
            )
        return {
            "type": DutyKind.BLS_TO_EXECUTION_CHANGE.value,
            "fork_info": self._fork_info("phase0"),
            "bls_to_execution_change": {
                "validator_index": _number(validator_index),
                "from_bls_pubkey": _hex(public_key),
                "to_execution_address": _hex(address),
            },
        }

    def _fork_info(self, fork: str) -> dict[str, object]:
        version = _hex(self._network.fork_versions[fork])
        return {
            "fork": {
                "previous_version": version,
                "current_version": version,
                "epoch": "0",
            },
            "genesis_validators_root": _hex(self._network.genesis_validators_root),
        }

    async def _signed(self, key: ValidatorKey, body: dict[str, object]) -> Signature:
        duty = read_duty(body, self._network)
        permit = await self._guard.permit(key.public_key, key.name, duty)
        return await self._signing.sign(permit)


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _number(value: int) -> str:
    if not 0 <= value <= _UINT64:
        raise Malformed(Code.MALFORMED_REQUEST, "a number is not between 0 and 2^64")
    return str(value)
