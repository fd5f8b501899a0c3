"""Web3Signer's eth1 routes, as its clients know them."""

from typing import Any

import pytest
from eth_keys import keys as eth_keys
from eth_utils import keccak

SECRET = bytes([1]) * 32
PUBLIC = eth_keys.PrivateKey(SECRET).public_key
PATH = "/api/v1/eth1/sign/"


def test_public_keys_are_64_bytes_without_the_first(front: Any) -> None:
    status, body = front.ask("GET", "/api/v1/eth1/publicKeys")
    assert status == 200
    assert len(body) == 5
    assert all(len(each) == 2 + 128 for each in body)
    assert "0x" + PUBLIC.to_bytes().hex() in body


@pytest.mark.parametrize(
    "identifier",
    [
        "0x" + PUBLIC.to_bytes().hex(),
        PUBLIC.to_bytes().hex(),
        "0x" + PUBLIC.to_bytes().hex().upper(),
        "0x04" + PUBLIC.to_bytes().hex(),
        PUBLIC.to_checksum_address(),
        "hot",
    ],
)
def test_data_is_hashed_and_signed_and_answered_as_text(
    front: Any, identifier: Any
) -> None:
    data = b"anything at all"
    status, body = front.ask(
        "POST", PATH + identifier, {"data": "0x" + data.hex()}, token="digest"
    )
    assert status == 200
    assert front.last.headers["Content-Type"] == "text/plain; charset=utf-8"
    signature = bytes.fromhex(body.decode().removeprefix("0x"))
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    theirs = eth_keys.PrivateKey(SECRET).sign_msg_hash(keccak(data))
    assert signature[:64] == theirs.to_bytes()[:64]
    assert signature[64] - 27 == theirs.v


def test_it_needs_the_permission_to_sign_digests(front: Any) -> None:
    status, body = front.ask("POST", PATH + "hot", {"data": "0x00"})
    assert (status, body["error"]["code"]) == (403, "not_allowed")
    assert front.keys.signed == []


@pytest.mark.parametrize(
    ("identifier", "body", "status", "code"),
    [
        ("hot", {}, 400, "malformed_request"),
        ("hot", {"data": "00"}, 400, "malformed_message"),
        ("hot", {"data": "0x0"}, 400, "malformed_message"),
        ("hot", {"data": "0x00", "x": 1}, 400, "malformed_request"),
        ("hot", b"x00", 400, "malformed_json"),
        ("0x" + "11" * 64, {"data": "0x00"}, 404, "unknown_key"),
        ("0x" + "zz" * 64, {"data": "0x00"}, 400, "malformed_request"),
        ("nobody", {"data": "0x00"}, 404, "unknown_key"),
        ("off", {"data": "0x00"}, 403, "key_disabled"),
    ],
)
def test_bad_input_gets_a_code_and_no_signature(
    front: Any, identifier: Any, body: Any, status: Any, code: Any
) -> None:
    answered, answer = front.ask("POST", PATH + identifier, body, token="digest")
    assert (answered, answer["error"]["code"]) == (status, code)
    assert front.keys.signed == []
