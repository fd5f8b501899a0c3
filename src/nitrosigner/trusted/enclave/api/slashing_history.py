"""
Slashing protection histories: EIP-3076 in and out.

What comes in only moves watermarks forward. A document is taken whole or not at all:
it is read to its end, and its chain compared, before the first watermark moves.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.keys import page_limit, query
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import Response, ok
from nitrosigner.trusted.enclave.validators.validator_keys_port import NO_HISTORY
from nitrosigner.trusted.enclave.validators.validator_records import Untrusted
from nitrosigner.trusted.signing import interchange
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.trusted.signing.ssz import read_bytes
from nitrosigner.verdicts import Code, Malformed, Verdict
from nitrosigner.wire import validator_api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation
from nitrosigner.wire.validator_api import (
    HISTORY_NAMED,
    HISTORY_PAGE,
    MAX_ENTRIES,
    RECORDS_PAGE,
)

_repair: Final = msgspec.json.Decoder(validator_api.RepairHistory)
_document: Final = msgspec.json.Decoder(validator_api.SlashingHistory)


def named(public_key: bytes) -> str:
    """Return what a validator's key is called."""
    return f"0x{public_key.hex()}"


def public_key_of(text: str) -> bytes:
    """
    Return the 48 bytes that *text* stands for; clients leave `0x` out.

    Raises:
        Malformed: It is no public key in hex.
    """
    return read_bytes("0x" + text.lower().removeprefix("0x"), "the public key", 48)


def read_document(call: Call, document: bytes) -> dict[bytes, Watermark]:
    """
    Return how far the validators of an interchange document have come.

    Raises:
        Malformed: It is none, or has too many validators.
        Refused: It is of another chain, or of a validator that is not the client's.
    """
    history = interchange.read(document, call.job.keys.network.genesis_validators_root)
    if len(history) > MAX_ENTRIES:
        raise Malformed(
            Code.TOO_LARGE,
            f"a history has at most {MAX_ENTRIES} validators here",
            "send it in several requests",
        )
    for public_key in history:
        call.around.policy.demand_name(call.client, named(public_key))
    return history


def of_one(
    call: Call, document: validator_api.SlashingHistory | None, public_key: bytes
) -> Watermark:
    """
    Return how far one validator has come, by a document about nobody else.

    Raises:
        Malformed: It names another validator, or is no such document.
        Refused: It is of another chain.
    """
    if document is None:
        return NO_HISTORY
    history = read_document(call, msgspec.json.encode(document))
    if history.keys() - {public_key}:
        raise Malformed(
            Code.MALFORMED_HISTORY, "this history is of another validator than the key"
        )
    return history.get(public_key, NO_HISTORY)


def document_of(
    call: Call,
    reached: Mapping[bytes, Watermark] | Iterable[tuple[bytes, Watermark]],
) -> bytes:
    """Return the minimal interchange document."""
    return interchange.write(reached, call.job.keys.network.genesis_validators_root)


async def export(call: Call) -> Response:
    """GET slashing-history."""
    facts = call.begin(Operation.SLASHING_HISTORY)
    policy, client = call.around.policy, call.client
    policy.demand(client, Operation.SLASHING_HISTORY)
    fields = query(call, "keys", "after", "limit")
    if "keys" in fields:
        texts = fields["keys"].split(",")
        if len(texts) > HISTORY_NAMED:
            raise Malformed(
                Code.MALFORMED_REQUEST, f"name at most {HISTORY_NAMED} keys at once"
            )
        public_keys = list(dict.fromkeys(map(public_key_of, texts)))
        for public_key in public_keys:
            policy.demand_name(client, named(public_key))
    else:
        limit = page_limit(fields, HISTORY_PAGE, HISTORY_PAGE)
        public_keys = _page(call, fields.get("after", ""), limit)
    history = await call.job.keys.history(public_keys) if public_keys else None
    facts.operation = "export_history"
    facts.count = len(public_keys)
    return Response(200, document_of(call, history.reached if history else {}))


