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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from nitrosigner.trusted.enclave.permit import Permit
from nitrosigner.trusted.enclave.watermark_items import Item, ItemSeal
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

MAX_BATCH: Final = 256
"""Validators in one conditional write."""
MAX_WAITING: Final = 8192
"""Duties that may wait for a write. Beyond, we shed load before we are late."""
MAX_RACES: Final = 8
"""How often a duty is judged again because another signer moved its watermark."""


class Stored(Protocol):
    """One stored item: its version and bytes."""

    @property
    def version(self) -> int:
        """What the store calls its version; at least 1."""
        ...

    @property
    def data(self) -> bytes:
        """The item, closed."""
        ...


@dataclass(frozen=True, slots=True)
class Advance:
    """Replace the item of a validator if its stored version is *expected*."""

    public_key: bytes
    expected: int
    """0: only if there is none."""
    data: bytes


class WatermarkStore(Protocol):
    """
    Where watermarks survive. Shared by every enclave of the deployment.

    Each item of `advance` is atomic and conditional by itself, durable before it is
    answered, and reads see every write that was answered before. It is *not* trusted
    to be honest: items are sealed. It is trusted not to be replayed as a whole across
    a restart of every enclave (THREAT_MODEL names this residue).
    """

    async def fetch(self, public_keys: Sequence[bytes]) -> Mapping[bytes, Stored]:
        """
        Return the items of these validators; absent ones are left out.

        Raises:
            Undecided: No answer.
        """
        ...

    async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
        """
        Write each change whose condition holds; say for each whether it was written.

        Raises:
            Undecided: No answer: each may have been written or not.
        """
        ...


@dataclass(slots=True)
class _Waiting:
    """A duty whose slashing rules still have to be asked."""

    public_key: bytes
    key_name: str
    duty: Duty
    judged: Proposal | Vote
    answer: "asyncio.Future[Permit]"
    races: int = 0


