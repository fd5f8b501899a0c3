"""JSON-RPC as web3.py, viem and ethers speak it (facts/real-clients.md, section 3)."""

import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data

from nitrosigner.verdicts import Code, Refused, Undecided

TX = {
    "chainId": "0x7a69",
    "nonce": "0x0",
    "to": "0x" + "11" * 20,
    "value": "0x64",
    "gas": "0x5208",
    "maxFeePerGas": "0x3e8",
    "maxPriorityFeePerGas": "0x1",
}
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
SECRET = bytes([1]) * 32


def test_accounts_are_the_enabled_keys_that_the_client_may_use(
    front: Any, address: Any
) -> None:
    everybody = ["cold", "hot", "import", "kms", "other-team"]
    assert front.rpc("eth_accounts")["result"] == [address(name) for name in everybody]
    assert front.rpc("eth_accounts", token="limited")["result"] == [
        address("cold"),
        address("hot"),
    ]


def test_the_chain_is_the_first_that_the_client_may_use(front: Any) -> None:
    assert front.rpc("eth_chainId")["result"] == "0x7a69"
    assert front.rpc("net_version")["result"] == "31337"
    assert front.rpc("eth_chainId", token="limited")["result"] == "0x1"
    assert front.rpc("eth_chainId", token="narrow")["error"]["data"]["code"] == (
        "wrong_chain"
    )


def test_the_version_names_us(front: Any) -> None:
    assert front.rpc("web3_clientVersion")["result"].startswith("nitrosigner/")


def test_a_transaction_is_answered_as_a_string(front: Any, address: Any) -> None:
    # viem and ethers send lower-case addresses.
    answer = front.rpc("eth_signTransaction", TX | {"from": address("hot").lower()})
    theirs = Account.sign_transaction(TX | {"type": 2}, SECRET)
    assert answer["result"] == "0x" + theirs.raw_transaction.hex()


def test_a_key_of_kms_signs_through_json_rpc(front: Any, address: Any) -> None:
    raw = front.rpc("eth_signTransaction", TX | {"from": address("kms")})["result"]
    assert Account.recover_transaction(raw) == address("kms")


KINDS = [
    TX,
    {
        **TX,
        "type": "0x0",
        "gasPrice": "0x5",
        "maxFeePerGas": None,
        "maxPriorityFeePerGas": None,
    },
    {
        **TX,
        "type": "0x1",
        "gasPrice": "0x5",
        "maxFeePerGas": None,
        "maxPriorityFeePerGas": None,
        "accessList": [
            {"address": "0x" + "22" * 20, "storageKeys": ["0x" + "01" * 32]}
        ],
    },
    {
        **TX,
        "type": "0x3",
        "maxFeePerBlobGas": "0x1",
        "blobVersionedHashes": ["0x01" + "00" * 31],
    },
    {
        **TX,
        "type": "0x4",
        "authorizationList": [
            {
                "chainId": "0x1",
                "address": "0x" + "22" * 20,
                "nonce": "0x0",
                "yParity": "0x1",
                "r": "0x5",
                "s": "0x6",
            }
        ],
    },
]


@pytest.mark.parametrize("tx", KINDS)
def test_geths_form_is_an_option_for_every_type(
    front: Any, address: Any, tx: Any
) -> None:
    tx = {name: value for name, value in tx.items() if value is not None}
    tx["from"] = address("hot")
    plain = front.rpc("eth_signTransaction", tx)["result"]
    answer = front.rpc("eth_signTransaction", tx, path="/?result=object")["result"]
    assert answer["raw"] == plain
    assert Account.recover_transaction(plain) == address("hot")
    fields = answer["tx"]
    for name, value in tx.items():
        if name not in ("type", "to"):
            assert fields[name] == value, name
    assert fields["type"] == tx.get("type", "0x2")
    assert fields["hash"].startswith("0x")
    assert {"r", "s", "v"} <= fields.keys()


def test_web3_py_takes_geths_form(front: Any, address: Any) -> None:
    from web3 import HTTPProvider, Web3

    provider = HTTPProvider(
        f"https://127.0.0.1:{front.port}/?result=object",
        request_kwargs={
            "cert": str(front.files["default"]),
            "verify": str(front.ca),
            "timeout": 10,
        },
    )
    web3 = Web3(provider)
    assert web3.is_connected()
    assert web3.eth.chain_id == 31337
    assert address("hot") in web3.eth.accounts
    signed = web3.eth.sign_transaction(
        {
            "from": web3.to_checksum_address(address("hot")),
            "to": web3.to_checksum_address("0x" + "11" * 20),
            "value": 100,
            "gas": 21000,
            "nonce": 0,
            "chainId": 31337,
            "maxFeePerGas": 1000,
            "maxPriorityFeePerGas": 1,
        }
    )
    assert Account.recover_transaction(signed["raw"]) == address("hot")
    signature = web3.eth.sign(address("hot"), text="hello")
    assert Account.recover_message(
        encode_defunct(text="hello"), signature=signature
    ) == address("hot")
    provider._request_session_manager.session_cache.clear()


