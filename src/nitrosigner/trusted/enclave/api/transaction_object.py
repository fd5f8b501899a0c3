"""A signed transaction in the form that geth's `eth_signTransaction` gives it."""

from typing import Any

from nitrosigner.trusted.enclave.api.signing import TransactionSigned
from nitrosigner.trusted.signing.addresses import checksummed
from nitrosigner.trusted.signing.ethereum_transactions import (
    AccessList,
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
)


def raw_and_fields(signed: TransactionSigned) -> dict[str, Any]:
    """Return `{raw, tx}`: what web3.py expects, and others call the geth form."""
    return {"raw": "0x" + signed.encoded.raw.hex(), "tx": _fields(signed)}


def _fields(signed: TransactionSigned) -> dict[str, Any]:
    transaction = signed.transaction
    parity = signed.signature[64]
    fields: dict[str, Any] = {
        "from": signed.sender,
        "hash": "0x" + signed.encoded.hash.hex(),
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas),
        "to": None if transaction.to is None else checksummed(transaction.to),
        "value": hex(transaction.value),
        "input": "0x" + transaction.data.hex(),
        "r": hex(int.from_bytes(signed.signature[:32], "big")),
        "s": hex(int.from_bytes(signed.signature[32:64], "big")),
    }
    if isinstance(transaction, LegacyTransaction):
        chain_id = transaction.chain_id
        v = parity + (27 if chain_id is None else 35 + 2 * chain_id)
        fields |= {"type": "0x0", "gasPrice": hex(transaction.gas_price), "v": hex(v)}
        if chain_id is not None:
            fields["chainId"] = hex(chain_id)
        return fields
    fields |= {
        "chainId": hex(transaction.chain_id),
        "accessList": _access_list(transaction.access_list),
        "v": hex(parity),
        "yParity": hex(parity),
    }
    if isinstance(transaction, AccessListTransaction):
        return fields | {"type": "0x1", "gasPrice": hex(transaction.gas_price)}
    fields |= {
        "maxFeePerGas": hex(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
    }
    match transaction:
        case DynamicFeeTransaction():
            fields["type"] = "0x2"
        case BlobTransaction():
            fields |= {
                "type": "0x3",
                "maxFeePerBlobGas": hex(transaction.max_fee_per_blob_gas),
                "blobVersionedHashes": [
                    "0x" + each.hex() for each in transaction.blob_versioned_hashes
                ],
            }
        case SetCodeTransaction():
            fields |= {
                "type": "0x4",
                "authorizationList": [
                    {
                        "chainId": hex(each.authorization.chain_id),
                        "address": checksummed(each.authorization.address),
                        "nonce": hex(each.authorization.nonce),
                        "yParity": hex(each.y_parity),
                        "r": hex(each.r),
                        "s": hex(each.s),
                    }
                    for each in transaction.authorization_list
                ],
            }
    return fields


def _access_list(access_list: AccessList) -> list[dict[str, Any]]:
    return [
        {
            "address": checksummed(entry.address),
            "storageKeys": ["0x" + key.hex() for key in entry.storage_keys],
        }
        for entry in access_list
    ]
