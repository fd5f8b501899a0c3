"""
The guard's store behind a real parent: real files, real sockets, and lies on the way.

The parent here is the production one with its SQLite store. A hostile one is the same,
with its answers spoilt before they leave.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.vsock import ENCLAVE_CID, UnixVsock
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.parent_link.parent_watermarks import ParentWatermarks
from nitrosigner.trusted.enclave.validators.slashing_guard import Advance, SlashingGuard
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.slashing import Epoch, SigningRoot, Vote, Watermark
from nitrosigner.untrusted.parent import vsock as parent_vsock
from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.services import Services, ServicesLimits
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import services
from nitrosigner.wire.addresses import SERVICES_PORT
from nitrosigner.wire.services import (
    Advanced,
    AdvanceWatermarks,
    Done,
    Failed,
    Page,
    ReadWatermarks,
    StoredWatermark,
    Watermarks,
)

CHAIN = GenesisValidatorsRoot(b"\x01" * 32)
SEAL = ItemSeal(b"\x07" * 32)
A, B, C = (letter * 48 for letter in (b"a", b"b", b"c"))
Lie = Callable[[Any, Any], Any]


class Clock:
    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Unused:
    """Stands for the services that nobody asks for here."""

    threads = 1

    def report(self, _report: object) -> None: ...

    def metrics(self, _metrics: object) -> None: ...

    def enclave_connected(self, _connections: int) -> None: ...


class Spoilt(Services):
    """A parent whose answers go through *lie* before they leave; None: none leaves."""

    lie: Lie = staticmethod(lambda _request, answer: answer)

    def begin(self, request: services.Request) -> Any:
        asked = super().begin(request)

        async def spoilt() -> Any:
            await asyncio.gather(
                asyncio.wrap_future(asked.work), return_exceptions=True
            )
            answer = type(self).lie(request, self.judge(asked))
            if answer is None:
                await asyncio.Event().wait()
            return answer

        work = asyncio.get_running_loop().create_task(spoilt())
        return asked._replace(work=work, as_answer=lambda answer: answer)


class Machine:
    """A parent that can die, come back and lie, and clients of it."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.server: Spoilt
        self.store: SqliteWatermarks
        self.clients: list[ParentServices] = []
        self.lie: Lie = lambda _request, answer: answer

    async def start(self) -> None:
        unused: Any = Unused()
        self.store = SqliteWatermarks(self.run / "watermarks.db")
        kind = type("Spoilt", (Spoilt,), {"lie": staticmethod(self._lie)})
        self.server = kind(
            store=unused,
            credentials=unused,
            audit=unused,
            reports=unused,
            limits=ServicesLimits(),
            log=EventLog(StringIO()),
            watermarks=self.store,
        )
        place = parent_vsock.UnixVsock(self.run, ENCLAVE_CID)
        await self.server.start(place, SERVICES_PORT)

    async def stop(self) -> None:
        await self.server.stop(0)
        self.server._store_threads.shutdown()
        self.server._audit_threads.shutdown()
        self.store.close()
        await asyncio.sleep(0)

    def _lie(self, request: Any, answer: Any) -> Any:
        return self.lie(request, answer)

    def client(self) -> ParentWatermarks:
        self.clients.append(ParentServices(UnixVsock(self.run, ENCLAVE_CID), Clock()))
        return ParentWatermarks(self.clients[-1], Clock())

    def guard(self) -> SlashingGuard:
        return SlashingGuard(self.client(), SEAL, CHAIN)


@pytest.fixture
def run() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ns-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def machine(run: Path) -> Any:
    @asynccontextmanager
    async def start() -> AsyncIterator[Machine]:
        made = Machine(run)
        await made.start()
        try:
            yield made
        finally:
            for client in made.clients:
                client.close()
            await made.stop()

    return start


def vote(source: int, target: int, number: int = 0) -> Duty:
    root = SigningRoot((number << 64 | target << 32 | source).to_bytes(32, "big"))
    judged = Vote(source=Epoch(source), target=Epoch(target), signing_root=root)
    return Duty(
        kind=DutyKind.ATTESTATION,
        signing_root=root,
        genesis_validators_root=CHAIN,
        slashable_by=judged,
    )


