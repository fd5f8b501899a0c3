"""
Keys: list, show, make, import, change. Every change is on record before it happens.

A change whose record cannot be written does not happen. So the record says `begun`
first, and then how it ended.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from urllib.parse import parse_qsl

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, find, read, settle
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.https.http_messages import Response, encode_json, ok
from nitrosigner.verdicts import Code, Malformed, Verdict
from nitrosigner.wire import api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

_PAGE: Final = 100
_MAX_QUERY_FIELDS: Final = 8

_create: Final = msgspec.json.Decoder(api.CreateKey)
_import: Final = msgspec.json.Decoder(api.ImportKey)
_import_kms: Final = msgspec.json.Decoder(api.ImportKmsKey)
_change: Final = msgspec.json.Decoder(api.ChangeKey)


def query(call: Call, *names: str) -> dict[str, str]:
    """
    Return the query's fields, which can only be *names*, each once.

    Raises:
        Malformed: There are others, or one twice.
    """
    try:
        pairs = parse_qsl(
            call.request.query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(call.request.query),
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError:
        pairs = [("", "")]
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= set(names):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "the query of the address is not understood",
            "its fields can be: " + (", ".join(names) or "none"),
        )
    return fields


class Pages(Protocol):
    """Keys in name order."""

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return up to *limit* keys after the name *after*."""
        ...


async def visible(call: Call, after: str, limit: int) -> api.KeyPage:
    """Return up to *limit* keys after *after* that the client may touch."""
    return await seen(call, call.around.keyring, after, limit)


async def seen(call: Call, keys: Pages, after: str, limit: int) -> api.KeyPage:
    """As `visible`, of the keys that *keys* has."""
    around, client = call.around, call.client
    found: list[api.KeyDescription] = []
    while True:
        page = keys.page(after, api.MAX_PAGE)
        for key in page.keys:
            if around.policy.sees(client, key):
                if len(found) == limit:
                    return api.KeyPage(keys=found, more=True)
                found.append(key)
        if not page.more or not page.keys:
            return api.KeyPage(keys=found, more=False)
        after = page.keys[-1].name
        # A hundred thousand keys take a while; others are signing meanwhile.
        await asyncio.sleep(0)


async def list_keys(call: Call) -> Response:
    """GET keys."""
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    fields = query(call, "after", "limit")
    limit = page_limit(fields, _PAGE, api.MAX_PAGE)
    page = await visible(call, fields.get("after", ""), limit)
    call.facts.remove(facts)  # reading is recorded when it is refused
    return ok(page)


def _described(
    call: Call, operation: Operation, verb: str = ""
) -> tuple[Facts, api.KeyDescription]:
    facts = call.begin(operation)
    facts.operation = verb or facts.operation
    call.around.policy.demand(call.client, operation)
    key = find(call, call.identifier, facts)
    call.around.policy.demand_key(call.client, key)
    return facts, key


def show(call: Call) -> Response:
    """GET one key."""
    facts, key = _described(call, Operation.LIST_KEYS)
    call.facts.remove(facts)
    return ok(key)


def ciphertext(call: Call) -> Response:
    """GET what is stored outside of one key."""
    facts, key = _described(call, Operation.LIST_KEYS)
    call.facts.remove(facts)
    return ok(call.around.keyring.ciphertext(key.name))


async def recorded(
    call: Call, facts: Facts, change: Callable[[], Awaitable[api.KeyDescription]]
) -> api.KeyDescription:
    """Do *change* between two records."""
    facts.outcome = "begun"
    await call.around.audit.durable(call.request_id, facts)
    try:
        key = await change()
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    facts.outcome = "done"
    facts.key, facts.address = key.name, key.identity
    return key


