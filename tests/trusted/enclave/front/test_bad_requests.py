"""
What bad input gets: a stable code, the right status, nothing signed, the front alive.
"""

import json
from typing import Any

import pytest

from nitrosigner.verdicts import Code, Refused, Undecided

SIGN = "/api/v1/keys/hot/sign/transaction"
TX = {
    "type": "0x2",
    "chainId": 31337,
    "nonce": 0,
    "to": "0x" + "11" * 20,
    "value": 100,
    "gas": 21000,
    "maxFeePerGas": 1000,
    "maxPriorityFeePerGas": 1,
}


def without(name: str) -> dict[str, Any]:
    return {"transaction": {key: value for key, value in TX.items() if key != name}}


def changed(**fields: Any) -> dict[str, Any]:
    return {"transaction": TX | fields}


BODIES = [
    ("empty", b"", 400, "malformed_json"),
    ("no json", b"transaction", 400, "malformed_json"),
    ("half json", b'{"transaction": {', 400, "malformed_json"),
    ("two values", b'{"transaction":{}} {}', 400, "malformed_json"),
    ("not utf-8", b'{"transaction": {"to": "\xff"}}', 400, "malformed_json"),
    ("utf-16", '{"transaction": {}}'.encode("utf-16"), 400, "malformed_json"),
    ("deep", b'{"transaction": ' + b"[" * 30000, 400, "malformed_json"),
    ("deep objects", b'{"transaction":' + b'{"a":' * 9000, 400, "malformed_json"),
    ("a list", b"[]", 400, "malformed_request"),
    ("null", b"null", 400, "malformed_request"),
    ("nothing asked", {}, 400, "malformed_request"),
    ("an unknown field", {"transaction": TX, "x": 1}, 400, "malformed_request"),
    ("no object", {"transaction": []}, 400, "malformed_transaction"),
    ("a string", {"transaction": "0x02"}, 400, "malformed_transaction"),
    ("an unknown tx field", changed(memo="x"), 400, "malformed_transaction"),
    ("a float value", changed(value=0.1), 400, "malformed_transaction"),
    ("a whole float", changed(value=1.0), 400, "malformed_transaction"),
    ("a negative value", changed(value=-1), 400, "malformed_transaction"),
    ("a huge value", changed(value=str(2**256)), 400, "malformed_transaction"),
    ("a value of words", changed(value="one"), 400, "malformed_transaction"),
    ("bad hex", changed(data="0xzz"), 400, "malformed_transaction"),
    ("odd hex", changed(data="0x123"), 400, "malformed_transaction"),
    ("hex with spaces", changed(data="0x12 34"), 400, "malformed_transaction"),
    ("a short address", changed(to="0x1234"), 400, "malformed_transaction"),
    (
        "a wrong checksum",
        changed(to="0x9D8A62f656a8d1615C1294fd71e9CFb3E4855A4F"),
        400,
        "malformed_transaction",
    ),
    ("no nonce", without("nonce"), 400, "malformed_transaction"),
    ("no gas", without("gas"), 400, "malformed_transaction"),
    ("no fee", without("maxFeePerGas"), 400, "malformed_transaction"),
    ("no chain", without("chainId"), 400, "malformed_transaction"),
    ("a tip above the fee", changed(maxPriorityFeePerGas=2000), 400, None),
    ("an unknown type", changed(type="0x7f"), 400, "malformed_transaction"),
    ("a blob without hashes", changed(type=3), 400, "malformed_transaction"),
    ("another sender", changed(**{"from": "0x" + "22" * 20}), 403, "wrong_sender"),
    ("another chain", changed(chainId=137), 403, "wrong_chain"),
    ("a chain of no network", changed(chainId=2**62), 403, "wrong_chain"),
    ("a large body", b'{"a":"' + b"x" * (65 * 1024) + b'"}', 413, "too_large"),
]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [each[1:] for each in BODIES],
    ids=[b[0] for b in BODIES],
)
def test_a_bad_body_is_refused_and_nothing_is_signed(
    front: Any, body: Any, status: Any, code: Any
) -> None:
    answered, answer = front.ask("POST", SIGN, body)
    assert answered == status, answer
    assert answer.keys() == {"error"}
    assert answer["error"].keys() == {"code", "message", "hint"}
    assert answer["error"]["code"] == (code or "malformed_transaction")
    assert answer["error"]["message"]
    assert front.keys.signed == []
    assert front.alive


