"""
Takes over what the store holds by now, as one step.

Several enclaves may serve one deployment behind one load balancer. They tell each other
of validators (`key_news`); what was not told is found here: when told to reload, every
few minutes unasked, and after more news than a note holds. Until then a wallet key that
one of them disabled still signs on the other.

Everything is read and opened first; then memory changes without a pause. Whoever looks
meanwhile sees all of it or nothing. A store that fails half-way changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_loading import BREATHE_EVERY, second_name
from nitrosigner.trusted.enclave.keys.key_writer import COLLECTION, KeyWriter
from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR, Slot
from nitrosigner.verdicts import Code, Refused, Undecided

_ROTATIONS: Final = 3
"""How often we read again because the vault was rotated under our reading."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How many keys came, changed and went."""

    added: int = 0
    changed: int = 0
    removed: int = 0


@dataclass(slots=True)
class _Read:
    """What the store had that memory has not."""

    fresh: list[Slot] = field(default_factory=list)
    bad: dict[str, Refused] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    gone: list[Slot] = field(default_factory=list)


class KeyRefresh:
    """Takes over newer versions; never goes back to an older one."""

    def __init__(self, index: KeyIndex, changes: KeyChanges, writer: KeyWriter) -> None:
        self._index = index
        self._changes = changes
        self._writer = writer
        self._one = asyncio.Lock()
        self.before: Callable[[Sequence[Slot]], Awaitable[None]] | None = None
        """Told of what will come, while it can still take its time or fail."""

    async def refresh(self) -> Difference:
        """
        Read the whole collection once.

        Raises:
            Undecided: The store, or KMS after a rotation elsewhere, did not answer.
                Nothing was changed.
        """
        async with self._one:
            vault = self._writer.vault
            for _ in range(_ROTATIONS):
                await self._writer.vault_store.refresh(vault)
                version = vault.version
                read = await self._read()
                await self._writer.vault_store.refresh(vault)
                if vault.version == version:
                    break
            else:
                raise Undecided(Code.OVERLOADED, "the vault is rotated again and again")
            if self.before is not None:
                await self.before(read.fresh)
            return self._take_over(read)

    async def _read(self) -> _Read:
        held_before = {slot.name: slot for slot in self._index}
        room = self._writer.accepted.manifest.limits.max_keys - len(self._index)
        read = _Read()
        after = ""
        while True:
            page = await self._writer.store.page(COLLECTION, after)
            for count, record in enumerate(page.records, start=1):
                after = record.name
                held = self._index.named(record.name)
                if held is None:
                    if room <= 0:
                        continue
                    room -= 1
                read.names.add(record.name)
                if held is None or record.version > held.version:
                    try:
                        read.fresh.append(self._writer.open(record))
                    except Refused as refused:
                        read.bad[record.name] = refused
                if count % BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
            if not page.more:
                break
        for slot in held_before.values():
            if slot.name not in read.names and await self._is_gone(slot):
                read.gone.append(slot)
        return read

    async def _is_gone(self, slot: Slot) -> bool:
        # A wallet's key that vanished while it was in use is a fault of the store, and
        # no order to forget it. A validator's key that is not in the store may be at
        # work elsewhere by now.
        if slot.purpose != VALIDATOR and slot.state != "deleted":
            return False
        return await self._writer.store.get(COLLECTION, slot.name) is None

    def _take_over(self, read: _Read) -> Difference:
        """Nothing in here awaits: it is one step."""
        added = changed = removed = 0
        rejected = self._changes.rejected
        for name in [name for name in rejected if name not in read.bad]:
            del rejected[name]
        for slot in read.gone:
            # The very slot that was missing: not one that was written since.
            if self._index.named(slot.name) is slot:
                self._index.remove(slot.name)
                removed += 1
        for slot in read.fresh:
            held = self._index.named(slot.name)
            if held is not None and held.version >= slot.version:
                continue
            other = self._index.identified(slot.identity)
            if other is not None and other.name != slot.name:
                rejected[slot.name] = second_name(slot.identity)
                continue
            self._index.put(slot)
            added, changed = added + (held is None), changed + (held is not None)
        for name, refused in read.bad.items():
            # A newer version of a key of ours that does not open: we keep what we
            # have, unsettled, so that it signs nothing until the store makes sense.
            if self._index.named(name) is None:
                rejected[name] = refused
            else:
                self._changes.unsettled.add(name)
        return Difference(added, changed, removed)
