"""
One duty's way: key, client, message, slashing rules, signature.

The order is the point. Nothing is parsed for a client that may not use the key; the
client is judged for exactly the kind of message that was read; and the key signs only
the permit that the slashing guard made, after the watermark was durable.
"""

from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, Later, read
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.https.content_negotiation import wants_json
from nitrosigner.trusted.enclave.https.http_messages import (
    TEXT,
    Request,
    Response,
    encode_json,
    refusal,
)
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.validator_keys_port import ValidatorKey
from nitrosigner.trusted.signing import beacon_duties
from nitrosigner.trusted.signing.algorithms import Signature
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
_SIGN_DUTY: Final = Operation.SIGN_DUTY
_SIGNING: Final = frozenset((_SIGN_DUTY, *_OPERATIONS.values()))
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
    if _SIGNING.isdisjoint(call.client.operations):
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
    duty = call.job.attestations.read(bytes(body))
    if duty is None:
        duty = _read_any(call, body, facts)
    facts.duty = duty.kind
    facts.digest = duty.signing_root.hex()
    judged = duty.slashable_by
    if isinstance(judged, Vote):
        facts.source, facts.target = judged.source, judged.target
    elif isinstance(judged, Proposal):
        facts.slot = judged.slot
    return duty


def _read_any(call: Call, body: bytes | msgspec.Raw, facts: Facts) -> Duty:
    request = read(_anything, body)
    if isinstance(request, Mapping):
        kind = request.get("type")
        # Not what was asked, only which kind, and only if it is one.
        if isinstance(kind, str) and kind.upper() in DutyKind.__members__:
            facts.duty = kind.upper()
    return beacon_duties.read_duty(request, call.job.keys.network)


def operation_of(duty: Duty) -> Operation:
    """Return what a client must be allowed to have *duty* signed."""
    return _OPERATIONS.get(duty.kind, _SIGN_DUTY)


def sign(call: Call) -> Later | Awaitable[Response]:
    """POST eth2/sign/{key}."""
    job = call.job
    facts = call.begin(_SIGN_DUTY)
    try:
        entered = job.load.enter(1)
        call.finish = partial(job.load.leave, 1)
        key, duty = _judged(call, facts)
    except Verdict as verdict:
        if verdict.code is Code.UNKNOWN_KEY:
            # It may have come to another enclave just now.
            look = job.keys.seek([call.identifier])
            return _signed_after(look, call, facts, entered)
        job.counted.said(verdict)
        raise
    if facts.operation is not _SIGN_DUTY:
        # It is for good, and no watermark says that the key was disabled elsewhere.
        return _signed_after(job.keys.listen(), call, facts, entered)
    return _Way(call, facts, entered).begun(key, duty)


async def _signed_after(
    look: Awaitable[None], call: Call, facts: Facts, entered: float
) -> Response:
    """Sign after a look at what other enclaves changed."""
    try:
        await look
        key, duty = _judged(call, facts)
    except Verdict as verdict:
        call.job.counted.said(verdict)
        raise
    return await _Way(call, facts, entered).begun(key, duty)


def _judged(call: Call, facts: Facts) -> tuple[ValidatorKey, Duty]:
    policy = call.around.policy
    demand_any(call)
    key = key_of(call, call.identifier)
    facts.key = key.name
    duty = read_duty(call, call.request.body, facts)
    operation = operation_of(duty)
    facts.operation = operation
    policy.demand_signature(call.client, key, operation)
    call.around.audit.demand()
    return key, duty


class _Way(Later):
    """The rest of a duty's way, which goes through the store and a signing process."""

    __slots__ = ("_call", "_entered", "_facts", "_votes")

    def __init__(self, call: Call, facts: Facts, entered: float) -> None:
        super().__init__()
        self._call, self._facts, self._entered = call, facts, entered

    def begun(self, key: ValidatorKey, duty: Duty) -> Later:
        """Have *duty* permitted and signed."""
        self._votes = duty.slashable_by is not None
        guard = self._call.job.keys.guard
        guard.permit_soon(key.public_key, key.name, duty, self._permitted)
        return self

    def _permitted(self, outcome: Permit | Verdict) -> None:
        """Sign, or say no."""
        if isinstance(outcome, Verdict):
            self._fail(outcome)
            return
        job = self._call.job
        try:
            # The watermark has moved and nothing is signed: the same message may be
            # asked for again, and is then an exact repeat.
            now = job.load.demand_in_time(self._entered)
            if self._votes:
                job.counted.advanced(now)
            job.keys.sign_soon(outcome, self._signed)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._fail(error)

    def _signed(self, outcome: Signature | Verdict) -> None:
        """Answer."""
        if isinstance(outcome, Verdict):
            self._fail(outcome)
            return
        try:
            response = self._response(outcome)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._fail(error)
        else:
            self.tell(response)

    def _response(self, signature: Signature) -> Response:
        job, facts = self._call.job, self._facts
        facts.outcome = "signed"
        job.counted.signed(facts.duty, job.load.seconds_since(self._entered))
        text = f"0x{signature.hex()}"
        if wants_json(self._call.request.accept):
            return Response(200, encode_json({"signature": text}))
        return Response(200, text.encode(), TEXT)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Verdict):
            self._call.job.counted.said(error)
        self.tell(error)
