"""
Keys out of a seed that passes through once: opened, used, wiped, never stored.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from nitrosigner.trusted.enclave.attested.entropy import Entropy
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.keys.key_imports import opened_wrap
from nitrosigner.trusted.enclave.validators.keystore_opening import KeystoreOpening
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    MAX_DERIVED,
    WrappedSeed,
)
from nitrosigner.trusted.signing import validator_seeds
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import import_wrapping

_INDICES: Final = 1 << 32


class SeedKeys:
    """Opens what was entered, or makes it."""

    def __init__(
        self,
        deployment: str,
        recipient: Recipient,
        entropy: Entropy,
        bls: Bls12381,
        worker: KeystoreOpening,
    ) -> None:
        self._deployment = deployment
        self._recipient = recipient
        self._entropy = entropy
        self._bls = bls
        self._worker = worker

    async def entered(self, seed: WrappedSeed) -> SecretBytes:
        """
        Return what was wrapped, or a new mnemonic. The caller wipes it.

        Raises:
            Malformed: It was not wrapped for this enclave and form.
            Undecided: There are no random numbers.
        """
        if seed.form == "new":
            if seed.wrapped:
                raise Malformed(
                    Code.MALFORMED_REQUEST, "a seed that is made here is not given"
                )
            with await asyncio.to_thread(
                self._entropy.secret, validator_seeds.ENTROPY_SIZE, "mnemonic"
            ) as entropy:
                return validator_seeds.new_mnemonic(entropy)
        info = import_wrapping.seed_info(deployment=self._deployment, form=seed.form)
        return opened_wrap(seed.wrapped, self._recipient, info)

    async def derived(
        self, seed: WrappedSeed, entered: SecretBytes, start: int, count: int
    ) -> Sequence[SecretBytes]:
        """
        Return `count` signing keys from index *start*. The caller wipes each.

        Raises:
            Malformed: The range or the seed is none.
            Undecided: Too many wait for the thread (OVERLOADED).
        """
        if not 1 <= count <= MAX_DERIVED or not 0 <= start <= _INDICES - count:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                f"at most {MAX_DERIVED} keys at once, of indices below 2^32",
            )

        def work() -> list[SecretBytes]:
            with self._seed(seed, entered) as secret:
                indices = range(start, start + count)
                return list(validator_seeds.derived_keys(self._bls, secret, indices))

        return await self._worker.run(work)

    async def withdrawal(
        self, seed: WrappedSeed, entered: SecretBytes, index: int
    ) -> SecretBytes:
        """Return the withdrawal key of *index*. To be wiped. Raises as above."""
        if not 0 <= index < _INDICES:
            raise Malformed(Code.MALFORMED_REQUEST, "an index is below 2^32")

        def work() -> SecretBytes:
            with self._seed(seed, entered) as secret:
                return validator_seeds.withdrawal_key(self._bls, secret, index)

        return await self._worker.run(work)

    def backup(self, entered: SecretBytes, recipient: bytes) -> bytes:
        """
        Return *entered*, wrapped to somebody offline.

        Raises:
            Malformed: *recipient* is no raw X25519 key.
        """
        info = import_wrapping.backup_info(deployment=self._deployment)
        try:
            return import_wrapping.wrap(entered.buffer, recipient, info)
        except ValueError:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                "the recipient of the backup is no X25519 public key",
                "give the 32 raw bytes of one whose private key is kept offline",
            ) from None

    def _seed(self, seed: WrappedSeed, entered: SecretBytes) -> SecretBytes:
        if seed.form != "seed":
            return validator_seeds.mnemonic_seed(entered)
        size = len(entered)
        if not validator_seeds.MIN_SEED <= size <= validator_seeds.SEED_SIZE:
            raise Malformed(Code.MALFORMED_KEY, "a seed is of 32 to 64 raw bytes")
        copy = SecretBytes.zeros(size)
        copy.buffer[:] = entered.buffer
        return copy
