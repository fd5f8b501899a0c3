"""One contract, every store: what an enclave may count on wherever records lie."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore
from nitrosigner.untrusted.parent.record_store import RecordStore
from nitrosigner.untrusted.parent.secrets_manager_store import SecretsManagerStore
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.verdicts import Malformed
from nitrosigner.wire import services
from nitrosigner.wire.services import Conflict, Stored, StoredRecord

Open = Callable[[], RecordStore]


@pytest.fixture(params=["memory", "sqlite", "secrets_manager", "dynamodb"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the same store again and again, as several processes would."""
    opened: list[RecordStore] = []

    def keep(store: RecordStore) -> RecordStore:
        opened.append(store)
        return store

    match request.param:
        case "memory":
            store = request.getfixturevalue("memory_store")
            yield lambda: store
        case "sqlite":
            yield lambda: keep(SqliteStore(tmp_path / "store.db"))
        case "dynamodb":
            client = request.getfixturevalue("dynamodb")
            yield lambda: keep(
                DynamoDbStore(client, table="records", deployment="test")
            )
        case _:
            client = request.getfixturevalue("secrets_manager")
            yield lambda: keep(SecretsManagerStore(client, prefix="nitro/test/"))
    for store in opened:
        store._readers.shutdown() if hasattr(store, "_readers") else store.close()


@pytest.fixture
def store(open_store: Open) -> RecordStore:
    return open_store()


def test_what_was_put_is_found_again(store: RecordStore) -> None:
    assert store.get("keys", "alice") is None
    assert store.put("keys", "alice", 0, b"sealed") == Stored(version=1)
    assert store.get("keys", "alice") == StoredRecord("alice", 1, b"sealed")


def test_a_write_needs_the_stored_version(store: RecordStore) -> None:
    store.put("keys", "alice", 0, b"one")
    assert store.put("keys", "alice", 1, b"two") == Stored(version=2)
    for stale in (0, 1, 3, 1 << 40):
        assert store.put("keys", "alice", stale, b"late") == Conflict(version=2)
    assert store.get("keys", "alice") == StoredRecord("alice", 2, b"two")


def test_an_absent_record_conflicts_with_any_version_but_none(
    store: RecordStore,
) -> None:
    assert store.put("keys", "alice", 1, b"x") == Conflict(version=0)
    assert store.remove("keys", "alice", 1) == Conflict(version=0)
    assert store.remove("keys", "alice", 0) == Stored(version=0)
    assert store.get("keys", "alice") is None


def test_the_same_write_repeated_is_one_write(store: RecordStore) -> None:
    assert store.put("keys", "alice", 0, b"one") == Stored(version=1)
    assert store.put("keys", "alice", 0, b"one") == Stored(version=1)
    assert store.put("keys", "alice", 1, b"two") == Stored(version=2)
    assert store.put("keys", "alice", 1, b"two") == Stored(version=2)
    assert store.put("keys", "alice", 0, b"one") == Conflict(version=2)


def test_a_removed_record_is_gone_and_its_name_is_free_again(
    store: RecordStore,
) -> None:
    store.put("keys", "alice", 0, b"one")
    store.put("keys", "alice", 1, b"two")
    assert store.remove("keys", "alice", 1) == Conflict(version=2)
    assert store.remove("keys", "alice", 2) == Stored(version=0)
    assert store.get("keys", "alice") is None
    assert store.page("keys", "", 10).records == []
    assert store.remove("keys", "alice", 2) == Conflict(version=0)
    assert store.put("keys", "alice", 2, b"late") == Conflict(version=0)
    assert store.put("keys", "alice", 0, b"anew") == Stored(version=1)
    assert store.get("keys", "alice") == StoredRecord("alice", 1, b"anew")
    assert store.page("keys", "", 10).records == [StoredRecord("alice", 1, b"anew")]
    assert store.remove("keys", "alice", 1) == Stored(version=0)
    assert store.put("keys", "alice", 0, b"third") == Stored(version=1)