def test_without_a_chain_the_default_one_is_meant_and_the_signature_is_bound(
    front: Any, address: Any
) -> None:
    tx = {
        "from": address("hot"),
        "nonce": 0,
        "gas": 21000,
        "gasPrice": 5,
        "to": "0x" + "11" * 20,
    }
    answer = front.rpc("eth_signTransaction", tx, path="/?result=object")["result"]
    assert answer["tx"]["chainId"] == "0x7a69"
    assert int(answer["tx"]["v"], 16) in (35 + 2 * 31337, 36 + 2 * 31337)


@pytest.mark.parametrize("missing", ["nonce", "gas", "maxFeePerGas", "from"])
def test_what_a_node_would_fill_in_must_be_there(
    front: Any, address: Any, missing: Any
) -> None:
    tx = {k: v for k, v in (TX | {"from": address("hot")}).items() if k != missing}
    error = front.rpc("eth_signTransaction", tx)["error"]
    assert error["code"] == -32602
    assert front.keys.signed == []


def test_messages_are_signed_in_both_orders_of_parameters(
    front: Any, address: Any
) -> None:
    message = encode_defunct(text="hello")
    theirs = "0x" + Account.sign_message(message, SECRET).signature.hex()
    data = "0x" + b"hello".hex()
    who = address("hot")
    assert front.rpc("eth_sign", who, data)["result"] == theirs
    assert front.rpc("personal_sign", data, who.lower())["result"] == theirs
    assert front.rpc("personal_sign", data, who, "password")["result"] == theirs


@pytest.mark.parametrize("method", ["eth_signTypedData", "eth_signTypedData_v4"])
@pytest.mark.parametrize("as_text", [True, False])
def test_typed_data_comes_as_object_or_as_text(
    front: Any, address: Any, method: Any, as_text: Any
) -> None:
    theirs = Account.sign_message(encode_typed_data(full_message=TYPED), SECRET)
    document = json.dumps(TYPED) if as_text else TYPED
    answer = front.rpc(method, address("hot").lower(), document)
    assert answer["result"] == "0x" + theirs.signature.hex()


ERRORS = [
    ("eth_sendTransaction", [TX], -32601, "unknown_route"),
    ("eth_blockNumber", [], -32601, "unknown_route"),
    ("", [], -32601, "unknown_route"),
    ("eth_accounts", [1], -32602, "malformed_request"),
    ("eth_chainId", {"a": 1}, -32602, "malformed_request"),
    ("eth_signTransaction", [], -32602, "malformed_request"),
    ("eth_signTransaction", ["0x"], -32602, "malformed_request"),
    ("eth_signTransaction", [TX, TX], -32602, "malformed_request"),
    ("eth_signTransaction", [TX | {"from": "hot"}], -32602, "malformed_request"),
    ("eth_signTransaction", [TX | {"from": 5}], -32602, "malformed_request"),
    ("eth_signTransaction", [TX | {"from": "HOT", "x": 1}], -32602, None),
    ("eth_signTransaction", [TX | {"from": "HOT", "value": 0.5}], -32602, None),
    (
        "eth_signTransaction",
        [TX | {"from": "HOT", "chainId": 9}],
        -32003,
        "wrong_chain",
    ),
    ("eth_signTransaction", [TX | {"from": "0x" + "99" * 20}], -32001, "unknown_key"),
    ("eth_signTransaction", [TX | {"from": "OFF"}], -32003, "key_disabled"),
    ("eth_sign", ["HOT", "hello"], -32602, "malformed_message"),
    ("eth_sign", ["0x68", "HOT"], -32001, "unknown_key"),
    ("eth_sign", ["HOT"], -32602, "malformed_request"),
    ("personal_sign", ["0x6", "HOT"], -32602, "malformed_message"),
    ("personal_sign", [None, None], -32602, "malformed_request"),
    ("eth_signTypedData_v4", ["HOT", "{"], -32602, "malformed_json"),
    ("eth_signTypedData_v4", ["HOT", "[" * 5000], -32602, "malformed_json"),
    ("eth_signTypedData_v4", ["HOT", {}], -32602, "malformed_typed_data"),
    (
        "eth_signTypedData_v4",
        ["HOT", TYPED | {"domain": {"name": "test", "chainId": 137}}],
        -32003,
        "wrong_chain",
    ),
]


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_has_the_codes_of_json_rpc_and_our_own(
    front: Any, address: Any, case: Any
) -> None:
    method, params, code, data_code = case
    text = (
        json.dumps(params)
        .replace('"HOT"', f'"{address("hot")}"')
        .replace('"OFF"', f'"{address("off")}"')
    )
    body = f'{{"jsonrpc":"2.0","id":"a","method":"{method}","params":{text}}}'
    status, answer = front.ask("POST", "/", body)
    assert status == 200
    assert answer.keys() == {"jsonrpc", "id", "error"}
    assert answer["id"] == "a"
    error = answer["error"]
    assert error.keys() == {"code", "message", "data"}
    assert error["code"] == code, error
    assert error["data"]["code"] == (data_code or "malformed_transaction")
    assert front.keys.signed == []
    if code == -32601:
        assert "not a node" in error["data"]["hint"]


