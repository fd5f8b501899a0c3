"""
One request, many signatures: a duty for many keys, or several of those.

In the shape of ethereum/remote-signing-api, pull request 29: one verdict for each key,
in the order of the request; what is wrong with one key does not hurt the others. The
whole body is read before anything is signed, so a malformed part means nothing was.

Keys go through in chunks: while one is signed the next is made durable. A chunk is one
round trip to the store; a root is hashed to the curve once, however many keys sign it.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api import duties
from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.audit import Facts, about_many, unavailable
from nitrosigner.trusted.enclave.https.http_messages import Response, encode_json
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.validator_keys_port import ValidatorKey
from nitrosigner.trusted.signing.beacon_duties import Duty
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire.manifest import Operation
from nitrosigner.wire.validator_api import (
    MAX_BATCH,
    BatchError,
    BatchResult,
    BatchSign,
)

CHUNK: Final = 512
"""Keys: as many as the guard writes at once."""
FIRST_CHUNK: Final = 64
"""Of the first one; each is twice the one before. The sooner the first is durable, the
sooner there is something to sign."""
AT_ONCE: Final = 3
"""Chunks under way in one request: one is signed, one is written, one is read."""
MAX_PARTS: Final = 1_000

_body: Final = msgspec.json.Decoder(BatchSign | list[BatchSign])


class _Wanted(msgspec.Struct):
    """One signature of the request, and what became of it."""

    identifier: str
    name: str = ""
    """The key's, once it is known to be one that the client may touch."""
    signature: bytes | None = None
    verdict: Verdict | None = None


class _Part(msgspec.Struct):
    """One duty."""

    facts: Facts
    duty: Duty | None
    """None: it is for another chain."""
    wanted: list[_Wanted]


async def sign_batch(call: Call) -> Response:
    """POST eth2/sign."""
    job = call.job
    call.begin(Operation.SIGN_DUTY)
    try:
        duties.demand_any(call)
        asked = _read(call)
        count = sum(len(one.identifiers) for one in asked)
        entered = job.load.enter(count)
        call.finish = lambda: job.load.leave(count)
        parts = [_part(call, one) for one in asked]
    except Verdict as verdict:
        job.counted.said(verdict)
        raise
    batch = _Batch(call, entered)
    results = await asyncio.gather(
        *(
            _sign_chunk(batch, part, chunk)
            for part in parts
            for chunk in _chunks(part.wanted)
        )
    )
    call.facts[:] = [batch.last()]
    return Response(200, b"[" + b",".join(results) + b"]")


class _Batch:
    """
    What the chunks of one request share: their turns, and the way to the audit log.

    Events go there while other chunks are signed still. One is kept for the end, and
    answers for all: events are written in order, so when it is durable they are. It is
    one of a signature if there is any.
    """

    def __init__(self, call: Call, entered: float) -> None:
        self.call: Final = call
        self.entered: Final = entered
        self.turns: Final = asyncio.Semaphore(AT_ONCE)
        self._kept: Facts | None = None
        self._lost = False

    def take(self, facts: Facts) -> None:
        kept = self._kept
        if kept is None:
            self._kept = facts
            return
        if facts.outcome == "signed" and kept.outcome != "signed":
            self._kept, facts = facts, kept
        if not self.call.around.audit.record(self.call.request_id, facts):
            self._lost = True

    def last(self) -> Facts:
        """
        Return the one that was kept.

        Raises:
            Undecided: There was no room for another one (AUDIT_UNAVAILABLE).
        """
        if self._lost:
            raise unavailable()
        # Every part has a key, so there is one.
        return self._kept or Facts(operation=Operation.SIGN_DUTY.value)


def _chunks(wanted: list[_Wanted]) -> Iterator[list[_Wanted]]:
    start, size = 0, FIRST_CHUNK
    while start < len(wanted):
        yield wanted[start : start + size]
        start, size = start + size, min(2 * size, CHUNK)


def _read(call: Call) -> list[BatchSign]:
    body = read(_body, call.request.body)
    asked = body if isinstance(body, list) else [body]
    count = sum(len(one.identifiers) for one in asked)
    if not 0 < count <= MAX_BATCH or len(asked) > MAX_PARTS:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a batch has 1 to {MAX_BATCH} signatures in at most {MAX_PARTS} duties",
            "send several requests",
        )
    return asked


def _part(call: Call, asked: BatchSign) -> _Part:
    facts = Facts(client=call.client.name, operation=Operation.SIGN_DUTY.value)
    wanted = [_Wanted(identifier) for identifier in asked.identifiers]
    try:
        duty = duties.read_duty(call, asked.signing_request, facts)
    except Refused as verdict:
        for one in wanted:
            one.verdict = verdict
        return _Part(facts, None, wanted)
    facts.operation = duties.operation_of(duty).value
    return _Part(facts, duty, wanted)


