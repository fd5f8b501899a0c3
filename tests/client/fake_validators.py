"""
The validator job's routes of the fake signer.

Keys are opened as the enclave opens them; duties are "signed" with a hash, because what
is tried against this fake is what clients send, not what the enclave makes of it.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import ckzg

from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.wire import import_wrapping

BLS = Bls12381(ckzg.__file__)
CHAIN = "0x" + "4b" * 32
NEW_WORDS = b"canary-new-words abandon art"


def public_key(secret: bytes) -> str:
    return "0x" + BLS.public_key(SecretBytes(bytearray(secret))).hex()


def secret_of(number: int) -> bytes:
    """A valid scalar for any number."""
    return (number + 1).to_bytes(32, "big")


@dataclass
class FakeValidators:
    chain: str = CHAIN
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    reached: dict[str, list[int]] = field(default_factory=dict)
    """[slot, source, target], -1 for none."""
    words: list[bytes] = field(default_factory=list)
    page: int = 3
    max_request: int = 1 << 20
    fail_after: int | None = None
    """Imports, of keys and of histories, until the store is gone."""
    untrusted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Records that do not verify, as they are told."""
    reloading: bool = False
    denied: set[str] = field(default_factory=set)

    def add(self, name: str, secret: bytes, state: str = "enabled") -> dict[str, Any]:
        self.secrets[name] = secret
        self.keys[name] = {
            "name": name,
            "algorithm": "bls12-381",
            "kind": "vault",
            "public_key": name,
            "identity": name,
            "state": state,
            "version": 1,
            "created": 1_700_000_000,
            "purge_after": None,
        }
        self.reached.setdefault(name, [-1, -1, -1])
        return self.keys[name]

    def merge(self, document: dict[str, Any], problem: Any) -> int:
        if document["metadata"]["genesis_validators_root"] != self.chain:
            raise problem(403, "wrong_chain", "another chain")
        for entry in document["data"]:
            mark = self.reached.setdefault(entry["pubkey"], [-1, -1, -1])
            for block in entry["signed_blocks"]:
                mark[0] = max(mark[0], int(block["slot"]))
            for vote in entry["signed_attestations"]:
                mark[1] = max(mark[1], int(vote["source_epoch"]))
                mark[2] = max(mark[2], int(vote["target_epoch"]))
        return len(document["data"])

    def document(self, names: list[str]) -> dict[str, Any]:
        data = []
        for name in names:
            slot, source, target = self.reached[name]
            blocks = [{"slot": str(slot)}] if slot >= 0 else []
            votes = (
                [{"source_epoch": str(source), "target_epoch": str(target)}]
                if target >= 0
                else []
            )
            data.append(
                {"pubkey": name, "signed_blocks": blocks, "signed_attestations": votes}
            )
        return {
            "metadata": {
                "interchange_format_version": "5",
                "genesis_validators_root": self.chain,
            },
            "data": data,
        }

    def count(self, problem: Any) -> None:
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise problem(503, "storage_unavailable", "the store is gone")
            self.fail_after -= 1


