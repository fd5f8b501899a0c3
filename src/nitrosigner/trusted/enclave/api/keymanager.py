"""
The Keymanager API (ethereum/keymanager-APIs), for keys that this signer holds itself.

A credential is always needed, a bearer token or what every other route takes. A key
that is imported comes with its history in the same call, and the history is durable
before any key is; a key that is deleted signs nothing more by the time the answer is
sent.

One key's trouble is one entry of the answer: the request as a whole fails only if it is
malformed, or not allowed at all.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.keys import query, seen
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.api.slashing_history import (
    document_of,
    named,
    public_key_of,
    read_document,
)
from nitrosigner.trusted.enclave.api.validator_messages import sign_exit, uint64
from nitrosigner.trusted.enclave.api.validators import described
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.https.http_messages import (
    Request,
    Response,
    encode_json,
    ok,
    refusal,
)
from nitrosigner.trusted.enclave.validators.validator_keys_port import NO_HISTORY
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict
from nitrosigner.wire import api, validator_api
from nitrosigner.wire.manifest import Operation
from nitrosigner.wire.validator_api import KeystoreStatus

OPENED_AT_ONCE: Final = 2
"""Keystores of one request that are opened at the same time."""
MAX_LISTED: Final = 100_000

_import: Final = msgspec.json.Decoder(validator_api.ImportKeystores)
_delete: Final = msgspec.json.Decoder(validator_api.DeleteKeystores)
_remote: Final = msgspec.json.Decoder(validator_api.ImportRemoteKeys)


def say(request: Request, verdict: Verdict) -> Response:
    """Say no as the specification does: `{"message": …}`."""
    del request
    status, headers = verdict.status, refusal(verdict).headers
    if verdict.code == Code.WRONG_CHAIN:
        status = 400  # a history that is not this request's to bring
    body = validator_api.KeymanagerError(
        message=verdict.message, code=verdict.code.value
    )
    return Response(status, encode_json(body), headers=headers)


async def list_keystores(call: Call) -> Response:
    """GET keystores: those that sign, or would if they were enabled."""
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    page = await seen(call, call.job.keys, "", MAX_LISTED)
    call.facts.remove(facts)
    listed = [
        validator_api.ListedKeystore(validating_pubkey=key.name)
        for key in page.keys
        if key.state != "deleted"
    ]
    return ok(validator_api.KeystoreList(data=listed))


async def import_keystores(call: Call) -> Response:
    """POST keystores."""
    facts = call.begin(Operation.IMPORT_KEY)
    facts.operation = "import_keystores"
    around, keys = call.around, call.job.keys
    around.policy.demand(call.client, Operation.IMPORT_KEY)
    wanted = read(_import, call.request.body)
    if len(wanted.keystores) != len(wanted.passwords):
        raise Malformed(
            Code.MALFORMED_REQUEST, "there is not one password for each keystore"
        )
    history: dict[bytes, Watermark] = {}
    if wanted.slashing_protection is not None:
        history = read_document(call, _text(wanted.slashing_protection))
    facts.count = len(wanted.keystores)
    facts.outcome = "begun"
    await around.audit.durable(call.request_id, facts)
    try:
        if history:
            await keys.import_history(history)
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    call.facts.remove(facts)
    turns = asyncio.Semaphore(OPENED_AT_ONCE)
    statuses = await asyncio.gather(
        *(
            _import_one(call, _text(keystore), password, turns)
            for keystore, password in zip(
                wanted.keystores, wanted.passwords, strict=True
            )
        )
    )
    return ok(validator_api.KeystoresImported(data=list(statuses)))


async def _import_one(
    call: Call, keystore: bytes, password: str, turns: asyncio.Semaphore
) -> KeystoreStatus:
    facts = Facts(operation="import_keystore", client=call.client.name)
    call.facts.append(facts)

    async def do() -> KeystoreStatus:
        # The key's own claim. That it is true is checked when the keystore is open.
        public_key = public_key_of(_claimed(keystore))
        call.around.policy.demand_name(call.client, named(public_key))
        facts.key = named(public_key)
        async with turns:
            imported = await call.job.keys.import_keystore(
                keystore.decode(), password, NO_HISTORY
            )
        facts.key = imported.key.name
        return KeystoreStatus(status="imported" if imported.new else "duplicate")

    return await _one(facts, do)


async def delete_keystores(call: Call) -> Response:
    """DELETE keystores."""
    facts = call.begin(Operation.MANAGE_KEY)
    facts.operation = "delete_keystores"
    around = call.around
    around.policy.demand(call.client, Operation.MANAGE_KEY)
    wanted = read(_delete, call.request.body)
    facts.count = len(wanted.pubkeys)
    facts.outcome = "begun"
    await around.audit.durable(call.request_id, facts)
    call.facts.remove(facts)
    reached: dict[bytes, Watermark] = {}
    # One after the other: each is a change of the store, and the last answer counts.
    statuses = [await _delete_one(call, text, reached) for text in wanted.pubkeys]
    return ok(
        validator_api.KeystoresDeleted(
            data=statuses,
            slashing_protection=document_of(call, reached).decode(),
        )
    )


async def _delete_one(
    call: Call, text: str, reached: dict[bytes, Watermark]
) -> KeystoreStatus:
    facts = Facts(operation="delete_key", client=call.client.name)
    call.facts.append(facts)
    keys = call.job.keys

    async def do() -> KeystoreStatus:
        public_key = public_key_of(text)
        name = named(public_key)
        call.around.policy.demand_name(call.client, name)
        # Of a key that came to another enclave just now, "not active" would be a lie.
        await keys.listen()
        key = _described(call, name)
        if key is not None:
            facts.key = name
        if key is not None and key.state != "deleted":
            _, watermark = await keys.delete(name)
            status = KeystoreStatus(status="deleted")
        else:
            history = await keys.history([public_key])
            watermark = history.reached.get(public_key)
            if watermark is None:
                return KeystoreStatus(status="not_found")
            status = KeystoreStatus(status="not_active")
        if watermark is None:
            return KeystoreStatus(
                status="error",
                message="the key is deleted, but its slashing protection record is "
                "lost: do not use it elsewhere",
            )
        reached[public_key] = watermark
        return status

    return await _one(facts, do)


def _described(call: Call, name: str) -> api.KeyDescription | None:
    try:
        return call.job.keys.describe(name)
    except Refused as verdict:
        if verdict.code == Code.UNKNOWN_KEY:
            return None
        raise


async def _one(
    facts: Facts, do: Callable[[], Awaitable[KeystoreStatus]]
) -> KeystoreStatus:
    """Do something about one key; its trouble is its own."""
    try:
        return await do()
    except Verdict as verdict:
        settle(facts, verdict)
        return KeystoreStatus(status="error", message=verdict.message)


def _claimed(keystore: bytes) -> str:
    """Return the public key that a keystore names."""
    try:
        found = msgspec.json.decode(keystore)
        pubkey = found["pubkey"]
    except (ValueError, TypeError, KeyError, RecursionError):
        pubkey = None
    if not isinstance(pubkey, str):
        raise Malformed(
            Code.MALFORMED_KEYSTORE, "this keystore does not name its public key"
        )
    return pubkey


def _text(document: object) -> bytes:
    """Return a document that came as text, or, from some clients, as JSON itself."""
    if isinstance(document, str):
        return document.encode()
    return json.dumps(document).encode()


# --- remote keys: this signer is what others call remote ------------------------------


def list_remote_keys(call: Call) -> Response:
    """GET remotekeys."""
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    call.facts.remove(facts)
    return ok(validator_api.RemoteKeyList(data=[]))


def import_remote_keys(call: Call) -> Response:
    """POST remotekeys."""
    call.begin(Operation.IMPORT_KEY)
    call.around.policy.demand(call.client, Operation.IMPORT_KEY)
    wanted = read(_remote, call.request.body)
    error = KeystoreStatus(
        status="error",
        message="this signer holds its keys itself: import a keystore instead",
    )
    return ok(validator_api.KeystoresImported(data=[error] * len(wanted.remote_keys)))


def delete_remote_keys(call: Call) -> Response:
    """DELETE remotekeys."""
    call.begin(Operation.MANAGE_KEY)
    call.around.policy.demand(call.client, Operation.MANAGE_KEY)
    wanted = read(_delete, call.request.body)
    none = KeystoreStatus(status="not_found")
    return ok(validator_api.KeystoresImported(data=[none] * len(wanted.pubkeys)))


async def voluntary_exit(call: Call) -> Response:
    """
    POST validator/{key}/voluntary_exit.

    A validator client would fill in the current epoch and the validator's index and
    send the exit off. An enclave knows no beacon node: it is told both, and answers
    with the signed exit.
    """
    facts, key = await described(call, Operation.SIGN_VOLUNTARY_EXIT)
    fields = query(call, "epoch", "validator_index", "confirm")
    if "epoch" not in fields or "validator_index" not in fields:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "name epoch and validator_index: this signer knows no beacon node to ask",
            "add ?epoch=N&validator_index=N, and send the answer to a beacon node",
        )
    epoch = uint64(fields["epoch"], "epoch")
    validator_index = uint64(fields["validator_index"], "validator_index")
    call.around.policy.demand_signature(call.client, key, Operation.SIGN_VOLUNTARY_EXIT)
    return ok(
        validator_api.KeymanagerExit(
            data=await sign_exit(
                call,
                epoch=epoch,
                validator_index=validator_index,
                facts=facts,
                name=key.name,
            )
        )
    )


ROUTES: Final = tuple(
    Route(method, f"/eth/v1/{path}", handler, validators=True, say=say)
    for method, path, handler in (
        ("GET", "keystores", list_keystores),
        ("POST", "keystores", import_keystores),
        ("DELETE", "keystores", delete_keystores),
        ("GET", "remotekeys", list_remote_keys),
        ("POST", "remotekeys", import_remote_keys),
        ("DELETE", "remotekeys", delete_remote_keys),
        ("POST", "validator/{key}/voluntary_exit", voluntary_exit),
    )
)
