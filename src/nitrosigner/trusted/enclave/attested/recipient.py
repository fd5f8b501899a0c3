"""
The two keys of one boot that others encrypt to, and the document that vouches for them.

RSA-2048 is what KMS answers to; X25519 is what a client wraps an imported key to. Both
live in memory only and die with the process.
"""

import asyncio
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nitrosigner.trusted.enclave.ports import Clock, Nsm

DOCUMENT_KEPT: Final = 120
"""Seconds for which one attestation document serves KMS calls. KMS takes older ones."""


class Recipient:
    """Made once per boot."""

    def __init__(
        self,
        nsm: Nsm,
        clock: Clock,
        kms_key: RSAPrivateKey,
        import_key: X25519PrivateKey,
    ) -> None:
        self._nsm = nsm
        self._clock = clock
        self.kms_key: Final = kms_key
        self.import_key: Final = import_key
        self.import_public_key: Final = import_key.public_key().public_bytes_raw()
        self._kms_public_key = kms_key.public_key().public_bytes(
            serialization.Encoding.DER,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        self._document = b""
        self._made = 0.0

    @classmethod
    def generate(cls, nsm: Nsm, clock: Clock) -> "Recipient":
        """Make both keys. Takes about 50 ms, most of it for RSA."""
        return cls(
            nsm,
            clock,
            generate_private_key(public_exponent=65537, key_size=2048),
            X25519PrivateKey.generate(),
        )

    async def kms_document(self) -> bytes:
        """
        Return an attestation document of the RSA key, at most `DOCUMENT_KEPT` s old.

        Raises:
            Undecided: The NSM failed.
        """
        now = self._clock.monotonic()
        if not self._document or now - self._made > DOCUMENT_KEPT:
            # In a thread: a device that hangs must not hang the signatures with it.
            self._document = await asyncio.to_thread(
                self._nsm.attest, public_key=self._kms_public_key
            )
            self._made = now
        return self._document

    def forget_document(self) -> None:
        """Have the next call ask for a new document: KMS did not like this one."""
        self._document = b""
