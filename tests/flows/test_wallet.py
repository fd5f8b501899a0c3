"""The wallet job end to end, through real processes, checked by other libraries."""

import datetime as dt
import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from hexbytes import HexBytes

from nitrosigner.client import verification
from nitrosigner.client.import_key import import_private_key
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_wallet import (
    EXAMPLE_KEY,
    EXAMPLE_TRANSACTION,
    EXAMPLE_WEI,
    invoke,
)
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.verdicts import Malformed, Refused

TO = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
ZERO_HASH = "0x" + "00" * 32
BLOB_HASH = "0x01" + "11" * 31
FEES = {"maxFeePerGas": 10**11, "maxPriorityFeePerGas": 3 * 10**9}
BASE = {"nonce": 7, "gas": 100_000, "value": 10**16, "to": TO, "chainId": 31337}

TRANSACTIONS: dict[str, dict[str, Any]] = {
    "legacy": BASE | {"gasPrice": 10**11, "type": 0},
    "access-list": BASE
    | {
        "type": 1,
        "gasPrice": 10**11,
        "accessList": [{"address": TO, "storageKeys": [ZERO_HASH]}],
    },
    "dynamic-fee": BASE | FEES | {"type": 2, "data": "0xdeadbeef"},
    "creation": {k: v for k, v in BASE.items() if k != "to"}
    | FEES
    | {"type": 2, "data": "0x6001600081905550"},
    "blob": BASE
    | FEES
    | {"type": 3, "maxFeePerBlobGas": 10**10, "blobVersionedHashes": [BLOB_HASH]},
}

TYPED_DATA = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "chainId", "type": "uint256"},
        ],
        "Mail": [{"name": "to", "type": "address"}, {"name": "text", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {"name": "nitrosigner", "chainId": 31337},
    "message": {"to": TO, "text": "hello"},
}


@pytest.fixture(scope="module")
def key(stack: RunningStack) -> tuple[str, str]:
    """The name and address of a key that was made inside."""
    with SignerClient.from_data(stack.folder.path) as client:
        return "flow", client.create_key("flow").identity


Verify = Callable[[SignerClient], verification.Proof]


@pytest.fixture
def verify(stack: RunningStack) -> Verify:
    def check(client: SignerClient) -> verification.Proof:
        return verification.verify(
            client,
            now=dt.datetime.now(dt.UTC),
            anchors=[stored_trust_anchor(stack.folder.emulator)],
            pcrs={0: bytes.fromhex(stack.ready.pcr0)},
        )

    return check


@pytest.mark.parametrize("kind", TRANSACTIONS)
def test_a_transaction_of_each_type_is_signed_by_the_key_that_was_made_inside(
    signer: SignerClient, key: tuple[str, str], kind: str
) -> None:
    name, address = key
    signed = signer.sign_transaction(name, TRANSACTIONS[kind])
    assert Account.recover_transaction(HexBytes(signed.raw)) == address
    assert signed.sender == address


def test_a_set_code_transaction_is_signed_with_an_authorization_from_inside(
    signer: SignerClient, key: tuple[str, str]
) -> None:
    name, address = key
    tuple_ = signer.sign_authorization(name, chain_id=31337, address=TO, nonce=8)
    authorization = {
        "chainId": tuple_.chain_id,
        "address": tuple_.address,
        "nonce": tuple_.nonce,
        "yParity": tuple_.y_parity,
        "r": tuple_.r,
        "s": tuple_.s,
    }
    transaction = BASE | FEES | {"type": 4, "authorizationList": [authorization]}
    signed = signer.sign_transaction(name, transaction)
    assert Account.recover_transaction(HexBytes(signed.raw)) == address


def test_a_message_and_typed_data_recover_to_the_key(
    signer: SignerClient, key: tuple[str, str]
) -> None:
    name, address = key
    message = signer.sign_message(name, "hello")
    assert address == Account.recover_message(
        encode_defunct(text="hello"), signature=message.signature
    )
    typed = signer.sign_typed_data(name, TYPED_DATA)
    assert address == Account.recover_message(
        encode_typed_data(full_message=TYPED_DATA), signature=typed.signature
    )


def test_an_imported_key_signs_what_the_key_itself_would(
    signer: SignerClient, verify: Verify
) -> None:
    account = Account.create()
    with PrivateKey(bytearray(account.key)) as private_key:
        made = import_private_key(
            signer, verify(signer), private_key, name="flow-imported"
        )
    assert made.identity == account.address
    transaction = TRANSACTIONS["dynamic-fee"]
    signed = signer.sign_transaction("flow-imported", transaction)
    assert HexBytes(signed.raw) == account.sign_transaction(transaction).raw_transaction


def test_the_source_documents_events_work_as_they_stand(stack: RunningStack) -> None:
    data = stack.folder.path
    stored = invoke(data, {"operation": "set_key", "eth_key": EXAMPLE_KEY})
    expected = Account.from_key(EXAMPLE_KEY)
    assert stored["identity"] == expected.address
    ciphertext = invoke(data, {"operation": "get_key"})["result"]
    assert EXAMPLE_KEY not in ciphertext
    signed = invoke(
        data,
        {"operation": "sign_transaction", "transaction_payload": EXAMPLE_TRANSACTION},
    )
    wei = EXAMPLE_TRANSACTION | {"value": EXAMPLE_WEI}
    raw = expected.sign_transaction(wei).raw_transaction
    assert HexBytes(signed["transaction_signed"]) == raw


def test_a_key_in_use_is_not_overwritten_without_its_version(
    signer: SignerClient, key: tuple[str, str]
) -> None:
    with pytest.raises(Refused) as refused:
        signer.create_key(key[0])
    assert refused.value.status == 412
    assert signer.key(key[0]).identity == key[1]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"chainId": 999}, "wrong_chain"),
        ({"from": TO}, "wrong_sender"),
        ({"nonsense": 1}, "malformed_transaction"),
        ({"value": -1}, "malformed_transaction"),
    ],
)
def test_a_transaction_that_does_not_fit_is_not_signed(
    signer: SignerClient, key: tuple[str, str], change: dict[str, Any], code: str
) -> None:
    with pytest.raises((Refused, Malformed)) as caught:
        signer.sign_transaction(key[0], TRANSACTIONS["dynamic-fee"] | change)
    assert caught.value.code == code