PATHS = [
    ("GET", "/nowhere", 404, "unknown_route"),
    ("GET", "/api/v1", 404, "unknown_route"),
    ("GET", "/api/v1/keys/", 404, "unknown_route"),
    ("GET", "/api/v1/keys/hot/", 404, "unknown_route"),
    ("GET", "/api/v1/keys/" + "x" * 300, 404, "unknown_route"),
    ("GET", "/api/v1/keys/../../upcheck", 404, "unknown_route"),
    ("GET", "/api/v1/keys/nobody", 404, "unknown_key"),
    ("GET", "/api/v1/keys/%00", 404, "unknown_key"),
    ("GET", "/api/v1/keys/0x" + "00" * 20, 404, "unknown_key"),
    ("PUT", "/api/v1/keys", 405, "method_not_allowed"),
    ("DELETE", "/api/v1/keys/hot", 405, "method_not_allowed"),
    ("GET", SIGN, 405, "method_not_allowed"),
    ("GET", "/", 405, "method_not_allowed"),
    ("OPTIONS", "/", 405, "method_not_allowed"),
    ("POST", "/upcheck", 405, "method_not_allowed"),
    ("GET", "/api/v1/keys?limit=0", 400, "malformed_request"),
    ("GET", "/api/v1/keys?limit=1001", 400, "malformed_request"),
    ("GET", "/api/v1/keys?limit=٣", 400, "malformed_http"),
    ("GET", "/api/v1/keys?limit=%D9%A3", 400, "malformed_request"),
    ("GET", "/api/v1/keys?x=1", 400, "malformed_request"),
    ("GET", "/api/v1/keys?limit=1&limit=2", 400, "malformed_request"),
    ("GET", "/api/v1/keys?" + "&".join(["a=1"] * 20), 400, "malformed_request"),
    ("GET", "/api/v1/attestation", 400, "malformed_request"),
    ("GET", "/api/v1/attestation?nonce=00", 400, "malformed_request"),
    ("GET", "/api/v1/attestation?nonce=zz", 400, "malformed_request"),
    ("GET", "/api/v1/attestation?nonce=" + "00" * 65, 400, "malformed_request"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), PATHS)
def test_a_bad_path_gets_a_stable_code(
    front: Any, method: Any, path: Any, status: Any, code: Any
) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    head, _, body = front.raw(request.encode()).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert json.loads(body)["error"]["code"] == code
    assert (b"\r\nAllow: " in head) == (status == 405)
    assert front.alive


