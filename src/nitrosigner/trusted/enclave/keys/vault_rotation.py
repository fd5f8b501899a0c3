"""
Replaces the vault key and seals every record anew; addresses do not change.

The steps and why any of them may be the last are in `vault_store`. A rotation that
died is finished by the next boot, or by the next rotation.
"""

import asyncio
from typing import Final

from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_writer import COLLECTION, KeyWriter, header_of
from nitrosigner.trusted.enclave.parent_link.parent_services import StoreConflict
from nitrosigner.trusted.enclave.vault.sealed_records import authentic, vault_key_of
from nitrosigner.trusted.enclave.vault.sealed_singles import StoredSingles
from nitrosigner.verdicts import Code, Refused, Undecided

AT_ONCE: Final = 16
"""Records sealed anew at the same time: the store can commit them in groups."""
_CONFLICTS: Final = 3


class VaultRotation:
    """One at a time."""

    def __init__(
        self,
        index: KeyIndex,
        changes: KeyChanges,
        writer: KeyWriter,
        singles: StoredSingles,
    ) -> None:
        self._index = index
        self._changes = changes
        self._writer = writer
        self._singles = singles
        self._one = asyncio.Lock()

    async def rotate(self) -> int:
        """
        Put a new vault key in force; return how many keys are now sealed under it.

        Raises:
            Refused: Another enclave rotates (VERSION_CONFLICT), KMS refuses, or a
                record in the store cannot be opened: its last chance is the old key,
                so that one is kept.
            Undecided: It goes on at the next attempt, or at the next boot.
        """
        async with self._one:
            store, vault = self._writer.vault_store, self._writer.vault
            await store.refresh(vault)
            if vault.previous:
                await self._sweep()
            await store.begin_rotation(vault)
            return await self._sweep()

    async def finish(self) -> None:
        """Finish a rotation that died, if there was one. Raises as `rotate`."""
        async with self._one:
            if self._writer.vault.previous:
                await self._sweep()

    async def _sweep(self) -> int:
        """Seal what is under another key than the current one, then drop the old."""
        await self._singles.reseal()
        names = [slot.name for slot in self._index]
        for start in range(0, len(names), AT_ONCE):
            await asyncio.gather(
                *(self._reseal(name) for name in names[start : start + AT_ONCE])
            )
        # The store has the last word: it may hold what another enclave wrote.
        await self._require_none_left()
        await self._writer.vault_store.finish_rotation(self._writer.vault)
        return len(names)

    async def _reseal(self, name: str) -> None:
        for _ in range(_CONFLICTS):
            try:
                async with self._changes.alone(name):
                    slot = self._index.named(name)
                    current = self._writer.vault.current.identifier
                    if slot is None or slot.vault_key.identifier == current:
                        return
                    with slot.unseal() as secret:
                        await self._changes.write(header_of(slot), secret)
                        return
            except StoreConflict:
                # Another enclave changed it; the index has that version by now.
                continue
        raise Undecided(
            Code.OVERLOADED,
            "a key changes again and again while the vault is rotated",
            "rotate again when it is quieter; nothing is lost",
        )

    async def _require_none_left(self) -> None:
        vault = self._writer.vault
        after = ""
        while True:
            page = await self._writer.store.page(COLLECTION, after)
            for record in page.records:
                after = record.name
                # What opens under no key is lost already; keeping the old one would
                # not bring it back.
                if vault_key_of(record) != vault.current.identifier and authentic(
                    record, vault
                ):
                    await self._adopt(record.name)
                await asyncio.sleep(0)
            if not page.more:
                return

    async def _adopt(self, name: str) -> None:
        # Authentic, under the old key, and not in memory as such: another enclave
        # wrote it, or we rejected it at boot although it opens.
        if name in self._changes.rejected:
            raise Refused(
                Code.RECORD_UNTRUSTED,
                "a stored key is sealed under the old vault key and was rejected at "
                "boot, so the old vault key is kept",
                "see the boot report for which key and why; then rotate again",
            )
        async with self._changes.alone(name):
            await self._changes.settle(name)
        await self._reseal(name)
