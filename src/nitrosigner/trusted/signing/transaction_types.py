"""
Ethereum transactions of every type, as frozen values that are valid once they exist.

Each type holds exactly the fields that its EIP signs, so what a policy reads is what a
signature covers. All amounts are whole wei. Without `to` it makes a contract.
"""

from typing import Final, TypeAlias

import msgspec

from nitrosigner.trusted.signing.addresses import ADDRESS_SIZE, Address
from nitrosigner.trusted.signing.authorizations import (
    MAX_CHAIN_ID,
    MAX_NONCE,
    SignedAuthorization,
)
from nitrosigner.verdicts import Code, Malformed

MAX_GAS: Final = 2**64 - 1
MAX_WEI: Final = 2**256 - 1

MAX_DATA: Final = 128 * 1024
"""Bytes of calldata: no node's pool takes a larger transaction (geth: txMaxSize)."""

MAX_ACCESS_LIST: Final = 4096
"""Addresses and storage keys together: as many keys as 128 KiB hold."""

MAX_AUTHORIZATIONS: Final = 1024
"""As many as 128 KiB hold, and more than a block's gas pays for."""

MAX_BLOBS: Final = 64
"""Memory bound; chains allow fewer (EIP-7594: six)."""

GAS_PER_BLOB: Final = 2**17
"""EIP-4844."""

_BLOB_VERSION: Final = 0x01
_WORD: Final = 32


class AccessListEntry(msgspec.Struct, frozen=True):
    """An address and the storage slots of it that a transaction will touch."""

    address: Address
    storage_keys: tuple[bytes, ...]
    """32 bytes each."""

    def __post_init__(self) -> None:
        if len(self.address) != ADDRESS_SIZE:
            raise _malformed("an address in accessList is not 20 bytes")
        for key in self.storage_keys:
            if len(key) != _WORD:
                raise _malformed("a storage key in accessList is not 32 bytes")


AccessList: TypeAlias = tuple[AccessListEntry, ...]


class LegacyTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Type 0. Without a chain id (EIP-155) it can be replayed on every chain."""

    chain_id: int | None
    nonce: int
    gas_price: int
    gas: int
    to: Address | None
    value: int
    data: bytes

    def __post_init__(self) -> None:
        _check(self, 1 if self.chain_id is None else self.chain_id, self.gas_price)


class AccessListTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Type 1, EIP-2930."""

    chain_id: int
    nonce: int
    gas_price: int
    gas: int
    to: Address | None
    value: int
    data: bytes
    access_list: AccessList

    def __post_init__(self) -> None:
        _check(self, self.chain_id, self.gas_price)
        if self.access_list:
            _check_access_list(self.access_list)


class DynamicFeeTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Type 2, EIP-1559."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: Address | None
    value: int
    data: bytes
    access_list: AccessList

    def __post_init__(self) -> None:
        _check(self, self.chain_id, self.max_fee_per_gas, self.max_priority_fee_per_gas)
        if self.access_list:
            _check_access_list(self.access_list)


class BlobTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Type 3, EIP-4844. Only the blobs' hashes are signed; the blobs stay outside."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: Address
    value: int
    data: bytes
    access_list: AccessList
    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...]
    """32 bytes each, beginning with 0x01; at least one."""

    def __post_init__(self) -> None:
        _check(self, self.chain_id, self.max_fee_per_gas, self.max_priority_fee_per_gas)
        if self.access_list:
            _check_access_list(self.access_list)
        if not 0 <= self.max_fee_per_blob_gas <= MAX_WEI:
            raise _out_of_range("maxFeePerBlobGas")
        if not 0 < len(self.blob_versioned_hashes) <= MAX_BLOBS:
            raise _malformed(f"blobVersionedHashes needs 1 to {MAX_BLOBS} hashes")
        for blob_hash in self.blob_versioned_hashes:
            if len(blob_hash) != _WORD or blob_hash[0] != _BLOB_VERSION:
                raise _malformed(
                    "a blob's versioned hash is not 32 bytes that begin with 0x01"
                )


class SetCodeTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """Type 4, EIP-7702."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: Address
    value: int
    data: bytes
    access_list: AccessList
    authorization_list: tuple[SignedAuthorization, ...]
    """At least one."""

    def __post_init__(self) -> None:
        _check(self, self.chain_id, self.max_fee_per_gas, self.max_priority_fee_per_gas)
        if self.access_list:
            _check_access_list(self.access_list)
        if not 0 < len(self.authorization_list) <= MAX_AUTHORIZATIONS:
            raise _malformed(
                f"authorizationList needs 1 to {MAX_AUTHORIZATIONS} authorizations"
            )


Transaction: TypeAlias = (
    LegacyTransaction
    | AccessListTransaction
    | DynamicFeeTransaction
    | BlobTransaction
    | SetCodeTransaction
)


def max_fee_wei(transaction: Transaction) -> int:
    """Return the most that *transaction* can cost in fees, in wei; blobs included."""
    match transaction:
        case LegacyTransaction() | AccessListTransaction():
            return transaction.gas * transaction.gas_price
        case BlobTransaction():
            blob_gas = GAS_PER_BLOB * len(transaction.blob_versioned_hashes)
            return (
                transaction.gas * transaction.max_fee_per_gas
                + blob_gas * transaction.max_fee_per_blob_gas
            )
        case DynamicFeeTransaction() | SetCodeTransaction():
            return transaction.gas * transaction.max_fee_per_gas


def max_cost_wei(transaction: Transaction) -> int:
    """Return the most that *transaction* can take from its sender, in wei."""
    return transaction.value + max_fee_wei(transaction)


def _check(transaction: Transaction, chain_id: int, fee: int, tip: int = 0) -> None:
    # One condition for the common case; the words are looked for only when it fails.
    if (
        0 <= transaction.nonce <= MAX_NONCE
        and 0 <= transaction.gas <= MAX_GAS
        and 0 <= transaction.value <= MAX_WEI
        and 0 < chain_id <= MAX_CHAIN_ID
        and 0 <= tip <= fee <= MAX_WEI
        and len(transaction.data) <= MAX_DATA
        and (
            len(transaction.data) > 0
            if transaction.to is None
            else len(transaction.to) == ADDRESS_SIZE
        )
    ):
        return
    raise _complaint(transaction, chain_id, fee, tip)


def _complaint(
    transaction: Transaction, chain_id: int, fee: int, tip: int
) -> Malformed:
    fee_name = "maxFeePerGas" if hasattr(transaction, "max_fee_per_gas") else "gasPrice"
    for name, number, least, most in (
        ("chainId", chain_id, 1, MAX_CHAIN_ID),
        ("nonce", transaction.nonce, 0, MAX_NONCE),
        ("gas", transaction.gas, 0, MAX_GAS),
        ("value", transaction.value, 0, MAX_WEI),
        (fee_name, fee, 0, MAX_WEI),
        ("maxPriorityFeePerGas", tip, 0, MAX_WEI),
    ):
        if not least <= number <= most:
            return _out_of_range(name)
    if tip > fee:
        return _malformed(
            "maxPriorityFeePerGas is higher than maxFeePerGas",
            "raise maxFeePerGas: it is the limit of base fee and tip together",
        )
    if len(transaction.data) > MAX_DATA:
        return Malformed(Code.TOO_LARGE, f"data is longer than {MAX_DATA} bytes")
    if transaction.to is not None:
        return _malformed("to is not 20 bytes")
    return _malformed(
        "there is neither `to` nor `data`",
        "give `to`; a transaction that makes a contract needs its code in `data`",
    )


def _check_access_list(access_list: AccessList) -> None:
    size = len(access_list) + sum(len(entry.storage_keys) for entry in access_list)
    if size > MAX_ACCESS_LIST:
        raise Malformed(
            Code.TOO_LARGE, f"accessList has more than {MAX_ACCESS_LIST} entries"
        )


def _out_of_range(name: str) -> Malformed:
    return _malformed(f"{name} is out of range")


def _malformed(message: str, hint: str = "") -> Malformed:
    return Malformed(Code.MALFORMED_TRANSACTION, message, hint)