def route(  # noqa: PLR0917  # a request has that many parts
    handler: Any, problem: Any, method: str, parts: list[str], query: Any, body: bytes
) -> bool:
    """Answer, if it is one of ours."""
    signer = handler.server.signer
    state: FakeValidators = signer.validators
    if parts[:1] == ["reload"] or parts[:2] == ["eth", "v1"]:
        return _other(handler, problem, method, parts, query, body)
    if parts[:2] != ["api", "v1"] or parts[2:3] not in (
        ["validators"],
        ["slashing-history"],
        ["eth2"],
    ):
        return False
    if len(body) > state.max_request:
        raise problem(413, "too_large", "a request has at most so many bytes")
    for part in parts:
        if part in state.denied:
            raise problem(403, "not_allowed", "this client may not")
    sent = json.loads(body) if body else {}
    match method, *parts[2:]:
        case "GET", "validators":
            _page(handler, state, query)
        case "POST", "validators":
            state.count(problem)
            secret = secret_of(1000 + len(state.keys))
            handler.json(201, state.add(public_key(secret), secret))
        case "POST", "validators", "import":
            _import(handler, problem, state, sent)
        case "POST", "validators", "import-reference":
            _import_reference(handler, problem, state, sent)
        case "POST", "validators", "derive":
            _derive(handler, problem, state, sent)
        case "GET", "validators", name:
            handler.json(200, _key(state, name, problem))
        case "POST", "validators", name, ("disable" | "enable" | "delete") as what:
            key = _key(state, name, problem)
            if sent.get("version") not in (None, key["version"]):
                raise problem(412, "version_conflict", "another version")
            key["state"] = {"disable": "disabled", "delete": "deleted"}.get(
                what, "enabled"
            )
            key["version"] += 1
            handler.json(200, key)
        case "POST", "validators", name, "deposit-data":
            _key(state, name, problem)
            handler.json(
                200,
                {
                    "pubkey": name[2:],
                    "withdrawal_credentials": sent["withdrawal_credentials"][2:],
                    "amount": int(sent["amount"]),
                    "signature": "aa" * 96,
                    "deposit_message_root": "bb" * 32,
                    "deposit_data_root": "cc" * 32,
                    "fork_version": "00000000",
                    "network_name": "mainnet",
                    "deposit_cli_version": "2.7.0",
                },
            )
        case "POST", "validators", name, "voluntary-exit":
            _key(state, name, problem)
            message = {k: sent[k] for k in ("epoch", "validator_index")}
            handler.json(200, {"message": message, "signature": "0x" + "ee" * 96})
        case "POST", "validators", name, "bls-to-execution-change":
            _key(state, name, problem)
            if sent["seed"] is not None:
                state.words.append(_unwrap(signer, problem, sent["seed"]))
            message = {
                "validator_index": sent["validator_index"],
                "from_bls_pubkey": name,
                "to_execution_address": sent["to_execution_address"],
            }
            metadata = {
                "network_name": "mainnet",
                "genesis_validators_root": "0x" + "4b" * 32,
            }
            signed = {"message": message, "signature": "0x" + "ee" * 96}
            handler.json(200, {**signed, "metadata": metadata})
        case "GET", "slashing-history":
            if "keys" in query:
                names = query["keys"][0].split(",")
                missing = [name for name in names if name not in state.reached]
                if missing:
                    raise problem(404, "unknown_key", "no such validator")
            else:
                after = query.get("after", [""])[0]
                limit = int(query.get("limit", ["1000"])[0])
                names = sorted(n for n in state.reached if n > after)[:limit]
            handler.json(200, state.document(names))
        case "GET", "slashing-history", "records":
            after = query.get("after", [""])[0]
            limit = int(query["limit"][0])
            names = sorted({*state.reached, *state.untrusted} - {""})
            names = [name for name in names if name > after]
            page, more = names[:limit], len(names) > limit
            handler.json(
                200,
                state.document([name for name in page if name in state.reached])
                | {
                    "untrusted": [
                        state.untrusted[name]
                        for name in page
                        if name in state.untrusted
                    ],
                    "next": page[-1] if more else None,
                },
            )
        case "POST", "slashing-history", "repair":
            name = sent["pubkey"]
            if name not in state.untrusted:
                raise problem(409, "version_conflict", "this record is in order")
            state.merge(sent["history"], problem)
            handler.json(
                200,
                {
                    "replaced": state.untrusted.pop(name),
                    "now": state.document([name])["data"][0],
                },
            )
        case "POST", "slashing-history":
            state.count(problem)
            handler.json(200, {"validators": state.merge(sent, problem)})
        case "GET", "eth2", "publicKeys":
            handler.json(
                200, sorted(n for n, k in state.keys.items() if k["state"] == "enabled")
            )
        case "GET", "eth2", "highWatermark":
            handler.json(200, {"epoch": "7", "slot": "9"})
        case "POST", "eth2", "sign":
            answers = []
            for part in sent:
                for name in part["identifiers"]:
                    known = name in state.keys
                    answers.append(
                        {"identifier": name}
                        | (
                            {"signature": _signature(name, part["signing_request"])}
                            if known
                            else {
                                "error": {
                                    "code": 404,
                                    "message": "no such key",
                                    "reason": "unknown_key",
                                }
                            }
                        )
                    )
            handler.json(200, answers)
        case "POST", "eth2", "sign", name:
            _key(state, name, problem)
            handler.json(200, {"signature": _signature(name, sent)})
        case _:
            raise problem(404, "unknown_route", "no such route")
    return True


def _page(handler: Any, state: FakeValidators, query: Any) -> None:
    after = query.get("after", [""])[0]
    names = sorted(name for name in state.keys if name > after)
    cut = min(state.page, int(query.get("limit", ["500"])[0]))
    listed = [state.keys[name] for name in names[:cut]]
    handler.json(200, {"keys": listed, "more": len(names) > cut})


def _import_reference(
    handler: Any, problem: Any, state: FakeValidators, sent: Any
) -> None:
    """Open b"kms:" and the key, where the enclave asks KMS and finds a keystore."""
    opened, _, secret = base64.b64decode(sent["ciphertext"]).partition(b":")
    if opened != b"kms":
        raise problem(403, "kms_refused", "KMS does not open it")
    _keep(handler, problem, state, sent["public_key"], secret, sent["history"])


