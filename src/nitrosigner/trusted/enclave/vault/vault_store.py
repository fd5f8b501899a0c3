"""
How the vault is made, opened and replaced. One Decrypt opens it, rotating or not.

The stored record holds the current key as KMS wrapped it and, during a rotation, the
previous key sealed under the current one. A rotation is three durable steps:

    1. store the new key, with the old one sealed under it
    2. seal every record anew
    3. store the new key alone

Whatever dies in between, every record is under one of the keys that the vault record
holds; the next boot goes on with step 2.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.attested.entropy import RandomSource
from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.trusted.enclave.parent_link.durable_write import write_durably
from nitrosigner.trusted.enclave.parent_link.parent_services import (
    ParentServices,
    StoreConflict,
)
from nitrosigner.trusted.enclave.vault.vault import KEY_SIZE, Vault, VaultKey, untrusted
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import manifest, services

COLLECTION: Final = "vault"
CURRENT: Final = "current"
_FIRST_BOOT_RACES: Final = 3


class _SealedKey(msgspec.Struct, frozen=True, array_like=True):
    nonce: bytes
    ciphertext: bytes


class _VaultRecord(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="nitrosigner/vault/1",
):
    wrapped: bytes
    """The current key's ciphertext, as KMS made it."""
    previous: _SealedKey | None = None


@dataclass(frozen=True, slots=True)
class VaultStore:
    """Where the vault is kept, and who opens it."""

    store: ParentServices
    kms: Kms
    accepted: manifest.AcceptedManifest
    randomness: RandomSource

    @property
    def _context(self) -> Mapping[str, str]:
        return manifest.encryption_context(self.accepted, "vault")

    async def open(self) -> Vault:
        """
        Open the deployment's vault; make it at the very first boot.

        Raises:
            Refused: KMS does not open it for us, or it is not one.
            Undecided: KMS or the store did not answer.
        """
        for _ in range(_FIRST_BOOT_RACES):
            stored = await self.store.get(COLLECTION, CURRENT)
            if stored is not None:
                return Vault(await self._opened(stored), stored.version)
            made = await self.kms.generate_data_key(self._context)
            record = _encode(_VaultRecord(made.ciphertext))
            try:
                version = await write_durably(
                    self.store, COLLECTION, CURRENT, 0, record
                )
            except StoreConflict:
                # Another enclave of this deployment was first: its key counts.
                made.secret.wipe()
                continue
            return Vault([VaultKey(made.secret)], version)
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            "the vault record appears and disappears",
            "look at what the parent does to its store",
        )

    async def refresh(self, vault: Vault) -> None:
        """
        Follow another enclave's rotation, if there was one.

        Raises:
            Refused: The vault record is gone, older than we have seen it, or not ours.
            Undecided: KMS or the store did not answer.
        """
        stored = await self.store.get(COLLECTION, CURRENT)
        if stored is None or stored.version < vault.version:
            raise untrusted("the vault record went back to an earlier state")
        if stored.version == vault.version:
            return
        vault.install(await self._opened(stored), stored.version)

    async def begin_rotation(self, vault: Vault) -> None:
        """
        Put a new key in force (step 1). Old records still open.

        Raises:
            Refused: Somebody else rotates (VERSION_CONFLICT), or KMS refuses.
            Undecided: Nothing is lost; whether it began is settled by the next attempt.
        """
        made = await self.kms.generate_data_key(self._context)
        new, old = VaultKey(made.secret), vault.current
        sealed = new.seal(
            old.secret.buffer, _associated(made.ciphertext), self.randomness
        )
        record = _VaultRecord(made.ciphertext, _SealedKey(*sealed))
        version = await write_durably(
            self.store, COLLECTION, CURRENT, vault.version, _encode(record)
        )
        vault.install([new, old], version)

    async def finish_rotation(self, vault: Vault) -> None:
        """
        Drop the old key from the store (step 3). Only when nothing is sealed under it.

        Raises:
            Refused: Somebody else wrote the vault record (VERSION_CONFLICT).
            Undecided: The next boot, or the next rotation, drops it.
        """
        stored = await self.store.get(COLLECTION, CURRENT)
        if stored is None or stored.version != vault.version:
            raise StoreConflict(stored.version if stored else 0)
        record = _decode(stored)
        if record.previous is not None:
            version = await write_durably(
                self.store,
                COLLECTION,
                CURRENT,
                vault.version,
                _encode(_VaultRecord(record.wrapped)),
            )
            vault.install([vault.current], version)

    async def _opened(self, stored: services.StoredRecord) -> list[VaultKey]:
        record = _decode(stored)
        secret = await self.kms.decrypt(record.wrapped, self._context)
        current = _vault_key(secret)
        keys = [current]
        if record.previous is not None:
            keys.append(
                _vault_key(
                    current.open(
                        record.previous.nonce,
                        record.previous.ciphertext,
                        _associated(record.wrapped),
                    )
                )
            )
        return keys


def _vault_key(secret: SecretBytes) -> VaultKey:
    if len(secret) != KEY_SIZE:
        secret.wipe()
        raise untrusted("the vault key has the wrong size")
    return VaultKey(secret)


def _associated(wrapped: bytes) -> bytes:
    return b"nitrosigner/vault/previous/1\0" + hashlib.sha256(wrapped).digest()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_VaultRecord)


def _encode(record: _VaultRecord) -> bytes:
    return _encoder.encode(record)


def _decode(stored: services.StoredRecord) -> _VaultRecord:
    try:
        return _decoder.decode(stored.data)
    except msgspec.DecodeError as error:
        raise untrusted("the vault record is no vault record") from error
