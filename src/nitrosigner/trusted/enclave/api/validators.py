"""
Validators' keys: list, show, make, import, derive, change.

A key comes with its history, in one request, and the history is durable first: a key
without slashing protection does not exist. Every change is on record before it happens.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.keys import page_limit, query, recorded, seen
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.api.slashing_history import (
    named,
    of_one,
    public_key_of,
)
from nitrosigner.trusted.enclave.audit import Facts, about_many
from nitrosigner.trusted.enclave.https.http_messages import Response, encode_json, ok
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    Imported,
    WrappedSeed,
)
from nitrosigner.verdicts import Code, Malformed, Verdict
from nitrosigner.wire import api, validator_api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

_PAGE: Final = 100

_create: Final = msgspec.json.Decoder(validator_api.CreateValidator)
_import: Final = msgspec.json.Decoder(validator_api.ImportValidator)
_reference: Final = msgspec.json.Decoder(validator_api.ImportReference)
_derive: Final = msgspec.json.Decoder(validator_api.DeriveValidators)
_change: Final = msgspec.json.Decoder(validator_api.ChangeValidator)


def base64_bytes(text: str, name: str) -> bytes:
    """
    Return the bytes that *text* stands for.

    Raises:
        Malformed: It is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(Code.MALFORMED_REQUEST, f"{name} is not base64") from None


async def described(
    call: Call, operation: Operation, verb: str = ""
) -> tuple[Facts, api.KeyDescription]:
    """
    Find the key that the path names, for a client that may do this with it.

    Raises:
        Refused: The client, or no such key.
        Undecided: The store did not answer.
    """
    facts = call.begin(operation)
    facts.operation = verb or facts.operation
    call.around.policy.demand(call.client, operation)
    if operation is not Operation.LIST_KEYS:
        # Not what it was a second ago, where an order or a signature for good follows.
        await call.job.keys.listen()
    key = call.job.keys.describe(call.identifier)
    facts.key = key.name
    call.around.policy.demand_key(call.client, key)
    return facts, key


async def list_keys(call: Call) -> Response:
    """GET validators."""
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    fields = query(call, "after", "limit")
    limit = page_limit(fields, _PAGE, api.MAX_PAGE)
    page = await seen(call, call.job.keys, fields.get("after", ""), limit)
    call.facts.remove(facts)
    return ok(page)


async def show(call: Call) -> Response:
    """GET one validator."""
    facts, key = await described(call, Operation.LIST_KEYS)
    call.facts.remove(facts)
    return ok(key)


async def create(call: Call) -> Response:
    """POST validators."""
    facts = call.begin(Operation.CREATE_KEY)
    facts.operation = "create_validator"
    call.around.policy.demand(call.client, Operation.CREATE_KEY)
    if call.request.body:
        read(_create, call.request.body)
    _demand_every_name(call)
    key = await recorded(call, facts, call.job.keys.create)
    return Response(201, encode_json(key))


async def import_wrapped(call: Call) -> Response:
    """POST validators/import."""
    facts = _begin_import(call, "import_validator")
    wanted = read(_import, call.request.body)
    public_key = _demand_importable(call, wanted.identity, facts)
    history = of_one(call, wanted.history, public_key)
    return await _imported(
        call,
        facts,
        lambda: call.job.keys.import_wrapped(
            named(public_key), wanted.wrapped_key, history
        ),
    )


async def import_reference(call: Call) -> Response:
    """POST validators/import-reference."""
    facts = _begin_import(call, "import_reference")
    wanted = read(_reference, call.request.body)
    public_key = _demand_importable(call, wanted.public_key, facts)
    ciphertext = base64_bytes(wanted.ciphertext, "ciphertext")
    history = of_one(call, wanted.history, public_key)
    return await _imported(
        call,
        facts,
        lambda: call.job.keys.import_reference(named(public_key), ciphertext, history),
    )


