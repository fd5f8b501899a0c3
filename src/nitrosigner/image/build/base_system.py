"""
The first ramdisk: the C library, OpenSSL and the Python interpreter, from Debian.

`debian_packages.toml` names each package with its hash and each file of it that ships.
Python's standard library is cut down to what the program can import (see
`standard_library`). No shell, no package manager, no other program.
"""

import io
import stat
import tarfile
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from nitrosigner.image.build.commands import run
from nitrosigner.image.build.debian_archive import DebianArchive, Package
from nitrosigner.image.build.file_tree import FileTree
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt

LOCK: Final = Path(__file__).with_name("debian_packages.toml")
_MERGED: Final = ("bin", "lib", "lib64", "sbin")
"""Folders that are links into /usr on Debian; packages still name them directly."""


class ShippedPackage(Package, frozen=True, forbid_unknown_fields=True):
    """A locked package and what of it ships, as paths or patterns."""

    ships: list[str]
    why: str

    @property
    def package(self) -> Package:
        """What is locked, alone."""
        return Package(self.name, self.version, self.sha256)


class DebianLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`debian_packages.toml`."""

    release: str
    packages: list[ShippedPackage]


def locked(machine: Machine = X86_64) -> DebianLock:
    """Return what the lock of *machine* says."""
    path = lock_file(machine)
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), DebianLock)


def lock_file(machine: Machine) -> Path:
    """Return where the lock of *machine* lies."""
    return LOCK.with_name(machine.file(LOCK.name))


def shipped_of_debian(lock: DebianLock, archive: DebianArchive) -> FileTree:
    """
    Return everything that ships of Debian's packages, the whole standard library too.

    Raises:
        NotBuilt: A package cannot be had, or has not what the lock says.
    """
    tree = FileTree()
    for package in lock.packages:
        unpacked = unpack(archive.fetch(package.package))
        for pattern in package.ships:
            matching = [
                path for path in unpacked if PurePosixPath(path).match(pattern)
            ] or [path for path in unpacked if path.startswith(f"{pattern}/")]
            if not matching:
                raise NotBuilt(
                    f"the package {package.name} has nothing like {pattern}",
                    f"mend {LOCK.name}",
                )
            for path in matching:
                kind, data = unpacked[path]
                if kind == stat.S_IFLNK:
                    tree.add_link(path, data.decode())
                else:
                    executable = path.startswith("usr/bin/") or ".so" in path
                    tree.add_file(path, data, executable=executable)
    return tree


def unpack(package: Path) -> Mapping[str, tuple[int, bytes]]:
    """
    Return the files and links of a .deb: kind (`stat.S_IF…`) and content or target.

    No script of the package runs.
    """
    raw = run(["dpkg-deb", "--fsys-tarfile", str(package)], what="unpacking a package")
    found: dict[str, tuple[int, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        for member in tar:
            path = _merged(member.name.removeprefix("./"))
            if member.issym():
                found[path] = (stat.S_IFLNK, member.linkname.encode())
            elif member.isfile() or member.islnk():
                content = tar.extractfile(member)
                found[path] = (stat.S_IFREG, content.read() if content else b"")
    return found


def _merged(path: str) -> str:
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path


def add_root_folders(tree: FileTree) -> None:
    """Add what every root file system has: mount points, links into /usr, a console."""
    for name in ("dev", "proc", "sys", "run"):
        tree.add_folder(name)
    tree.add_folder("tmp", 0o1777)
    for name in ("lib", "lib64"):
        tree.add_link(name, f"usr/{name}")
    # The kernel opens it for the init before anything is mounted.
    tree.add_device("dev/console", 5, 1)
