"""
Where slashing watermarks lie: the port, with its duties.

This store's conditional write is what keeps two signers from both signing. It is not
trusted to be honest, for each item carries the enclave's MAC over its validator and
version; what it does owe is that of all who saw one version, one at most is ever told
that it wrote the next, and that what was told survives. A store that cannot be sure
says so by failing: an unwritten vote costs little, two votes cost a validator.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import services
from nitrosigner.wire.services import StoredWatermark, WatermarkChange, WatermarkPage


class WatermarkStore(Protocol):
    """
    One item for each validator, with a version from 1 that only grows by 1.

    Calls return at once; the work goes on in the store's own threads, several calls
    together where that is cheaper. They may come from any thread.

    Consistency: each change of `advance` is atomic and conditional on the stored
    version, between processes and, for a remote store, between hosts. Of the changes
    that expect one version of one validator, at most one is ever reported as written,
    the same change repeated included. `read` shows every change that was reported as
    written before it was called.

    Durability: what was reported as written survives a kill, and a power cut as far as
    the medium keeps its promises. Nothing is ever removed: a key that is deleted keeps
    its watermark.

    A call's future may hold `Malformed` (no store could hold this, nothing was
    written), or `Undecided` (storage_unavailable): then each change may have been
    written, or be written yet, or not, but never halfway.
    """

    def read(self, public_keys: Sequence[bytes]) -> Future[list[StoredWatermark]]:
        """Return the items of these validators, each named once; absent: left out."""
        ...

    def page(self, after: bytes | None, limit: int) -> Future[WatermarkPage]:
        """
        Return up to *limit* items after that of *after*, in the store's own order.

        An item that was there before the first page is on exactly one of them. A page
        that says that more follow has at least one item.
        """
        ...

    def advance(self, changes: Sequence[WatermarkChange]) -> Future[list[bool]]:
        """Write each change whose version is the stored one; say for each if it was."""
        ...

    def close(self) -> None:
        """Let go of files and connections. What has not begun is undecided."""
        ...


def check_read(public_keys: Sequence[bytes]) -> None:
    """Raise `Malformed` if no store could be asked this."""
    _check_keys(public_keys)


def check_page(after: bytes | None, limit: int) -> None:
    """Raise `Malformed` if no store could be asked this."""
    if after is not None:
        _check_keys([after])
    if not 1 <= limit <= services.MAX_WATERMARKS:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a page has 1 to {services.MAX_WATERMARKS} watermarks",
        )


def check_advance(changes: Sequence[WatermarkChange]) -> None:
    """Raise `Malformed` if no store could hold this."""
    _check_keys([change.public_key for change in changes])
    versions = [change.expected for change in changes]
    if min(versions) < 0 or max(versions) >= services.MAX_VERSION:
        raise Malformed(Code.MALFORMED_REQUEST, "a version is 0 or more")
    sizes = [len(change.data) for change in changes]
    if min(sizes) < 1 or max(sizes) > services.MAX_WATERMARK:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a watermark has 1 to {services.MAX_WATERMARK} bytes",
        )


def _check_keys(public_keys: Sequence[bytes]) -> None:
    if not 1 <= len(public_keys) <= services.MAX_WATERMARKS:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a question names 1 to {services.MAX_WATERMARKS} validators",
        )
    if len(set(public_keys)) != len(public_keys):
        raise Malformed(Code.MALFORMED_REQUEST, "a validator is named twice")
    if set(map(len, public_keys)) != {services.PUBLIC_KEY_SIZE}:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a validator's public key has {services.PUBLIC_KEY_SIZE} bytes",
        )
