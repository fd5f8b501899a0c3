"""
Records that exist once per deployment, sealed under the vault key: `tls` and `state`.

They are bound to their purpose, deployment and version: one cannot stand in for
another. An older version that the parent kept can be given back to us after a restart;
within one life of the enclave it cannot.
"""

from typing import Protocol

import msgspec

from nitrosigner.trusted.signing.secret_bytes import SecretBytes


class Single(msgspec.Struct, frozen=True):
    """An opened record. Whoever reads it wipes `secret`."""

    version: int
    public: bytes
    """Authenticated, not secret: for `tls` the DER certificate of the CA."""
    secret: SecretBytes


class SealedSingles(Protocol):
    """Reads and writes them."""

    async def read(self, purpose: str) -> Single | None:
        """
        Open the record of *purpose* (`tls`, `state`), or None if there is none.

        Raises:
            Refused: It is not what this deployment sealed (RECORD_UNTRUSTED).
            Undecided: The store did not answer.
        """
        ...

    async def write(
        self, purpose: str, *, expected: int, public: bytes, secret: SecretBytes
    ) -> int:
        """
        Seal and store; durable when it returns the new version.

        Raises:
            Refused: The stored version is not *expected* (VERSION_CONFLICT): somebody
                else was first; read again.
            Undecided: The store did not answer; read again to know.
        """
        ...
