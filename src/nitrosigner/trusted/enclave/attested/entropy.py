"""
Where secrets come from: the NSM, the kernel and KMS, mixed.

Each source is enough on its own. They are concatenated and extracted with HKDF-SHA-512,
so a source that is broken, or known to an adversary, takes nothing away from the
others. A source that fails outright makes no key: we do not go on with fewer.
"""

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nitrosigner.trusted.enclave.ports import Nsm
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Undecided

_FROM_EACH: Final = 64
"""Bytes drawn from each source for each secret."""

RandomSource = Callable[[int], bytes]


class Entropy:
    """Makes secrets. Blocks for the milliseconds that the NSM takes."""

    def __init__(self, nsm: Nsm, kernel: RandomSource) -> None:
        self._nsm = nsm
        self._kernel = kernel
        self._kms = SecretBytes.zeros(0)
        self._last = b""

    def add_kms_seed(self, seed: SecretBytes) -> None:
        """Mix *seed*, which came from KMS, into every later secret. Takes it over."""
        self._kms = seed

    def secret(self, size: int, purpose: str) -> SecretBytes:
        """
        Return *size* fresh secret bytes for *purpose*.

        Raises:
            Undecided: A source failed (NSM_UNAVAILABLE).
        """
        from_nsm = self._nsm.random(_FROM_EACH)
        # The one fault that is cheap to notice: a device that repeats itself.
        if len(from_nsm) != _FROM_EACH or from_nsm in (self._last, bytes(_FROM_EACH)):
            raise Undecided(
                Code.NSM_UNAVAILABLE,
                "the Nitro Security Module's random numbers repeat",
                "start the enclave on another instance",
            )
        self._last = from_nsm
        # At its full length from the start: a bytearray that grows moves, and leaves
        # its old bytes behind.
        pool = bytearray(2 * _FROM_EACH + len(self._kms))
        try:
            pool[:_FROM_EACH] = from_nsm
            pool[_FROM_EACH : 2 * _FROM_EACH] = self._kernel(_FROM_EACH)
            memoryview(pool)[2 * _FROM_EACH :] = self._kms.buffer
            made = SecretBytes.zeros(size)
            HKDF(
                algorithm=hashes.SHA512(),
                length=size,
                salt=None,
                info=b"nitrosigner/entropy/1\0" + purpose.encode(),
            ).derive_into(pool, made.buffer)
            return made
        finally:
            pool[:] = bytes(len(pool))
