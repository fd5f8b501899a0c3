"""
What enclaves on one store tell each other: whose key changed.

A change of a validator's key is noted, before it is answered, in one item of the
watermark store that belongs to no validator. Every enclave reads that item each second,
and then reads again what it names. The one thing not to get wrong: it is a hint, and
nothing in it is believed. Records are opened under the vault key, and who may vote is
decided by each watermark's conditional write, heard of or not.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from nitrosigner.trusted.enclave.parent_link.watermark_store_port import (
    Advance,
    Stored,
    WatermarkStore,
)
from nitrosigner.verdicts import Code, Undecided

NOBODY: Final = bytes(48)
"""The item's name. No public key is written so: its first bit would be set."""
_NOTE: Final = struct.Struct(">Q48s")
"""The item's version that came with a change, and whose key it was."""
NOTES: Final = 18
"""As many as an item holds. Who missed more of them reads everything."""
_RACES: Final = 16
_Notes = list[tuple[int, bytes]]
TakeOver = Callable[[Sequence[bytes] | None], Awaitable[None]]
"""Told whose keys changed, or None if that is not known: anybody's."""


class KeyNews:
    """One enclave's end: it tells, and takes in what others told."""

    def __init__(self, store: WatermarkStore) -> None:
        self._store = store
        self._seen = 0
        self._untold: dict[bytes, None] = {}
        self._telling = asyncio.Lock()

    async def begin(self) -> None:
        """Know what was told so far. Before the keys are read. Raises Undecided."""
        self._seen, _ = await self._read()

    async def take_in(self, take_over: TakeOver) -> None:
        """
        Hand what was told since the last time to *take_over*; if that fails, again.

        Raises:
            Undecided: The store did not answer, or *take_over* could not find out.
        """
        version, notes = await self._read()
        if version != self._seen:
            await take_over(_since(self._seen, version, notes))
            self._seen = version

    async def tell(self, public_keys: Iterable[bytes] = ()) -> None:
        """
        Tell the others that these keys changed, and what could not be told before.

        Raises:
            Undecided: They may have been told or not; the next call tells them again.
        """
        self._untold |= dict.fromkeys(public_keys)
        async with self._telling:
            # Whoever was before us may have told ours too.
            if self._untold:
                await self._tell(list(self._untold))

    async def _tell(self, public_keys: list[bytes]) -> None:
        for _ in range(_RACES):
            version, notes = await self._read()
            data = _with(notes, version + 1, public_keys)
            written = await self._store.advance([Advance(NOBODY, version, data)])
            if list(written) == [True]:
                for public_key in public_keys:
                    self._untold.pop(public_key, None)
                if self._seen == version:
                    self._seen = version + 1
                return
        raise Undecided(
            Code.STORAGE_UNAVAILABLE, "other signers keep changing their keys"
        )

    async def _read(self) -> tuple[int, _Notes]:
        found: Stored | None = (await self._store.fetch([NOBODY])).get(NOBODY)
        if found is None:
            return 0, []
        # Whatever somebody else put there reads as no notes: read everything, then.
        fits = len(found.data) % _NOTE.size == 0
        return found.version, list(_NOTE.iter_unpack(found.data)) if fits else []


def _with(notes: _Notes, version: int, public_keys: list[bytes]) -> bytes:
    """Return the item with one more change."""
    if len(public_keys) > NOTES:
        public_keys = [NOBODY]  # everybody
    every = notes + [(version, public_key) for public_key in public_keys]
    # What came with one version stays together: half of it would pass for all.
    dropped = {each for each, _ in every[:-NOTES]}
    return b"".join(_NOTE.pack(*note) for note in every if note[0] not in dropped)


def _since(seen: int, version: int, notes: _Notes) -> list[bytes] | None:
    """Return whose keys changed after version *seen*; None: that is not known."""
    missed = [(each, public_key) for each, public_key in notes if each > seen]
    versions = {each for each, _ in missed}
    if len(versions) != version - seen or max(versions) != version:
        return None
    public_keys = list(dict.fromkeys(public_key for _, public_key in missed))
    return None if NOBODY in public_keys else public_keys
