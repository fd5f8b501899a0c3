"""
Slashing watermarks in one SQLite file of their own: the default store.

One thread writes. Whatever waits when it comes round is written in one transaction and
made durable by one sync (WAL, synchronous=FULL); only then is anybody told. So the cost
of the disk is shared by all who wait, and nobody is told of a write that a power cut
could take back.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, TypeVar

from nitrosigner.untrusted.parent.sqlite_file import SqliteFile
from nitrosigner.untrusted.parent.watermark_store import (
    check_advance,
    check_page,
    check_read,
)
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.services import StoredWatermark, WatermarkChange, WatermarkPage

APPLICATION_ID: Final = 0x6E737277  # "nsrw"
SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 2.0
"""How long a write waits for another process that writes. The enclave waits longer."""
MAX_GROUP: Final = 4096
"""Changes after which a transaction takes no further requests."""
PAGE_SIZE: Final = 1024
"""Bytes. A write costs the journal whole pages, and a watermark has some 350 bytes. A
file that was made with another size keeps it."""
CACHE: Final = 32 * 1024
"""KiB of pages that are kept: the store of 20,000 validators has a third of it."""
JOURNAL: Final = 8192
"""Pages of journal that are gathered before they are written into the file."""
_TABLES: Final = f"""
PRAGMA page_size = {PAGE_SIZE};
CREATE TABLE watermarks (
    public_key BLOB NOT NULL PRIMARY KEY CHECK (length(public_key) = 48),
    version    INTEGER NOT NULL CHECK (version > 0),
    data       BLOB NOT NULL CHECK (length(data) BETWEEN 1 AND 1024)
) STRICT;
"""
# With a rowid: validators that were registered together lie together, and those attest
# together. Ordered by their keys, each would cost the journal a page of its own.
_READ: Final = "SELECT version, data FROM watermarks WHERE public_key = ?"
_PAGE: Final = (
    "SELECT public_key, version, data FROM watermarks WHERE public_key > ?"
    " ORDER BY public_key LIMIT ?"
)
_FIRST: Final = (
    "INSERT INTO watermarks (public_key, version, data) VALUES (?, 1, ?)"
    " ON CONFLICT DO NOTHING"
)
_NEXT: Final = (
    "UPDATE watermarks SET version = version + 1, data = ?"
    " WHERE public_key = ? AND version = ?"
)
# Several in one statement: SQLite's module lets go of the interpreter for each, and
# whatever runs meanwhile has to be asked to give it back.
_SEVERAL: Final = (1, 4, 16, 64)
"""Places for changes in one statement, so that few statements have to be prepared."""
_NO_CHANGE: Final = (None, None, None)
"""Fills a place that is left over: no public key equals NULL."""
_NEXT_OF: Final = {
    # Nothing but question marks is put into it.
    count: "UPDATE watermarks SET version = watermarks.version + 1, data = column2"  # noqa: S608
    f" FROM (VALUES {', '.join(['(?, ?, ?)'] * count)})"
    " WHERE public_key = column1 AND watermarks.version = column3"
    for count in _SEVERAL
}


class _Reading(NamedTuple):
    public_keys: Sequence[bytes]
    answer: Future[list[StoredWatermark]]


class _Listing(NamedTuple):
    after: bytes
    limit: int
    answer: Future[WatermarkPage]


class _Writing(NamedTuple):
    changes: Sequence[WatermarkChange]
    answer: Future[list[bool]]


_Request = _Reading | _Listing | _Writing
_Group = TypeVar("_Group", _Reading, _Listing, _Writing)


class SqliteWatermarks:
    """
    A `WatermarkStore` in a file.

    Several processes may use one file; SQLite's locks serialize them.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_permissions_mended: Callable[[], None] = lambda: None,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """
        Open the store, and make it if there is none.

        Args:
            path: Of the file, which is this store's alone.
            on_permissions_mended: Called if others could read the file.
            busy_seconds: How long to wait for another process that writes.

        Raises:
            Refused: The file is damaged or not ours. Nothing was changed.
            Undecided: It cannot be opened now.
        """
        self._file = SqliteFile(
            path,
            what="watermark store",
            application_id=APPLICATION_ID,
            version=SCHEMA_VERSION,
            tables=_TABLES,
        )
        self._connection = self._file.open(
            on_permissions_mended=on_permissions_mended, busy_seconds=busy_seconds
        )
        self._paths = (str(path), f"{path}-wal")
        self._opened: tuple[tuple[int, int], ...] = ()
        try:
            self._connection.execute(f"PRAGMA cache_size = {-CACHE}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {JOURNAL}")
            # The first read makes the journal, if there was none.
            self._connection.execute(_READ, (b"",)).fetchone()
            self._opened = self._on_disk()
        except (sqlite3.Error, OSError) as error:
            self._connection.close()
            raise self._file.unavailable("cannot be read") from error
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._work, name="watermarks", daemon=True
        )
        self._thread.start()

    def read(self, public_keys: Sequence[bytes]) -> Future[list[StoredWatermark]]:
        """Return the items of these validators; absent ones are left out."""
        answer: Future[list[StoredWatermark]] = Future()
        try:
            check_read(public_keys)
            self._put(_Reading(public_keys, answer))
        except Verdict as verdict:
            answer.set_exception(verdict)
        return answer

    def page(self, after: bytes | None, limit: int) -> Future[WatermarkPage]:
        """Return up to *limit* items after that of *after*."""
        answer: Future[WatermarkPage] = Future()
        try:
            check_page(after, limit)
            self._put(_Listing(after or b"", limit, answer))
        except Verdict as verdict:
            answer.set_exception(verdict)
        return answer

    def advance(self, changes: Sequence[WatermarkChange]) -> Future[list[bool]]:
        """Write each change whose version is the stored one; say for each if it was."""
        answer: Future[list[bool]] = Future()
        try:
            check_advance(changes)
            self._put(_Writing(changes, answer))
        except Verdict as verdict:
            answer.set_exception(verdict)
        return answer

    def close(self) -> None:
        """Finish what is asked already, and close the file."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, request: _Request) -> None:
        with self._closing:
            if self._closed:
                raise self._file.unavailable("is closed")
            self._queue.put(request)

    # --- in the thread ---

    def _work(self) -> None:
        more = True
        while more:
            group, more = self._take()
            readings = [one for one in group if isinstance(one, _Reading)]
            writings = [one for one in group if isinstance(one, _Writing)]
            for one in group:
                if isinstance(one, _Listing):
                    self._answer_or_fail(self._list, [one])
            if readings:
                self._answer_or_fail(self._read_group, readings)
            if writings:
                self._answer_or_fail(self._write_group, writings)
        self._connection.close()

    def _take(self) -> tuple[list[_Request], bool]:
        """Wait for a request; return it with all that wait behind it."""
        group: list[_Request] = []
        size = 0
        one = self._queue.get()
        while one is not None:
            # A request whose asker has gone is not carried out.
            if one.answer.set_running_or_notify_cancel():
                group.append(one)
                size += len(one.changes) if isinstance(one, _Writing) else 0
            if size >= MAX_GROUP:
                return group, True
            try:
                one = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _answer_or_fail(
        self,
        carry_out: Callable[[list[_Group]], None],
        group: list[_Group],
    ) -> None:
        try:
            carry_out(group)
        except Exception as error:  # noqa: BLE001 - whoever waits for it raises it
            # This thread must not end: everybody would wait for ever.
            for one in group:
                if not one.answer.done():
                    one.answer.set_exception(error)

    def _read_group(self, group: list[_Reading]) -> None:
        execute = self._connection.execute
        found: list[list[StoredWatermark]] = []
        try:
            execute("BEGIN")
            for one in group:
                items = []
                for key in one.public_keys:
                    row = execute(_READ, (key,)).fetchone()
                    if row is not None:
                        items.append(StoredWatermark(key, row[0], row[1]))
                found.append(items)
            execute("COMMIT")
        except sqlite3.Error as error:
            raise self._file.unavailable("cannot be read") from error
        finally:
            self._file.roll_back(self._connection)
        self._check_in_place()
        for one, items in zip(group, found, strict=True):
            one.answer.set_result(items)

    def _list(self, group: list[_Listing]) -> None:
        (one,) = group
        try:
            # In one statement, which sees one state of the file. One row more: is
            # there another?
            rows = self._connection.execute(
                _PAGE, (one.after, one.limit + 1)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._file.unavailable("cannot be read") from error
        self._check_in_place()
        items = [StoredWatermark(*row) for row in rows[: one.limit]]
        one.answer.set_result(WatermarkPage(items, more=len(rows) > one.limit))

    def _write_group(self, group: list[_Writing]) -> None:
        outcomes = self._written_whole(group) or self._written_singly(group)
        self._check_in_place()
        for one, written in zip(group, outcomes, strict=True):
            one.answer.set_result(written)

    def _written_whole(self, group: list[_Writing]) -> list[list[bool]] | None:
        """
        Write everything in few statements, if every condition holds.

        Returns:
            None: one does not hold, or a validator is new, or named twice. Nothing was
            written.
        """
        every = [change for one in group for change in one.changes]
        if not all(change.expected for change in every):
            return None
        if len({change.public_key for change in every}) < len(every):
            return None
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for at in range(0, len(every), _SEVERAL[-1]):
                part = every[at : at + _SEVERAL[-1]]
                places = next(count for count in _SEVERAL if count >= len(part))
                values: list[bytes | int | None] = []
                for change in part:
                    values += (change.public_key, change.data, change.expected)
                values += _NO_CHANGE * (places - len(part))
                if execute(_NEXT_OF[places], values).rowcount != len(part):
                    return None  # rolled back below
            execute("COMMIT")
        except sqlite3.Error as error:
            raise self._file.unavailable("cannot be written") from error
        finally:
            self._file.roll_back(self._connection)
        return [[True] * len(one.changes) for one in group]

    def _written_singly(self, group: list[_Writing]) -> list[list[bool]]:
        """Write each change whose condition holds; say for each whether it did."""
        execute = self._connection.execute
        outcomes: list[list[bool]] = []
        try:
            # IMMEDIATE: the write lock first, so that no condition changes meanwhile.
            execute("BEGIN IMMEDIATE")
            for one in group:
                written = []
                for change in one.changes:
                    key, expected, data = (
                        change.public_key,
                        change.expected,
                        change.data,
                    )
                    if expected:
                        done = execute(_NEXT, (data, key, expected))
                    else:
                        done = execute(_FIRST, (key, data))
                    written.append(done.rowcount == 1)
                outcomes.append(written)
            execute("COMMIT")
        except sqlite3.Error as error:
            raise self._file.unavailable("cannot be written") from error
        finally:
            self._file.roll_back(self._connection)
        return outcomes

    def _check_in_place(self) -> None:
        """
        Raise `Undecided` if what we write is no longer what a restart would read.

        Who deletes or replaces the file or its journal while we hold it would
        otherwise be told of writes that nobody finds again.
        """
        try:
            in_place = self._on_disk() == self._opened
        except OSError:
            in_place = False
        if not in_place:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "the watermark store's file was moved, replaced or deleted",
                "stop the parent and put the file and its -wal back: a copy of an"
                " earlier day would let validators sign twice",
            )

    def _on_disk(self) -> tuple[tuple[int, int], ...]:
        found = [os.stat(path) for path in self._paths]  # noqa: PTH116 - after each write
        return tuple((one.st_dev, one.st_ino) for one in found)