def told(found: Any) -> dict[bytes, tuple[int, bytes]]:
    return {key: (item.version, item.data) for key, item in found.items()}


def test_what_is_advanced_is_fetched(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            one, two = made.client(), made.client()
            assert await one.fetch([A, B]) == {}
            assert await one.advance([Advance(A, 0, b"x"), Advance(B, 1, b"y")]) == [
                True,
                False,
            ]
            assert told(await two.fetch([B, A, A])) == {A: (1, b"x")}
            assert await two.advance([Advance(A, 1, b"xx")]) == [True]
            assert await one.advance([Advance(A, 1, b"late")]) == [False]
            assert told(await one.fetch([A])) == {A: (2, b"xx")}
            assert made.clients[0].watermarks_healthy

    asyncio.run(main())


def test_more_than_one_request_holds_is_cut_in_pieces(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            keys = [number.to_bytes(48, "big") for number in range(1200)]
            data = bytes(services.MAX_WATERMARK)
            assert all(await store.advance([Advance(key, 0, data) for key in keys]))
            assert set(await store.fetch(keys)) == set(keys)

    asyncio.run(main())


def test_a_parent_that_comes_back_is_asked_again(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            assert await store.advance([Advance(A, 0, b"x")]) == [True]
            await made.stop()
            asked = asyncio.create_task(store.advance([Advance(A, 1, b"y")]))
            await asyncio.sleep(0)
            await made.start()
            assert await asked == [True]

    asyncio.run(main())


def test_a_parent_that_is_gone_is_undecided(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            await store.fetch([A])
            await made.stop()
            for asked in (store.fetch([A]), store.advance([Advance(A, 0, b"x")])):
                with pytest.raises(Undecided) as caught:
                    await asked
                assert caught.value.code is Code.STORAGE_UNAVAILABLE
            assert not made.clients[0].watermarks_healthy
            await made.start()
            # It is not hammered: on a busy machine the next try may be a second away.
            async with asyncio.timeout(20):
                while not made.clients[0].watermarks_healthy:
                    with contextlib.suppress(Undecided):
                        await store.fetch([A])
                        await made.clients[0].probe_watermark_writes()
            assert await store.advance([Advance(A, 0, b"x")]) == [True]
            assert made.clients[0].watermarks_healthy

    asyncio.run(main())


def test_a_lost_answer_is_never_taken_for_a_write_of_ours(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            lost = [Failed("storage_unavailable", "lost")]
            made.lie = lambda _request, answer: lost.pop() if lost else answer
            # The first attempt wrote it. The second can't know that it was ours.
            assert await store.advance([Advance(A, 0, b"x")]) == [False]
            assert told(await store.fetch([A])) == {A: (1, b"x")}

    asyncio.run(main())


def test_a_lost_answer_still_ends_in_a_permit_for_the_same_duty(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            guard = made.guard()
            await guard.register(A, Watermark())
            lost = [Failed("storage_unavailable", "lost")]
            made.lie = lambda request, answer: (
                lost.pop()
                if lost and isinstance(request, AdvanceWatermarks)
                else answer
            )
            assert await guard.permit(A, "a", vote(1, 2))
            assert not lost
            with pytest.raises(Refused):
                await guard.permit(A, "a", vote(1, 2, number=1))

    asyncio.run(main())


def item(key: bytes, version: int = 1, data: bytes = b"x") -> StoredWatermark:
    return StoredWatermark(key, version, data)


BAD_READS: list[Any] = [
    Watermarks([item(C)]),  # not asked for
    Watermarks([item(A), item(A)]),
    Watermarks([item(A), item(B), item(A, 2)]),
    Watermarks([item(A), item(B), item(C)]),
    Watermarks([item(A, 0)]),
    Watermarks([item(A, -1)]),
    Watermarks([item(A, 1 << 60)]),
    Watermarks([item(A[1:])]),
    Watermarks([item(A, 1, b"")]),
    Watermarks([item(A, 1, bytes(1025))]),
    Watermarks([item(bytes([n, n]) * 24) for n in range(200)] * 3),
    Advanced([True, True]),
    Done(),
    Page([], False),
]


@pytest.mark.parametrize("answer", BAD_READS)
def test_an_answer_that_does_not_fit_a_reading_is_undecided(
    machine: Any, answer: Any
) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            await store.fetch([A])
            held = made.clients[0]._connection
            made.lie = lambda _request, _honest: answer
            with pytest.raises(Undecided):
                await made.clients[0].read_watermarks([A, B])
            assert not made.clients[0].watermarks_healthy
            assert held.closed
            made.lie = lambda _request, honest: honest
            assert await store.fetch([A, B]) == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        Advanced([]),
        Advanced([True]),
        Advanced([True, True, True]),
        Advanced([True] * 600),
        Advanced([1, 1]),  # type: ignore[list-item] # that is the lie
        Watermarks([]),
        Done(),
    ],
)
def test_an_answer_that_does_not_fit_an_advance_is_undecided(
    machine: Any, answer: Any
) -> None:
    async def main() -> None:
        async with machine() as made:
            store = made.client()
            await store.fetch([A])
            held = made.clients[0]._connection
            made.lie = lambda _request, _honest: answer
            changes = [services.WatermarkChange(key, 0, b"x") for key in (A, B)]
            with pytest.raises(Undecided):
                await made.clients[0].advance_watermarks(changes)
            assert not made.clients[0].watermarks_healthy
            assert held.closed

    asyncio.run(main())


def test_a_parent_that_never_answers_is_undecided_in_time(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = (
        "nitrosigner.trusted.enclave.parent_link.parent_services.WATERMARKS_DEADLINE"
    )
    monkeypatch.setattr(module, 0.05)

    async def main() -> None:
        async with machine() as made:
            store = made.client()
            made.lie = lambda _request, _answer: None
            with pytest.raises(Undecided):
                await store.advance([Advance(A, 0, b"x")])

    asyncio.run(main())


def swapped(request: Any, answer: Any) -> Any:
    """Each validator gets its neighbour's item."""
    if not isinstance(answer, Watermarks) or len(answer.items) < 2:
        return answer
    items = answer.items
    return Watermarks([
        StoredWatermark(one.public_key, other.version, other.data)
        for one, other in zip(items, [*items[1:], items[0]], strict=True)
    ])  # fmt: skip


def renumbered(request: Any, answer: Any) -> Any:
    if not isinstance(answer, Watermarks):
        return answer
    return Watermarks([item(o.public_key, o.version + 1, o.data) for o in answer.items])


def altered(request: Any, answer: Any) -> Any:
    if not isinstance(answer, Watermarks):
        return answer
    return Watermarks([
        item(o.public_key, o.version, bytes([o.data[0] ^ 1]) + o.data[1:])
        for o in answer.items
    ])  # fmt: skip


def dropped(request: Any, answer: Any) -> Any:
    return Watermarks([]) if isinstance(answer, Watermarks) else answer


@pytest.mark.parametrize("lie", [swapped, renumbered, altered, dropped])
def test_a_lie_about_an_item_gets_no_signature(machine: Any, lie: Lie) -> None:
    async def main() -> None:
        async with machine() as made:
            guard = made.guard()
            for key in (A, B):
                await guard.register(key, Watermark())
                await guard.permit(key, "k", vote(1, 2))
            made.lie = lie
            fresh = made.guard()
            assert sorted(await fresh.load([A, B])) == [A, B]
            wanted = [(key, "k", vote(2, 3)) for key in (A, B)]
            for outcome in await fresh.permit_many(wanted):
                assert isinstance(outcome, Refused)
            made.lie = lambda _request, answer: answer
            assert await made.guard().permit(A, "k", vote(2, 3))

    asyncio.run(main())


def test_an_older_item_is_refused_by_who_has_seen_a_later_one(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            guard, other = made.guard(), made.guard()
            await guard.register(A, Watermark())
            old = list((await made.client().fetch([A])).values())
            await guard.permit(A, "k", vote(1, 2))
            await other.permit(A, "k", vote(2, 3))  # moves the item behind its back
            made.lie = lambda _request, answer: (
                Watermarks(old) if isinstance(answer, Watermarks) else answer
            )
            with pytest.raises(Verdict):
                await guard.permit(A, "k", vote(3, 4))
            with pytest.raises(Verdict):
                await guard.permit(A, "k", vote(1, 2, number=1))

    asyncio.run(main())


def test_shuffled_answers_are_no_lie(machine: Any) -> None:
    async def main() -> None:
        async with machine() as made:
            guard = made.guard()
            for key in (A, B, C):
                await guard.register(key, Watermark())
            made.lie = lambda _request, answer: (
                Watermarks(answer.items[::-1])
                if isinstance(answer, Watermarks)
                else answer
            )
            fresh = made.guard()
            assert not await fresh.load([A, B, C])
            assert await fresh.permit(B, "k", vote(1, 2))

    asyncio.run(main())


class Chaos:
    """Loses answers, delays them, and fails requests before and after they act."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)

    def __call__(self, request: Any, answer: Any) -> Any:
        if not isinstance(request, AdvanceWatermarks | ReadWatermarks):
            return answer
        match self.choose.randrange(10):
            case 0:
                return Failed("storage_unavailable", "lost")
            case 1:
                return Done()  # ends the connection
            case _:
                return answer


@pytest.mark.parametrize("seed", range(3))
def test_two_signers_and_a_parent_that_dies_never_sign_two_votes(
    machine: Any, seed: int
) -> None:
    turns: list[None] = []

    async def signer(
        guard: SlashingGuard, choose: random.Random, left: list[tuple[bytes, Vote]]
    ) -> None:
        for _ in range(60):
            turns.append(None)
            source = choose.randrange(6)
            duty = vote(source, source + choose.randrange(4), choose.randrange(2))
            key = choose.choice([A, B])
            try:
                permit = await guard.permit(key, "k", duty)
            except Verdict:
                continue
            assert permit.message == duty.signing_root
            assert isinstance(duty.slashable_by, Vote)
            left.append((key, duty.slashable_by))

    async def main() -> None:
        async with machine() as made:
            choose = random.Random(seed)
            first = made.guard()
            for key in (A, B):
                await first.register(key, Watermark())
            made.lie = Chaos(seed)
            left: list[tuple[bytes, Vote]] = []
            signers = [
                asyncio.create_task(signer(guard, random.Random(choose.random()), left))
                for guard in (first, first, made.guard(), made.guard())
            ]
            for count in (60, 120, 180):
                while len(turns) < count:
                    await asyncio.sleep(0)
                await made.stop()
                await made.start()
            await asyncio.gather(*signers)
            assert left
            # The consensus specification's own two conditions, over all pairs.
            for index, (key, one) in enumerate(left):
                for other_key, other in left[:index]:
                    if key != other_key or one.signing_root == other.signing_root:
                        continue
                    assert one.target != other.target
                    assert not (one.source < other.source and other.target < one.target)
                    assert not (other.source < one.source and one.target < other.target)

    asyncio.run(main())


def test_a_store_that_reads_and_does_not_write_is_not_healthy_until_it_writes(
    machine: Any,
) -> None:
    """A read-only file system, a missing permission: reading says nothing about it."""

    def broken(request: Any, honest: Any) -> Any:
        if isinstance(request, AdvanceWatermarks):
            return Failed("storage_unavailable", "it cannot be written")
        return honest

    async def main() -> None:
        async with machine() as made:
            store = made.client()
            parent = made.clients[0]
            await store.fetch([A])
            assert parent.watermarks_healthy
            made.lie = broken
            with pytest.raises(Undecided):
                await store.advance([Advance(A, 0, b"x")])
            await store.fetch([A])
            assert not parent.watermarks_healthy
            with pytest.raises(Undecided):
                await parent.probe_watermark_writes()
            assert not parent.watermarks_healthy
            made.lie = lambda _request, honest: honest
            await parent.probe_watermark_writes()
            assert parent.watermarks_healthy
            # The trial left nothing behind.
            assert await store.fetch([bytes(48)]) == {}

    asyncio.run(main())


def test_a_store_that_writes_is_not_tried(machine: Any) -> None:
    asked: list[Any] = []

    def heard(request: Any, honest: Any) -> Any:
        asked.append(request)
        return honest

    async def main() -> None:
        async with machine() as made:
            made.client()
            made.lie = heard
            await made.clients[0].probe_watermark_writes()

    asyncio.run(main())
    assert asked == []
