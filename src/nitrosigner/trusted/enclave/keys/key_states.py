"""
Disable, enable, delete, restore, and at last purge.

Deleting keeps the sealed record for the days that the manifest says. The clock is the
parent's to lie about: it can have a deleted key purged early. It could as well lose
the record.
"""

from typing import Final

import msgspec

from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_lookup import (
    KeyLookup,
    deleted,
    require_version,
)
from nitrosigner.trusted.enclave.keys.key_writer import COLLECTION, KeyWriter, header_of
from nitrosigner.trusted.enclave.parent_link.durable_write import remove_durably
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.wire import api

_DAY: Final = 24 * 60 * 60


class KeyStates:
    """Gives keys another state."""

    def __init__(
        self,
        index: KeyIndex,
        lookup: KeyLookup,
        changes: KeyChanges,
        writer: KeyWriter,
        clock: Clock,
    ) -> None:
        self._index = index
        self._lookup = lookup
        self._changes = changes
        self._writer = writer
        self._clock = clock

    async def change(
        self,
        identifier: str,
        version: int | None,
        state: api.KeyState,
        *,
        restore: bool = False,
    ) -> Slot:
        """Give a key another state; nothing is written if it has it already."""
        name = self._lookup.find(identifier).name
        async with self._changes.alone(name):
            slot = self._lookup.find(name)
            require_version(slot, version)
            is_deleted = slot.state == "deleted"
            if slot.state == state or (restore and not is_deleted):
                return slot
            if is_deleted and not restore:
                raise deleted()
            header = msgspec.structs.replace(
                header_of(slot),
                state=state,
                purge_after=self._purge_after() if state == "deleted" else 0,
            )
            with slot.unseal() as secret:
                return await self._changes.write(header, secret)

    def _purge_after(self) -> int:
        days = self._writer.accepted.manifest.deleted_keys_kept_days
        return int(self._clock.now()) + days * _DAY

    async def purge_expired(self) -> int:
        """Remove for good what was deleted long enough ago; return how many."""
        now = self._clock.now()
        expired = [slot for slot in self._index if 0 < slot.purge_after <= now]
        for slot in expired:
            await self._purge(slot.name, slot.version)
        return len(expired)

    async def _purge(self, name: str, version: int) -> None:
        async with self._changes.alone(name):
            slot = self._index.named(name)
            if slot is None or slot.version != version:
                return
            self._changes.unsettled.add(name)
            await remove_durably(self._writer.store, COLLECTION, name, version)
            self._index.remove(name)
            self._changes.unsettled.discard(name)