def test_a_client_that_may_not_is_unauthorized(front: Any, address: Any) -> None:
    for method, params in (
        ("eth_signTransaction", [TX | {"from": address("hot")}]),
        ("eth_sign", [address("hot"), "0x68"]),
        ("eth_signTypedData_v4", [address("hot"), TYPED]),
    ):
        error = front.rpc(method, *params, token="reader")["error"]
        assert (error["code"], error["data"]["code"]) == (4100, "not_allowed")
    assert front.keys.signed == []


@pytest.mark.parametrize("who", ["hot", "kms"])
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Undecided(Code.KMS_UNAVAILABLE, "away"), -32002),
        (Refused(Code.KMS_REFUSED, "no"), -32003),
        (RuntimeError("SECRET"), -32603),
    ],
)
def test_what_fails_inside_is_answered_with_the_requests_id(
    front: Any, address: Any, failure: Any, code: Any, who: Any
) -> None:
    front.keys.failure = failure
    error = front.rpc("eth_signTransaction", TX | {"from": address(who)})["error"]
    assert error["code"] == code
    assert "SECRET" not in json.dumps(error)


BROKEN = [
    (b"", 400, -32700),
    (b"{", 400, -32700),
    (b"[" * 5000, 400, -32700),
    (b"5", 400, -32600),
    (b"{}", 400, -32600),
    (b"[]", 400, -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', 400, -32600),
]


@pytest.mark.parametrize(("body", "status", "code"), BROKEN)
def test_what_is_no_request_is_answered_without_an_id(
    front: Any, body: Any, status: Any, code: Any
) -> None:
    answered, answer = front.ask("POST", "/", body)
    assert answered == status
    assert answer["jsonrpc"] == "2.0"
    assert answer["id"] is None
    assert answer["error"]["code"] == code
    assert front.alive


@pytest.mark.parametrize("rpc_id", [0, -1, 2**60, "x", "", 1.5, None])
def test_the_id_comes_back_as_it_was(front: Any, rpc_id: Any) -> None:
    body = {"jsonrpc": "2.0", "id": rpc_id, "method": "eth_chainId", "params": []}
    status, answer = front.ask("POST", "/", body)
    assert status == 200
    assert answer["id"] == rpc_id
    assert answer["result"] == "0x7a69"


def test_a_notification_is_not_answered_and_signs_nothing(
    front: Any, address: Any
) -> None:
    body = {
        "jsonrpc": "2.0",
        "method": "eth_signTransaction",
        "params": [TX | {"from": address("hot")}],
    }
    assert front.ask("POST", "/", body) == (204, b"")
    assert front.ask("POST", "/", [body, body]) == (204, b"")
    assert front.keys.signed == []


def request(number: object, method: str, *params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def test_a_batch_is_answered_item_by_item(front: Any, address: Any) -> None:
    batch = [
        request(1, "eth_chainId"),
        5,
        {"jsonrpc": "2.0", "method": "eth_chainId"},
        request(2, "nonsense"),
        request(3, "eth_signTransaction", TX | {"from": address("hot")}),
        request(4, "eth_signTransaction", TX | {"from": address("off")}),
        request(5, "eth_signTransaction", TX | {"from": address("kms")}),
    ]
    status, answers = front.ask("POST", "/", batch)
    assert status == 200
    assert [answer["id"] for answer in answers] == [1, None, 2, 3, 4, 5]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        None,
        -32600,
        -32601,
        None,
        -32003,
        None,
    ]
    outcomes = [
        (event["operation"], event["outcome"]) for event in front.services.events[1:]
    ]
    assert outcomes == [
        ("sign_transaction", "signed"),
        ("sign_transaction", "refused"),
        ("sign_transaction", "signed"),
    ]


def test_a_batch_is_bounded(front: Any) -> None:
    status, answer = front.ask("POST", "/", [request(1, "eth_chainId")] * 101)
    assert (status, answer["error"]["code"]) == (400, -32600)
    status, answer = front.ask("POST", "/", [request(1, "eth_chainId")] * 100)
    assert (status, len(answer)) == (200, 100)


def test_an_unrecorded_batch_is_withheld_as_a_whole(front: Any, address: Any) -> None:
    front.wait(lambda: front.services.lines)
    front.services.failure = OSError("full")
    batch = [
        request(1, "eth_chainId"),
        request(3, "eth_signTransaction", TX | {"from": address("hot")}),
    ]
    _, answer = front.ask("POST", "/", batch)
    assert answer["error"]["data"]["code"] == "audit_unavailable"
    assert "result" not in answer


def test_an_unrecorded_signature_is_withheld_with_its_id(
    front: Any, address: Any
) -> None:
    front.wait(lambda: front.services.lines)
    front.services.failure = OSError("full")
    error = front.rpc("eth_sign", address("hot"), "0x68")["error"]
    assert (error["code"], error["data"]["code"]) == (-32002, "audit_unavailable")