@dataclass(slots=True)
class _Reached:
    """What we know of one validator."""

    version: int
    watermark: Watermark


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
        self._store = store
        self._seal = seal
        self._chain = chain
        self._ceiling = ceiling
        self._known: dict[bytes, _Reached] = {}
        # The furthest seen since we started, and never forgotten: a store that goes
        # back behind it lies.
        self._floor: dict[bytes, Watermark] = {}
        # Held over every read-judge-write, so that what is known changes in one place.
        self._turn = asyncio.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def load(self, public_keys: Sequence[bytes]) -> list[bytes]:
        """
        Read the watermarks of these validators; return those that have none to trust.

        Raises:
            Undecided: The store did not answer.
        """
        lost: list[bytes] = []
        for start in range(0, len(public_keys), MAX_BATCH):
            chunk = public_keys[start : start + MAX_BATCH]
            async with self._turn:
                lost += await self._read(chunk)
        return lost

    def watermark(self, public_key: bytes) -> Watermark | None:
        """Return how far a validator is known to have come, for exports and metrics."""
        return self._floor.get(public_key)

    async def register(self, public_key: bytes, imported: Watermark) -> None:
        """
        Let a validator in, or move it forward to an imported history. Never back.

        Raises:
            Refused: It is registered for another chain, or its item is not ours.
            Undecided: The store did not answer or others keep changing the item.
        """
        for _ in range(MAX_RACES):
            async with self._turn:
                if await self._move_forward(public_key, imported):
                    return
        raise Undecided(
            Code.STORAGE_UNAVAILABLE, "other signers keep changing this validator"
        )

    async def permit(self, public_key: bytes, key_name: str, duty: Duty) -> Permit:
        """
        Return leave to sign *duty*, once its watermark is durable.

        Raises:
            Slashable: Signing it could be punished.
            Refused: The validator was never registered, or its item is not ours.
            Undecided: The watermark could not be read or moved.
        """
        judged = duty.slashable_by
        if judged is None:
            return Permit(key_name, duty.signing_root)
        if len(self._waiting) >= MAX_WAITING:
            raise Undecided(Code.OVERLOADED, "too many duties wait for the store")
        answer: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        # A caller that went away leaves its refusal unread; that is not an error.
        answer.add_done_callback(_look_at)
        self._waiting.append(_Waiting(public_key, key_name, duty, judged, answer))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        # A caller that goes away must not cancel a write that others share.
        return await asyncio.shield(answer)

    async def permit_many(
        self, wanted: Iterable[tuple[bytes, str, Duty]]
    ) -> list[Permit | Verdict]:
        """Return for each duty its permit or why not, in one round trip if it fits."""
        answers = await asyncio.gather(
            *(self.permit(key, name, duty) for key, name, duty in wanted),
            return_exceptions=True,
        )
        outcome: list[Permit | Verdict] = []
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Verdict):
                raise answer
            outcome.append(answer)
        return outcome

    async def _commit(self) -> None:
        """Judge and write whatever waits, a batch at a time, until nothing does."""
        while self._waiting:
            batch: list[_Waiting] = []
            keys: set[bytes] = set()
            while self._waiting and len(keys) < MAX_BATCH:
                one = self._waiting.popleft()
                keys.add(one.public_key)
                batch.append(one)
            try:
                async with self._turn:
                    await self._commit_batch(batch)
            except Undecided as verdict:
                # The write may have happened. Forget what we knew of these keys, so
                # that the next duty reads first; the floor stays.
                for key in keys:
                    self._known.pop(key, None)
                for one in batch:
                    _refuse(one, verdict)
            except BaseException:
                # A fault of ours, or the end of the program: nobody waits for ever.
                fault = Undecided(Code.INTERNAL, "the slashing guard failed")
                for one in (*batch, *self._waiting):
                    _refuse(one, fault)
                self._waiting.clear()
                raise

    async def _commit_batch(self, batch: list[_Waiting]) -> None:
        unknown = list({one.public_key for one in batch} - self._known.keys())
        mistrusted = await self._read(unknown)
        staged: dict[bytes, Watermark] = {}
        permitted: dict[bytes, list[_Waiting]] = {}
        for one in batch:
            public_key = one.public_key
            if public_key in mistrusted:
                _refuse(one, mistrusted[public_key])
                continue
            reached = staged.get(public_key, self._known[public_key].watermark)
            try:
                staged[public_key] = self._judge(reached, one.judged)
            except Verdict as verdict:
                _refuse(one, verdict)
                continue
            permitted.setdefault(public_key, []).append(one)
        await self._write(staged, permitted)

    async def _write(
        self, staged: dict[bytes, Watermark], permitted: dict[bytes, list[_Waiting]]
    ) -> None:
        moved = [key for key in permitted if staged[key] != self._known[key].watermark]
        changes = [
            self._change(key, self._known[key].version, staged[key]) for key in moved
        ]
        outcomes = await self._store.advance(changes) if changes else []
        if len(outcomes) != len(changes):
            raise Undecided(
                Code.STORAGE_UNAVAILABLE, "the store answered something else"
            )
        lost_race = {
            key for key, written in zip(moved, outcomes, strict=True) if not written
        }
        for key in moved:
            if key in lost_race:
                self._known.pop(key)
            else:
                self._remember(key, self._known[key].version + 1, staged[key])
        for key, ones in permitted.items():
            for one in ones:
                if key in lost_race:
                    self._judge_again(one)
                elif not one.answer.done():
                    one.answer.set_result(Permit(one.key_name, one.duty.signing_root))

    async def _read(self, public_keys: Sequence[bytes]) -> dict[bytes, Refused]:
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

    async def _move_forward(self, public_key: bytes, imported: Watermark) -> bool:
        found = (await self._store.fetch([public_key])).get(public_key)
        if found is None and public_key not in self._floor:
            reached = _Reached(0, Watermark())
        else:
            reached = self._learn(public_key, found)
        forward = merged(reached.watermark, imported)
        if reached.version and forward == reached.watermark:
            return True
        self._known.pop(public_key, None)  # until the write is known to have happened
        change = self._change(public_key, reached.version, forward)
        (written,) = await self._store.advance([change])
        if written:
            self._remember(public_key, reached.version + 1, forward)
        return written

    def _judge(self, reached: Watermark, wanted: Proposal | Vote) -> Watermark:
        if isinstance(wanted, Proposal):
            proposed = after_proposing(reached.proposed, wanted, self._ceiling)
            return Watermark(proposed=proposed, voted=reached.voted)
        voted = after_voting(reached.voted, wanted, self._ceiling)
        return Watermark(proposed=reached.proposed, voted=voted)

    def _judge_again(self, one: _Waiting) -> None:
        one.races += 1
        if one.races > MAX_RACES:
            _refuse(
                one,
                Undecided(
                    Code.STORAGE_UNAVAILABLE, "other signers keep moving this watermark"
                ),
            )
        else:
            self._waiting.append(one)

    def _learn(self, public_key: bytes, stored: Stored | None) -> _Reached:
        """Believe a stored item if it is ours, of this chain, and not behind us."""
        if stored is None:
            raise Refused(
                Code.NOT_REGISTERED,
                "this validator has no slashing protection record",
                "import it with its EIP-3076 history, or restore the store",
            )
        item = self._seal.open(
            stored.data, public_key=public_key, version=stored.version
        )
        if item.chain != self._chain:
            raise Refused(
                Code.WRONG_CHAIN, "this validator is registered for another chain"
            )
        floor = self._floor.get(public_key)
        if floor is not None and merged(floor, item.watermark) != item.watermark:
            raise Refused(
                Code.RECORD_UNTRUSTED,
                "the store went back behind what this signer has signed",
                "the store was restored from a backup, or somebody tampers with it:"
                " do not restart the signer before you know which",
            )
        return self._remember(public_key, stored.version, item.watermark)

    def _remember(
        self, public_key: bytes, version: int, watermark: Watermark
    ) -> _Reached:
        reached = _Reached(version, watermark)
        self._known[public_key] = reached
        self._floor[public_key] = watermark
        return reached

    def _change(
        self, public_key: bytes, expected: int, watermark: Watermark
    ) -> Advance:
        item = Item(
            public_key=public_key,
            chain=self._chain,
            version=expected + 1,
            watermark=watermark,
        )
        return Advance(public_key, expected, self._seal.close(item))


def _look_at(answer: "asyncio.Future[Permit]") -> None:
    if not answer.cancelled():
        answer.exception()


def _refuse(one: _Waiting, verdict: Verdict) -> None:
    if not one.answer.done():
        one.answer.set_exception(verdict)
