"""One contract, every store: what keeps two signers from both signing."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nitrosigner.untrusted.parent.dynamodb_watermarks import DynamoDbWatermarks
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.untrusted.parent.watermark_store import WatermarkStore
from nitrosigner.verdicts import Malformed
from nitrosigner.wire import services
from nitrosigner.wire.services import StoredWatermark, WatermarkChange

Open = Callable[[], WatermarkStore]
KEYS = [number.to_bytes(2, "big") * 24 for number in range(services.MAX_WATERMARKS)]
A, B, C = KEYS[:3]
WAIT = 30.0


@pytest.fixture(params=["memory", "sqlite", "dynamodb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the same store again and again, as several parents would."""
    opened: list[WatermarkStore] = []

    def keep(store: WatermarkStore) -> WatermarkStore:
        opened.append(store)
        return store

    match request.param:
        case "memory":
            store = request.getfixturevalue("memory_watermarks")
            yield lambda: store
        case "sqlite":
            path = tmp_path / "watermarks.db"
            yield lambda: keep(SqliteWatermarks(path, busy_seconds=WAIT))
        case _:
            client = request.getfixturevalue("dynamodb")
            yield lambda: keep(
                DynamoDbWatermarks(client, table="watermarks", deployment="test")
            )
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> WatermarkStore:
    return open_store()


def read(store: WatermarkStore, *keys: bytes) -> dict[bytes, tuple[int, bytes]]:
    found = store.read(keys).result(WAIT)
    assert len({item.public_key for item in found}) == len(found)
    return {item.public_key: (item.version, item.data) for item in found}


def advance(store: WatermarkStore, *changes: tuple[bytes, int, bytes]) -> list[bool]:
    return store.advance([WatermarkChange(*one) for one in changes]).result(WAIT)


def test_what_was_written_is_read(store: WatermarkStore) -> None:
    assert read(store, A, B) == {}
    assert advance(store, (A, 0, b"one")) == [True]
    assert store.read([A, B]).result(WAIT) == [StoredWatermark(A, 1, b"one")]
    assert advance(store, (A, 1, b"two"), (B, 0, b"first")) == [True, True]
    assert read(store, B, A, C) == {A: (2, b"two"), B: (1, b"first")}


def test_a_change_needs_the_stored_version(store: WatermarkStore) -> None:
    advance(store, (A, 0, b"one"))
    advance(store, (A, 1, b"two"))
    for stale in (0, 1, 3, 1 << 40):
        assert advance(store, (A, stale, b"late")) == [False]
    assert advance(store, (B, 1, b"absent")) == [False]
    assert read(store, A, B) == {A: (2, b"two")}


def test_each_change_stands_by_itself(store: WatermarkStore) -> None:
    advance(store, (A, 0, b"a"), (B, 0, b"b"))
    assert advance(store, (B, 5, b"x"), (C, 0, b"c"), (A, 1, b"aa")) == [
        False,
        True,
        True,
    ]
    assert read(store, A, B, C) == {A: (2, b"aa"), B: (1, b"b"), C: (1, b"c")}


def test_the_same_change_repeated_is_not_written_twice(store: WatermarkStore) -> None:
    assert advance(store, (A, 0, b"one")) == [True]
    assert advance(store, (A, 0, b"one")) == [False]
    assert read(store, A) == {A: (1, b"one")}