def _page(call: Call, after: str, limit: int) -> list[bytes]:
    """Return the next keys that the client may touch, deleted ones included."""
    policy, client = call.around.policy, call.client
    found: list[bytes] = []
    while True:
        page = call.job.keys.page(after, validator_api.HISTORY_PAGE)
        for key in page.keys:
            if policy.sees(client, key):
                found.append(bytes.fromhex(key.name[2:]))
                if len(found) == limit:
                    return found
        if not page.more or not page.keys:
            return found
        after = page.keys[-1].name


async def list_records(call: Call) -> Response:
    """GET slashing-history/records."""
    facts = call.begin(Operation.SLASHING_HISTORY)
    facts.operation = "export_history"
    policy, client = call.around.policy, call.client
    policy.demand(client, Operation.SLASHING_HISTORY)
    fields = query(call, "after", "limit")
    limit = page_limit(fields, RECORDS_PAGE, RECORDS_PAGE)
    after = public_key_of(fields["after"]) if fields.get("after") else None
    records = await call.job.keys.records.page(after, limit)
    reached = {
        public_key: watermark
        for public_key, watermark in records.reached.items()
        if policy.sees_name(client, named(public_key))
    }
    untrusted = [
        one
        for one in records.untrusted
        if policy.sees_name(client, named(one.public_key))
    ]
    facts.count = len(reached)
    document = _structured(call, reached)
    return ok(
        validator_api.HistoryRecords(
            metadata=document.metadata,
            data=document.data,
            untrusted=[_untrusted(call, one) for one in untrusted],
            next=named(records.after) if records.after else None,
        )
    )


async def repair(call: Call) -> Response:
    """POST slashing-history/repair."""
    facts = call.begin(Operation.REPAIR_HISTORY)
    around = call.around
    around.policy.demand(call.client, Operation.REPAIR_HISTORY)
    wanted = read(_repair, call.request.body)
    public_key = public_key_of(wanted.pubkey)
    around.policy.demand_name(call.client, named(public_key))
    facts.key = named(public_key)
    history = of_one(call, wanted.history, public_key)
    facts.outcome = "begun"
    await around.audit.durable(call.request_id, facts)
    try:
        repaired = await call.job.keys.records.repair(public_key, history)
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    facts.outcome = "done"
    (now,) = _structured(call, {public_key: repaired.reached}).data
    return ok(
        validator_api.HistoryRepaired(
            replaced=_untrusted(call, repaired.replaced), now=now
        )
    )


def _untrusted(call: Call, one: Untrusted) -> validator_api.UntrustedRecord:
    claims = None
    data = one.stored.data if one.stored else b""
    claimed = call.job.keys.guard.claimed(data)
    if claimed is not None:
        (claims,) = _structured(call, {one.public_key: claimed}).data
    return validator_api.UntrustedRecord(
        pubkey=named(one.public_key),
        reason=one.why.message,
        hint=one.why.hint,
        version=one.stored.version if one.stored else 0,
        stored=base64.b64encode(data).decode(),
        claims=claims,
    )


def _structured(
    call: Call, reached: Mapping[bytes, Watermark]
) -> validator_api.SlashingHistory:
    return _document.decode(document_of(call, reached))


async def import_history(call: Call) -> Response:
    """POST slashing-history."""
    facts = call.begin(Operation.SLASHING_HISTORY)
    around = call.around
    around.policy.demand(call.client, Operation.SLASHING_HISTORY)
    facts.operation = "import_history"
    history = read_document(call, call.request.body)
    facts.count = len(history)
    facts.outcome = "begun"
    await around.audit.durable(call.request_id, facts)
    try:
        count = await call.job.keys.import_history(history) if history else 0
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    facts.outcome = "done"
    return ok(validator_api.HistoryImported(validators=count))


ROUTES: Final = (
    Route("GET", f"{PREFIX}/slashing-history", export, validators=True),
    Route("POST", f"{PREFIX}/slashing-history", import_history, validators=True),
    Route("GET", f"{PREFIX}/slashing-history/records", list_records, validators=True),
    Route("POST", f"{PREFIX}/slashing-history/repair", repair, validators=True),
)
