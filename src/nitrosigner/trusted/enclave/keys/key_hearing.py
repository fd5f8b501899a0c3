"""
Takes over what other enclaves on the store told of validators' keys.

What is named is read again, key by key; if too much was told to name it, everything is.
Whoever asks to `listen` gets what was told before he asked: a look that had begun by
then is not enough, one that begins afterwards serves all who wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.verdicts import Refused, Undecided

REST: Final = 5
"""So many times as long as it took rests who read everything, before he does again:
somebody imports thousands of keys, and we have duties to sign."""


class KeyHearing:
    """The one who listens."""

    def __init__(
        self, parts: KeyParts, look_at: Callable[[Sequence[Slot]], Awaitable[None]]
    ) -> None:
        """*look_at* reads the watermarks of what came."""
        self._news = parts.news
        self._index = parts.index
        self._changes = parts.changes
        self._refresh = parts.refresh
        self._max_keys = parts.writer.accepted.manifest.limits.max_keys
        self._clock = parts.clock
        self._look_at = look_at
        self._one = asyncio.Lock()
        self._begun = 0
        self._ended = 0
        self._failed: Undecided | None = None
        self._owed = False
        """Everything should be read, once there was a rest."""
        self._rests_until = 0.0

    async def listen(self) -> None:
        """
        Take over what was told by now; tell what could not be told before.

        Raises:
            Undecided: The store did not answer.
        """
        wanted = self._begun + 1
        async with self._one:
            if self._ended < wanted:
                self._begun += 1
                self._failed = await self._look()
                self._ended = self._begun
            if (failed := self._failed) is not None:
                raise Undecided(failed.code, failed.message, failed.hint)

    async def seek(self, public_keys: Sequence[bytes]) -> None:
        """
        Look for keys that are unknown here: another enclave may have them.

        Raises:
            Undecided: The store did not answer.
        """
        await self.listen()
        if self._owed:
            for public_key in public_keys:
                await self._read_again(public_key)

    async def _look(self) -> Undecided | None:
        try:
            await self._news.tell()
            await self._news.take_in(self._take_over)
            if self._owed and self._clock.monotonic() >= self._rests_until:
                await self._read_everything()
        except Undecided as verdict:
            return verdict
        return None

    async def _take_over(self, public_keys: Sequence[bytes] | None) -> None:
        if public_keys is None:
            self._owed = True
            return
        for public_key in public_keys:
            await self._read_again(public_key)

    async def _read_everything(self) -> None:
        began = self._clock.monotonic()
        await self._changes.finish(self._refresh.refresh())
        ended = self._clock.monotonic()
        self._owed = False
        self._rests_until = ended + REST * (ended - began)

    async def _read_again(self, public_key: bytes) -> None:
        name = f"0x{public_key.hex()}"
        changes = self._changes
        changes.rejected.pop(name, None)
        held = self._index.named(name)
        if held is None and len(self._index) >= self._max_keys:
            return
        try:
            async with changes.alone(name):
                await changes.settle(name)
        except Refused as refused:
            # Ours stays unsettled: it signs nothing until the store makes sense.
            if held is None:
                changes.unsettled.discard(name)
                changes.rejected[name] = refused
        slot = self._index.named(name)
        if slot is not None:
            await self._look_at([slot])
