"""
EIP-7702 authorizations: an account lets a contract's code stand in for its own.

A signed authorization is worth as much as the key: whoever holds it can put it into a
transaction of theirs. Chain id 0 means every chain. The policy must see both.
"""

from typing import Final

import msgspec

from nitrosigner.trusted.signing import rlp, secp256k1
from nitrosigner.trusted.signing.addresses import ADDRESS_SIZE, Address
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.secp256k1 import ORDER
from nitrosigner.verdicts import Code, Malformed

MAGIC: Final = b"\x05"
"""The first byte of what is signed: no transaction and no message begins with it."""

EVERY_CHAIN: Final = 0

MAX_CHAIN_ID: Final = 2**63 - 37
"""EIP-2294: the largest whose `v` (EIP-155) fits into 64 bits."""

MAX_NONCE: Final = 2**64 - 2
"""EIP-2681: an account's nonce stays below 2^64 - 1."""


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """What an account signs to delegate to the code at *address*."""

    chain_id: int
    """0: valid on every chain."""
    address: Address
    """The zero address takes a delegation back."""
    nonce: int
    """Of the account that signs."""

    def __post_init__(self) -> None:
        if not 0 <= self.chain_id <= MAX_CHAIN_ID:
            raise _malformed("chainId is out of range")
        if len(self.address) != ADDRESS_SIZE:
            raise _malformed("address is not 20 bytes")
        if not 0 <= self.nonce <= MAX_NONCE:
            raise _malformed("nonce is out of range")


class SignedAuthorization(msgspec.Struct, frozen=True, kw_only=True):
    """The tuple that a type 4 transaction carries."""

    authorization: Authorization
    y_parity: int
    r: int
    s: int

    def __post_init__(self) -> None:
        # Others are valid RLP, and skipped by every node: nobody means to send them.
        if self.y_parity not in (0, 1):
            raise _malformed("yParity is not 0 or 1")
        if not 0 < self.r < ORDER:
            raise _malformed("r is out of range")
        if not 0 < self.s <= ORDER // 2:
            raise _malformed("s is out of range (it must be in the lower half)")

    def encoded(self) -> bytes:
        """Return the tuple in RLP."""
        body = (
            _body(self.authorization)
            + rlp.encode_integer(self.y_parity)
            + rlp.encode_integer(self.r)
            + rlp.encode_integer(self.s)
        )
        return rlp.list_header(len(body)) + body


def signing_hash(authorization: Authorization) -> bytes:
    """Return the digest that the delegating account signs, 32 bytes."""
    body = _body(authorization)
    return keccak_256(MAGIC + rlp.list_header(len(body)) + body)


def signed(authorization: Authorization, signature: Signature) -> SignedAuthorization:
    """Return the tuple of *authorization* and its *signature* (65 bytes)."""
    return SignedAuthorization(
        authorization=authorization,
        y_parity=signature[64],
        r=int.from_bytes(signature[:32], "big"),
        s=int.from_bytes(signature[32:64], "big"),
    )


def authority(signed_authorization: SignedAuthorization) -> Address:
    """
    Return the account that delegates. Costs about three signatures.

    Raises:
        Malformed: No account made this signature.
    """
    signature = (
        signed_authorization.r.to_bytes(32, "big")
        + signed_authorization.s.to_bytes(32, "big")
        + bytes((signed_authorization.y_parity,))
    )
    digest = signing_hash(signed_authorization.authorization)
    return secp256k1.address(secp256k1.recover(digest, signature))


def _body(authorization: Authorization) -> bytes:
    return (
        rlp.encode_integer(authorization.chain_id)
        + rlp.encode_bytes(authorization.address)
        + rlp.encode_integer(authorization.nonce)
    )


def _malformed(what: str) -> Malformed:
    return Malformed(Code.MALFORMED_TRANSACTION, f"an authorization's {what}")