async def create(call: Call) -> Response:
    """POST keys."""
    facts = call.begin(Operation.CREATE_KEY)
    around = call.around
    around.policy.demand(call.client, Operation.CREATE_KEY)
    wanted = read(_create, call.request.body)
    around.policy.demand_name(call.client, wanted.name)
    facts.key = wanted.name
    key = await recorded(
        call, facts, lambda: around.keyring.create(wanted.name, wanted.algorithm)
    )
    return Response(201, encode_json(key))


async def import_wrapped(call: Call) -> Response:
    """POST keys/import."""
    facts = call.begin(Operation.IMPORT_KEY)
    around = call.around
    around.policy.demand(call.client, Operation.IMPORT_KEY)
    wanted = read(_import, call.request.body)
    around.policy.demand_name(call.client, wanted.name)
    facts.key = wanted.name
    key = await recorded(call, facts, lambda: around.keyring.import_wrapped(wanted))
    return Response(201, encode_json(key))


async def import_kms(call: Call) -> Response:
    """POST keys/import-kms."""
    facts = call.begin(Operation.IMPORT_KEY)
    around = call.around
    around.policy.demand(call.client, Operation.IMPORT_KEY)
    wanted = read(_import_kms, call.request.body)
    around.policy.demand_name(call.client, wanted.name)
    facts.key = wanted.name
    key = await recorded(call, facts, lambda: around.keyring.import_kms(wanted))
    return Response(201, encode_json(key))


async def _changed(
    call: Call,
    verb: str,
    method: Callable[[str, int | None], Awaitable[api.KeyDescription]],
) -> Response:
    facts, key = _described(call, Operation.MANAGE_KEY, verb)
    wanted = read(_change, call.request.body) if call.request.body else api.ChangeKey()
    return ok(await recorded(call, facts, lambda: method(key.name, wanted.version)))


async def disable(call: Call) -> Response:
    """POST disable."""
    return await _changed(call, "disable_key", call.around.keyring.disable)


async def enable(call: Call) -> Response:
    """POST enable."""
    return await _changed(call, "enable_key", call.around.keyring.enable)


async def delete(call: Call) -> Response:
    """POST delete."""
    return await _changed(call, "delete_key", call.around.keyring.delete)


async def restore(call: Call) -> Response:
    """POST restore."""
    return await _changed(call, "restore_key", call.around.keyring.restore)


async def rotate_vault(call: Call) -> Response:
    """POST vault/rotate."""
    facts = call.begin(Operation.ROTATE_VAULT)
    around = call.around
    around.policy.demand(call.client, Operation.ROTATE_VAULT)
    facts.outcome = "begun"
    await around.audit.durable(call.request_id, facts)
    try:
        count = await around.keyring.rotate_vault()
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    facts.outcome = "done"
    return ok(api.Rotated(keys=count))


def page_limit(fields: dict[str, str], default: int, most: int) -> int:
    """
    Return the query's `limit`.

    Raises:
        Malformed: It is not a number from 1 to *most*.
    """
    limit = fields.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4) or not (
        1 <= int(limit) <= most
    ):
        raise Malformed(
            Code.MALFORMED_REQUEST, f"limit is not a number from 1 to {most}"
        )
    return int(limit)


ROUTES: Final = (
    Route("GET", f"{PREFIX}/keys", list_keys),
    Route("POST", f"{PREFIX}/keys", create),
    Route("POST", f"{PREFIX}/keys/import", import_wrapped),
    Route("POST", f"{PREFIX}/keys/import-kms", import_kms),
    Route("GET", f"{PREFIX}/keys/{{key}}", show),
    Route("GET", f"{PREFIX}/keys/{{key}}/ciphertext", ciphertext),
    Route("POST", f"{PREFIX}/keys/{{key}}/disable", disable),
    Route("POST", f"{PREFIX}/keys/{{key}}/enable", enable),
    Route("POST", f"{PREFIX}/keys/{{key}}/delete", delete),
    Route("POST", f"{PREFIX}/keys/{{key}}/restore", restore),
    Route("POST", f"{PREFIX}/vault/rotate", rotate_vault),
)
