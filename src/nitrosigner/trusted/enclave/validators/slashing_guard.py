"""
The one door between a validator's duty and its key.

Order is everything: ask the rules, make the new watermark durable in the store by a
conditional write, and only then make the permit that a key signs. If we die between the
last two we have refused ourselves one vote; the other order could sign two.

The conditional write is the commit point. Any number of enclaves may share the store:
whoever loses the race reads again and judges again, against what the winner signed.
What is remembered in here only saves a read. It never permits: it is what the stored
version must still be for the write to succeed.

Requests that arrive while a write is under way are judged together and written in one
round trip. There is no way to switch any of this off.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from nitrosigner.trusted.enclave.outcomes import Outcomes, answering
from nitrosigner.trusted.enclave.parent_link.watermark_store_port import (
    Advance,
    WatermarkStore,
)
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.watermark_book import (
    MAX_BATCH,
    MAX_RACES,
    Reached,
    Stopped,
    WatermarkBook,
    chunks,
    not_registered,
)
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import Duty
from nitrosigner.trusted.signing.slashing import (
    NO_CEILING,
    Ceiling,
    Proposal,
    Vote,
    Watermark,
    after_proposing,
    after_voting,
    merged,
)
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict

GATHER: Final = 0.002
"""Seconds to let more duties come, while the processors have other work anyway."""
GATHERS: Final = 4
"""So often at most, for one write."""
GATHERED: Final = 48
"""Duties that are enough for one write."""
MAX_WAITING: Final = 8192
"""Duties that may wait for a write. Beyond, we shed load before we are late."""
__all__ = ["MAX_BATCH", "MAX_WAITING", "Advance", "SlashingGuard", "WatermarkStore"]

Then = Callable[[Permit | Verdict], None]
"""Hears what became of a duty, once, on the loop's thread. Must not raise."""


class _Waiting:
    """A duty whose slashing rules still have to be asked."""

    __slots__ = ("duty", "judged", "key_name", "public_key", "races", "then")

    def __init__(
        self,
        public_key: bytes,
        key_name: str,
        duty: Duty,
        judged: Proposal | Vote,
        then: Then,
    ) -> None:
        self.public_key = public_key
        self.key_name = key_name
        self.duty = duty
        self.judged = judged
        self.then: Then | None = then
        """None: it has heard."""
        self.races = 0

    def tell(self, outcome: Permit | Verdict) -> None:
        then, self.then = self.then, None
        if then is not None:
            then(outcome)

    def permit(self) -> Permit:
        return Permit(self.key_name, self.duty.signing_root)


