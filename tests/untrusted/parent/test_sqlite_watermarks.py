"""What was reported as written survives kills; what may not survive is not reported."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.services import WatermarkChange

WAIT = 30.0
A, B = b"a" * 48, b"b" * 48

WRITER = """
import itertools, sys
from pathlib import Path
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.wire.services import WatermarkChange
store = SqliteWatermarks(Path(sys.argv[1]))
keys = [bytes([n]) * 48 for n in range(20)]
start = {item.public_key: item.version for item in store.read(keys).result(30)}
for turn in itertools.count():
    # Several requests wait together: they are written in groups.
    asked = []
    for key in keys:
        version = start.get(key, 0) + turn
        data = b"%08d" % (version + 1) * 40
        asked.append((key, version, store.advance([WatermarkChange(key, version, data)])))
    for key, version, answer in asked:
        assert answer.result(30) == [True]
        print(key[0], version + 1, flush=True)
"""

RACER = """
import random, sys
from pathlib import Path
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.verdicts import Undecided
from nitrosigner.wire.services import WatermarkChange
me = sys.argv[2]
choose = random.Random(me)
store = SqliteWatermarks(Path(sys.argv[1]), busy_seconds=30)
keys = [bytes([n]) * 48 for n in range(5)]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(60):
    some = choose.sample(keys, 3)
    seen = {item.public_key: item.version for item in store.read(some).result(60)}
    changes = [WatermarkChange(k, seen.get(k, 0), f"{me} {turn}".encode()) for k in some]
    for change, done in zip(changes, store.advance(changes).result(60)):
        if done:
            print(change.public_key[0], change.expected, me, turn)
