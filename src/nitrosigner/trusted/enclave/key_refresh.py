"""
Follows what other enclaves of the deployment did to the store.

Two enclaves may serve one deployment behind one load balancer. Each hears of the
other's keys and changes here, every few minutes, and at once where a change of its own
conflicts. Until then a key that one of them disabled still signs on the other.
"""

import asyncio

from nitrosigner.trusted.enclave.key_changes import KeyChanges
from nitrosigner.trusted.enclave.key_index import KeyIndex
from nitrosigner.trusted.enclave.key_loading import BREATHE_EVERY
from nitrosigner.trusted.enclave.key_writer import COLLECTION, KeyWriter
from nitrosigner.verdicts import Refused


class KeyRefresh:
    """Takes over newer versions; never goes back to an older one."""

    def __init__(self, index: KeyIndex, changes: KeyChanges, writer: KeyWriter) -> None:
        self._index = index
        self._changes = changes
        self._writer = writer

    async def refresh(self) -> None:
        """
        Read the whole collection once.

        Raises:
            Undecided: The store, or KMS after a rotation elsewhere, did not answer.
        """
        after = ""
        while True:
            page = await self._writer.store.page(COLLECTION, after)
            for count, record in enumerate(page.records, start=1):
                after = record.name
                held = self._index.named(record.name)
                if held is None or record.version > held.version:
                    await self._take_over(record.name)
                if count % BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
            if not page.more:
                return

    async def _take_over(self, name: str) -> None:
        rejected = self._changes.rejected
        allowed = self._writer.accepted.manifest.limits.max_keys
        if name not in rejected and len(self._index) + len(rejected) >= allowed:
            return
        # What was rejected before may have been mended since: a restored backup.
        before = rejected.pop(name, None)
        try:
            async with self._changes.alone(name):
                await self._changes.settle(name)
        except Refused as refused:
            # A newer version of a key of ours that does not open: we keep what we
            # have, unsettled, so that it signs nothing until the store makes sense.
            if self._index.named(name) is None:
                self._changes.unsettled.discard(name)
                rejected[name] = refused
        except BaseException:
            if before is not None:
                rejected[name] = before
            raise