def _import(handler: Any, problem: Any, state: FakeValidators, sent: Any) -> None:
    signer = handler.server.signer
    name = sent["identity"]
    info = import_wrapping.import_info(
        deployment=signer.deployment,
        name=name,
        algorithm="bls12-381",
        identity=name,
    )
    try:
        secret = import_wrapping.unwrap(
            base64.b64decode(sent["wrapped_key"]), signer.import_key, info
        )
    except ValueError:
        raise problem(400, "malformed_key", "not wrapped for this") from None
    _keep(handler, problem, state, name, secret, sent["history"])


def _keep(  # noqa: PLR0917  # a request has that many parts
    handler: Any,
    problem: Any,
    state: FakeValidators,
    name: str,
    secret: bytes,
    history: Any,
) -> None:
    if public_key(secret) != name:
        raise problem(403, "key_mismatch", "another public key")
    state.count(problem)
    if history is not None:
        assert [entry["pubkey"] for entry in history["data"]] == [name]
        state.merge(history, problem)
    here = state.keys.get(name)
    if here is not None and here["state"] != "deleted":
        handler.json(200, here)
        return
    handler.json(201, state.add(name, secret))


def _unwrap(signer: Any, problem: Any, seed: Any) -> bytes:
    info = import_wrapping.seed_info(deployment=signer.deployment, form=seed["form"])
    try:
        return import_wrapping.unwrap(
            base64.b64decode(seed["wrapped"]), signer.import_key, info
        )
    except ValueError:
        raise problem(400, "malformed_key", "not wrapped for this") from None


def _derive(handler: Any, problem: Any, state: FakeValidators, sent: Any) -> None:
    signer = handler.server.signer
    new = sent["seed"]["form"] == "new"
    words = NEW_WORDS if new else _unwrap(signer, problem, sent["seed"])
    state.words.append(words)
    keys = []
    for index in range(sent["start"], sent["start"] + sent["count"]):
        digest = hashlib.sha256(words + index.to_bytes(4, "big")).digest()
        secret = b"\0" + digest[1:]
        keys.append(state.add(public_key(secret), secret))
    backup = None
    if sent["backup_recipient"] is not None:
        backup = base64.b64encode(
            import_wrapping.wrap(
                words,
                base64.b64decode(sent["backup_recipient"]),
                import_wrapping.backup_info(deployment=signer.deployment),
            )
        ).decode()
    handler.json(201, {"keys": keys, "backup": backup})


def _other(  # noqa: PLR0917  # as above
    handler: Any, problem: Any, method: str, parts: list[str], query: Any, body: bytes
) -> bool:
    state: FakeValidators = handler.server.signer.validators
    sent = json.loads(body) if body else {}
    match method, *parts:
        case _, "reload":
            status = {"status": "running" if state.reloading else "completed"}
            code = 200
            if method == "POST":
                code = 409 if state.reloading else 202
            handler.json(code, status)
        case "GET", "eth", "v1", "keystores":
            handler.json(
                200, {"data": [{"validating_pubkey": name} for name in state.keys]}
            )
        case "POST", "eth", "v1", "keystores":
            handler.json(
                200, {"data": [{"status": "imported"}] * len(sent["keystores"])}
            )
        case "DELETE", "eth", "v1", "keystores":
            found = [name for name in sent["pubkeys"] if name in state.keys]
            handler.json(
                200,
                {
                    "data": [
                        {"status": "deleted" if name in found else "not_found"}
                        for name in sent["pubkeys"]
                    ],
                    "slashing_protection": json.dumps(state.document(found)),
                },
            )
        case "GET", "eth", "v1", "remotekeys":
            handler.json(200, {"data": []})
        case (("POST" | "DELETE"), "eth", "v1", "remotekeys"):
            asked = sent.get("remote_keys", sent.get("pubkeys"))
            handler.json(200, {"data": [{"status": "error"}] * len(asked)})
        case "POST", "eth", "v1", "validator", name, "voluntary_exit":
            if name not in state.keys:
                handler.json(404, {"message": "no such key", "code": "unknown_key"})
                return True
            message = {
                "epoch": query["epoch"][0],
                "validator_index": query["validator_index"][0],
            }
            handler.json(
                200, {"data": {"message": message, "signature": "0x" + "ee" * 96}}
            )
        case _:
            raise problem(404, "unknown_route", "no such route")
    return True


def _key(state: FakeValidators, name: str, problem: Any) -> dict[str, Any]:
    if name not in state.keys:
        raise problem(404, "unknown_key", "there is no such validator")
    return state.keys[name]


def _signature(name: str, request: Any) -> str:
    text = json.dumps([name, request], sort_keys=True).encode()
    return "0x" + hashlib.shake_256(text).hexdigest(96)
