"""The remote account, beside eth-account's LocalAccount with the same key."""

import json
import pickle
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import (
    encode_defunct,
    encode_intended_validator,
    encode_typed_data,
)
from eth_account.signers.base import BaseAccount
from web3 import Web3
from web3.middleware import SignAndSendRawMiddlewareBuilder
from web3.providers.base import BaseProvider

from nitrosigner.client.account import NoPrivateKey, RemoteAccount
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided

SECRET = bytes.fromhex(
    "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
)
LOCAL = Account.from_key(SECRET)
TO = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
FEES = {"maxFeePerGas": 100_000_000_000, "maxPriorityFeePerGas": 3_000_000_000}
COMMON = {"chainId": 4, "nonce": 7, "gas": 100_000, "value": 10**16, "to": TO}
MAIL: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": [
            {"name": "name", "type": "string"},
            {"name": "wallet", "type": "address"},
        ],
        "Mail": [
            {"name": "from", "type": "Person"},
            {"name": "to", "type": "Person[]"},
            {"name": "amount", "type": "uint256"},
            {"name": "data", "type": "bytes"},
        ],
    },
    "primaryType": "Mail",
    "domain": {
        "name": "Ether Mail",
        "version": "1",
        "chainId": 1,
        "verifyingContract": "0x" + "cc" * 20,
    },
    "message": {
        "from": {"name": "Cow", "wallet": "0x" + "cd" * 20},
        "to": [{"name": "Bob", "wallet": "0x" + "bb" * 20}],
        "amount": 2**200,
        "data": b"\x01\x02",
    },
}


@pytest.fixture
def account(client: SignerClient, signer: Any) -> RemoteAccount:
    signer.add_key("hot", SECRET)
    return RemoteAccount(client, "hot")


def test_it_is_the_account_of_its_key(
    account: RemoteAccount, client: SignerClient
) -> None:
    assert isinstance(account, BaseAccount)
    assert account.address == LOCAL.address
    assert account == RemoteAccount(client, LOCAL.address)
    assert hash(account) == hash(RemoteAccount(client, "hot"))


@pytest.mark.parametrize(
    "transaction",
    [
        {**COMMON, "gasPrice": 10**9},
        {
            **COMMON,
            "gasPrice": 10**9,
            "type": 1,
            "accessList": [{"address": TO, "storageKeys": ["0x" + "01" * 32]}],
        },
        {**COMMON, **FEES},
        {**COMMON, **FEES, "type": 2, "data": b"\xde\xad", "accessList": ()},
        {**COMMON, **FEES, "type": "0x2", "value": hex(10**18)},
        {**COMMON, **FEES, "to": "", "data": "0x6000"},
        {
            **COMMON,
            **FEES,
            "type": 3,
            "maxFeePerBlobGas": 1,
            "blobVersionedHashes": [b"\1" + bytes(31)],
        },
        {
            **COMMON,
            **FEES,
            "type": 4,
            "authorizationList": [
                LOCAL.sign_authorization({"chainId": 4, "address": TO, "nonce": 1})
            ],
        },
    ],
)
def test_transactions_of_every_type_come_back_as_eth_account_signs_them(
    account: RemoteAccount, transaction: dict[str, Any]
) -> None:
    assert account.sign_transaction(transaction) == LOCAL.sign_transaction(transaction)


def test_messages_come_back_as_eth_account_signs_them(account: RemoteAccount) -> None:
    for message in (
        encode_defunct(text="hello"),
        encode_defunct(b"\xff\x00"),
        encode_defunct(text=""),
        encode_defunct(text="ü" * 300),
    ):
        assert account.sign_message(message) == LOCAL.sign_message(message)


def test_typed_data_comes_back_as_eth_account_signs_it(account: RemoteAccount) -> None:
    expected = LOCAL.sign_typed_data(full_message=MAIL)
    assert account.sign_typed_data(full_message=MAIL) == expected
    types = {
        name: fields for name, fields in MAIL["types"].items() if name != "EIP712Domain"
    }
    assert account.sign_typed_data(MAIL["domain"], types, MAIL["message"]) == expected
    untyped = {**MAIL, "types": types}
    assert account.sign_typed_data(full_message=untyped) == expected


def test_hashes_alone_need_a_permission_and_the_refusal_says_what_does_not(
    account: RemoteAccount, signer: Any
) -> None:
    encoded = encode_typed_data(full_message=MAIL)
    with pytest.raises(Refused) as refusal:
        account.sign_message(encoded)
    assert "sign_typed_data" in refusal.value.hint
    signer.denied = set()
    assert account.sign_message(encoded) == LOCAL.sign_message(encoded)
    validator = encode_intended_validator(validator_address=TO, text="hi")
    assert account.sign_message(validator) == LOCAL.sign_message(validator)
    assert account.unsafe_sign_hash(b"\7" * 32) == LOCAL.unsafe_sign_hash(b"\7" * 32)


def test_authorizations_come_back_as_eth_account_signs_them(
    account: RemoteAccount,
) -> None:
    authorization = {"chainId": 4, "address": TO, "nonce": 1}
    made, expected = (
        account.sign_authorization(authorization),
        LOCAL.sign_authorization(authorization),
    )
    assert made == expected
    assert made.authority == expected.authority
    with pytest.raises(Malformed):
        account.sign_authorization({"chainId": 4, "address": TO})


