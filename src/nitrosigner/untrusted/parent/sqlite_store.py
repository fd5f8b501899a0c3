"""
Sealed records in one SQLite file: the default store.

What was acknowledged is on the disk (WAL, synchronous=FULL). A file that is not whole
is never opened for writing and never replaced by an empty one: an empty store would
make the enclave begin a new deployment, and the old keys would seem lost.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from nitrosigner.untrusted.parent.record_store import (
    HEADROOM,
    check_expected,
    check_page,
    check_read,
    check_write,
    cut_page,
)
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.services import Conflict, Page, Stored, StoredRecord

APPLICATION_ID: Final = 0x6E737267  # "nsrg"
SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 5.0
"""How long a write waits for another process that writes."""
_SCHEMA: Final = f"""
CREATE TABLE records (
    collection TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    data       BLOB NOT NULL,
    PRIMARY KEY (collection, name)
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class SqliteStore:
    """
    A `RecordStore` in a file. One connection, one writer at a time.

    Two processes may use one file; SQLite's locks serialize them.
    """

    threads = 1

    def __init__(
        self,
        path: Path,
        *,
        on_permissions_mended: Callable[[], None] = lambda: None,
        busy_seconds: float = BUSY_SECONDS,
        max_pages: int = 0,
    ) -> None:
        """
        Open the store, and make it if there is none.

        Args:
            path: Of the file. Its folder is made, for the owner only.
            on_permissions_mended: Called if others could read the file.
            busy_seconds: How long to wait for another process that writes.
            max_pages: The file grows no further than so many pages; 0: no limit.

        Raises:
            Refused: The file is damaged or not ours. Nothing was changed.
            Undecided: It cannot be opened now.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                self._make()
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
                on_permissions_mended()
        except OSError as error:
            raise _unavailable("cannot be reached") from error
        self._check_whole()
        try:
            self._connection = sqlite3.connect(
                path,
                timeout=busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            if max_pages:
                self._connection.execute(f"PRAGMA max_page_count = {int(max_pages)}")
        except sqlite3.Error as error:
            raise _unavailable("cannot be opened") from error

    def get(self, collection: str, name: str) -> StoredRecord | None:
        """Return a record, or None."""
        check_read(collection, name)
        with self._reading() as connection:
            row = connection.execute(
                "SELECT version, data FROM records WHERE collection = ? AND name = ?",
                (collection, name),
            ).fetchone()
        if row is None:
            return None
        return StoredRecord(name=name, version=row[0], data=row[1])

    def page(self, collection: str, after: str, limit: int) -> Page:
        """Return a page in name order."""
        check_page(collection, after, limit)
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT name, version, data FROM records"
                " WHERE collection = ? AND name > ? ORDER BY name LIMIT ?",
                (collection, after, limit + HEADROOM),
            ).fetchall()
        records = [StoredRecord(name=a, version=b, data=c) for a, b, c in rows]
        return cut_page(records, limit)

    def put(
        self, collection: str, name: str, expected: int, data: bytes
    ) -> Stored | Conflict:
        """Write a record if its version is the expected one."""
        check_write(collection, name, expected, data)
        if expected == 0:
            statement = (
                "INSERT INTO records (data, collection, name, version)"
                " VALUES (?, ?, ?, ? + 1) ON CONFLICT DO NOTHING"
            )
        else:
            statement = (
                "UPDATE records SET data = ?, version = version + 1"
                " WHERE collection = ? AND name = ? AND version = ?"
            )
        with self._writing() as connection:
            done = connection.execute(statement, (data, collection, name, expected))
            if done.rowcount == 1:
                return Stored(version=expected + 1)
            row = connection.execute(
                "SELECT version, data FROM records WHERE collection = ? AND name = ?",
                (collection, name),
            ).fetchone()
            if row == (expected + 1, data):
                return Stored(version=expected + 1)
            return Conflict(version=row[0] if row else 0)

    def remove(self, collection: str, name: str, expected: int) -> Stored | Conflict:
        """Remove a record if its version is the expected one."""
        check_read(collection, name)
        check_expected(expected)
        with self._writing() as connection:
            done = connection.execute(
                "DELETE FROM records WHERE collection = ? AND name = ? AND version = ?",
                (collection, name, expected),
            )
            row = connection.execute(
                "SELECT version FROM records WHERE collection = ? AND name = ?",
                (collection, name),
            ).fetchone()
            if done.rowcount == 1 or (row is None and expected == 0):
                return Stored(version=0)
            return Conflict(version=row[0] if row else 0)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise _unavailable("cannot be read") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                # IMMEDIATE: take the write lock before reading, so that what a
                # conflict names is what made it one.
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise _unavailable("cannot be written") from error
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors and not after others.
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise _unavailable("cannot be rolled back") from error

    def _make(self) -> None:
        """Make the file under another name and link it in place when it is whole."""
        if self._path.with_name(self._path.name + "-wal").exists():
            raise _damaged("is gone, and its journal is not")
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            fresh.unlink(missing_ok=True)
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = sqlite3.connect(fresh, isolation_level=None)
            try:
                connection.executescript(_SCHEMA)
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            _sync(fresh)
            try:
                os.link(fresh, self._path)
            except FileExistsError:
                return  # another process was faster, and its file is as good
            _sync(self._path.parent)
        except sqlite3.Error as error:
            raise _unavailable("cannot be made") from error
        finally:
            fresh.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        if self._path.stat().st_size == 0:
            raise _damaged("is empty")
        # Read-only: a connection that may write could, on closing, copy a damaged
        # journal into the file.
        uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
            try:
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                findings = connection.execute("PRAGMA integrity_check(1)").fetchall()
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise _unavailable("cannot be opened") from error
        except sqlite3.DatabaseError as error:
            raise _damaged("is damaged") from error
        if application != APPLICATION_ID:
            raise _damaged("is not a record store")
        if version != SCHEMA_VERSION:
            raise Refused(
                Code.RECORD_UNTRUSTED,
                "the record store was written by another version of nitrosigner",
                "use that version, or restore the file that this one wrote",
            )
        if findings != [("ok",)]:
            raise _damaged("is damaged")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(what: str) -> Undecided:
    return Undecided(
        Code.STORAGE_UNAVAILABLE,
        f"the record store {what}",
        "check the disk's space and health and the file's owner",
    )


def _damaged(what: str) -> Refused:
    return Refused(
        Code.RECORD_UNTRUSTED,
        f"the record store {what}; nothing was changed",
        "restore the file and its -wal from a backup",
    )