async def derive(call: Call) -> Response:
    """POST validators/derive."""
    facts = _begin_import(call, "derive_validators")
    wanted = read(_derive, call.request.body)
    if wanted.start + wanted.count > 1 << 32:
        raise Malformed(Code.MALFORMED_REQUEST, "the last index is beyond 2^32")
    _demand_every_name(call)
    recipient = None
    if wanted.backup_recipient is not None:
        recipient = base64_bytes(wanted.backup_recipient, "backup_recipient")
    facts.outcome = "begun"
    facts.count = wanted.count
    await call.around.audit.durable(call.request_id, facts)
    try:
        derived = await call.job.keys.derive(
            seed_of(wanted.seed),
            start=wanted.start,
            count=wanted.count,
            backup_recipient=recipient,
        )
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    call.facts.remove(facts)
    keys = [imported.key for imported in derived.keys]
    facts.outcome = "done"
    call.facts += about_many(facts, [key.name for key in keys])
    body = validator_api.DerivedValidators(
        keys=keys,
        backup=base64.b64encode(derived.backup).decode() if derived.backup else None,
    )
    return Response(201, encode_json(body))


async def disable(call: Call) -> Response:
    """POST disable."""
    return await _changed(call, "disable_key", call.job.keys.disable)


async def enable(call: Call) -> Response:
    """POST enable."""
    return await _changed(call, "enable_key", call.job.keys.enable)


async def delete(call: Call) -> Response:
    """POST delete."""

    async def deleted(name: str, version: int | None) -> api.KeyDescription:
        key, _ = await call.job.keys.delete(name, version)
        return key

    return await _changed(call, "delete_key", deleted)


def seed_of(seed: validator_api.Seed) -> WrappedSeed:
    """Return the seed of a request as the port has it."""
    return WrappedSeed(form=seed.form, wrapped=seed.wrapped)


def _begin_import(call: Call, verb: str) -> Facts:
    facts = call.begin(Operation.IMPORT_KEY)
    facts.operation = verb
    call.around.policy.demand(call.client, Operation.IMPORT_KEY)
    return facts


def _demand_importable(call: Call, identity: str, facts: Facts) -> bytes:
    public_key = public_key_of(identity)
    call.around.policy.demand_name(call.client, named(public_key))
    facts.key = named(public_key)
    return public_key


def _demand_every_name(call: Call) -> None:
    """
    Make sure that the client may touch a validator whose name nobody knows yet.

    Raises:
        Refused: Its keys are picked by more than what all validators' names share.
    """
    for digit in "89ab":  # a compressed point begins with one of these
        call.around.policy.demand_name(call.client, f"0x{digit}{'?' * 95}")


async def _imported(
    call: Call, facts: Facts, change: Callable[[], Awaitable[Imported]]
) -> Response:
    new = False

    async def done() -> api.KeyDescription:
        nonlocal new
        imported = await change()
        new = imported.new
        return imported.key

    key = await recorded(call, facts, done)
    return Response(201 if new else 200, encode_json(key))


async def _changed(
    call: Call,
    verb: str,
    method: Callable[[str, int | None], Awaitable[api.KeyDescription]],
) -> Response:
    facts, key = await described(call, Operation.MANAGE_KEY, verb)
    body = call.request.body
    wanted = read(_change, body) if body else validator_api.ChangeValidator()
    return ok(await recorded(call, facts, lambda: method(key.name, wanted.version)))


_KEY: Final = f"{PREFIX}/validators/{{key}}"

ROUTES: Final = (
    Route("GET", f"{PREFIX}/validators", list_keys, validators=True),
    Route("POST", f"{PREFIX}/validators", create, validators=True),
    Route("POST", f"{PREFIX}/validators/import", import_wrapped, validators=True),
    Route(
        "POST",
        f"{PREFIX}/validators/import-reference",
        import_reference,
        validators=True,
    ),
    Route("POST", f"{PREFIX}/validators/derive", derive, validators=True),
    Route("GET", _KEY, show, validators=True),
    Route("POST", f"{_KEY}/disable", disable, validators=True),
    Route("POST", f"{_KEY}/enable", enable, validators=True),
    Route("POST", f"{_KEY}/delete", delete, validators=True),
)