def test_the_largest_question_is_answered(store: WatermarkStore) -> None:
    data = bytes(range(256)) * (services.MAX_WATERMARK // 256)
    assert all(advance(store, *((key, 0, data) for key in KEYS)))
    assert read(store, *KEYS) == dict.fromkeys(KEYS, (1, data))
    assert advance(store, *((key, 1 - n % 2, b"x") for n, key in enumerate(KEYS))) == [
        n % 2 == 0 for n in range(len(KEYS))
    ]


def pages(store: WatermarkStore, limit: int) -> Iterator[list[StoredWatermark]]:
    after = None
    while True:
        page = store.page(after, limit).result(WAIT)
        assert len(page.items) <= limit
        assert page.items or not page.more
        yield page.items
        if not page.more:
            return
        after = page.items[-1].public_key


@pytest.mark.parametrize("limit", [1, 7, 40, 41, 512])
def test_every_item_is_on_one_page(store: WatermarkStore, limit: int) -> None:
    assert list(pages(store, limit)) == [[]]
    advance(store, *((key, 0, b"one") for key in KEYS[:40]))
    advance(store, (A, 1, b"two"))
    listed = [item for page in pages(store, limit) for item in page]
    assert {
        item.public_key: (item.version, item.data) for item in listed
    } == dict.fromkeys(KEYS[:40], (1, b"one")) | {A: (2, b"two")}
    assert len(listed) == 40
    # Always in the same order, whatever moved meanwhile.
    order = [item.public_key for item in listed]
    listing = pages(store, 9)
    first = next(listing)
    advance(store, *((key, 2 if key == A else 1, b"on") for key in KEYS[:40]))
    rest = [item.public_key for page in listing for item in page]
    assert [item.public_key for item in first] + rest == order


def test_a_page_shows_what_was_written_before_it(open_store: Open) -> None:
    first, second = open_store(), open_store()
    advance(first, (A, 0, b"one"))
    assert second.page(None, 5).result(WAIT).items == [StoredWatermark(A, 1, b"one")]
    assert second.page(A, 5).result(WAIT).items == []


@pytest.mark.parametrize(
    ("after", "limit"), [(b"", 5), (A[1:], 5), (None, 0), (None, 513), (A, -1)]
)
def test_a_page_that_no_store_could_give_is_malformed(
    store: WatermarkStore, after: bytes | None, limit: int
) -> None:
    with pytest.raises(Malformed):
        store.page(after, limit).result(WAIT)


@pytest.mark.parametrize(
    "keys", [[], [A, A], [A[1:]], [A + b"x"], [b""], [*KEYS, b"\xff" * 48]]
)
def test_what_no_store_could_be_asked_is_malformed(
    store: WatermarkStore, keys: list[bytes]
) -> None:
    with pytest.raises(Malformed):
        store.read(keys).result(WAIT)
    with pytest.raises(Malformed):
        advance(store, *((key, 0, b"x") for key in keys))


@pytest.mark.parametrize(
    ("expected", "data"),
    [(-1, b"x"), (services.MAX_VERSION, b"x"), (0, b""), (0, bytes(1025))],
)
def test_what_no_store_could_hold_is_malformed(
    store: WatermarkStore, expected: int, data: bytes
) -> None:
    with pytest.raises(Malformed):
        advance(store, (B, 0, b"fine"), (A, expected, data))
    assert read(store, A, B) == {}


def test_what_one_writes_the_other_reads(open_store: Open) -> None:
    first, second = open_store(), open_store()
    assert advance(first, (A, 0, b"one")) == [True]
    assert read(second, A) == {A: (1, b"one")}
    assert advance(second, (A, 1, b"two")) == [True]
    assert read(first, A) == {A: (2, b"two")}


def test_many_requests_at_once_are_all_answered(store: WatermarkStore) -> None:
    waiting = [store.advance([WatermarkChange(key, 0, key)]) for key in KEYS]
    readings = [store.read([key]) for key in KEYS]
    assert [one.result(WAIT) for one in waiting] == [[True]] * len(KEYS)
    for one in readings:
        one.result(WAIT)
    assert len(read(store, *KEYS)) == len(KEYS)


def test_of_requests_that_wait_together_one_wins_each_version(
    store: WatermarkStore,
) -> None:
    waiting = [
        store.advance([WatermarkChange(A, 0, b"%d" % n), WatermarkChange(B, n, b"x")])
        for n in range(50)
    ]
    answers = [one.result(WAIT) for one in waiting]
    assert sum(a for a, _ in answers) == 1
    winner = next(n for n, (a, _) in enumerate(answers) if a)
    assert read(store, A)[A] == (1, b"%d" % winner)
    version, _ = read(store, B)[B]
    assert version == sum(b for _, b in answers)


class Racer(threading.Thread):
    """Reads and writes a few validators as fast as it can, and keeps what it won."""

    def __init__(
        self, store: WatermarkStore, number: int, go: threading.Barrier
    ) -> None:
        super().__init__()
        self.store, self.number, self.go = store, number, go
        self.wins: list[tuple[bytes, int, bytes]] = []
        self.fault: BaseException | None = None

    def run(self) -> None:
        choose = random.Random(self.number)
        try:
            self.go.wait(WAIT)
            for turn in range(12):
                keys = choose.sample(KEYS[:6], 3)
                seen = read(self.store, *keys)
                data = b"writer %d turn %d" % (self.number, turn)
                changes = [(key, seen.get(key, (0, b""))[0], data) for key in keys]
                written = advance(self.store, *changes)
                self.wins += [
                    one for one, done in zip(changes, written, strict=True) if done
                ]
        except BaseException as error:
            self.fault = error
            self.go.abort()


def test_no_two_writers_ever_win_one_version(open_store: Open) -> None:
    go = threading.Barrier(4)
    racers = [Racer(open_store(), number, go) for number in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.fault for racer in racers] == [None] * 4
    wins = [win for racer in racers for win in racer.wins]
    assert len({(key, expected) for key, expected, _ in wins}) == len(wins)
    for key in KEYS[:6]:
        mine = sorted(expected for one, expected, _ in wins if one == key)
        assert mine == list(range(len(mine)))  # no version was skipped
        last = [
            data
            for one, version, data in wins
            if (one, version) == (key, len(mine) - 1)
        ]
        assert read(racers[0].store, key)[key] == (len(mine), *last)


steps = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from([A, B, C]), st.integers(0, 3), st.binary(min_size=1, max_size=3)),
            min_size=1, max_size=3, unique_by=lambda one: one[0],
        ),
    ),
    max_size=20,
)  # fmt: skip


@given(steps)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_store_does_what_the_model_does(
    open_store: Open, steps: list[tuple[bool, list[tuple[bytes, int, bytes]]]]
) -> None:
    store = open_store()
    # Nothing is ever removed, so each example goes on from where the last one ended.
    model = read(store, A, B, C)
    base = {key: model.get(key, (0, b""))[0] for key in (A, B, C)}
    for writes, changes in steps:
        if not writes:
            keys = [key for key, _, _ in changes]
            assert read(store, *keys) == {k: v for k, v in model.items() if k in keys}
            continue
        moved = [(key, base[key] + ahead, data) for key, ahead, data in changes]
        expected = [model.get(key, (0, b""))[0] == at for key, at, _ in moved]
        assert advance(store, *moved) == expected
        for (key, at, data), fits in zip(moved, expected, strict=True):
            if fits:
                model[key] = (at + 1, data)
    assert read(store, A, B, C) == model
