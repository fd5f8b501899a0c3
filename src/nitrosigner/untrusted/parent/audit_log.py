"""
The enclave's audit events, as JSON lines in a file that only grows.

An acknowledged batch is on the disk. A batch that could not be written whole is cut off
again, so that a reader never meets half a line; a line that a power cut left torn was
never acknowledged and is cut off at the next start. Whole lines are never lost.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nitrosigner.verdicts import Code, Refused, Undecided

_TAIL: Final = 64 * 1024
"""Bytes looked at from the end at a time, when searching for the last line feed."""


class AuditLog:
    """One writer: the file is locked while it is open."""

    def __init__(
        self,
        path: Path,
        *,
        rotate_bytes: int = 0,
        on_repaired: Callable[[int], None] = lambda _: None,
        on_rotated: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Open the log, and make it if there is none.

        Args:
            path: Of the file. Full ones are renamed to `path.000001` and so on.
            rotate_bytes: Size after which a file is full; 0: never.
            on_repaired: Told how many bytes of a torn line were cut off.
            on_rotated: Told when a file was full.

        Raises:
            Refused: Another process writes to it.
            Undecided: It cannot be opened.
        """
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._on_rotated = on_rotated
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._open()
            try:
                torn = self._mend()
            except BaseException:
                os.close(self._file)
                raise
        except OSError as error:
            raise _unavailable("cannot be opened") from error
        if torn:
            on_repaired(torn)

    def append(self, events: list[bytes]) -> None:
        """
        Write *events*, each a JSON line without its line feed, durably.

        Raises:
            Undecided: Nothing was written.
        """
        if not events:
            return
        with self._lock:
            try:
                self._rotate_if_full()
                self._write(b"\n".join(events) + b"\n")
            except OSError as error:
                raise _unavailable("cannot be written") from error

    def close(self) -> None:
        """Close and unlock the file."""
        with self._lock:
            os.close(self._file)

    def _write(self, lines: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(lines):
                # On the disk when it returns: see O_DSYNC in `_open`.
                written += os.write(self._file, lines[written:])
        except OSError:
            # Cutting off needs no space. If it fails too, the next start cuts.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def _open(self) -> int:
        # O_DSYNC: each write is a write and its fdatasync in one call, for which a busy
        # process has to wait for the interpreter once instead of twice.
        file = os.open(
            self._path,
            os.O_RDWR
            | os.O_APPEND
            | os.O_DSYNC
            | os.O_CREAT
            | os.O_CLOEXEC
            | os.O_NOFOLLOW,
            0o600,
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(file, 0o600)
            _sync_folder(self._path.parent)
        except BlockingIOError:
            os.close(file)
            raise Refused(
                Code.AUDIT_UNAVAILABLE,
                "another process writes to the audit log",
                "stop the other parent, or give this one another file",
            ) from None
        except BaseException:
            os.close(file)
            raise
        return file

    def _mend(self) -> int:
        """Cut off a torn last line and return its size. A whole one gets its end."""
        size = os.fstat(self._file).st_size
        tail = b""
        start = size
        while start > 0 and b"\n" not in tail:
            step = min(_TAIL, start)
            start -= step
            tail = os.pread(self._file, step, start) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return 0
        try:
            json.loads(torn)
        except ValueError:
            os.ftruncate(self._file, size - len(torn))
            os.fdatasync(self._file)
            return len(torn)
        os.write(self._file, b"\n")
        return 0

    def _rotate_if_full(self) -> None:
        if not self._rotate_bytes:
            return
        if os.fstat(self._file).st_size < self._rotate_bytes:
            return
        taken = [
            int(one.suffix[1:])
            for one in self._path.parent.glob(f"{self._path.name}.*")
            if one.suffix[1:].isdecimal()
        ]
        full = self._path.with_name(f"{self._path.name}.{max(taken, default=0) + 1:06}")
        self._path.rename(full)
        fresh = self._open()
        os.close(self._file)
        self._file = fresh
        self._on_rotated()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(what: str) -> Undecided:
    return Undecided(
        Code.AUDIT_UNAVAILABLE,
        f"the audit log {what}",
        "check the disk's space and health and the file's owner",
    )
