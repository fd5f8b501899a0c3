"""
One change at a time for each key, durable before memory knows of it.

A change that was begun is finished even if whoever asked for it is gone: half a change
would leave store and memory apart. Where an answer was lost for good the key is
*unsettled*: it signs nothing and takes no change until the store was read again.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, TypeVar

from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_loading import second_name
from nitrosigner.trusted.enclave.keys.key_writer import KeyWriter
from nitrosigner.trusted.enclave.parent_link.parent_services import StoreConflict
from nitrosigner.trusted.enclave.vault.sealed_records import Header, Slot
from nitrosigner.trusted.enclave.vault.vault import untrusted
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict

ANSWER_SECONDS: Final = 4.5
"""For a change that somebody waits for. The store may take longer, and the change is
finished all the same; but whoever asked hears by then that it is undecided."""

_Result = TypeVar("_Result")


class KeyChanges:
    """Writes keys to the store and then to the index."""

    def __init__(
        self, index: KeyIndex, writer: KeyWriter, rejected: dict[str, Refused]
    ) -> None:
        self._index = index
        self._writer = writer
        # Weak: a lock lives as long as somebody holds it or waits for it.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._claimed: set[str] = set()
        self._under_way: set[asyncio.Task[Any]] = set()
        self.unsettled: Final[set[str]] = set()
        """Names whose last change may or may not be in the store."""
        self.rejected: Final = rejected

    async def finish(self, change: Coroutine[Any, Any, _Result]) -> _Result:
        """Run *change* to its end, even if the caller is cancelled."""
        task = asyncio.create_task(change)
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def answer(self, change: Coroutine[Any, Any, _Result]) -> _Result:
        """
        Run *change* to its end, and wait for that for `ANSWER_SECONDS`.

        Raises:
            Undecided: It is still under way. It will happen, or not.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self.finish(change)
        except TimeoutError:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                f"the store has not answered within {ANSWER_SECONDS:g} seconds; the "
                "change may happen yet",
                "look in a moment what became of it; the parent's log says why the "
                "store is slow",
            ) from None

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        # Looked at, so that a failure nobody waits for any more does not complain.
        if not task.cancelled():
            task.exception()

    async def drain(self) -> None:
        """Wait until every change that was begun has ended, well or not."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """
        Hold off every other change of the key called *name*; settle the last one.

        Raises:
            Refused: What lies in the store under this name cannot be trusted.
            Undecided: The last change cannot be settled yet.
        """
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            if name in self.unsettled:
                await self.settle(name)
            if name in self.rejected:
                raise self.rejected[name]
            yield

    @contextlib.contextmanager
    def claim(self, identity: str, name: str) -> Iterator[None]:
        """
        Reserve *identity* for the key called *name*.

        Raises:
            Refused: Another key has it, or is about to.
        """
        wanted = identity.lower()
        holder = self._index.identified(wanted)
        if wanted in self._claimed or (holder is not None and holder.name != name):
            raise second_name(identity)
        self._claimed.add(wanted)
        try:
            yield
        finally:
            self._claimed.discard(wanted)

    async def write(self, header: Header, secret: SecretBytes) -> Slot:
        """
        Make a new version durable, then let the index know. Only when `alone`.

        Raises:
            Refused: The store has another version than we thought (VERSION_CONFLICT);
                by now the index has it too.
            Undecided: It may be in the store.
        """
        # Whoever waits is told then that nobody knows: from then on it signs nothing.
        unsure = asyncio.get_running_loop().call_later(
            ANSWER_SECONDS, self.unsettled.add, header.name
        )
        try:
            slot = await self._writer.write(header, secret)
            self.unsettled.discard(header.name)
        except StoreConflict:
            await self.settle(header.name)
            raise
        except BaseException:
            self.unsettled.add(header.name)
            raise
        finally:
            unsure.cancel()
        self._index.put(slot)
        return slot

    async def settle_all(self) -> None:
        """Read every unsettled key again; what cannot be read stays unsettled."""
        for name in sorted(self.unsettled):
            with contextlib.suppress(Verdict):
                async with self.alone(name):
                    pass

    def require_settled(self, name: str) -> None:
        """
        Raise unless memory is sure to be what the store has.

        Raises:
            Undecided: It is not.
        """
        if name in self.unsettled:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "a change of this key is not settled: its answer was lost",
                "ask again; the store is read again in the meantime",
            )

    async def settle(self, name: str) -> None:
        """
        Let memory hold what the store holds under *name*. Only when `alone`.

        Raises:
            Refused: The store went back, or what it has is not ours.
            Undecided: The store did not answer.
        """
        # Unsettled first: whatever fails below must leave it so.
        self.unsettled.add(name)
        await self._writer.vault_store.refresh(self._writer.vault)
        stored = await self._writer.read(name)
        held = self._index.named(name)
        if held is not None:
            if stored is None and held.state != "deleted":
                raise untrusted("it vanished from the store")
            if stored is not None and stored.version < held.version:
                raise untrusted("it went back to an earlier version")
        if stored is None:
            if held is not None:
                self._index.remove(name)
        elif held is None or stored.version > held.version:
            with self.claim(stored.identity, name):
                self._index.put(stored)
        self.unsettled.discard(name)
