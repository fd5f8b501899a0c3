"""
The distributions that `contents.toml` lists, from wheels that are locked by hash.

pip only fetches: nothing is installed and no code of a wheel runs. Of each wheel the
entries that `contents.toml` names ship, and nothing else: no scripts, no metadata.
"""

import hashlib
import io
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from nitrosigner.image import contents
from nitrosigner.image.build.cache_folder import put, taken
from nitrosigner.image.build.commands import run
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt

LOCK: Final = Path(__file__).with_name("wheels.toml")
_UNWANTED: Final = (".pyi", ".pyx", ".pxd", ".c", ".h", ".typed", ".a")


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One wheel's file."""

    name: str
    version: str
    file: str
    sha256: str


class WheelLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wheels.toml`."""

    wheels: list[Wheel]


def lock_file(machine: Machine) -> Path:
    """Return where the lock of *machine* lies."""
    return LOCK.with_name(machine.file(LOCK.name))


def locked(machine: Machine = X86_64) -> list[Wheel]:
    """
    Return the locked wheels.

    Raises:
        NotBuilt: They are not those that `contents.toml` lists.
    """
    text = lock_file(machine).read_text(encoding="utf-8")
    lock = msgspec.convert(tomllib.loads(text), WheelLock)
    wanted = {(one.name, one.version) for one in contents.declared().distributions}
    if {(wheel.name, wheel.version) for wheel in lock.wheels} != wanted:
        raise NotBuilt(
            f"{lock_file(machine).name} and contents.toml list different distributions",
            "make lock-image writes it anew",
        )
    return lock.wheels


def fetch(wheel: Wheel, cache: Path, machine: Machine = X86_64) -> Path:
    """
    Return where *wheel* lies in the cache, fetched if need be.

    Raises:
        NotBuilt: It cannot be had, or it is not what was locked.
    """
    kept = cache / "wheels" / f"{wheel.sha256}.whl"
    if taken(kept, wheel.sha256):
        return kept
    with tempfile.TemporaryDirectory() as temporary:
        lock = Path(temporary, "requirements.txt")
        lock.write_text(
            f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n",
            encoding="ascii",
        )
        download(
            ["--require-hashes", "--requirement", str(lock)],
            Path(temporary, "wheels"),
            f"{wheel.name} {wheel.version}",
            machine,
        )
        (found,) = Path(temporary, "wheels").iterdir()
        put(kept, found.read_bytes())
    if not taken(kept, wheel.sha256):
        raise NotBuilt(f"{wheel.file} is not the file that was locked")
    return kept


def download(
    what: list[str], destination: Path, name: str, machine: Machine = X86_64
) -> None:
    """Let pip fetch one distribution's wheel for the image's Python."""
    words = ["--python-version", "3.11", "--implementation", "cp"]
    for abi in ("cp311", "abi3", "none"):
        words += ["--abi", abi]
    for platform in machine.wheels:
        words += ["--platform", platform]
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet"),
            *("--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"),
            *(*words, "--dest", str(destination), *what),
        ],
        what=f"fetching the wheel of {name}",
        hint="is the package index that pip uses here reachable?",
    )


def shipped_of_wheels(cache: Path, machine: Machine = X86_64) -> Mapping[str, bytes]:
    """
    Return the files of all distributions that ship, by path in site-packages.

    Raises:
        NotBuilt: A wheel cannot be had or lacks an entry.
    """
    shipped: dict[str, bytes] = {}
    entries = {one.name: one.entries for one in contents.declared().distributions}
    for wheel in locked(machine):
        data = fetch(wheel, cache, machine).read_bytes()
        if hashlib.sha256(data).hexdigest() != wheel.sha256:
            raise NotBuilt(f"{wheel.file} changed while it was read")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            for entry in entries[wheel.name]:
                matching = [
                    name
                    for name in names
                    if PurePosixPath(name).parts[0].partition(".")[0] == entry
                    and not PurePosixPath(name)
                    .parts[0]
                    .endswith((".dist-info", ".libs", ".data"))
                ]
                if not matching:
                    raise NotBuilt(f"the wheel {wheel.file} has no entry {entry}")
                for name in matching:
                    if not name.endswith(_UNWANTED):
                        shipped[name] = archive.read(name)
    return shipped
