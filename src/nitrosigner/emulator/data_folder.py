"""
A local stack's folder: where its files lie, and how they are written.

A crash at any moment leaves each file whole or absent, and nothing that exists is
ever overwritten by a first run: keys are sealed under what lies here, and a second
administrator's key or KMS root key would lock them out for good.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.verdicts import Code, Refused

_LOCK: Final = "lock"
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The layout. *path* is absolute."""

    path: Path

    @property
    def administrator_key(self) -> Path:
        """Ed25519, PEM, PKCS 8."""
        return self.path / "administrator" / "key.pem"

    @property
    def manifest(self) -> Path:
        """The signed manifest."""
        return self.path / "manifest.json"

    @property
    def manifest_payload(self) -> Path:
        """What was signed, to be read and edited."""
        return self.path / "manifest.payload.json"

    @property
    def clients(self) -> Path:
        """One folder for each client: cert.pem, key.pem, token."""
        return self.path / "clients"

    @property
    def ca(self) -> Path:
        """The enclave's certificate authority, for those who connect."""
        return self.path / "ca.pem"

    @property
    def emulator(self) -> Path:
        """The emulated Nitro PKI and what was measured."""
        return self.path / "emulator"

    @property
    def emulated_root(self) -> Path:
        """The root certificate that stands where AWS's stands in production."""
        return self.emulator / "root.pem"

    @property
    def measured(self) -> Path:
        """The emulated PCR0s that the key policy admits, newest first, one a line."""
        return self.emulator / "measured"

    @property
    def kms(self) -> Path:
        """The emulated KMS's own folder."""
        return self.path / "kms"

    @property
    def kms_key(self) -> Path:
        """The ARN of the deployment's KMS key."""
        return self.path / "emulator" / "kms-key-arn"

    @property
    def parent(self) -> Path:
        """What lies on the parent instance: the store, the audit log, the state."""
        return self.path / "parent"

    @property
    def logs(self) -> Path:
        """One log for each program."""
        return self.path / "logs"

    @property
    def stack(self) -> Path:
        """What the ready line said."""
        return self.path / "stack.json"


def is_ours(folder: DataFolder) -> bool:
    """Return whether nothing but a local stack's files lie in an existing folder."""
    names = {path.name for path in folder.path.iterdir()}
    return _LOCK in names or names <= {folder.logs.name}


def make_private(folder: Path) -> None:
    """Make *folder*, for its owner only; an existing one is closed to others."""
    # Path.mkdir gives its mode to the last folder only, not to those above it.
    missing = [parent for parent in folder.parents if not parent.exists()]
    for parent in (*reversed(missing), folder):
        parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)


def write_new(path: Path, data: bytes) -> bool:
    """
    Write *data* durably if there is no such file; return whether there was none.

    The file appears whole or not at all, readable by its owner only.
    """
    temporary = _written_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Write *data* durably in place of what *path* held; never half of it."""
    temporary = _written_beside(path, data)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    _sync_folder(path.parent)


def new_folder(path: Path, files: dict[str, bytes]) -> bool:
    """Make the folder *path* with all of *files* in it, unless it exists."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    make_private(temporary)
    for name, data in files.items():
        write_new(temporary / name, data)
    try:
        # Fails if a folder that is not empty appeared meanwhile.
        temporary.rename(path)
    except OSError:
        for name in files:
            (temporary / name).unlink()
        temporary.rmdir()
        return False
    _sync_folder(path.parent)
    return True


def _written_beside(path: Path, data: bytes) -> Path:
    if not path.parent.exists():
        make_private(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: DataFolder) -> Iterator[None]:
    """
    Hold the folder for one local stack. The kernel lets go when the process ends.

    Raises:
        Refused: Another local stack runs on it.
    """
    path = folder.path / _LOCK
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 16, 0).decode("ascii", "replace").strip()
            raise Refused(
                Code.NOT_ALLOWED,
                f"another local stack runs on {folder.path} (process {holder})",
                f"stop it with: kill {holder}; or choose another folder with --data",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
