"""
Where sealed records lie: the port, with its duties.

A store is not trusted. It may lose, replay and withhold; the enclave notices what can
be noticed (records are sealed with their identity and version). What a store does owe
is the conditional write: of two writers that saw the same version one wins, and the
other is told so. That holds between processes and, for a remote store, between hosts.
"""

from typing import Final, Protocol

from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import services
from nitrosigner.wire.services import Conflict, Page, Stored, StoredRecord


class RecordStore(Protocol):
    """
    Records under (collection, name), each with a version from 1 that only grows by 1.

    Calls block; up to `threads` of them may run at once, from any thread.

    Consistency: `put` and `remove` are atomic and conditional on the stored version.
    A `get` after an acknowledged write sees it. `page` may lag behind in a remote
    store: a record that was just written can be absent from it, so a reader who misses
    a record asks `get` before believing that it doesn't exist.

    Durability: what was acknowledged survives a kill, and a power cut as far as the
    medium keeps its promises.

    Every call raises `Malformed` for what no store could hold, and `Undecided`
    (storage_unavailable) when it could not find out or not write. After an
    `Undecided` the write may have happened; nothing is ever half-written.
    """

    threads: int

    def get(self, collection: str, name: str) -> StoredRecord | None:
        """Return a record, or None if there is none."""
        ...

    def page(self, collection: str, after: str, limit: int) -> Page:
        """
        Return records in the order of their names' bytes, from the first after *after*.

        At most *limit*, and at most `MAX_PAGE_BYTES` of data; at least one if there is
        one.
        """
        ...

    def put(
        self, collection: str, name: str, expected: int, data: bytes
    ) -> Stored | Conflict:
        """
        Write *data* as version *expected* + 1 if the stored one is *expected*.

        The same write repeated, because an answer got lost, is `Stored` again: sealed
        records are never equal by chance.
        """
        ...

    def remove(self, collection: str, name: str, expected: int) -> Stored | Conflict:
        """
        Remove a record if its version is *expected*; the name is free again.

        Removing what is absent with *expected* 0 is `Stored(0)`.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. Nothing acknowledged is lost without it."""
        ...


HEADROOM: Final = 1
"""Records a page asks for beyond its limit, to know whether another page follows."""


def check_read(collection: str, name: str) -> None:
    """Raise `Malformed` if no store could hold a record of this name."""
    services.check_collection(collection)
    services.check_name(name)


def check_page(collection: str, after: str, limit: int) -> None:
    """Raise `Malformed` if there can be no such page."""
    services.check_collection(collection)
    if after:
        services.check_name(after)
    if not 1 <= limit <= services.MAX_PAGE:
        raise Malformed(
            Code.MALFORMED_REQUEST, f"a page has 1 to {services.MAX_PAGE} records"
        )


def check_write(collection: str, name: str, expected: int, data: bytes) -> None:
    """Raise `Malformed` if no store could hold this."""
    check_read(collection, name)
    check_expected(expected)
    if not 1 <= len(data) <= services.MAX_RECORD:
        raise Malformed(
            Code.MALFORMED_REQUEST, f"a record has 1 to {services.MAX_RECORD} bytes"
        )


def check_expected(expected: int) -> None:
    """Raise `Malformed` if no record can have this version."""
    if not 0 <= expected < services.MAX_VERSION:
        raise Malformed(Code.MALFORMED_REQUEST, "a version is 0 or more")


def cut_page(records: list[StoredRecord], limit: int) -> Page:
    """Return the first of *records* that fit in one page; *records* are in order."""
    size = 0
    for count, record in enumerate(records[:limit]):
        size += len(record.data)
        if count and size > services.MAX_PAGE_BYTES:
            return Page(records=records[:count], more=True)
    return Page(records=records[:limit], more=len(records) > limit)
