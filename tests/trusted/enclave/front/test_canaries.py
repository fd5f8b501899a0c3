"""
Planted secrets: whatever a caller sends, none of it comes out where it does not belong.
"""

import json
import secrets
from typing import Any

import pytest

SIGN = "/api/v1/keys/hot/sign/"
CANARY = secrets.token_hex(16)
TX = {
    "type": "0x2",
    "chainId": 31337,
    "nonce": 0,
    "to": "0x" + "11" * 20,
    "gas": 21000,
    "maxFeePerGas": 1000,
}

REQUESTS = [
    ("POST", SIGN + "message", {"text": CANARY}, {}),
    ("POST", SIGN + "message", {"data": "0x" + CANARY}, {}),
    ("POST", SIGN + "message", {CANARY: 1}, {}),
    ("POST", SIGN + "message", CANARY, {}),
    ("POST", SIGN + "transaction", {"transaction": TX | {"data": "0x" + CANARY}}, {}),
    ("POST", SIGN + "transaction", {"transaction": TX | {"to": CANARY}}, {}),
    ("POST", SIGN + "transaction", {"transaction": TX | {"nonce": CANARY}}, {}),
    ("POST", SIGN + "transaction", {"transaction": TX | {CANARY: 1}}, {}),
    ("POST", SIGN + "transaction", {"transaction": CANARY}, {}),
    ("POST", SIGN + "typed-data", {"typed_data": {CANARY: CANARY}}, {}),
    (
        "POST",
        SIGN + "typed-data",
        {
            "typed_data": {
                "types": {"A": [{"name": "a", "type": "string"}]},
                "primaryType": "A",
                "domain": {"name": CANARY},
                "message": {"a": CANARY},
            }
        },
        {},
    ),
    ("POST", f"/api/v1/keys/{CANARY}/sign/message", {"text": "x"}, {}),
    ("GET", f"/api/v1/keys/{CANARY}", None, {}),
    ("GET", f"/{CANARY}", None, {}),
    ("GET", f"/api/v1/keys?{CANARY}=1", None, {}),
    ("GET", f"/api/v1/keys?after={CANARY}", None, {}),
    ("GET", "/api/v1/keys", None, {"headers": {"Authorization": f"Bearer {CANARY}"}}),
    (
        "GET",
        "/api/v1/keys",
        None,
        {"headers": {"Cookie": CANARY, "User-Agent": CANARY}},
    ),
    ("POST", "/api/v1/keys/import", {"name": "a", "wrapped_key": CANARY}, {}),
    (
        "POST",
        "/api/v1/keys/import",
        {"name": "a", "identity": CANARY, "wrapped_key": CANARY},
        {},
    ),
    (
        "POST",
        "/api/v1/keys/import-kms",
        {"name": "b", "identity": CANARY, "ciphertext": CANARY},
        {},
    ),
    (
        "POST",
        "/api/v1/tls/import",
        {"certificates": CANARY, "wrapped_key": CANARY},
        {},
    ),
    ("POST", "/api/v1/tls/import", {"password": CANARY}, {}),
    ("POST", "/", {"jsonrpc": "2.0", "id": 1, "method": CANARY, "params": []}, {}),
    (
        "POST",
        "/",
        {"jsonrpc": "2.0", "id": 1, "method": "eth_sign", "params": [CANARY, CANARY]},
        {},
    ),
    ("POST", "/api/v1/eth1/sign/hot", {"data": "0x" + CANARY}, {"token": "digest"}),
]


@pytest.mark.parametrize("request_sent", REQUESTS)
def test_what_a_caller_sends_is_in_no_log_and_no_event(
    front: Any, request_sent: Any, capfd: Any, caplog: Any
) -> None:
    method, path, body, options = request_sent
    caplog.set_level(0)
    front.ask(method, path, body, **options)
    front.ask(method, path, body, **options)
    assert front.ask("POST", SIGN + "message", {"text": "the end"})[0] == 200
    out, err = capfd.readouterr()
    everything = out + err + caplog.text + b"\n".join(front.services.lines).decode()
    # Some are recorded as what was signed: as a digest, never as themselves.
    assert CANARY not in everything
    assert "the end" not in everything


def test_good_tokens_and_keys_are_in_no_log_and_no_event(
    front: Any, capfd: Any, caplog: Any
) -> None:
    from hashlib import sha256

    caplog.set_level(0)
    token = f"token-of-default-{sha256(b'default').hexdigest()}"
    assert front.ask("POST", SIGN + "message", {"text": "x"}, token="default")[0] == 200
    front.keys.failure = RuntimeError(f"{CANARY} {token}")
    front.ask("POST", SIGN + "message", {"text": "x"}, token="default")
    front.wait(lambda: len(front.services.lines) == 3)
    out, err = capfd.readouterr()
    everything = out + err + caplog.text + b"\n".join(front.services.lines).decode()
    for secret in (CANARY, token, "Bearer", (bytes([1]) * 32).hex()):
        assert secret not in everything


def test_an_event_has_only_fields_of_the_closed_set(front: Any) -> None:
    for method, path, body, options in REQUESTS:
        front.ask(method, path, body, **options)
    allowed = {
        "time",
        "boot",
        "sequence",
        "previous",
        "request",
        "client",
        "operation",
        "outcome",
        "code",
        "key",
        "address",
        "chain_id",
        "to",
        "value",
        "digest",
        "hash",
        "at",
        "unrecorded",
    }
    for line in front.services.lines:
        event = json.loads(line)
        assert event.keys() <= allowed
        assert len(line) < 1024
