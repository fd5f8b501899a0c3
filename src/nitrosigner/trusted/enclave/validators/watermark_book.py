"""
What the slashing guard knows of each validator, and how it is read and moved.

What is remembered in here only saves a read. It never permits: it is what the stored
version must still be for a write to succeed. And it is what a store that goes back is
caught with: the furthest that was seen since the start is never forgotten.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from nitrosigner.trusted.enclave.parent_link.watermark_store_port import (
    Advance,
    Stored,
    WatermarkStore,
)
from nitrosigner.trusted.enclave.validators.watermark_items import Item, ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import Watermark, merged
from nitrosigner.verdicts import Code, Refused, Undecided

MAX_BATCH: Final = 512
"""Validators in one conditional write."""
MAX_RACES: Final = 8
"""How often we try again because another signer moved a watermark."""

Stopped = Literal["", "disabled", "retired"]
"""Why nobody votes with a validator, if nobody does."""


@dataclass(slots=True)
class Reached:
    """What we know of one validator."""

    version: int
    watermark: Watermark
    stopped: Stopped = ""


class WatermarkBook:
    """Whoever reads, judges and writes holds `turn` from the first to the last."""

    def __init__(
        self, store: WatermarkStore, seal: ItemSeal, chain: GenesisValidatorsRoot
    ) -> None:
        self._store = store
        self.seal: Final = seal
        self._chain = chain
        self.known: Final[dict[bytes, Reached]] = {}
        # The furthest seen since we started, and never forgotten: a store that goes
        # back behind it lies.
        self.floor: Final[dict[bytes, Watermark]] = {}
        self.turn: Final = asyncio.Lock()

    async def read(self, public_keys: Sequence[bytes]) -> dict[bytes, Refused]:
        """Learn these items; return why those that are not to be trusted are not."""
        if not public_keys:
            return {}
        found = await self._store.fetch(public_keys)
        mistrusted: dict[bytes, Refused] = {}
        for public_key in public_keys:
            try:
                self._learn(public_key, found.get(public_key))
            except Refused as verdict:
                mistrusted[public_key] = verdict
        return mistrusted

    async def move(
        self, chunk: Sequence[bytes], to: Callable[[bytes, Reached], Reached]
    ) -> None:
        """Write where *to* says, whoever else writes meanwhile."""
        for _ in range(MAX_RACES):
            async with self.turn:
                chunk = await self._try_to_move(chunk, to)
            if not chunk:
                return
        raise Undecided(
            Code.STORAGE_UNAVAILABLE, "other signers keep changing this validator"
        )

    async def _try_to_move(
        self, chunk: Sequence[bytes], to: Callable[[bytes, Reached], Reached]
    ) -> list[bytes]:
        """Return who lost a race."""
        standing = await self.standing(chunk)
        wanted = {key: to(key, reached) for key, reached in standing.items()}
        moved = [
            key
            for key in wanted
            if not standing[key].version or wanted[key] != standing[key]
        ]
        for key in moved:
            self.known.pop(key, None)  # until the write is known to have happened
        changes = [
            self.change(key, one.version, one.watermark, one.stopped)
            for key in moved
            for one in (wanted[key],)
        ]
        lost: list[bytes] = []
        for key, written in zip(moved, await self.advance(changes), strict=True):
            if written:
                one = wanted[key]
                self.remember(key, one.version + 1, one.watermark, one.stopped)
            else:
                lost.append(key)
        return lost

    async def standing(self, chunk: Sequence[bytes]) -> dict[bytes, Reached]:
        """Read these; version 0 stands for one that was never registered."""
        found = await self._store.fetch(chunk)
        return {
            key: Reached(0, Watermark())
            if key not in found and key not in self.floor
            else self._learn(key, found.get(key))
            for key in chunk
        }

    async def mend(
        self, public_key: bytes, history: Watermark, stopped: Stopped
    ) -> Watermark:
        """
        Replace a record that cannot be trusted; return what stands there now.

        It is at least *history*, and at least what we have seen since we started. What
        the old record says counts for nothing: whoever forged it could stop the
        validator for good.

        Raises:
            Refused: The record is in order, is another chain's, or there never was one.
            Undecided: The store did not answer, or somebody else changed it.
        """
        stored = (await self._store.fetch([public_key])).get(public_key)
        if stored is None and public_key not in self.floor:
            raise not_registered()
        try:
            self._learn(public_key, stored)
        except Refused as verdict:
            if verdict.code is Code.WRONG_CHAIN:
                raise
        else:
            raise Refused(
                Code.VERSION_CONFLICT,
                "this validator's record is in order",
                "to move it forward: nitrosigner slashing-history import",
            )
        self.known.pop(public_key, None)  # until the write is known to have happened
        version = stored.version if stored else 0
        watermark = merged(self.floor.get(public_key, Watermark()), history)
        change = self.change(public_key, version, watermark, stopped)
        if not all(await self.advance([change])):
            raise Undecided(
                Code.STORAGE_UNAVAILABLE, "somebody else changed this record just now"
            )
        self.remember(public_key, version + 1, watermark, stopped)
        return watermark

    async def advance(self, changes: list[Advance]) -> Sequence[bool]:
        """Have the store make *changes*. Raises Undecided."""
        outcomes = await self._store.advance(changes) if changes else []
        if len(outcomes) != len(changes):
            raise Undecided(
                Code.STORAGE_UNAVAILABLE, "the store answered something else"
            )
        return outcomes

    def _learn(self, public_key: bytes, stored: Stored | None) -> Reached:
        """Believe a stored item if it is ours, of this chain, and not behind us."""
        if stored is None:
            raise not_registered()
        item = self.seal.open(
            stored.data, public_key=public_key, version=stored.version
        )
        if item.chain != self._chain:
            raise Refused(
                Code.WRONG_CHAIN, "this validator is registered for another chain"
            )
        floor = self.floor.get(public_key)
        if floor is not None and merged(floor, item.watermark) != item.watermark:
            raise Refused(
                Code.RECORD_UNTRUSTED,
                "the store went back behind what this signer has signed",
                "the store was restored from a backup, or somebody tampers with it:"
                " do not restart the signer before you know which",
            )
        stopped: Stopped = "disabled" if item.disabled else ""
        if item.retired:
            stopped = "retired"
        return self.remember(public_key, stored.version, item.watermark, stopped)

    def remember(
        self,
        public_key: bytes,
        version: int,
        watermark: Watermark,
        stopped: Stopped = "",
    ) -> Reached:
        """Know that this is what is stored."""
        reached = Reached(version, watermark, stopped)
        self.known[public_key] = reached
        self.floor[public_key] = watermark
        return reached

    def change(
        self,
        public_key: bytes,
        expected: int,
        watermark: Watermark,
        stopped: Stopped = "",
    ) -> Advance:
        """Return the change that replaces version *expected*."""
        item = Item(
            public_key=public_key,
            chain=self._chain,
            version=expected + 1,
            watermark=watermark,
            retired=stopped == "retired",
            disabled=stopped == "disabled",
        )
        return Advance(public_key, expected, self.seal.close(item))


def chunks(keys: list[bytes]) -> list[list[bytes]]:
    """Return *keys* in parts that one write takes."""
    return [keys[at : at + MAX_BATCH] for at in range(0, len(keys), MAX_BATCH)]


def not_registered() -> Refused:
    """Return the verdict on a validator without a record."""
    return Refused(
        Code.NOT_REGISTERED,
        "this validator has no slashing protection record",
        "import it with its EIP-3076 history, or restore the store",
    )
