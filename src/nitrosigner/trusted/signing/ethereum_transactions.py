"""
What of a transaction is signed, and what goes to the network afterwards.

The hash that is signed is computed here, from the transaction that the policy saw; a
hash never comes from outside. A blob transaction is given back in its canonical form:
whoever broadcasts it adds the sidecar.
"""

from typing import Final

import msgspec

from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.rlp import (
    encode_bytes,
    encode_integer,
    list_header,
)
from nitrosigner.trusted.signing.transaction_types import (
    AccessList,
    AccessListEntry,
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    Transaction,
    max_cost_wei,
    max_fee_wei,
)

__all__ = [
    "AccessList",
    "AccessListEntry",
    "AccessListTransaction",
    "BlobTransaction",
    "DynamicFeeTransaction",
    "LegacyTransaction",
    "SetCodeTransaction",
    "SignedTransaction",
    "Transaction",
    "max_cost_wei",
    "max_fee_wei",
    "signed",
    "signing_hash",
]

_EMPTY_STRING: Final = b"\x80"
_EMPTY_LIST: Final = b"\xc0"
_ADDRESS_HEADER: Final = b"\x94"
_WORD_HEADER: Final = b"\xa0"

_TYPE: Final[dict[type, bytes]] = {
    LegacyTransaction: b"",
    AccessListTransaction: b"\x01",
    DynamicFeeTransaction: b"\x02",
    BlobTransaction: b"\x03",
    SetCodeTransaction: b"\x04",
}


class SignedTransaction(msgspec.Struct, frozen=True):
    """Ready to broadcast."""

    raw: bytes
    hash: bytes
    """32 bytes; what the network will call it."""


def signing_hash(transaction: Transaction) -> bytes:
    """Return the digest that the sender signs, 32 bytes."""
    body = _body(transaction)
    if isinstance(transaction, LegacyTransaction) and transaction.chain_id is not None:
        # EIP-155: the chain id, and zeros in the place of r and s.
        body += encode_integer(transaction.chain_id) + _EMPTY_STRING + _EMPTY_STRING
    return keccak_256(_TYPE[type(transaction)] + list_header(len(body)) + body)


def signed(transaction: Transaction, signature: Signature) -> SignedTransaction:
    """
    Return *transaction* with its *signature*, and its hash.

    Args:
        transaction: The one whose `signing_hash` was signed.
        signature: r ‖ s ‖ y parity, 65 bytes.
    """
    v = signature[64]
    if isinstance(transaction, LegacyTransaction):
        chain_id = transaction.chain_id
        v += 27 if chain_id is None else 35 + 2 * chain_id
    body = (
        _body(transaction)
        + encode_integer(v)
        # Integers in RLP have no zeros ahead; one r in 256 has one to lose.
        + encode_bytes(signature[:32].lstrip(b"\0"))
        + encode_bytes(signature[32:64].lstrip(b"\0"))
    )
    raw = _TYPE[type(transaction)] + list_header(len(body)) + body
    return SignedTransaction(raw, keccak_256(raw))


def _body(transaction: Transaction) -> bytes:
    """Return the encoded fields in their EIP's order, without the list's header."""
    match transaction:
        case DynamicFeeTransaction():
            return _dynamic_fee_body(transaction)
        case LegacyTransaction():
            return _gas_price_body(transaction)
        case AccessListTransaction():
            return (
                encode_integer(transaction.chain_id)
                + _gas_price_body(transaction)
                + _access_list(transaction.access_list)
            )
        case BlobTransaction():
            hashes = b"".join(
                [_WORD_HEADER + each for each in transaction.blob_versioned_hashes]
            )
            return (
                _dynamic_fee_body(transaction)
                + encode_integer(transaction.max_fee_per_blob_gas)
                + list_header(len(hashes))
                + hashes
            )
        case SetCodeTransaction():
            tuples = b"".join(
                [each.encoded() for each in transaction.authorization_list]
            )
            return _dynamic_fee_body(transaction) + list_header(len(tuples)) + tuples


def _gas_price_body(transaction: LegacyTransaction | AccessListTransaction) -> bytes:
    to = transaction.to
    return (
        encode_integer(transaction.nonce)
        + encode_integer(transaction.gas_price)
        + encode_integer(transaction.gas)
        + (_EMPTY_STRING if to is None else _ADDRESS_HEADER + to)
        + encode_integer(transaction.value)
        + encode_bytes(transaction.data)
    )


def _dynamic_fee_body(
    transaction: DynamicFeeTransaction | BlobTransaction | SetCodeTransaction,
) -> bytes:
    to = transaction.to
    return (
        encode_integer(transaction.chain_id)
        + encode_integer(transaction.nonce)
        + encode_integer(transaction.max_priority_fee_per_gas)
        + encode_integer(transaction.max_fee_per_gas)
        + encode_integer(transaction.gas)
        + (_EMPTY_STRING if to is None else _ADDRESS_HEADER + to)
        + encode_integer(transaction.value)
        + encode_bytes(transaction.data)
        + (
            _access_list(transaction.access_list)
            if transaction.access_list
            else _EMPTY_LIST
        )
    )


def _access_list(access_list: AccessList) -> bytes:
    entries = []
    for entry in access_list:
        keys = b"".join([_WORD_HEADER + key for key in entry.storage_keys])
        body = _ADDRESS_HEADER + entry.address + list_header(len(keys)) + keys
        entries.append(list_header(len(body)) + body)
    encoded = b"".join(entries)
    return list_header(len(encoded)) + encoded
