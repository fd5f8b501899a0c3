"""
Sealed records in one SQLite file: the default store.

What was acknowledged is on the disk (WAL, synchronous=FULL). A file that is not whole
is never opened for writing and never replaced by an empty one: an empty store would
make the enclave begin a new deployment, and the old keys would seem lost.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nitrosigner.untrusted.parent.record_store import (
    HEADROOM,
    check_expected,
    check_page,
    check_read,
    check_write,
    cut_page,
)
from nitrosigner.untrusted.parent.sqlite_file import BUSY_SECONDS, SqliteFile
from nitrosigner.wire.services import Conflict, Page, Stored, StoredRecord

APPLICATION_ID: Final = 0x6E737267  # "nsrg"
SCHEMA_VERSION: Final = 1
_TABLES: Final = """
CREATE TABLE records (
    collection TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    data       BLOB NOT NULL,
    PRIMARY KEY (collection, name)
) STRICT;
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
        self._file = SqliteFile(
            path,
            what="record store",
            application_id=APPLICATION_ID,
            version=SCHEMA_VERSION,
            tables=_TABLES,
        )
        self._lock = threading.Lock()
        self._connection = self._file.open(
            on_permissions_mended=on_permissions_mended, busy_seconds=busy_seconds
        )
        if max_pages:
            self._connection.execute(f"PRAGMA max_page_count = {int(max_pages)}")

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
                raise self._file.unavailable("cannot be read") from error

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
                raise self._file.unavailable("cannot be written") from error
            finally:
                self._file.roll_back(self._connection)
