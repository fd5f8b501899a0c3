"""
Canaries: secrets and bodies that pass through, and are then searched for everywhere.

Keys, tokens, keystore passwords and what callers ask to sign may be in nobody's file,
log, argument or environment, nor in the parent's memory.
"""

import contextlib
import hashlib
import http.client
import json
import secrets
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import plaintext_search
from nitrosigner.emulator.demo_steps import StepFailed
from nitrosigner.emulator.demo_wallet import invoke
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.verdicts import Verdict

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")


class Canaries:
    """Names for secrets, so that a failure says which one got out."""

    def __init__(self) -> None:
        self.planted: dict[str, bytes] = {}

    def text(self, name: str) -> str:
        word = f"canary-{secrets.token_hex(16)}"
        self.planted[name] = word.encode()
        return word

    def secret(self, name: str, value: bytes) -> bytes:
        self.planted[name] = value
        return value


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def outputs() -> list[bytes]:
    """What commands printed."""
    return []


@pytest.fixture(scope="module")
def post(stack: RunningStack) -> Callable[..., int]:
    context = ssl.create_default_context(cafile=stack.ready.ca)
    files = stack.ready.clients["default"]
    context.load_cert_chain(files.cert, files.key)
    port = int(stack.ready.url.rpartition(":")[2])

    def ask(path: str, body: bytes, **headers: str) -> int:
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    return ask


