"""
Writes to the store until it is known whether they happened.

An answer that got lost leaves two possibilities. Asking for the same write again
settles it: the version it expects lets it happen once, whichever attempt was it, and
what then lies in the store tells whether it was ours.
"""

import asyncio
import random
from typing import Final

from nitrosigner.trusted.enclave.parent_link.parent_services import (
    ParentServices,
    StoreConflict,
)
from nitrosigner.verdicts import Undecided

ATTEMPTS: Final = 4
_FIRST_PAUSE: Final = 0.06
"""Seconds; doubled each time, longer than the parent connection's own pauses."""


async def write_durably(
    store: ParentServices, collection: str, name: str, expected: int, data: bytes
) -> int:
    """
    Write and return the new version.

    Raises:
        StoreConflict: Somebody else wrote; ours is not in the store.
        Undecided: Not settled. It may be in the store, now or later.
    """
    pause = _FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            try:
                return await store.put(collection, name, expected, data)
            except StoreConflict:
                # At the first attempt it was surely somebody else.
                if attempt == 1 or not await _is_ours(
                    store, collection, name, expected + 1, data
                ):
                    raise
                return expected + 1
        except Undecided:
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(pause * (0.5 + random.random() / 2))
        pause *= 2
    raise AssertionError


async def remove_durably(
    store: ParentServices, collection: str, name: str, expected: int
) -> None:
    """Remove for good. Raises as `write_durably`; a record already gone is removed."""
    pause = _FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            try:
                await store.remove(collection, name, expected)
            except StoreConflict as conflict:
                if conflict.version != 0:
                    raise
        except Undecided:
            if attempt == ATTEMPTS:
                raise
        else:
            return
        await asyncio.sleep(pause * (0.5 + random.random() / 2))
        pause *= 2


async def _is_ours(
    store: ParentServices, collection: str, name: str, version: int, data: bytes
) -> bool:
    stored = await store.get(collection, name)
    return stored is not None and stored.version == version and stored.data == data