class SlashingGuard:
    """Asks the rules, records the answer, then permits."""

    def __init__(
        self,
        store: WatermarkStore,
        seal: ItemSeal,
        chain: GenesisValidatorsRoot,
        ceiling: Ceiling = NO_CEILING,
    ) -> None:
        """Guard the validators of *chain*."""
        # Its turn is held over every read-judge-write: what is known changes in one
        # place.
        self._book = WatermarkBook(store, seal, chain)
        self._ceiling = ceiling
        self._busy: Callable[[], bool] = lambda: False
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    def gather_while(self, busy: Callable[[], bool]) -> None:
        """
        Let more duties come before a write, while *busy* says that it delays nobody.

        The processors are signing then; one write for many costs them far less.
        """
        self._busy = busy

    async def load(self, public_keys: Sequence[bytes]) -> dict[bytes, Refused]:
        """
        Read the watermarks of these validators; return who has none to trust, and why.

        Raises:
            Undecided: The store did not answer.
        """
        lost: dict[bytes, Refused] = {}
        for chunk in chunks(list(public_keys)):
            async with self._book.turn:
                lost |= await self._book.read(chunk)
        return lost

    def watermark(self, public_key: bytes) -> Watermark | None:
        """Return how far a validator is known to have come, for exports and metrics."""
        return self._book.floor.get(public_key)

    def claimed(self, data: bytes) -> Watermark | None:
        """Return what a record says that nobody can trust. For showing only."""
        item = self._book.seal.claimed(data)
        return item.watermark if item else None

    async def register(
        self, public_key: bytes, imported: Watermark, *, revive: bool = False
    ) -> None:
        """
        Let a validator in, or move it forward to an imported history. Never back.

        Args:
            public_key: 48 bytes.
            imported: How far it has come elsewhere.
            revive: Let it vote again, because its key comes back, enabled.

        Raises:
            Refused: It is registered for another chain, or its item is not ours.
            Undecided: The store did not answer or others keep changing the item.
        """
        await self.register_many({public_key: imported}, revive=revive)

    async def register_many(
        self, history: Mapping[bytes, Watermark], *, revive: bool = False
    ) -> None:
        """As `register`. If one is refused, none is written."""

        def forward(public_key: bytes, reached: Reached) -> Reached:
            further = merged(reached.watermark, history[public_key])
            stopped = "" if revive else reached.stopped
            return Reached(reached.version, further, stopped)

        every = chunks(list(history))
        for chunk in every:
            async with self._book.turn:
                await self._book.standing(chunk)
        for chunk in every:
            await self._book.move(chunk, forward)

    async def mend(
        self, public_key: bytes, history: Watermark, stopped: Stopped
    ) -> Watermark:
        """As `WatermarkBook.mend`."""
        async with self._book.turn:
            return await self._book.mend(public_key, history, stopped)

    async def stop(self, public_key: bytes, why: Stopped) -> Watermark:
        """
        Let nobody vote with a validator any more; return how far it has come.

        Enclaves on this store that have not heard of it lose the race for their next
        vote, read this, and refuse. One that is retired stays so.

        Args:
            public_key: 48 bytes.
            why: `retired` before it moves elsewhere, `disabled` until `resume`.

        Raises:
            Refused: There is no record of it that can be trusted.
            Undecided: The store did not answer; it may be stopped or not.
        """

        def stopped(_: bytes, reached: Reached) -> Reached:
            if not reached.version:
                raise not_registered()
            stays = reached.stopped == "retired"
            return Reached(
                reached.version, reached.watermark, reached.stopped if stays else why
            )

        await self._book.move([public_key], stopped)
        return self._book.floor[public_key]

    async def resume(self, public_key: bytes) -> None:
        """
        Let a disabled validator vote again; a retired one stays retired.

        Raises:
            Refused: There is no record of it that can be trusted.
            Undecided: The store did not answer; it may vote again or not.
        """
        await self.stop(public_key, "")

    async def permit(self, public_key: bytes, key_name: str, duty: Duty) -> Permit:
        """
        Return leave to sign *duty*, once its watermark is durable.

        Raises:
            Slashable: Signing it could be punished.
            Refused: The validator was never registered, or its item is not ours.
            Undecided: The watermark could not be read or moved.
        """
        # A caller that goes away cancels this, and not the write that others share.
        answer: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self.permit_soon(public_key, key_name, duty, answering(answer))
        return await answer

    async def permit_many(
        self, wanted: Iterable[tuple[bytes, str, Duty]]
    ) -> list[Permit | Verdict]:
        """Return for each duty its permit or why not, in one round trip if it fits."""
        every = list(wanted)
        many = Outcomes[Permit](len(every))
        for position, (public_key, key_name, duty) in enumerate(every):
            self.permit_soon(public_key, key_name, duty, partial(many.put, position))
        return await many.every()

    def permit_soon(
        self, public_key: bytes, key_name: str, duty: Duty, then: Then
    ) -> None:
        """As `permit`, for whoever waits without a task: *then* hears the outcome."""
        judged = duty.slashable_by
        one = _Waiting(public_key, key_name, duty, judged, then) if judged else None
        if one is None:
            then(_unslashable(key_name, duty))
        elif len(self._waiting) >= MAX_WAITING:
            then(_too_many())
        else:
            # Judged and written with whatever else waits.
            self._waiting.append(one)
            if self._committing is None or self._committing.done():
                self._committing = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        """Judge and write whatever waits, a batch at a time, until nothing does."""
        while self._waiting:
            await self._gather()
            batch: list[_Waiting] = []
            keys: set[bytes] = set()
            while self._waiting and len(keys) < MAX_BATCH:
                one = self._waiting.popleft()
                keys.add(one.public_key)
                batch.append(one)
            try:
                async with self._book.turn:
                    await self._commit_batch(batch)
            except Undecided as verdict:
                # The write may have happened. Forget what we knew of these keys, so
                # that the next duty reads first; the floor stays.
                for key in keys:
                    self._book.known.pop(key, None)
                for one in batch:
                    one.tell(verdict)
            except BaseException:
                # A fault of ours, or the end of the program: nobody waits for ever.
                fault = Undecided(Code.INTERNAL, "the slashing guard failed")
                for one in (*batch, *self._waiting):
                    one.tell(fault)
                self._waiting.clear()
                raise

    async def _gather(self) -> None:
        for _ in range(GATHERS):
            if len(self._waiting) >= GATHERED or not self._busy():
                return
            await asyncio.sleep(GATHER)

    async def _commit_batch(self, batch: list[_Waiting]) -> None:
        known = self._book.known
        # One that was stopped is read again: another enclave may have it back by now.
        mistrusted = await self._book.read(
            [
                key
                for key in {one.public_key for one in batch}
                if key not in known or known[key].stopped
            ]
        )
        staged: dict[bytes, Watermark] = {}
        permitted: dict[bytes, list[_Waiting]] = {}
        for one in batch:
            public_key = one.public_key
            if public_key in mistrusted:
                one.tell(mistrusted[public_key])
                continue
            if why := known[public_key].stopped:
                one.tell(_stopped(why))
                continue
            reached = staged.get(public_key, known[public_key].watermark)
            try:
                staged[public_key] = self._judge(reached, one.judged)
            except Verdict as verdict:
                one.tell(verdict)
                continue
            permitted.setdefault(public_key, []).append(one)
        await self._write(staged, permitted)

    async def _write(
        self, staged: dict[bytes, Watermark], permitted: dict[bytes, list[_Waiting]]
    ) -> None:
        known = self._book.known
        moved = [key for key in permitted if staged[key] != known[key].watermark]
        outcomes = await self._book.advance(
            [self._book.change(key, known[key].version, staged[key]) for key in moved]
        )
        for key, written in zip(moved, outcomes, strict=True):
            if written:
                self._book.remember(key, known[key].version + 1, staged[key])
            else:
                del known[key]  # somebody else was faster
                for one in permitted.pop(key):
                    self._judge_again(one)
        for ones in permitted.values():
            for one in ones:
                one.tell(one.permit())

    def _judge(self, reached: Watermark, wanted: Proposal | Vote) -> Watermark:
        if isinstance(wanted, Proposal):
            proposed = after_proposing(reached.proposed, wanted, self._ceiling)
            return Watermark(proposed=proposed, voted=reached.voted)
        voted = after_voting(reached.voted, wanted, self._ceiling)
        return Watermark(proposed=reached.proposed, voted=voted)

    def _judge_again(self, one: _Waiting) -> None:
        one.races += 1
        if one.races > MAX_RACES:
            one.tell(
                Undecided(
                    Code.STORAGE_UNAVAILABLE, "other signers keep moving this watermark"
                )
            )
        else:
            self._waiting.append(one)


def _stopped(why: Stopped) -> Refused:
    if why == "disabled":
        return Refused(
            Code.KEY_DISABLED,
            "this validator was disabled",
            "to let it vote again: nitrosigner validators enable PUBKEY",
        )
    return Refused(
        Code.NOT_REGISTERED,
        "this validator was deleted from this deployment",
        "if it does not sign anywhere else by now, import its key again",
    )


def _too_many() -> Undecided:
    return Undecided(Code.OVERLOADED, "too many duties wait for the store")


def _unslashable(key_name: str, duty: Duty) -> Permit:
    return Permit(key_name, duty.signing_root)