store.close()
"""

FILLER = """
import resource, sys
from pathlib import Path
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.verdicts import Undecided
from nitrosigner.wire.services import WatermarkChange
store = SqliteWatermarks(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
written = 0
try:
    while True:
        keys = [(written + n).to_bytes(48, "big") for n in range(8)]
        changes = [WatermarkChange(key, 0, bytes(1000)) for key in keys]
        assert store.advance(changes).result(30) == [True] * 8
        written += 8
except Undecided as verdict:
    print(verdict.code, written, flush=True)
# The process lives, and reads.
for number in range(0, written, 8):
    keys = [(number + n).to_bytes(48, "big") for n in range(8)]
    assert len(store.read(keys).result(30)) == 8
    assert store.read([(written + n).to_bytes(48, "big") for n in range(8)]).result(30) == []
print("read", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "watermarks.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteWatermarks]:
    made = SqliteWatermarks(path)
    yield made
    made.close()


def advance(store: SqliteWatermarks, key: bytes, expected: int, data: bytes) -> bool:
    (written,) = store.advance([WatermarkChange(key, expected, data)]).result(WAIT)
    return written


def versions(store: SqliteWatermarks, *keys: bytes) -> dict[bytes, int]:
    return {item.public_key: item.version for item in store.read(keys).result(WAIT)}


def test_every_reported_write_survives_kill_9(path: Path) -> None:
    keys = [bytes([n]) * 48 for n in range(20)]
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(150)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        told: dict[int, int] = {}
        for line in lines:
            if line.endswith(b"\n"):
                number, version = map(int, line.split())
                told[number] = version
        store = SqliteWatermarks(path)  # checks its integrity
        found = store.read(keys).result(WAIT)
        assert len(found) == len(keys)
        for item in found:
            # A write may have happened without being told; never the reverse, and
            # never by half.
            assert told[item.public_key[0]] <= item.version
            assert item.version <= told[item.public_key[0]] + 1
            assert item.data == b"%08d" % item.version * 40
        store.close()


def test_of_several_processes_one_wins_each_version(path: Path) -> None:
    SqliteWatermarks(path).close()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    outputs = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        outputs.append(racer.communicate(timeout=100)[0])
        assert racer.returncode == 0
    assert all(outputs)
    wins = [line.split() for output in outputs for line in output.splitlines()]
    taken = {(int(key), int(expected)): (me, turn) for key, expected, me, turn in wins}
    assert len(taken) == len(wins)  # no version was won twice
    store = SqliteWatermarks(path)
    for number in range(5):
        (item,) = store.read([bytes([number]) * 48]).result(WAIT)
        mine = sorted(expected for key, expected in taken if key == number)
        assert mine == list(range(item.version))
        assert item.data == " ".join(taken[number, item.version - 1]).encode()
    store.close()


def test_a_full_disk_writes_nothing_by_halves(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    code, written, read = done.stdout.decode().split()
    assert (code, read) == ("storage_unavailable", "read")
    assert int(written) > 40
    store = SqliteWatermarks(path)
    halves = [(int(written) + n).to_bytes(48, "big") for n in range(8)]
    assert versions(store, *halves) == {}
    assert advance(store, halves[0], 0, b"x")  # with space again
    store.close()


def test_requests_that_wait_together_share_one_transaction(path: Path) -> None:
    store = SqliteWatermarks(path, busy_seconds=WAIT)
    seen: list[str] = []
    store._connection.set_trace_callback(seen.append)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    waiting = [
        store.advance([WatermarkChange(bytes([n]) * 48, 0, b"x")]) for n in range(100)
    ]
    other.execute("rollback")
    other.close()
    assert all(one.result(WAIT) == [True] for one in waiting)
    store.close()
    # The first may have gone alone: the others waited behind it.
    assert sum(line.startswith("COMMIT") for line in seen) <= 2
    assert sum(line.startswith("INSERT") for line in seen) == 100


def test_nobody_is_told_before_the_commit(path: Path) -> None:
    store = SqliteWatermarks(path)
    early: list[bool] = []
    answers = []
    store._connection.set_trace_callback(
        lambda line: early.extend(
            answer.done() for answer in answers if line.startswith("COMMIT")
        )
    )
    answers.append(store.advance([WatermarkChange(A, 0, b"x")]))
    answers.append(store.advance([WatermarkChange(A, 1, b"x")]))
    for answer in answers:
        assert answer.result(WAIT) == [True]
    store._connection.set_trace_callback(None)
    assert early
    assert not early[0]
    store.close()


def test_commits_are_synced(store: SqliteWatermarks) -> None:
    assert store._connection.execute("pragma synchronous").fetchone() == (2,)
    assert store._connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_another_writer_that_does_not_end_makes_ours_undecided(path: Path) -> None:
    store = SqliteWatermarks(path, busy_seconds=0.05)
    assert advance(store, A, 0, b"one")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(Undecided) as caught:
        advance(store, A, 1, b"two")
    assert caught.value.code is Code.STORAGE_UNAVAILABLE
    assert versions(store, A) == {A: 1}  # readers are not kept waiting
    other.execute("rollback")
    other.close()
    assert advance(store, A, 1, b"two")
    store.close()


def test_one_failed_statement_leaves_nothing_of_its_group(path: Path) -> None:
    store = SqliteWatermarks(path)
    # The disk fails in the middle of a transaction, as far as SQL can say it.
    store._connection.execute(
        "create temp trigger bad before insert on watermarks when new.data = x'00'"
        " begin select raise(abort, 'disk'); end"
    )
    with pytest.raises(Undecided):
        store.advance(
            [WatermarkChange(A, 0, b"fine"), WatermarkChange(B, 0, b"\0")]
        ).result(WAIT)
    assert versions(store, A, B) == {}
    assert advance(store, A, 0, b"fine")
    store.close()


def test_a_request_whose_asker_has_gone_is_not_carried_out(path: Path) -> None:
    store = SqliteWatermarks(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    first = store.advance([WatermarkChange(B, 0, b"x")])
    end = time.monotonic() + WAIT
    while not first.running():
        assert time.monotonic() < end
    gone = store.advance([WatermarkChange(A, 0, b"x")])
    assert gone.cancel()
    other.execute("rollback")
    other.close()
    assert first.result(WAIT) == [True]
    assert versions(store, A, B) == {B: 1}
    store.close()


def test_what_is_asked_before_closing_is_done_and_after_it_undecided(
    path: Path,
) -> None:
    store = SqliteWatermarks(path)
    waiting = [
        store.advance([WatermarkChange(bytes([n]) * 48, 0, b"x")]) for n in range(50)
    ]
    store.close()
    assert all(one.result(0) == [True] for one in waiting)
    for answer in (store.read([A]), store.advance([WatermarkChange(A, 0, b"x")])):
        with pytest.raises(Undecided, match="closed"):
            answer.result(0)
    store.close()


def test_a_fault_of_ours_reaches_the_asker_and_the_next_one_is_served(
    store: SqliteWatermarks,
) -> None:
    with pytest.raises(TypeError):
        advance(store, A, 0, 7)  # type: ignore[arg-type] # that is the fault
    assert advance(store, A, 0, b"x")


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


def journal_deleted(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def folder_deleted(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("harm", [moved, replaced, journal_deleted, folder_deleted])
def test_a_store_whose_file_was_taken_away_reports_nothing_as_written(
    path: Path, harm: object
) -> None:
    store = SqliteWatermarks(path)
    assert advance(store, A, 0, b"x")
    assert callable(harm)
    harm(path)
    with pytest.raises(Undecided, match=r"moved|reached|written|read"):
        advance(store, A, 1, b"y")
    with pytest.raises(Undecided):
        versions(store, A)
    store.close()


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        for offset in range(4096, path.stat().st_size, 4096):
            file.seek(offset)
            file.write(b"\xa5" * 64)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def of_the_record_store(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("pragma application_id = 1853061735")
    other.close()


@pytest.mark.parametrize("damage", [flip, truncate, empty, of_the_record_store])
def test_a_damaged_file_is_refused_and_left_as_it_is(
    path: Path, damage: object
) -> None:
    store = SqliteWatermarks(path)
    for number in range(60):
        advance(store, bytes([number]) * 48, 0, bytes(1000))
    store.close()
    assert callable(damage)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(Refused, match="watermark store"):
        SqliteWatermarks(path)
    assert path.read_bytes() == before


def test_damage_under_a_running_store_is_undecided(path: Path) -> None:
    store = SqliteWatermarks(path)
    for number in range(200):
        advance(store, bytes([number]) * 48, 0, bytes(1000))
    store._connection.execute("pragma wal_checkpoint(truncate)")
    store._connection.execute("pragma cache_size = 0")
    store._connection.execute("pragma shrink_memory")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(Undecided, match="read"):
        versions(store, b"\7" * 48)
    with pytest.raises(Undecided, match="written"):
        advance(store, b"\7" * 48, 1, b"x")
    store.close()


def test_others_cannot_read_the_file(path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteWatermarks(path)
        advance(store, A, 0, b"x")
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert set(modes.values()) == {0o600}


def test_permissions_that_are_too_wide_are_mended_and_told(path: Path) -> None:
    SqliteWatermarks(path).close()
    path.chmod(0o644)
    told: list[bool] = []
    SqliteWatermarks(path, on_permissions_mended=lambda: told.append(True)).close()
    assert (path.stat().st_mode & 0o777, told) == (0o600, [True])


def test_a_journal_left_by_a_kill_is_taken_up(path: Path) -> None:
    store = SqliteWatermarks(path)
    advance(store, A, 0, b"x")
    crashed = path.parent.parent / "crashed"
    shutil.copytree(path.parent, crashed)
    store.close()
    again = SqliteWatermarks(crashed / path.name)
    assert versions(again, A) == {A: 1}
    again.close()
    (crashed / path.name).unlink()
    (crashed / (path.name + "-wal")).write_bytes(b"left behind")
    with pytest.raises(Refused, match="journal"):
        SqliteWatermarks(crashed / path.name)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 17, 63, 64, 65, 129, 512])
def test_what_comes_together_is_written_in_few_statements(
    store: SqliteWatermarks, count: int
) -> None:
    keys = [number.to_bytes(48) for number in range(count)]
    first = [WatermarkChange(key, 0, b"first") for key in keys]
    assert store.advance(first).result(WAIT) == [True] * count
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)
    second = [WatermarkChange(key, 1, b"second") for key in keys]
    assert store.advance(second).result(WAIT) == [True] * count
    store._connection.set_trace_callback(None)
    assert versions(store, *keys) == dict.fromkeys(keys, 2)
    assert len(statements) == 2 + -(-count // 64)


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 129, 256])
@pytest.mark.parametrize("stale", ["none", "first", "middle", "last"])
def test_a_stale_change_among_many_costs_the_others_nothing(
    store: SqliteWatermarks, count: int, stale: str
) -> None:
    keys = [number.to_bytes(48, "big") for number in range(count)]
    assert all(
        store.advance([WatermarkChange(key, 0, b"first") for key in keys]).result(WAIT)
    )
    wrong = {"none": -1, "first": 0, "middle": count // 2, "last": count - 1}[stale]
    done = store.advance(
        [
            WatermarkChange(key, 2 if number == wrong else 1, b"second")
            for number, key in enumerate(keys)
        ]
    ).result(WAIT)
    assert done == [number != wrong for number in range(count)]
    for number, item in enumerate(store.read(keys).result(WAIT)):
        assert item.public_key == keys[number]
        assert (item.version, item.data) == (
            (1, b"first") if number == wrong else (2, b"second")
        )
