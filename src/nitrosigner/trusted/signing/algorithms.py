"""
The port that every signature algorithm stands behind.

An algorithm knows nothing of records, policies or transports. It gets a secret in a
wipeable buffer and public bytes, and returns public bytes.
"""

from collections.abc import Mapping
from typing import NewType, Protocol

from nitrosigner.trusted.signing.secret_bytes import SecretBytes

PublicKey = NewType("PublicKey", bytes)
"""Compressed, as the algorithm's own standard has it: 33 bytes for secp256k1."""

Signature = NewType("Signature", bytes)
"""For secp256k1 65 bytes: r (32) ‖ s (32, low) ‖ y parity (1, 0 or 1)."""


class Algorithm(Protocol):
    """One signature algorithm. Implementations hold no keys and are safe to share."""

    @property
    def name(self) -> str:
        """The name in records and requests: `secp256k1`."""
        ...

    @property
    def secret_size(self) -> int:
        """Bytes in a private key."""
        ...

    @property
    def message_size(self) -> int:
        """Bytes in what `sign` takes: a digest or a signing root."""
        ...

    def public_key(self, secret: SecretBytes) -> PublicKey:
        """
        Return the public key of *secret*.

        Raises:
            Malformed: *secret* is not a private key of this algorithm.
        """
        ...

    def identity(self, public_key: PublicKey) -> str:
        """
        Return what the outside calls this key.

        For secp256k1 the checksummed Ethereum address (EIP-55).

        Raises:
            Malformed: *public_key* is not a public key of this algorithm.
        """
        ...

    def sign(self, secret: SecretBytes, message: bytes) -> Signature:
        """
        Sign *message*, deterministically.

        Raises:
            Malformed: *secret* or *message* has the wrong size or value.
        """
        ...


class HashesFirst(Algorithm, Protocol):
    """
    An algorithm whose signing begins with a costly hash that knows no secret.

    Who signs one message with many keys, in several places, has it hashed in one.
    """

    def hashed(self, message: bytes) -> bytes:
        """Return the hash of *message*, made now or remembered."""
        ...

    def remember(self, message: bytes, hashed: bytes) -> None:
        """
        Take over what `hashed` gave for *message* elsewhere, and believe it.

        Raises:
            Malformed: It has the wrong size.
        """
        ...


Algorithms = Mapping[str, Algorithm]
