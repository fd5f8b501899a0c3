"""The default store loses nothing: not to kills, full disks or damaged files."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.services import Stored, StoredRecord

WRITER = """
import sys
from pathlib import Path
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.wire.services import Stored
store = SqliteStore(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    data = (b"%08d" % number) * 100
    assert isinstance(store.put("keys", f"k{number:08}", 0, data), Stored)
    held = store.get("state", "current")
    version = held.version if held else 0
    assert isinstance(store.put("state", "current", version, data), Stored)
    print(number, flush=True)
    number += 1
"""

FILLER = """
import resource, sys
from pathlib import Path
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.verdicts import Undecided
store = SqliteStore(Path(sys.argv[1]))
size = 400_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
written = 0
try:
    while True:
        store.put("keys", f"k{written:08}", 0, bytes(4000))
        written += 1
except Undecided as verdict:
    print(verdict.code, flush=True)
# The process lives, and reads.
for number in range(written):
    assert store.get("keys", f"k{number:08}").data == bytes(4000)
assert store.get("keys", f"k{written:08}") is None
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)) if False else None
print(written, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "store.db"


@pytest.fixture
def filled(path: Path) -> Path:
    store = SqliteStore(path)
    for number in range(200):
        store.put("keys", f"k{number:03}", 0, b"%03d" % number * 200)
    store.close()
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_every_acknowledged_write_survives_kill_9(path: Path) -> None:
    first = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(first)],
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(25):
                line = writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
        acknowledged = int((line + rest).split(b"\n")[-2])
        store = SqliteStore(path)  # checks its integrity
        for number in range(acknowledged + 1):
            record = store.get("keys", f"k{number:08}")
            assert record == StoredRecord(f"k{number:08}", 1, (b"%08d" % number) * 100)
        state = store.get("state", "current")
        assert state is not None
        # The last write may have happened without its acknowledgement; never half.
        assert int(state.data[:8]) in {acknowledged, acknowledged + 1}
        assert state.data == state.data[:8] * 100
        first = acknowledged + 2
        while store.get("keys", f"k{first - 1:08}") is None:
            store.put("keys", f"k{first - 1:08}", 0, (b"%08d" % (first - 1)) * 100)
        store.close()


def test_a_full_disk_writes_nothing_by_halves(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    code, written = done.stdout.decode().split()
    assert code == "storage_unavailable"
    assert int(written) > 10
    store = SqliteStore(path)
    assert len(store.page("keys", "", 500).records) > 10
    assert store.get("keys", f"k{int(written):08}") is None
    # With space again, the same write succeeds.
    assert store.put("keys", f"k{int(written):08}", 0, b"x") == Stored(version=1)
    store.close()


def test_a_full_store_still_reads_and_removes(path: Path) -> None:
    SqliteStore(path).close()
    store = SqliteStore(path, max_pages=40)
    count = 0
    with pytest.raises(Undecided) as caught:
        while True:
            store.put("keys", f"k{count:03}", 0, bytes(4000))
            count += 1
    assert caught.value.code is Code.STORAGE_UNAVAILABLE
    assert 5 < count < 40
    assert len(store.page("keys", "", 500).records) == count
    for number in range(4):
        store.remove("keys", f"k{number:03}", 1)
    assert store.put("keys", f"k{count:03}", 0, bytes(4000)) == Stored(version=1)
    store.close()


def flip(path: Path) -> None:
    # All pages but the first: tree and content, as a bad sector would.
    with path.open("r+b") as file:
        size = path.stat().st_size
        for offset in range(4096, size, 4096):
            file.seek(offset)
            file.write(b"\xa5" * 64)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def text(path: Path) -> None:
    path.write_text("this is no database\n" * 1000)


def header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


def of_another_program(path: Path) -> None:
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("create table notes (text)")
    other.close()


def of_a_newer_version(path: Path) -> None:
    newer = sqlite3.connect(path)
    newer.execute("pragma user_version = 2")
    newer.close()


@pytest.mark.parametrize(
    "damage",
    [flip, truncate, empty, text, header, of_another_program, of_a_newer_version],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    filled: Path, damage: object
) -> None:
    assert callable(damage)
    damage(filled)
    before = filled.read_bytes()
    with pytest.raises(Refused, match="record store"):
        SqliteStore(filled)
    assert filled.read_bytes() == before


def test_damage_beside_a_living_journal_is_not_overwritten_by_it(filled: Path) -> None:
    store = SqliteStore(filled)
    store.put("vault", "current", 0, b"sealed")
    crashed = filled.parent.parent / "crashed"
    shutil.copytree(filled.parent, crashed)  # as a kill would leave it: with its WAL
    store.close()
    assert (crashed / "store.db-wal").stat().st_size > 0
    flip(crashed / "store.db")
    before = everything(crashed)
    with pytest.raises(Refused):
        SqliteStore(crashed / "store.db")
    after = everything(crashed)
    assert after["store.db"] == before["store.db"]
    assert after["store.db-wal"] == before["store.db-wal"]


def test_a_lost_file_whose_journal_remains_is_not_replaced_by_an_empty_one(
    path: Path,
) -> None:
    store = SqliteStore(path)
    store.put("vault", "current", 0, b"sealed")
    crashed = path.parent.parent / "crashed"
    shutil.copytree(path.parent, crashed)
    store.close()
    (crashed / "store.db").unlink()
    with pytest.raises(Refused, match="journal"):
        SqliteStore(crashed / "store.db")
    assert not (crashed / "store.db").exists()


def test_a_journal_left_by_a_kill_is_taken_up(path: Path) -> None:
    store = SqliteStore(path)
    store.put("vault", "current", 0, b"sealed")
    crashed = path.parent.parent / "crashed"
    shutil.copytree(path.parent, crashed)
    store.close()
    again = SqliteStore(crashed / "store.db")
    assert again.get("vault", "current") == StoredRecord("current", 1, b"sealed")
    again.close()


def test_others_cannot_read_the_file(path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteStore(path)
        store.put("keys", "a", 0, b"x")
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_permissions_that_are_too_wide_are_mended_and_told(filled: Path) -> None:
    filled.chmod(0o644)
    told: list[bool] = []
    SqliteStore(filled, on_permissions_mended=lambda: told.append(True)).close()
    assert filled.stat().st_mode & 0o777 == 0o600
    assert told == [True]
    SqliteStore(filled, on_permissions_mended=lambda: told.append(False)).close()
    assert told == [True]


def test_a_writer_that_does_not_end_makes_others_undecided(filled: Path) -> None:
    store = SqliteStore(filled, busy_seconds=0.05)
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(Undecided) as caught:
        store.put("keys", "new", 0, b"x")
    assert caught.value.code is Code.STORAGE_UNAVAILABLE
    assert store.get("keys", "k000") is not None  # readers are not kept waiting
    other.execute("rollback")
    other.close()
    assert store.put("keys", "new", 0, b"x") == Stored(version=1)
    store.close()


def test_writes_are_synced_before_they_are_acknowledged(path: Path) -> None:
    store = SqliteStore(path)
    assert store._connection.execute("pragma synchronous").fetchone() == (2,)
    assert store._connection.execute("pragma journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_folder_that_is_a_file_is_undecided(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Undecided):
        SqliteStore(tmp_path / "file" / "store.db")


def test_making_the_file_leaves_nothing_else_behind(path: Path) -> None:
    SqliteStore(path).close()
    assert {one.name for one in path.parent.iterdir()} <= {
        "store.db",
        "store.db-wal",
        "store.db-shm",
    }
