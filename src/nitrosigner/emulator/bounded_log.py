"""
Log files of a local stack's programs: whatever is printed, no file outgrows its bound.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

MAX_LOG: Final = 1 << 20
"""Bytes of one log file. One older file of the same size is kept beside it."""
_CHUNK: Final = 1 << 16
_LAST_WORDS: Final = 2.0
"""Seconds for what was printed to be written, when its program has ended."""


@final
class BoundedLog:
    """A file that what is written cannot make larger than `MAX_LOG`, twice."""

    def __init__(self, path: Path, limit: int = MAX_LOG) -> None:
        self._path = path
        self._limit = limit
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses the line, never the program that printed it."""
        with contextlib.suppress(OSError):
            if os.fstat(self._file).st_size + len(data) > self._limit:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                os.close(self._file)
                self._file = self._open()
            os.write(self._file, data[-self._limit :])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@contextlib.contextmanager
def printed_into(path: Path | None) -> Iterator[None]:
    """
    Have all that this process and its children print go into a bounded file.

    Args:
        path: None: nothing is changed.
    """
    if path is None:
        yield
        return
    log = BoundedLog(path)
    reading, writing = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)

    def copy() -> None:
        while data := os.read(reading, _CHUNK):
            log.write(data)

    copier = threading.Thread(target=copy, daemon=True, name="log")
    copier.start()
    try:
        yield
    finally:
        # The end of the pipe: nobody prints any more. A child that still lives would
        # keep it open, and is not waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        copier.join(_LAST_WORDS)
