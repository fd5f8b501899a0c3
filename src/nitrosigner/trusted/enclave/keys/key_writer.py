"""
Seals a key and makes it durable, in an order that no rotation can lose it in.

After each write the vault record is read again. If another vault key came into force
meanwhile, the sweep of that rotation may have passed before our write landed, and the
old vault key may be dropped: so we seal and write once more under the new one, before
anybody is told that the key exists.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.attested.entropy import RandomSource
from nitrosigner.trusted.enclave.parent_link.durable_write import write_durably
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.vault.sealed_records import (
    Header,
    Slot,
    open_record,
    seal,
)
from nitrosigner.trusted.enclave.vault.vault import Vault
from nitrosigner.trusted.enclave.vault.vault_store import VaultStore
from nitrosigner.trusted.signing.algorithms import Algorithms
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import manifest, services

COLLECTION: Final = "keys"
_FENCE_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class KeyWriter:
    """Reads and writes single key records."""

    store: ParentServices
    vault: Vault
    vault_store: VaultStore
    accepted: manifest.AcceptedManifest
    algorithms: Algorithms
    randomness: RandomSource

    async def write(self, header: Header, secret: SecretBytes) -> Slot:
        """
        Seal *secret* under *header*, whose version is the one to be replaced by one
        more (0: the name must be free). Durable when it returns.

        Raises:
            StoreConflict: The stored version is another one. Nothing was changed.
            Undecided: It may be in the store; read it again before anything else.
        """
        for _ in range(_FENCE_ATTEMPTS):
            expected = header.version
            header = msgspec.structs.replace(
                header,
                version=expected + 1,
                manifest=self.accepted.manifest.version,
            )
            slot = seal(self.vault.current, header, secret, self.randomness)
            await write_durably(
                self.store, COLLECTION, slot.name, expected, slot.stored()
            )
            await self.vault_store.refresh(self.vault)
            if slot.vault_key.identifier == self.vault.current.identifier:
                return slot
        raise Undecided(
            Code.OVERLOADED,
            "the vault is rotated again and again",
            "let one rotation finish before the next",
        )

    async def read(self, name: str) -> Slot | None:
        """
        Return the key as the store has it now, or None.

        Raises:
            Refused: What lies there is not ours (RECORD_UNTRUSTED).
            Undecided: The store did not answer.
        """
        stored = await self.store.get(COLLECTION, name)
        return None if stored is None else self.open(stored)

    def open(self, stored: services.StoredRecord) -> Slot:
        """Open a record as `open_record` does."""
        return open_record(
            stored,
            vault=self.vault,
            deployment=self.accepted.manifest.deployment,
            manifest_version=self.accepted.manifest.version,
            algorithms=self.algorithms,
        )


def header_of(slot: Slot) -> Header:
    """Return the header of *slot*, as a start for its next version."""
    return msgspec.msgpack.decode(slot.header, type=Header)