def test_a_head_request_gets_405_and_no_body(front: Any) -> None:
    answer = front.raw(b"HEAD /upcheck HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("off", 403, "key_disabled"),
        ("gone", 403, "key_deleted"),
        ("nobody", 404, "unknown_key"),
    ],
)
def test_a_key_that_cannot_sign_says_why(
    front: Any, key: Any, status: Any, code: Any
) -> None:
    for kind, body in (
        ("transaction", {"transaction": TX}),
        ("message", {"text": "x"}),
        ("authorization", {"chain_id": 1, "address": "0x" + "11" * 20, "nonce": 0}),
    ):
        answered, answer = front.ask("POST", f"/api/v1/keys/{key}/sign/{kind}", body)
        assert (answered, answer["error"]["code"]) == (status, code)
    assert front.keys.signed == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "malformed_message"),
        ({"text": "a", "data": "0x61"}, "malformed_message"),
        ({"data": "61"}, "malformed_message"),
        ({"data": "0x6"}, "malformed_message"),
        ({"text": 5}, "malformed_request"),
        ({"txt": "a"}, "malformed_request"),
        (b'{"text": "\\ud800"}', "malformed_json"),
    ],
)
def test_a_bad_message_is_not_signed(front: Any, body: Any, code: Any) -> None:
    status, answer = front.ask("POST", "/api/v1/keys/hot/sign/message", body)
    assert (status, answer["error"]["code"]) == (400, code)
    assert front.keys.signed == []


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"types": {}, "primaryType": "A", "domain": {}, "message": {}},
        {
            "types": {"A": [{"name": "a", "type": "uint8"}]},
            "primaryType": "A",
            "domain": {},
            "message": {"a": 256},
        },
    ],
)
def test_bad_typed_data_is_not_signed(front: Any, document: Any) -> None:
    status, answer = front.ask(
        "POST", "/api/v1/keys/hot/sign/typed-data", {"typed_data": document}
    )
    assert (status, answer["error"]["code"]) == (400, "malformed_typed_data")
    assert front.keys.signed == []


@pytest.mark.parametrize(
    "digest", ["0x", "0x" + "00" * 31, "0x" + "00" * 33, "00" * 32]
)
def test_a_digest_has_32_bytes(front: Any, digest: Any) -> None:
    status, answer = front.ask(
        "POST", "/api/v1/keys/hot/sign/digest", {"digest": digest}, token="digest"
    )
    assert (status, answer["error"]["code"]) == (400, "malformed_request")
    assert front.keys.signed == []


FAILURES = [
    (Undecided(Code.KMS_UNAVAILABLE, "KMS is away"), 503),
    (Undecided(Code.STORAGE_UNAVAILABLE, "the store is away"), 503),
    (Undecided(Code.CREDENTIALS_UNAVAILABLE, "no credentials"), 503),
    (Refused(Code.KMS_REFUSED, "KMS said no"), 403),
    (Refused(Code.KEY_MISMATCH, "another key"), 403),
    (Refused(Code.RECORD_UNTRUSTED, "not our record"), 403),
]


@pytest.mark.parametrize(("failure", "status"), FAILURES)
@pytest.mark.parametrize("key", ["hot", "kms"])
def test_a_verdict_of_the_keys_reaches_the_caller(
    front: Any, failure: Any, status: Any, key: Any
) -> None:
    front.keys.failure = failure
    answered, answer = front.ask(
        "POST", f"/api/v1/keys/{key}/sign/transaction", {"transaction": TX}
    )
    assert answered == status
    assert answer["error"]["code"] == failure.code
    assert (front.last.headers.get("Retry-After") == "1") == (status == 503)
    assert front.keys.signed == []
    front.keys.failure = None
    assert front.ask("POST", SIGN, {"transaction": TX})[0] == 200


@pytest.mark.parametrize("key", ["hot", "kms"])
@pytest.mark.parametrize(
    "error", [RuntimeError("SECRET-TEXT"), KeyError("SECRET-TEXT"), MemoryError()]
)
def test_what_nobody_expected_is_an_incident_without_a_text(
    front: Any, key: Any, error: Any, capfd: Any, caplog: Any
) -> None:
    front.keys.failure = error
    status, answer = front.ask(
        "POST", f"/api/v1/keys/{key}/sign/transaction", {"transaction": TX}
    )
    assert (status, answer["error"]["code"]) == (500, "internal")
    front.wait(lambda: front.services.lines[1:])
    event = front.services.events[-1]
    incident, kind, place = event["at"].split()
    assert incident in answer["error"]["message"]
    assert kind == type(error).__name__
    assert place.endswith(tuple("0123456789"))
    everything = json.dumps(answer) + str(front.services.lines) + caplog.text
    assert "SECRET-TEXT" not in everything + str(capfd.readouterr())
    front.keys.failure = None
    assert front.ask("POST", SIGN, {"transaction": TX})[0] == 200
