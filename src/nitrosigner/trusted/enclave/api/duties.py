"""
One duty's way: key, client, message, slashing rules, signature.

The order is the point. Nothing is parsed for a client that may not use the key; the
client is judged for exactly the kind of message that was read; and the key signs only
the permit that the slashing guard made, after the watermark was durable.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.calls import Call, read
from nitrosigner.trusted.enclave.content_negotiation import wants_json
from nitrosigner.trusted.enclave.http_messages import (
    TEXT,
    Request,
    Response,
    encode_json,
    refusal,
)
from nitrosigner.trusted.enclave.validator_keys_port import ValidatorKey
from nitrosigner.trusted.signing import beacon_duties
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.slashing import Proposal, Vote
from nitrosigner.verdicts import Code, Verdict
from nitrosigner.wire.manifest import Operation

_OPERATIONS: Final = {
    DutyKind.VOLUNTARY_EXIT: Operation.SIGN_VOLUNTARY_EXIT,
    DutyKind.DEPOSIT: Operation.SIGN_DEPOSIT,
    DutyKind.BLS_TO_EXECUTION_CHANGE: Operation.SIGN_BLS_CHANGE,
    DutyKind.EXECUTION_PAYLOAD_BID: Operation.SIGN_BUILDER_BID,
}
"""Every other kind: `sign_duty`."""
_SIGNING: Final = (Operation.SIGN_DUTY, *_OPERATIONS.values())
_STATUS: Final = {
    Code.SLASHABLE: 412,
    Code.NOT_REGISTERED: 412,
    Code.RECORD_UNTRUSTED: 412,
    Code.WRONG_CHAIN: 412,
    Code.KEY_DISABLED: 412,
    Code.KEY_DELETED: 404,
}
"""Where Web3Signer's contract has another status than our own routes. 412: the message
is well formed, and this key will not sign it."""

_anything: Final = msgspec.json.Decoder()


def status(verdict: Verdict) -> int:
    """Return the status that carries *verdict* to a validator client."""
    return _STATUS.get(verdict.code, verdict.status)


def say(request: Request, verdict: Verdict) -> Response:
    """Say no to a validator client: a sentence, or JSON if it wants that."""
    response = refusal(verdict)
    if not wants_json(request.accept):
        return Response(
            status(verdict), verdict.message.encode(), TEXT, response.headers
        )
    return Response(status(verdict), response.body, headers=response.headers)


def demand_any(call: Call) -> None:
    """
    Make sure that the client may have something signed at all.

    Raises:
        Refused: Nothing (NOT_ALLOWED).
    """
    allowed = call.client.operations
    if not any(operation in allowed for operation in _SIGNING):
        call.around.policy.demand(call.client, Operation.SIGN_DUTY)


def key_of(call: Call, identifier: str) -> ValidatorKey:
    """
    Return the key that *identifier* names, if the client may touch it.

    Raises:
        Refused: There is none, or it is not the client's.
    """
    key = call.job.keys.find(identifier)
    call.around.policy.demand_key(call.client, key)
    return key


def read_duty(call: Call, body: bytes | msgspec.Raw, facts: Facts) -> Duty:
    """
    Return what is to be signed, and note it in *facts*.

    Raises:
        Malformed: It is no signing request.
        Refused: It is for another chain.
    """
    request = read(_anything, body)
    if isinstance(request, Mapping):
        kind = request.get("type")
        # Not what was asked, only which kind, and only if it is one.
        if isinstance(kind, str) and kind.upper() in DutyKind.__members__:
            facts.duty = kind.upper()
    duty = beacon_duties.read_duty(request, call.job.keys.network)
    facts.digest = duty.signing_root.hex()
    match duty.slashable_by:
        case Proposal(slot=slot):
            facts.slot = slot
        case Vote(source=source, target=target):
            facts.source, facts.target = source, target
        case None:
            pass
    return duty


def operation_of(duty: Duty) -> Operation:
    """Return what a client must be allowed to have *duty* signed."""
    return _OPERATIONS.get(duty.kind, Operation.SIGN_DUTY)


async def sign(call: Call) -> Response:
    """POST eth2/sign/{key}."""
    job = call.job
    facts = call.begin(Operation.SIGN_DUTY)
    try:
        entered = job.load.enter(1)
        call.finish = lambda: job.load.leave(1)
        signature = await _signed(call, facts, entered)
    except Verdict as verdict:
        job.counted.said(verdict)
        raise
    facts.outcome = "signed"
    job.counted.signed(facts.duty, job.load.seconds_since(entered))
    text = f"0x{signature.hex()}"
    if wants_json(call.request.accept):
        return Response(200, encode_json({"signature": text}))
    return Response(200, text.encode(), TEXT)


async def _signed(call: Call, facts: Facts, entered: float) -> bytes:
    job, policy = call.job, call.around.policy
    demand_any(call)
    key = key_of(call, call.identifier)
    facts.key = key.name
    duty = read_duty(call, call.request.body, facts)
    operation = operation_of(duty)
    facts.operation = operation.value
    policy.demand_signature(call.client, key, operation)
    call.around.audit.demand()
    permit = await job.keys.guard.permit(key.public_key, key.name, duty)
    if duty.slashable_by is not None:
        job.counted.advanced(job.clock.monotonic())
    # The watermark has moved and nothing is signed: the same message may be asked for
    # again, and is then an exact repeat.
    job.load.demand_in_time(entered)
    return await job.keys.sign(permit)
