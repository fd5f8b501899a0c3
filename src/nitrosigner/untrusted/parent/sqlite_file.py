"""
A store's SQLite file: made whole or not at all, checked before it is opened.

A file that is not whole is never opened for writing and never replaced by an empty one:
what was in it would seem never to have been.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from nitrosigner.verdicts import Code, Refused, Undecided

BUSY_SECONDS: Final = 5.0
"""How long a write waits for another process that writes."""


class SqliteFile:
    """One kind of store's file: its marks, its tables, and how to say what is wrong."""

    def __init__(
        self, path: Path, *, what: str, application_id: int, version: int, tables: str
    ) -> None:
        """
        Name a file.

        Args:
            path: Of the file. Its folder is made, for the owner only.
            what: Of what kind it is, for sentences: "record store".
            application_id: SQLite's mark of a file's kind, 4 bytes.
            version: Of *tables*. A file of another version is refused.
            tables: SQL that makes them.
        """
        self.path = path
        self._what = what
        self._application_id = application_id
        self._version = version
        self._tables = tables

    def open(
        self,
        *,
        on_permissions_mended: Callable[[], None] = lambda: None,
        busy_seconds: float = BUSY_SECONDS,
    ) -> sqlite3.Connection:
        """
        Return a connection that syncs what it commits (WAL, synchronous=FULL).

        A missing file is made. Transactions are begun and ended by hand.

        Args:
            on_permissions_mended: Called if others could read the file.
            busy_seconds: How long to wait for another process that writes.

        Raises:
            Refused: The file is damaged or not ours. Nothing was changed.
            Undecided: It cannot be opened now.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                self._make()
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
                on_permissions_mended()
        except OSError as error:
            raise self.unavailable("cannot be reached") from error
        self._check_whole()
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise self.unavailable("cannot be opened") from error
        return connection

    def unavailable(self, how: str) -> Undecided:
        """Return what to raise when the file *how*, e.g. "cannot be read"."""
        return Undecided(
            Code.STORAGE_UNAVAILABLE,
            f"the {self._what} {how}",
            "check the disk's space and health and the file's owner",
        )

    def roll_back(self, connection: sqlite3.Connection) -> None:
        """
        End a transaction that failed.

        Raises:
            Undecided: It cannot be ended.
        """
        # SQLite has rolled back by itself after some errors and not after others.
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self.unavailable("cannot be rolled back") from error

    def _damaged(self, how: str) -> Refused:
        return Refused(
            Code.RECORD_UNTRUSTED,
            f"the {self._what} {how}; nothing was changed",
            "restore the file and its -wal from a backup",
        )

    def _make(self) -> None:
        """Make the file under another name and link it in place when it is whole."""
        if self.path.with_name(self.path.name + "-wal").exists():
            raise self._damaged("is gone, and its journal is not")
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            fresh.unlink(missing_ok=True)
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = sqlite3.connect(fresh, isolation_level=None)
            try:
                connection.executescript(self._tables)
                connection.execute(f"PRAGMA application_id = {self._application_id}")
                connection.execute(f"PRAGMA user_version = {self._version}")
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            _sync(fresh)
            try:
                os.link(fresh, self.path)
            except FileExistsError:
                return  # another process was faster, and its file is as good
            _sync(self.path.parent)
        except sqlite3.Error as error:
            raise self.unavailable("cannot be made") from error
        finally:
            fresh.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        if self.path.stat().st_size == 0:
            raise self._damaged("is empty")
        # Read-only: a connection that may write could, on closing, copy a damaged
        # journal into the file.
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
            try:
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                findings = connection.execute("PRAGMA integrity_check(1)").fetchall()
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise self.unavailable("cannot be opened") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged("is damaged") from error
        if application != self._application_id:
            raise self._damaged(f"is not a {self._what}")
        if version != self._version:
            raise Refused(
                Code.RECORD_UNTRUSTED,
                f"the {self._what} was written by another version of nitrosigner",
                "use that version, or restore the file that this one wrote",
            )
        if findings != [("ok",)]:
            raise self._damaged("is damaged")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
