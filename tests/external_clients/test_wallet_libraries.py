"""viem, ethers and web3.py use the signer as a remote account."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from web3 import HTTPProvider, Web3
from web3.middleware import SignAndSendRawMiddlewareBuilder

from nitrosigner.client.account import RemoteAccount
from nitrosigner.client.signer_client import SignerClient

HERE = Path(__file__).parent
Mined = Callable[[str], dict[str, Any]]
RECIPIENT = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
GWEI = 10**9
TYPED_DATA = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "chainId", "type": "uint256"},
        ],
        "Order": [{"name": "amount", "type": "uint256"}],
    },
    "domain": {"name": "Exchange", "chainId": 31337},
    "primaryType": "Order",
    "message": {"amount": 10**30},
}


def test_viem_and_ethers(
    ready_line: dict[str, Any], node_url: str, funded_key: tuple[str, str]
) -> None:
    node = shutil.which("node")
    assert node, "Node.js is missing"
    settings = {
        "signer": ready_line["url"],
        "node": node_url,
        "address": funded_key[1],
        "tokenFile": ready_line["clients"]["default"]["token_file"],
    }
    done = subprocess.run(
        [node, "wallets.mjs"],
        cwd=HERE,
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": ready_line["ca"]},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report.values()) == {True}, report
    assert len(report) == 10


@pytest.fixture
def web3_signer(ready_line: dict[str, Any]) -> Web3:
    client = ready_line["clients"]["default"]
    token = Path(client["token_file"]).read_text().strip()
    return Web3(
        HTTPProvider(
            ready_line["url"].rstrip("/") + "/?result=object",
            request_kwargs={
                "verify": ready_line["ca"],
                "headers": {
                    "authorization": f"Bearer {token}",
                    "content-type": "application/json",
                },
            },
        )
    )


def test_web3_over_json_rpc(
    web3_signer: Web3, mined: Mined, funded_key: tuple[str, str]
) -> None:
    _, address = funded_key
    assert address in web3_signer.eth.accounts
    assert web3_signer.eth.chain_id == 31337
    assert web3_signer.client_version.startswith("nitrosigner/")
    signature = web3_signer.eth.sign(address, text="hello")
    message = encode_defunct(text="hello")
    assert Account.recover_message(message, signature=signature) == address
    typed = web3_signer.eth.sign_typed_data(address, TYPED_DATA)
    encoded = encode_typed_data(full_message=TYPED_DATA)
    assert Account.recover_message(encoded, signature=typed) == address
    signed = web3_signer.eth.sign_transaction(
        {
            "from": address,
            "to": RECIPIENT,
            "value": 5,
            "nonce": 0,
            "gas": 21000,
            "chainId": 31337,
            "maxFeePerGas": 20 * GWEI,
            "maxPriorityFeePerGas": GWEI,
        }
    )
    assert mined("0x" + bytes(signed["raw"]).hex())["from"] == address.lower()


def test_web3_with_our_account_as_a_local_one(
    signer: SignerClient, node_url: str, funded_key: tuple[str, str]
) -> None:
    """`send_transaction` signs through the enclave and broadcasts to the node."""
    name, address = funded_key
    account = RemoteAccount(signer, name)
    web3 = Web3(HTTPProvider(node_url))
    web3.middleware_onion.inject(
        SignAndSendRawMiddlewareBuilder.build(account), layer=0
    )
    sent = web3.eth.send_transaction({"from": address, "to": RECIPIENT, "value": 7})
    receipt = web3.eth.wait_for_transaction_receipt(sent, timeout=20)
    assert receipt["status"] == 1
    assert receipt["from"] == address
