"""
Random duties, restarts and faults against the slashing guard, counted by an oracle.

    python fuzz/never_slashable.py --operations 1000000 [--seed N] [--signers 4]

Two to four signers share one store that loses requests and answers, repeats writes,
answers late and out of order, withholds, alters, swaps and replays items. Signers die
at any point and come back with empty memories; their clocks jump. Operators disable,
enable and delete validators, and bring them back. Whatever was permitted is judged by
the consensus specification's own definition of a slashable pair; there must be none.
And when an order to stop was answered, nothing new may be permitted by anybody.

What is not played, because nothing inside an enclave can see it: a store that goes back
for a signer which has never seen the newer state (THREAT_MODEL, not protected, 1).
"""

import argparse
import asyncio
import random
import selectors
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nitrosigner.trusted.enclave.parent_link.parent_watermarks import ParentWatermarks
from nitrosigner.trusted.enclave.validators.slashing_guard import Advance, SlashingGuard
from nitrosigner.trusted.enclave.validators.watermark_book import Stopped
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposal,
    SigningRoot,
    Slot,
    Vote,
    Watermark,
)
from nitrosigner.verdicts import Code, Undecided, Verdict

CHAIN = GenesisValidatorsRoot(b"\x01" * 32)
SEAL = ItemSeal(b"\x07" * 32)
VALIDATORS = [bytes([n]) * 48 for n in range(1, 7)]


@dataclass
class Row:
    version: int
    data: bytes


@dataclass
class Store:
    """The truth, and every row that ever was."""

    source: random.Random
    rows: dict[bytes, Row] = field(default_factory=dict)
    history: dict[bytes, list[Row]] = field(default_factory=dict)
    faults: bool = True

    def write(self, change: Advance) -> bool:
        row = self.rows.get(change.public_key)
        if (row.version if row else 0) != change.expected:
            return False
        new = Row(change.expected + 1, change.data)
        self.rows[change.public_key] = new
        self.history.setdefault(change.public_key, []).append(new)
        return True


