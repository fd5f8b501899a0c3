"""
Where downloads and built kernels are kept between builds.

Everything in it is named by a hash and checked when it is read, so that a stale or
altered cache makes a build slow or fail, never different.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from nitrosigner.image.build.not_built import NotBuilt


def default_cache(environment: Mapping[str, str]) -> Path:
    """Return the user's cache folder for us (XDG Base Directory Specification)."""
    base = environment.get("XDG_CACHE_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "nitrosigner"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def taken(path: Path, sha256: str) -> bool:
    """Return whether the cache holds *path* with this content; forget another one."""
    if not path.is_file():
        return False
    if sha256_of(path) == sha256:
        return True
    path.unlink()
    return False


def put(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def turn(cache: Path, what: str) -> Iterator[None]:
    """Hold *what* of the cache for this process alone; wait until it is free."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(cache / f"{what}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise NotBuilt(
            f"the cache {cache} cannot be used: {error.strerror}",
            "choose another folder with --cache",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
