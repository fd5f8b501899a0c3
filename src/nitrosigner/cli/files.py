"""
Files that a person names: reading them within bounds, writing private ones safely.

A private file appears whole, with mode 0600 from its first moment, and never in place
of another.
"""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

import click

from nitrosigner.verdicts import Code, Malformed, Refused, Undecided

MAX_FILE: Final = 1 << 20
PRIVATE: Final = 0o600


def read_file(path: Path, what: str, limit: int = MAX_FILE) -> bytes:
    """
    Return what is in *path*; `-` is the standard input.

    Raises:
        Malformed: It can't be read, or is longer than *limit* bytes.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"{what} {path} {reason(error)}", "check the path"
        ) from None
    if len(data) > limit:
        raise Malformed(Code.TOO_LARGE, f"{what} {path} is longer than {limit} bytes")
    return data


def read_line(path: Path, what: str) -> str:
    """
    Return the one line of text in a secret's file, without the line's end.

    Raises:
        Malformed: It can't be read or is not one line. Never says what is in it.
    """
    data = read_file(path, what, 4096)
    warn_of_readers(path, what)
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise Malformed(Code.USAGE, f"{what} {path} is not one line of text")
    return text


def warn_of_readers(path: Path, what: str) -> None:
    """Warn if others than its owner can read the secret in *path*."""
    if str(path) == "-":
        return
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        click.echo(
            f"nitrosigner: warning: {what} {path} can be read by others: chmod 600 it",
            err=True,
        )


def write_new_private(path: Path, data: bytes) -> None:
    """
    Write *data* into a new file that only its owner may read.

    Raises:
        Refused: There is such a file already.
        Undecided: It can't be written; nothing is left of it.
    """
    write_new(path, data, PRIVATE)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """As `write_new_private`, for files that may have any *mode*."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"{path} cannot be made: it {reason(error)}", "check the path"
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            f"{path} could not be written",
            "is the disk full? nothing was left behind",
        ) from None


def demand_new(path: Path) -> None:
    """
    Make sure, before what cannot be undone, that its result may go to *path*.

    Raises:
        Malformed: There is no such folder.
        Refused: There is such a file already.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    if not path.parent.is_dir():
        raise Malformed(
            Code.USAGE, f"{path} cannot be made: there is no such folder", "make it"
        )


def _exists(path: Path) -> Refused:
    return Refused(
        Code.NOT_ALLOWED,
        f"{path} exists and is not overwritten",
        "name another file, or move that one away yourself",
    )


def reason(error: OSError) -> str:
    """Return why a file can't be used, from the error's number alone."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "does not exist"
        case errno.EACCES | errno.EPERM:
            return "may not be used by this user"
        case errno.EISDIR:
            return "is a folder"
        case errno.EROFS:
            return "is on a read-only disk"
        case _:
            return "cannot be used"