async def _sign_chunk(batch: _Batch, part: _Part, chunk: list[_Wanted]) -> bytes:
    """Return the results of *chunk* as JSON, without the brackets."""
    call, entered = batch.call, batch.entered
    if part.duty is not None:
        async with batch.turns:
            await _sign(call, part, part.duty, chunk, entered)
    for facts in _recorded(call, part, chunk, call.job.load.seconds_since(entered)):
        batch.take(facts)
    return encode_json([_result(one) for one in chunk])[1:-1]


async def _sign(
    call: Call, part: _Part, duty: Duty, chunk: list[_Wanted], entered: float
) -> None:
    judged = await _judged(call, duty, chunk)
    try:
        call.around.audit.demand()
        if duties.operation_of(duty) is not Operation.SIGN_DUTY:
            # No watermark says that another enclave disabled the key.
            await call.job.keys.listen()
        call.job.load.demand_in_time(entered, len(judged))
        permits, _ = await asyncio.gather(
            _permitted(call, duty, judged), _hashed(call, part)
        )
        call.job.load.demand_in_time(entered, len(permits))
    except Verdict as verdict:
        for one, _ in judged:
            one.verdict = one.verdict or verdict
        return
    signatures = await call.job.keys.sign_many([permit for _, permit in permits])
    for (one, _), signature in zip(permits, signatures, strict=True):
        if isinstance(signature, Verdict):
            one.verdict = signature
        else:
            one.signature = signature


async def _judged(
    call: Call, duty: Duty, chunk: list[_Wanted]
) -> list[tuple[_Wanted, ValidatorKey]]:
    """Return what the policy lets through, with its keys."""
    judged = _judged_now(call, duty, chunk)
    unknown = [
        one for one in chunk if one.verdict and one.verdict.code is Code.UNKNOWN_KEY
    ]
    if unknown:
        # They may have come to another enclave just now.
        try:
            await call.job.keys.seek([one.identifier for one in unknown])
        except Verdict as verdict:
            for one in unknown:
                one.verdict = verdict
        else:
            for one in unknown:
                one.verdict = None
            judged += _judged_now(call, duty, unknown)
    return judged


def _judged_now(
    call: Call, duty: Duty, chunk: list[_Wanted]
) -> list[tuple[_Wanted, ValidatorKey]]:
    operation = duties.operation_of(duty)
    policy, client = call.around.policy, call.client
    judged = []
    for one in chunk:
        try:
            key = duties.key_of(call, one.identifier)
            one.name = key.name
            policy.demand_signature(client, key, operation)
        except Verdict as verdict:
            one.verdict = verdict
        else:
            judged.append((one, key))
    return judged


async def _permitted(
    call: Call, duty: Duty, judged: list[tuple[_Wanted, ValidatorKey]]
) -> list[tuple[_Wanted, Permit]]:
    """Return what the slashing guard permits."""
    job = call.job
    answers = await job.keys.guard.permit_many(
        [(key.public_key, key.name, duty) for _, key in judged]
    )
    permitted = []
    for (one, _), answer in zip(judged, answers, strict=True):
        if isinstance(answer, Verdict):
            one.verdict = answer
        else:
            permitted.append((one, answer))
    if permitted and duty.slashable_by is not None:
        job.counted.advanced(job.clock.monotonic())
    return permitted


async def _hashed(call: Call, part: _Part) -> None:
    """Have what many keys will sign hashed once, while their watermarks move."""
    if part.duty is not None and len(part.wanted) > 1:
        await call.job.keys.hash_once(part.duty.signing_root)


def _result(one: _Wanted) -> BatchResult:
    if one.signature is not None:
        return BatchResult(
            identifier=one.identifier, signature=f"0x{one.signature.hex()}"
        )
    verdict = _verdict(one)
    return BatchResult(
        identifier=one.identifier,
        error=BatchError(
            code=duties.status(verdict),
            message=verdict.message,
            reason=verdict.code.value,
        ),
    )


def _verdict(one: _Wanted) -> Verdict:
    # Every path sets one of the two; if that is ever wrong, nothing was signed.
    return one.verdict or Refused(Code.INTERNAL, "the signer failed")


def _recorded(
    call: Call, part: _Part, chunk: list[_Wanted], seconds: float
) -> Iterable[Facts]:
    """Count a chunk, and return its events: one for many verdicts alike."""
    counted = call.job.counted
    alike: dict[str, list[_Wanted]] = {}
    for one in chunk:
        code = "" if one.signature is not None else _verdict(one).code.value
        alike.setdefault(code, []).append(one)
    for code, group in alike.items():
        if code:
            for one in group:
                counted.said(_verdict(one))
        else:
            counted.signed(part.facts.duty, seconds, len(group))
        for facts in about_many(part.facts, [one.name for one in group]):
            facts.outcome = "signed"
            if code:
                settle(facts, _verdict(group[0]))
            yield facts