@pytest.fixture(scope="module")
def used(
    stack: RunningStack,
    canaries: Canaries,
    outputs: list[bytes],
    post: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunningStack:
    """Do with the stack what people do, rightly and wrongly, canaries in everything."""
    folder = tmp_path_factory.mktemp("secrets")
    data = stack.folder.path

    def run(*arguments: str, stdin: bytes = b"") -> None:
        done = subprocess.run(
            [*COMMAND, *arguments, "--data", str(data), "--json"],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        outputs.append(done.stdout + done.stderr)

    imported = canaries.secret("imported key", bytes(Account.create().key))
    (folder / "key").write_text(imported.hex())
    run(
        "keys",
        "import",
        "--name",
        "canary-a",
        "--private-key-file",
        str(folder / "key"),
    )

    password = canaries.text("keystore password")
    inside = canaries.secret("key in the keystore", bytes(Account.create().key))
    (folder / "password").write_text(password)
    (folder / "keystore").write_text(
        json.dumps(Account.encrypt(inside, password, kdf="pbkdf2", iterations=2000))
    )
    run(
        *("keys", "import", "--name", "canary-b"),
        *("--keystore", str(folder / "keystore")),
        *("--password-file", str(folder / "password")),
    )

    set_key = canaries.secret("key of set_key", bytes(Account.create().key))
    answer = invoke(
        data, {"operation": "set_key", "eth_key": set_key.hex(), "key": "canary-c"}
    )
    outputs.append(json.dumps(answer).encode())
    broken = canaries.secret("half a key", secrets.token_bytes(24))
    with contextlib.suppress(StepFailed):
        invoke(data, {"operation": "set_key", "eth_key": broken.hex(), "key": "never"})

    with SignerClient.from_data(data) as client:
        client.sign_message("canary-a", canaries.text("message"))
        client.sign_message("canary-c", canaries.text("message of a kms key"))
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": 31337,
            "nonce": 0,
            "gas": 50_000,
            "value": 0,
            "to": "0x" + "11" * 20,
            "maxFeePerGas": 1,
            "maxPriorityFeePerGas": 1,
        }
        calldata = canaries.secret("calldata", secrets.token_bytes(32))
        client.sign_transaction("canary-a", transaction | {"data": calldata})
        refused = canaries.secret("refused calldata", secrets.token_bytes(32))
        with contextlib.suppress(Verdict):
            client.sign_transaction(
                "canary-a", transaction | {"data": refused, "chainId": 9}
            )
        typed = canaries.text("typed data")
        client.sign_typed_data(
            "canary-a",
            {
                "types": {
                    "EIP712Domain": [{"name": "name", "type": "string"}],
                    "T": [{"name": "text", "type": "string"}],
                },
                "primaryType": "T",
                "domain": {"name": "x"},
                "message": {"text": typed},
            },
        )
    word = canaries.text
    sign = "/api/v1/keys/canary-a/sign/message"
    assert post(sign, b'{"text": "' + word("cut JSON").encode()) == 400
    assert post(sign, json.dumps({word("unknown field"): 1}).encode()) == 400
    assert post(sign, json.dumps({"text": [word("wrong type")]}).encode()) == 400
    assert post("/api/v1/keys/" + word("path"), b"{}") in (404, 405)
    assert post("/", json.dumps({"method": word("rpc method")}).encode()) in (200, 400)
    post(sign, b"{}", Authorization="Bearer " + word("wrong token"))
    with (
        SignerClient(
            stack.ready.url, ca=stack.ready.ca, token=word("unknown token")
        ) as stranger,
        contextlib.suppress(Verdict),
    ):
        stranger.page_of_keys()
    for name, files in stack.ready.clients.items():
        token = Path(files.token_file).read_text().strip()
        canaries.secret(f"token of {name}", token.encode())
        with SignerClient(stack.ready.url, ca=stack.ready.ca, token=token) as client:
            client.page_of_keys()
    return stack


def test_no_canary_is_in_any_file_log_argument_environment_or_the_parents_memory(
    used: RunningStack, canaries: Canaries
) -> None:
    state = used.now()
    own = {Path(files.token_file) for files in used.ready.clients.values()}
    out = {}
    for name, secret in canaries.planted.items():
        searched = plaintext_search.search(
            [secret],
            folders=[used.folder.path],
            processes=[state.pid, *state.pids.values()],
            memories=[state.pids["parent"], state.pid],
        )
        places = {f.place for f in searched.findings if Path(f.place) not in own}
        if places:
            out[name] = places
    assert not out


def test_the_search_would_have_found_them(
    used: RunningStack, canaries: Canaries
) -> None:
    """The control: a token lies in its own file, and is found there."""
    files = used.ready.clients["reader"]
    searched = plaintext_search.search(
        [canaries.planted["token of reader"]], folders=[used.folder.path]
    )
    assert {finding.place for finding in searched.findings} == {files.token_file}


def test_no_command_prints_a_canary(
    used: RunningStack, canaries: Canaries, outputs: list[bytes]
) -> None:
    assert used
    printed = b"\n".join(outputs)
    assert b"canary-a" in printed
    for name, secret in canaries.planted.items():
        assert not plaintext_search.spellings_in(printed, secret), name


def events(stack: RunningStack) -> list[dict[str, Any]]:
    lines = (stack.folder.parent / "audit.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def test_every_signature_and_every_refusal_is_on_record(used: RunningStack) -> None:
    ours = [one for one in events(used) if one.get("key") == "canary-a"]
    seen = {(one["operation"], one["outcome"]) for one in ours}
    assert ("sign_message", "signed") in seen
    assert ("sign_transaction", "signed") in seen
    assert ("sign_typed_data", "signed") in seen
    assert ("sign_transaction", "refused") in seen
    signed = next(one for one in ours if one["outcome"] == "signed")
    assert signed["client"] == "default"
    assert len(bytes.fromhex(signed["digest"].removeprefix("0x"))) == 32


def test_the_audit_trail_is_a_chain_for_each_boot(used: RunningStack) -> None:
    previous: dict[str, str] = {}
    for line in (used.folder.parent / "audit.jsonl").read_bytes().splitlines():
        event = json.loads(line)
        expected = previous.get(event["boot"], "0" * 64)
        assert event["previous"] == expected
        previous[event["boot"]] = hashlib.sha256(line).hexdigest()
