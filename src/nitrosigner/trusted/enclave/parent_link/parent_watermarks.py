"""
The slashing guard's store, as the parent keeps it for us.

A lost answer leaves open whether a change was made. Asking once more cannot make it
twice: if the first attempt did it, the second is told that its version is gone, and the
guard reads what lies there and judges against it. So we ask again while it is early,
and then say that we don't know.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.parent_link.watermark_store_port import Advance
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.verdicts import Undecided
from nitrosigner.wire.services import (
    MAX_WATERMARKS,
    StoredWatermark,
    WatermarkChange,
)

PATIENCE: Final = 1.0
"""Seconds in which a failed request is made again. A slot's duties can't wait long."""
_FIRST_PAUSE: Final = 0.06
"""Seconds; doubled each time, longer than the parent connection's own pauses."""

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")


class ParentWatermarks:
    """A `slashing_guard.WatermarkStore` behind the parent's services."""

    def __init__(self, parent: ParentServices, clock: Clock) -> None:
        self._parent = parent
        self._clock = clock

    async def fetch(
        self, public_keys: Sequence[bytes]
    ) -> Mapping[bytes, StoredWatermark]:
        """
        Return the items of these validators; absent ones are left out.

        Raises:
            Undecided: No answer, or one that doesn't fit.
        """
        distinct = list(dict.fromkeys(public_keys))
        found: dict[bytes, StoredWatermark] = {}
        for start in range(0, len(distinct), MAX_WATERMARKS):
            chunk = distinct[start : start + MAX_WATERMARKS]
            found |= await self._patiently(self._parent.read_watermarks, chunk)
        return found

    async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
        """
        Write each change whose condition holds; say for each whether it was written.

        What is said to be written was written by this very request. A change that an
        earlier attempt of ours made is said not to be.

        Raises:
            Undecided: Each may have been written or not.
        """
        told = [
            WatermarkChange(change.public_key, change.expected, change.data)
            for change in changes
        ]
        written: list[bool] = []
        for start in range(0, len(told), MAX_WATERMARKS):
            chunk = told[start : start + MAX_WATERMARKS]
            written += await self._patiently(self._parent.advance_watermarks, chunk)
        return written

    async def _patiently(
        self,
        ask: Callable[[list[_Question]], Awaitable[_Answer]],
        chunk: list[_Question],
    ) -> _Answer:
        end = self._clock.monotonic() + PATIENCE
        pause = _FIRST_PAUSE
        while True:
            try:
                return await ask(chunk)
            except Undecided:
                if self._clock.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause *= 2
