"""
One signature: unseal, sign, wipe.

The private key exists in the clear in one buffer, from its unsealing to the end of the
one signature that it was unsealed for. It is not cached, for either kind.
"""

import asyncio
from typing import Final

from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.keys.key_imports import opened_from_kms
from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.signing.algorithms import Algorithms, Signature
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.manifest import AcceptedManifest

KMS_AT_ONCE: Final = 8
"""Signatures that wait for KMS at the same time: one for each connection."""
KMS_WAITING: Final = 64
"""Signatures under way or queued for KMS; further callers are told to come back."""


class KeySigning:
    """Signs permits."""

    def __init__(
        self,
        lookup: KeyLookup,
        algorithms: Algorithms,
        kms: Kms,
        accepted: AcceptedManifest,
    ) -> None:
        self._lookup = lookup
        self._algorithms = algorithms
        self._kms = kms
        self._accepted = accepted
        self._turns = asyncio.Semaphore(KMS_AT_ONCE)
        self._queue = 0

    def sign_now(self, permit: Permit) -> Signature | None:
        """Sign; None if the key needs KMS. See `Keyring.sign_now`."""
        slot = self._lookup.ready(permit.key)
        if slot.kind != "vault":
            return None
        algorithm = self._algorithms[slot.algorithm]
        # A buffer of its own for each signature: nothing is shared between two.
        with SecretBytes(bytearray(algorithm.secret_size)) as secret:
            slot.vault_key.open_into(
                slot.nonce, slot.ciphertext, slot.header, secret.buffer
            )
            return algorithm.sign(secret, permit.message)

    async def sign(self, permit: Permit) -> Signature:
        """Sign with a key of either kind. See `Keyring.sign`."""
        signature = self.sign_now(permit)
        if signature is not None:
            return signature
        if self._queue >= KMS_WAITING:
            raise Undecided(
                Code.OVERLOADED,
                "too many signatures wait for KMS",
                "ask again in a second, or seal the key under the vault (reseal)",
            )
        self._queue += 1
        try:
            async with self._turns:
                return await self._sign_by_kms(permit)
        finally:
            self._queue -= 1

    async def _sign_by_kms(self, permit: Permit) -> Signature:
        slot = self._lookup.ready(permit.key)
        algorithm = self._algorithms[slot.algorithm]
        with slot.unseal() as ciphertext:
            imported = bytes(ciphertext.buffer)
        with await opened_from_kms(
            imported,
            kms=self._kms,
            accepted=self._accepted,
            name=slot.name,
            algorithm=algorithm,
            identity=slot.identity,
        ) as secret:
            if algorithm.public_key(secret) != slot.public_key:
                raise Refused(
                    Code.KEY_MISMATCH,
                    "KMS opened another key than the record names",
                    "import the key again",
                )
            # That took a while: the key may have been disabled or replaced since.
            if self._lookup.ready(permit.key).public_key != slot.public_key:
                raise Refused(
                    Code.VERSION_CONFLICT,
                    "the key was replaced while KMS was asked",
                    "ask again",
                )
            return algorithm.sign(secret, permit.message)