def test_collections_do_not_see_one_another(store: RecordStore) -> None:
    for collection in services.COLLECTIONS:
        assert store.put(collection, "current", 0, collection.encode()) == Stored(1)
    for collection in services.COLLECTIONS:
        record = StoredRecord("current", 1, collection.encode())
        assert store.get(collection, "current") == record
        assert store.page(collection, "", 10).records == [record]


def test_pages_are_in_the_order_of_the_names_bytes(store: RecordStore) -> None:
    names = ["b", "a-1", "a.1", "a", "Z", "a_1", "0x9f", "a10", "a1", "B"]
    for name in names:
        store.put("keys", name, 0, name.encode())
    found: list[str] = []
    after, more = "", True
    while more:
        page = store.page("keys", after, 3)
        assert 1 <= len(page.records) <= 3
        found += [record.name for record in page.records]
        after, more = page.records[-1].name, page.more
    assert found == sorted(names)


def test_the_last_page_says_so(store: RecordStore) -> None:
    for name in ("a", "b", "c", "d"):
        store.put("keys", name, 0, b"x")
    assert store.page("keys", "", 4).more is False
    assert store.page("keys", "", 3).more is True
    assert store.page("keys", "b", 2).more is False
    empty = store.page("keys", "d", 2)
    assert (empty.records, empty.more) == ([], False)


def test_a_page_stays_below_what_a_frame_holds(store: RecordStore) -> None:
    for number in range(12):
        store.put("keys", f"k{number:02}", 0, bytes([number]) * services.MAX_RECORD)
    seen: list[str] = []
    after, more = "", True
    while more:
        page = store.page("keys", after, services.MAX_PAGE)
        assert sum(len(r.data) for r in page.records) <= services.MAX_PAGE_BYTES
        seen += [record.name for record in page.records]
        after, more = page.records[-1].name, page.more
    assert seen == [f"k{number:02}" for number in range(12)]


def test_a_new_record_is_on_the_first_page_at_once(store: RecordStore) -> None:
    store.put("keys", "a", 0, b"x")
    assert len(store.page("keys", "", 10).records) == 1
    store.put("keys", "b", 0, b"x")
    assert len(store.page("keys", "", 10).records) == 2