class FaultyLine:
    """One signer's way to the store. It remembers what that signer has seen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[bytes, int] = {}

    async def _travel(self) -> None:
        source = self._store.source
        for _ in range(source.randrange(5)):
            await asyncio.sleep(0)
        if self._store.faults and source.random() < 0.03:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "lost on the way")

    def _read(self, key: bytes) -> Row | None:
        source, row = self._store.source, self._store.rows.get(key)
        if row is None or not self._store.faults or source.random() > 0.05:
            if row is not None:
                self._seen[key] = max(self._seen.get(key, 0), row.version)
            return row
        lie = source.randrange(4)
        if lie == 0:
            return None
        if lie == 1:
            data = bytearray(row.data)
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            return Row(row.version, bytes(data))
        if lie == 2:
            other = self._store.rows[source.choice(VALIDATORS)]
            return other if other is not row else None
        # An older row, but only to one who has seen a newer: only that can be noticed.
        older = [
            old
            for old in self._store.history[key]
            if old.version < self._seen.get(key, 0)
        ]
        return source.choice(older) if older else row

    async def read_watermarks(
        self, public_keys: Sequence[bytes]
    ) -> Mapping[bytes, Row]:
        await self._travel()
        found = {key: row for key in public_keys if (row := self._read(key))}
        await self._travel()
        return found

    async def advance_watermarks(self, changes: Sequence[Advance]) -> Sequence[bool]:
        await self._travel()
        written = [self._store.write(change) for change in changes]
        if self._store.faults and self._store.source.random() < 0.02:
            # The request is delivered a second time; it cannot win again.
            for change, won in zip(changes, written, strict=True):
                assert not (self._store.write(change) and won)
        for change, won in zip(changes, written, strict=True):
            if won:
                self._seen[change.public_key] = change.expected + 1
        await self._travel()
        return written


class JumpingClock:
    """Seconds that now and then jump by days, forward or back."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._ahead = 0.0

    def now(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        if self._source.random() < 0.2:
            self._ahead = self._source.uniform(-1e6, 1e6)
        return asyncio.get_running_loop().time() + self._ahead


class _Impatient(selectors.SelectSelector):
    def __init__(self, passes: Callable[[float], None]) -> None:
        super().__init__()
        self._passes = passes

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        self._passes(timeout or 0.0)
        return super().select(0)


class TimelessLoop(asyncio.SelectorEventLoop):
    """Nobody waits: where nothing is to be done, it is later at once."""

    def __init__(self) -> None:
        self._passed = 0.0

        super().__init__(_Impatient(self._passes))

    def _passes(self, seconds: float) -> None:
        self._passed += seconds

    def time(self) -> float:
        return self._passed


@dataclass
class Outcome:
    """What a run did."""

    operations: int = 0
    orders: int = 0
    late_permits: int = 0
    """Of what was new, after the answer to an order to stop."""
    permitted: int = 0
    refused: int = 0
    restarts: int = 0
    slashable_pairs: int = 0


def slashable(one: Vote, other: Vote) -> bool:
    """`is_slashable_attestation_data` of the phase 0 specification, both ways round."""
    double = one.signing_root != other.signing_root and one.target == other.target
    surround = one.source < other.source and other.target < one.target
    surrounded = other.source < one.source and one.target < other.target
    return double or surround or surrounded


class Oracle:
    """Remembers all that was permitted, and counts pairs that could be punished."""

    def __init__(self) -> None:
        self.stopped: dict[bytes, Watermark] = {}
        """By validator that was told to stop: how far it came."""
        self.ordered: set[bytes] = set()
        """Whose order is under way: operators talk to each other."""
        self._votes: dict[bytes, dict[tuple[int, int, bytes], Vote]] = {}
        self._blocks: dict[tuple[bytes, int], set[bytes]] = {}
        self.pairs = 0

    def signed(self, key: bytes, message: Proposal | Vote) -> None:
        if isinstance(message, Proposal):
            roots = self._blocks.setdefault((key, message.slot), set())
            roots.add(message.signing_root)
            self.pairs += len(roots) > 1
            return
        votes = self._votes.setdefault(key, {})
        name = (message.source, message.target, message.signing_root)
        if name not in votes:
            self.pairs += sum(slashable(message, other) for other in votes.values())
            votes[name] = message


def beyond(message: Proposal | Vote, reached: Watermark) -> bool:
    """Return whether *message* is further than a validator had come."""
    if isinstance(message, Proposal):
        return reached.proposed is None or message.slot > reached.proposed.slot
    return reached.voted is None or message.target > reached.voted.target


def wish(source: random.Random, turn: int) -> Duty:
    """Return a duty near where everybody is, often in conflict with others."""
    root = SigningRoot(source.randrange(3).to_bytes(32, "big"))
    near = [turn + source.randrange(-3, 6) for _ in range(2)]
    low, high = (max(0, one) for one in sorted(near))
    judged: Proposal | Vote
    if source.random() < 0.4:
        judged = Proposal(slot=Slot(high), signing_root=root)
    else:
        judged = Vote(source=Epoch(low), target=Epoch(high), signing_root=root)
    return Duty(
        kind=DutyKind.BLOCK_V2
        if isinstance(judged, Proposal)
        else DutyKind.ATTESTATION,
        signing_root=root,
        genesis_validators_root=CHAIN,
        slashable_by=judged,
    )


def born(store: Store) -> SlashingGuard:
    """Return a signer that remembers nothing."""
    line: Any = FaultyLine(store)  # as much of a parent as is needed
    return SlashingGuard(
        ParentWatermarks(line, JumpingClock(store.source)), SEAL, CHAIN
    )


async def _order(
    source: random.Random,
    oracle: Oracle,
    outcome: Outcome,
    guard: SlashingGuard,
    key: bytes,
) -> None:
    """Stop a validator, or let it go on."""
    if key in oracle.ordered:
        return
    oracle.ordered.add(key)
    outcome.orders += 1
    stopped = oracle.stopped.pop(key, None)
    try:
        match source.randrange(8):
            case 0 | 1 as which:
                why: Stopped = "retired" if which else "disabled"
                reached = await guard.stop(key, why)
                oracle.stopped[key] = stopped or reached
            case 2 | 3:
                await guard.resume(key)
            case _:
                await guard.register(key, Watermark(), revive=True)
    except Verdict:
        pass  # whether it stopped or goes on is open
    finally:
        oracle.ordered.discard(key)


async def _signer(store: Store, oracle: Oracle, outcome: Outcome, share: int) -> None:
    source = store.source

    guard = born(store)

    async def ask(current: SlashingGuard, key: bytes, duty: Duty) -> None:
        try:
            permit = await current.permit(key, "key", duty)
        except Verdict:
            outcome.refused += 1
            return
        assert permit.message == duty.signing_root
        assert duty.slashable_by is not None
        outcome.permitted += 1
        if key in oracle.stopped and beyond(duty.slashable_by, oracle.stopped[key]):
            outcome.late_permits += 1
        oracle.signed(key, duty.slashable_by)

    done = 0
    while done < share:
        burst = min(source.randrange(1, 12), share - done)
        asked = [
            asyncio.create_task(
                ask(guard, source.choice(VALIDATORS), wish(source, done // 60))
            )
            for _ in range(burst)
        ]
        if source.random() < 0.05:
            key = source.choice(VALIDATORS)
            given = _order(source, oracle, outcome, guard, key)
            asked.append(asyncio.create_task(given))
        done += burst
        outcome.operations += burst
        if source.random() < 0.05:
            # kill -9: nobody waits for the answers, memory is gone, the store is not.
            await asyncio.sleep(0)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            guard = born(store)
            outcome.restarts += 1
        else:
            await asyncio.gather(*asked)


async def _run(seed: int, operations: int, signers: int) -> Outcome:
    source = random.Random(seed)
    store, oracle, outcome = Store(source), Oracle(), Outcome()
    store.faults = False
    first = born(store)
    for key in VALIDATORS:
        await first.register(key, Watermark())
    store.faults = True
    share = operations // signers
    await asyncio.gather(
        *(_signer(store, oracle, outcome, share) for _ in range(signers))
    )
    outcome.slashable_pairs = oracle.pairs
    return outcome


def run(seed: int, operations: int, signers: int) -> Outcome:
    """
    Play *operations* duties on *signers* signers.

    The same seed plays the same, if PYTHONHASHSEED is the same too.
    """
    random.seed(seed)
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        return runner.run(_run(seed, operations, signers))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signers", type=int, default=4)
    options = parser.parse_args()
    begun, seed, left, total = time.perf_counter(), options.seed, options.operations, 0
    while left > 0:
        part = min(left, 20_000)
        outcome = run(seed, part, options.signers)
        total += outcome.permitted
        print(f"seed {seed}: {outcome}", flush=True)
        if outcome.slashable_pairs or outcome.late_permits:
            return 1
        left, seed = left - part, seed + 1
    print(f"{total} permits, no slashable pair, {time.perf_counter() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
