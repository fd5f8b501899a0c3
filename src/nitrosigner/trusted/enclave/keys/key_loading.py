"""
Loads every key at boot: page by page, the next page asked for while one is opened.

A record that does not open costs its own key and no other: it is remembered by name,
so that a person learns why a key is missing, and nothing ever signs with it.
"""

import asyncio
from typing import Final

from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_writer import COLLECTION, KeyWriter
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire import services

BREATHE_EVERY: Final = 50
"""Records opened in one go, about 2 ms; then the loop may do other things."""


class KeyLoading:
    """What loading found."""

    def __init__(self, writer: KeyWriter, max_keys: int) -> None:
        self._writer = writer
        self._max_keys = max_keys
        self.index: Final = KeyIndex()
        self.rejected: dict[str, Refused] = {}
        """By name: what lies in the store and cannot be used, and why."""
        self.too_many = False
        """There were more records than the manifest allows keys."""

    async def load(self) -> None:
        """
        Read the whole collection.

        Raises:
            Undecided: The store did not answer. Start again.
        """
        page = await self._page("")
        while True:
            following = (
                asyncio.create_task(self._page(page.records[-1].name))
                if page.more
                else None
            )
            try:
                await self._take(page)
            except BaseException:
                if following is not None:
                    following.cancel()
                raise
            if following is None:
                return
            page = await following
            if self.too_many:
                return

    async def _page(self, after: str) -> services.Page:
        return await self._writer.store.page(COLLECTION, after)

    async def _take(self, page: services.Page) -> None:
        for count, record in enumerate(page.records, start=1):
            if len(self.index) + len(self.rejected) >= self._max_keys:
                self.too_many = True
                return
            try:
                self._add(self._writer.open(record))
            except Refused as refused:
                self.rejected[record.name] = refused
            if count % BREATHE_EVERY == 0:
                await asyncio.sleep(0)

    def _add(self, slot: Slot) -> None:
        other = self.index.identified(slot.identity)
        if other is not None:
            # Both are authentic: one of them was purged or replaced, and came back.
            # The younger one is what the deployment meant last.
            older = min(slot, other, key=lambda each: (each.created, each.name))
            self.rejected[older.name] = second_name(older.identity)
            if older is slot:
                return
            self.index.remove(other.name)
        self.index.put(slot)


def second_name(identity: str) -> Refused:
    """Return the verdict on a second name for one identity."""
    return Refused(
        Code.VERSION_CONFLICT,
        f"{identity} is a key of this deployment already, under another name",
        "find it with: nitrosigner keys list; a deleted one can be restored",
    )