def test_the_largest_record_fits_and_one_byte_more_does_not(
    store: RecordStore,
) -> None:
    largest = bytes(range(256)) * (services.MAX_RECORD // 256)
    assert store.put("keys", "big", 0, largest) == Stored(version=1)
    record = store.get("keys", "big")
    assert record is not None
    assert record.data == largest
    with pytest.raises(Malformed, match="bytes"):
        store.put("keys", "big", 1, largest + b"x")
    with pytest.raises(Malformed, match="bytes"):
        store.put("keys", "big", 1, b"")


@pytest.mark.parametrize("collection", ["", "secrets", "Keys", "keys/", "../keys"])
def test_an_unknown_collection_is_malformed(
    store: RecordStore, collection: str
) -> None:
    for call in (
        lambda: store.get(collection, "a"),
        lambda: store.page(collection, "", 1),
        lambda: store.put(collection, "a", 0, b"x"),
        lambda: store.remove(collection, "a", 0),
    ):
        with pytest.raises(Malformed, match="collection"):
            call()


@pytest.mark.parametrize(
    "name", ["", "a/b", "../a", ".a", "a b", "é", "a\n", "a" * 129, "a\0", "-a", "*"]
)
def test_a_name_that_some_store_could_not_hold_is_malformed(
    store: RecordStore, name: str
) -> None:
    with pytest.raises(Malformed, match="name"):
        store.get("keys", name)
    with pytest.raises(Malformed, match="name"):
        store.put("keys", name, 0, b"x")
    with pytest.raises(Malformed, match="name"):
        store.remove("keys", name, 0)


@pytest.mark.parametrize("limit", [0, -1, services.MAX_PAGE + 1])
def test_a_page_of_no_size_is_malformed(store: RecordStore, limit: int) -> None:
    with pytest.raises(Malformed, match="page"):
        store.page("keys", "", limit)


@pytest.mark.parametrize("expected", [-1, services.MAX_VERSION])
def test_a_version_that_cannot_be_is_malformed(
    store: RecordStore, expected: int
) -> None:
    with pytest.raises(Malformed, match="version"):
        store.put("keys", "a", expected, b"x")
    with pytest.raises(Malformed, match="version"):
        store.remove("keys", "a", expected)


def test_of_many_writers_one_wins_each_version(open_store: Open) -> None:
    stores = [open_store() for _ in range(4)]
    rounds = 8
    barrier = threading.Barrier(len(stores))
    wins: list[list[tuple[int, bytes]]] = [[] for _ in stores]
    faults: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for version in range(rounds):
                barrier.wait(30)
                data = b"writer %d version %d" % (number, version)
                answer = stores[number].put("keys", "shared", version, data)
                if isinstance(answer, Stored):
                    assert answer.version == version + 1
                    wins[number].append((version, data))
                else:
                    assert answer.version >= version + 1
        except BaseException as error:
            faults.append(error)
            barrier.abort()

    threads = [
        threading.Thread(target=write, args=(number,)) for number in range(len(stores))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    won = sorted(win for one in wins for win in one)
    assert [version for version, _ in won] == list(range(rounds))
    final = stores[0].get("keys", "shared")
    assert final == StoredRecord("shared", rounds, won[-1][1])


def put_two(
    writer: RecordStore, name: str, barrier: threading.Barrier, answers: Any
) -> None:
    barrier.wait(30)
    answers["put"] = writer.put("keys", name, 1, b"two")


def test_a_writer_and_a_remover_do_not_both_win(open_store: Open) -> None:
    for turn in range(6):
        name = f"contended-{turn}"
        writer, remover = open_store(), open_store()
        writer.put("keys", name, 0, b"one")
        answers: dict[str, Any] = {}
        barrier = threading.Barrier(2)
        thread = threading.Thread(target=put_two, args=(writer, name, barrier, answers))
        thread.start()
        barrier.wait(30)
        answers["remove"] = remover.remove("keys", name, 1)
        thread.join()
        kinds = {type(answer) for answer in answers.values()}
        assert kinds == {Stored, Conflict}
        assert (writer.get("keys", name) is None) == (type(answers["remove"]) is Stored)


def test_what_one_writes_the_other_reads(open_store: Open) -> None:
    first, second = open_store(), open_store()
    first.put("keys", "alice", 0, b"one")
    assert second.get("keys", "alice") == StoredRecord("alice", 1, b"one")
    second.put("keys", "alice", 1, b"two")
    assert first.get("keys", "alice") == StoredRecord("alice", 2, b"two")
    second.remove("keys", "alice", 2)
    assert first.get("keys", "alice") is None


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "get", "page"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 3),
        st.binary(min_size=1, max_size=4),
    ),
    max_size=25,
)


@given(operations)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_store_does_what_the_model_does(
    open_store: Open, memory_store: Any, steps: list[tuple[str, str, int, bytes]]
) -> None:
    store = open_store()
    model = type(memory_store)()
    if store is not memory_store:
        for record in store.page("keys", "", 500).records:
            store.remove("keys", record.name, record.version)
    else:
        store = type(memory_store)()
    for operation, name, number, data in steps:
        for one in (model,):
            match operation:
                case "put":
                    mine = store.put("keys", name, number, data)
                    theirs = one.put("keys", name, number, data)
                case "remove":
                    mine = store.remove("keys", name, number)
                    theirs = one.remove("keys", name, number)
                case "get":
                    mine = store.get("keys", name)
                    theirs = one.get("keys", name)
                case _:
                    mine = store.page("keys", "", number + 1)
                    theirs = one.page("keys", "", number + 1)
            assert mine == theirs
