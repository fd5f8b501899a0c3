"""
One request, many signatures: a duty for many keys, or several of those.

In the shape of ethereum/remote-signing-api, pull request 29: one verdict for each key,
in the order of the request; what is wrong with one key does not hurt the others. The
whole body is read before anything is signed, so a malformed part means nothing was.

Keys go through in chunks: while one is signed the next is made durable. A chunk is one
round trip to the store; a root is hashed to the curve once, however many sign it.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api import duties
from nitrosigner.trusted.enclave.audit import Facts, about_many
from nitrosigner.trusted.enclave.calls import Call, read, settle
from nitrosigner.trusted.enclave.http_messages import Response, encode_json
from nitrosigner.trusted.enclave.permit import Permit
from nitrosigner.trusted.enclave.validator_keys_port import ValidatorKey
from nitrosigner.trusted.signing.beacon_duties import Duty
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire.manifest import Operation
from nitrosigner.wire.validator_api import (
    MAX_BATCH,
    BatchError,
    BatchResult,
    BatchSign,
)

CHUNK: Final = 256
"""Keys: as many as the guard writes at once."""
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
    facts = call.begin(Operation.SIGN_DUTY)
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
    turns = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(
        *(
            _sign_chunk(call, part, part.wanted[start : start + CHUNK], entered, turns)
            for part in parts
            for start in range(0, len(part.wanted), CHUNK)
        )
    )
    call.facts.remove(facts)
    seconds = job.load.seconds_since(entered)
    for part in parts:
        call.facts += _recorded(call, part, seconds)
    return Response(
        200, encode_json([_result(one) for part in parts for one in part.wanted])
    )


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


async def _sign_chunk(
    call: Call,
    part: _Part,
    chunk: list[_Wanted],
    entered: float,
    turns: asyncio.Semaphore,
) -> None:
    if part.duty is None:
        return
    async with turns:
        judged = await _judged(call, part.duty, chunk)
        try:
            call.around.audit.demand()
            if duties.operation_of(part.duty) is not Operation.SIGN_DUTY:
                # No watermark says that another enclave disabled the key.
                await call.job.keys.listen()
            call.job.load.demand_in_time(entered, len(judged))
            permits = await _permitted(call, part.duty, judged)
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


def _recorded(call: Call, part: _Part, seconds: float) -> Iterable[Facts]:
    """Count a part, and return its events: one for many verdicts alike."""
    counted = call.job.counted
    alike: dict[str, list[_Wanted]] = {}
    for one in part.wanted:
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
