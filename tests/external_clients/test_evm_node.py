"""Every transaction type is mined by a node that knows nothing of us."""

from collections.abc import Callable
from typing import Any

import pytest
import rlp
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from nitrosigner.client.signer_client import SignerClient

Rpc = Callable[..., Any]
Mined = Callable[[str], dict[str, Any]]
RECIPIENT = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
CHAIN = 31337
GWEI = 10**9

# Stores 42 in slot 0 of the contract that it deploys, and deploys nothing else.
INIT_CODE = "0x602a60005560006000f3"
DYNAMIC = {"maxFeePerGas": 20 * GWEI, "maxPriorityFeePerGas": GWEI}

TRANSACTIONS: dict[str, dict[str, Any]] = {
    "legacy without a chain id": {"type": 0, "gasPrice": 20 * GWEI},
    "legacy": {"type": 0, "gasPrice": 20 * GWEI, "chainId": CHAIN},
    "access list": {
        "type": 1,
        "gasPrice": 20 * GWEI,
        "chainId": CHAIN,
        "accessList": [{"address": RECIPIENT, "storageKeys": ["0x" + "00" * 32]}],
    },
    "dynamic fee": {"type": 2, "chainId": CHAIN, **DYNAMIC},
    "dynamic fee with calldata": {
        "type": 2,
        "chainId": CHAIN,
        **DYNAMIC,
        "data": "0x" + "ab" * 3000,
    },
    "contract creation": {
        "type": 2,
        "chainId": CHAIN,
        **DYNAMIC,
        "to": None,
        "data": INIT_CODE,
    },
}


@pytest.mark.parametrize("kind", TRANSACTIONS, ids=lambda k: k.replace(" ", "-"))
def test_the_node_mines(
    kind: str, signer: SignerClient, mined: Mined, funded_key: tuple[str, str]
) -> None:
    name, address = funded_key
    transaction = {
        "to": RECIPIENT,
        "value": 10**16,
        "nonce": 0,
        "gas": 200_000,
        **TRANSACTIONS[kind],
    }
    signed = signer.sign_transaction(name, transaction)
    receipt = mined(signed.raw)
    assert receipt["transactionHash"] == signed.hash
    assert receipt["from"] == address.lower() == signed.sender.lower()


def test_the_node_mines_a_blob_transaction(
    signer: SignerClient, mined: Mined, funded_key: tuple[str, str]
) -> None:
    """The sidecar never enters the signer: the sender puts it round the signed body."""
    name, address = funded_key
    fields = {
        "type": 3,
        "chainId": CHAIN,
        "to": RECIPIENT,
        "value": 1,
        "nonce": 0,
        "gas": 100_000,
        **DYNAMIC,
        "maxFeePerBlobGas": 10 * GWEI,
    }
    # eth-account makes the sidecar, with a key that has nothing to do with it.
    donor = Account.create()
    pooled = donor.sign_transaction(fields, blobs=[b"\x01" * 4096 * 32])
    _, *sidecar = rlp.decode(bytes(pooled.raw_transaction)[1:])
    hashes = [
        "0x" + bytes(h).hex()
        for h in TypedTransaction.from_bytes(
            HexBytes(pooled.raw_transaction)
        ).as_dict()["blobVersionedHashes"]
    ]
    signed = signer.sign_transaction(name, {**fields, "blobVersionedHashes": hashes})
    body = rlp.decode(bytes.fromhex(signed.raw[4:]))
    receipt = mined("0x03" + rlp.encode([body, *sidecar]).hex())
    assert receipt["transactionHash"] == signed.hash
    assert receipt["from"] == address.lower()
    assert int(receipt["blobGasUsed"], 16) == 131072


def test_the_node_mines_a_delegation(
    signer: SignerClient, rpc: Rpc, mined: Mined, funded_key: tuple[str, str]
) -> None:
    """EIP-7702: one of our keys hands its account to code, another one pays."""
    name, address = funded_key
    delegating = signer.create_key(f"{name}-delegating")
    tuple_ = signer.sign_authorization(
        delegating.name, chain_id=CHAIN, address=RECIPIENT, nonce=0
    )
    signed = signer.sign_transaction(
        name,
        {
            "type": 4,
            "chainId": CHAIN,
            "to": RECIPIENT,
            "value": 0,
            "nonce": 0,
            "gas": 200_000,
            **DYNAMIC,
            "authorizationList": [
                {
                    "chainId": tuple_.chain_id,
                    "address": tuple_.address,
                    "nonce": tuple_.nonce,
                    "yParity": tuple_.y_parity,
                    "r": tuple_.r,
                    "s": tuple_.s,
                }
            ],
        },
    )
    receipt = mined(signed.raw)
    assert receipt["from"] == address.lower()
    code = rpc("eth_getCode", delegating.identity, "latest")
    assert code == "0xef0100" + RECIPIENT[2:].lower()