def test_a_disabled_key_signs_nothing_until_it_is_enabled(signer: SignerClient) -> None:
    signer.create_key("flow-states")
    signer.disable_key("flow-states")
    with pytest.raises(Refused) as refused:
        signer.sign_message("flow-states", "x")
    assert refused.value.code == "key_disabled"
    signer.enable_key("flow-states")
    signer.sign_message("flow-states", "x")
    signer.delete_key("flow-states")
    with pytest.raises(Refused):
        signer.sign_message("flow-states", "x")
    signer.restore_key("flow-states")


def test_rotation_of_the_vault_keeps_every_address_and_signature(
    stack: RunningStack, signer: SignerClient, key: tuple[str, str]
) -> None:
    before = {one.name: one.identity for one in signer.list_keys()}
    ciphertext = signer.ciphertext(key[0]).ciphertext
    with SignerClient.from_data(stack.folder.path, "operator") as operator:
        assert operator.rotate_vault().keys == len(before)
    assert {one.name: one.identity for one in signer.list_keys()} == before
    assert signer.ciphertext(key[0]).ciphertext != ciphertext
    signer.sign_message(key[0], "after the rotation")


def test_a_client_gets_what_the_manifest_says_and_no_more(
    stack: RunningStack, key: tuple[str, str]
) -> None:
    with SignerClient.from_data(stack.folder.path, "reader") as reader:
        assert key[0] in [one.name for one in reader.list_keys()]
        for attempt in (
            lambda: reader.sign_message(key[0], "x"),
            lambda: reader.create_key("reader-made"),
            lambda: reader.delete_key(key[0]),
            reader.rotate_vault,
        ):
            with pytest.raises(Refused) as refused:
                attempt()
            assert (refused.value.status, refused.value.code) == (403, "not_allowed")


def test_a_token_is_as_good_as_a_certificate_and_a_wrong_one_is_none(
    stack: RunningStack, key: tuple[str, str]
) -> None:
    token = Path(stack.ready.clients["default"].token_file).read_text().strip()
    url, ca = stack.ready.url, stack.ready.ca
    with SignerClient(url, ca=ca, token=token) as client:
        client.sign_message(key[0], "x")
    wrong = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    for credentials, status in (({"token": wrong}, 403), ({}, 401)):
        with (
            SignerClient(url, ca=ca, **credentials) as stranger,
            pytest.raises(Refused) as refused,
        ):
            stranger.sign_message(key[0], "x")
        assert (refused.value.status, refused.value.code) == (status, "unauthenticated")


@pytest.fixture
def post(stack: RunningStack) -> Callable[[str, Any], Any]:
    """Speak HTTPS as no library of ours does."""
    context = ssl.create_default_context(cafile=stack.ready.ca)
    files = stack.ready.clients["default"]
    context.load_cert_chain(files.cert, files.key)
    port = int(stack.ready.url.rpartition(":")[2])

    def ask(path: str, body: Any) -> Any:
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        try:
            connection.request(
                "POST", path, json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse().read()
        finally:
            connection.close()
        return json.loads(answer)

    return ask


def test_ethereum_json_rpc_signs_for_libraries_that_know_a_remote_account(
    post: Callable[[str, Any], Any], key: tuple[str, str]
) -> None:
    def call(method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return post("/", body)

    _, address = key
    accounts = [one.lower() for one in call("eth_accounts")["result"]]
    assert address.lower() in accounts
    assert call("eth_chainId")["result"] == hex(31337)
    transaction = {
        "from": address,
        "to": TO,
        "nonce": "0x0",
        "gas": "0x5208",
        "value": "0x1",
        "chainId": hex(31337),
        "maxFeePerGas": hex(10**10),
        "maxPriorityFeePerGas": hex(10**9),
    }
    signed = call("eth_signTransaction", transaction)["result"]
    raw = signed["raw"] if isinstance(signed, dict) else signed
    assert Account.recover_transaction(HexBytes(raw)) == address
    signature = call("personal_sign", "0x" + b"hello".hex(), address)["result"]
    assert address == Account.recover_message(
        encode_defunct(text="hello"), signature=signature
    )
    typed = call("eth_signTypedData_v4", address, TYPED_DATA)["result"]
    assert address == Account.recover_message(
        encode_typed_data(full_message=TYPED_DATA), signature=typed
    )
    assert "error" in call("eth_sendTransaction", transaction)
