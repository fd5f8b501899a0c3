"""What is signed, over real TLS, compared with eth-account."""

import json
import secrets
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_keys import keys as eth_keys
from eth_utils import keccak

SIGN = "/api/v1/keys/hot/sign/"
TYPED = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "chainId", "type": "uint256"},
        ],
        "Mail": [{"name": "text", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "test", "chainId": 31337},
    "message": {"text": "hello"},
}


def test_a_transaction_is_signed_by_the_key_in_the_path(
    front: Any, transaction: Any, address: Any
) -> None:
    status, body = front.ask("POST", SIGN + "transaction", {"transaction": transaction})
    assert status == 200, body
    assert body.keys() == {"raw", "hash", "from"}
    assert body["from"] == address("hot")
    assert Account.recover_transaction(body["raw"]) == address("hot")
    assert body["hash"] == "0x" + keccak(hexstr=body["raw"]).hex()
    theirs = Account.sign_transaction(transaction, bytes([1]) * 32)
    assert body["raw"] == "0x" + theirs.raw_transaction.hex()


@pytest.mark.parametrize("identifier", ["address", "lower", "escaped"])
def test_a_key_is_named_by_name_or_by_address(
    front: Any, transaction: Any, address: Any, identifier: Any
) -> None:
    name = {
        "address": address("hot"),
        "lower": address("hot").lower(),
        "escaped": "%68ot",
    }[identifier]
    status, body = front.ask(
        "POST", f"/api/v1/keys/{name}/sign/transaction", {"transaction": transaction}
    )
    assert status == 200, body
    assert body["from"] == address("hot")


def test_a_key_that_kms_opens_takes_the_longer_way(
    front: Any, transaction: Any, address: Any
) -> None:
    status, body = front.ask(
        "POST", "/api/v1/keys/kms/sign/transaction", {"transaction": transaction}
    )
    assert status == 200, body
    assert Account.recover_transaction(body["raw"]) == address("kms")


@pytest.mark.parametrize(
    "body", [{"text": "hello"}, {"data": "0x68656c6c6f"}], ids=["text", "data"]
)
def test_a_message_is_signed_with_its_prefix(
    front: Any, address: Any, body: Any
) -> None:
    status, answer = front.ask("POST", SIGN + "message", body)
    assert status == 200
    message = encode_defunct(text="hello")
    assert Account.recover_message(message, signature=answer["signature"]) == address(
        "hot"
    )
    theirs = Account.sign_message(message, bytes([1]) * 32)
    assert answer["signature"] == "0x" + theirs.signature.hex()
    assert answer["digest"] == "0x" + theirs.message_hash.hex()


def test_typed_data_is_signed_as_eth_account_does(front: Any) -> None:
    status, answer = front.ask("POST", SIGN + "typed-data", {"typed_data": TYPED})
    assert status == 200
    theirs = Account.sign_message(
        encode_typed_data(full_message=TYPED), bytes([1]) * 32
    )
    assert answer["signature"] == "0x" + theirs.signature.hex()


def test_an_authorization_is_signed_as_eth_account_does(front: Any) -> None:
    asked = {"chain_id": 31337, "address": "0x" + "22" * 20, "nonce": 5}
    status, answer = front.ask("POST", SIGN + "authorization", asked)
    assert status == 200
    theirs = Account.sign_authorization(
        {"chainId": 31337, "address": "0x" + "22" * 20, "nonce": 5}, bytes([1]) * 32
    )
    assert answer == {
        "chainId": "0x7a69",
        "address": "0x" + "22" * 20,
        "nonce": "0x5",
        "yParity": hex(theirs.y_parity),
        "r": hex(theirs.r),
        "s": hex(theirs.s),
    }


def test_a_digest_is_signed_only_where_that_is_allowed(front: Any) -> None:
    digest = secrets.token_bytes(32)
    body = {"digest": "0x" + digest.hex()}
    status, answer = front.ask("POST", SIGN + "digest", body)
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert front.keys.signed == []
    status, answer = front.ask("POST", SIGN + "digest", body, token="digest")
    assert status == 200
    signature = bytes.fromhex(answer["signature"][2:])
    public = eth_keys.Signature(
        signature[:64] + bytes([signature[64] - 27])
    ).recover_public_key_from_msg_hash(digest)
    assert public.to_checksum_address() == answer["from"]


def test_many_requests_travel_on_one_connection(front: Any, transaction: Any) -> None:
    connection = front.http()

    for number in range(50):
        transaction["nonce"] = number
        connection.request(
            "POST", SIGN + "transaction", json.dumps({"transaction": transaction})
        )
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    connection.close()
    assert len(front.keys.signed) == 50