def test_a_signature_of_another_key_never_gets_out(
    account: RemoteAccount, signer: Any
) -> None:
    signer.denied = set()
    signer.secrets["hot"] = b"\5" * 32
    for attempt in (
        lambda: account.sign_transaction({**COMMON, **FEES}),
        lambda: account.sign_message(encode_defunct(text="x")),
        lambda: account.sign_typed_data(full_message=MAIL),
        lambda: account.unsafe_sign_hash(b"\7" * 32),
        lambda: account.sign_authorization({"chainId": 4, "address": TO, "nonce": 1}),
    ):
        with pytest.raises(Undecided) as verdict:
            attempt()
        assert "does not fit" in verdict.value.message


@pytest.mark.parametrize(
    "answer",
    [
        {"raw": "0x", "hash": "0x00", "from": LOCAL.address},
        {"raw": "0x02c0", "hash": "0x00", "from": LOCAL.address},
        {"raw": "0x02" + "ff" * 50, "hash": "0x00", "from": LOCAL.address},
        {
            "raw": LOCAL.sign_transaction(
                {**COMMON, **FEES}
            ).raw_transaction.to_0x_hex(),
            "hash": "0x" + "00" * 32,
            "from": LOCAL.address,
        },
        {"raw": "0xzz", "hash": "0x00", "from": LOCAL.address},
    ],
)
def test_garbage_for_a_transaction_never_gets_out(
    account: RemoteAccount, signer: Any, answer: Any
) -> None:
    signer.fault = lambda handler: handler.json(200, answer) is None
    with pytest.raises(Undecided):
        account.sign_transaction({**COMMON, **FEES})


@pytest.mark.parametrize("signature", ["0x", "0x" + "00" * 65, "0x" + "ff" * 65, "zz"])
def test_garbage_for_a_signature_never_gets_out(
    account: RemoteAccount, signer: Any, signature: str
) -> None:
    digest = LOCAL.sign_message(encode_defunct(text="x")).message_hash.to_0x_hex()
    answer = {"signature": signature, "digest": digest, "from": LOCAL.address}
    signer.fault = lambda handler: handler.json(200, answer) is None
    with pytest.raises(Undecided):
        account.sign_message(encode_defunct(text="x"))


def test_another_transaction_than_the_one_asked_for_never_gets_out(
    account: RemoteAccount, signer: Any
) -> None:
    other = LOCAL.sign_transaction({**COMMON, **FEES, "value": 1})
    answer = {
        "raw": other.raw_transaction.to_0x_hex(),
        "hash": other.hash.to_0x_hex(),
        "from": LOCAL.address,
    }
    signer.fault = lambda handler: handler.json(200, answer) is None
    with pytest.raises(Undecided):
        account.sign_transaction({**COMMON, **FEES})


def test_it_has_no_private_key_to_give(account: RemoteAccount) -> None:
    assert not hasattr(account, "key")
    for attempt in (
        lambda: account.key,
        lambda: bytes(account),
        lambda: account.encrypt("password"),
    ):
        with pytest.raises(NoPrivateKey) as refusal:
            attempt()
        assert refusal.value.code == Code.NOT_ALLOWED


def test_keys_of_other_algorithms_are_no_accounts(
    client: SignerClient, signer: Any
) -> None:
    signer.add_key("validator", SECRET)["algorithm"] = "bls12-381"
    with pytest.raises(Malformed):
        RemoteAccount(client, "validator")


def test_blobs_are_not_sent(account: RemoteAccount, signer: Any) -> None:
    before = len(signer.seen)
    with pytest.raises(Malformed):
        account.sign_transaction({**COMMON, **FEES}, blobs=[b"blob"])
    assert len(signer.seen) == before


class Node(BaseProvider):
    """As much of a node as sending a transaction needs."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def make_request(self, method: Any, params: Any) -> Any:
        answers: dict[str, Any] = {
            "eth_chainId": "0x4",
            "eth_getTransactionCount": "0x7",
            "eth_estimateGas": "0x5208",
            "eth_maxPriorityFeePerGas": "0x1",
            "eth_gasPrice": "0x2",
            "eth_getBlockByNumber": {"baseFeePerGas": "0x1", "number": "0x1"},
        }
        if method == "eth_sendRawTransaction":
            self.sent.append(params[0])
            return {"jsonrpc": "2.0", "id": 1, "result": "0x" + "11" * 32}
        return {"jsonrpc": "2.0", "id": 1, "result": answers[method]}


def test_web3_sends_with_it_as_with_a_local_account(account: RemoteAccount) -> None:
    node = Node()
    w3 = Web3(node)
    w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
    w3.eth.send_transaction(
        {
            "from": account.address,
            "to": TO,
            "value": Web3.to_wei("0.01", "ether"),
            "gas": 21000,
            **FEES,
        }
    )
    assert Account.recover_transaction(node.sent[0]) == LOCAL.address


def test_it_cannot_be_copied_out_of_the_process(account: RemoteAccount) -> None:
    with pytest.raises((TypeError, pickle.PicklingError, NoPrivateKey)):
        pickle.dumps(account)
    assert SECRET.hex() not in json.dumps(str(vars(account)))
