"""
Programs as archives that run where nothing else is installed: no Docker, no pip there.

An archive holds our own packages and the wheels that a lock file names, each checked
against its hash by pip, unpacked for the machine that will run them. The same inputs
give the same bytes, so an unchanged program changes no template.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nitrosigner.infrastructure.settings import Architecture
from nitrosigner.verdicts import Code, Undecided

PACKAGE: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = PACKAGE.parents[1]
_LOCKS: Final = PROJECT / "requirements"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can name."""
_MACHINES: Final = {Architecture.X86_64: "x86_64", Architecture.ARM64: "aarch64"}
_PLATFORMS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
"""Lambda and Amazon Linux 2023 have glibc 2.34."""


@dataclass(frozen=True, slots=True)
class Program:
    """One thing that is shipped."""

    name: str
    ours: Sequence[str]
    """Files and folders of the package `nitrosigner`."""
    lock: str
    """In requirements/: hash-locked wheels."""
    python: str
    """The version that runs it."""


GATEWAY: Final = Program(
    name="gateway",
    ours=(
        "__init__.py",
        "verdicts.py",
        "attestation",
        "client",
        # The canary judges the policy in force as the linter did before.
        "image/__init__.py",
        "image/key_policy_lint.py",
        "image/policy_document.py",
        "image/policy_evaluation.py",
        "image/policy_lint",
        "untrusted/__init__.py",
        "untrusted/gateway",
        "wire",
    ),
    lock="gateway.txt",
    python="3.13",
)
PARENT: Final = Program(
    name="parent",
    ours=(
        "__init__.py",
        "verdicts.py",
        "untrusted/__init__.py",
        "untrusted/parent",
        "wire",
    ),
    lock="parent.txt",
    python="3.11",
)


class Wheels(Protocol):
    """Puts the wheels of a lock file into a folder. Trusted to check their hashes."""

    def __call__(self, program: Program, machine: Architecture, folder: Path) -> None:
        """Fill *folder*, as site-packages would be on *machine*."""
        ...


def locked_wheels(program: Program, machine: Architecture, folder: Path) -> None:
    """
    Install the locked wheels for *machine*, whatever machine this is.

    Raises:
        Undecided: pip could not get them.
    """
    platforms = [f"--platform={one}_{_MACHINES[machine]}" for one in _PLATFORMS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--no-compile", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", *platforms),
            *(f"--python-version={program.python}", "--implementation=cp"),
            *("--requirement", str(_LOCKS / program.lock), "--target", str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise Undecided(
            Code.INTERNAL,
            f"pip could not install requirements/{program.lock} for {machine}",
            "what it said stands above; it needs a package index",
        )


def make(
    program: Program,
    machine: Architecture,
    build: Path,
    *,
    wheels: Wheels = locked_wheels,
    beside: Iterable[tuple[str, bytes, bool]] = (),
) -> Path:
    """
    Write the archive of *program* for *machine* below *build* and return its path.

    Wheels are kept from one run to the next, by the lock file's hash.

    Args:
        program: What to ship.
        machine: Where it runs.
        build: A folder of ours.
        wheels: Gets other people's packages.
        beside: Further files: name in the archive, contents, whether executable.
    """
    lock = (_LOCKS / program.lock).read_bytes()
    kept = hashlib.sha256(lock + program.python.encode()).hexdigest()[:16]
    site = build / f"{program.name}-{machine.value}-{kept}"
    if not site.is_dir():
        build.mkdir(parents=True, exist_ok=True)
        partial = site.with_name(f"{site.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        wheels(program, machine, partial)
        partial.mkdir(exist_ok=True)
        partial.rename(site)
    path = build / f"{program.name}-{machine.value}.zip"
    files = dict(_foreign_files(site))
    files |= {f"nitrosigner/{name}": data for name, data in _own_files(program.ours)}
    executable = set()
    for name, data, runs in beside:
        files[name] = data
        if runs:
            executable.add(name)
    archive(path, files, executable)
    return path


def archive(
    path: Path, files: Mapping[str, bytes], executable: Collection[str] = ()
) -> None:
    """Write *files* as the archive *path*: the same files, the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as zipped:
        for name in sorted(files):
            information = zipfile.ZipInfo(name, _EPOCH)
            information.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if name in executable else 0o644
            information.external_attr = (0o100000 | mode) << 16
            zipped.writestr(information, files[name])
    partial.replace(path)


def _foreign_files(site: Path) -> Iterable[tuple[str, bytes]]:
    for path in sorted(site.rglob("*")):
        relative = path.relative_to(site)
        # pip notes there what it was asked for, in words that differ between runs.
        by_product = relative.name in ("INSTALLER", "REQUESTED", "direct_url.json")
        if path.is_file() and not by_product and "__pycache__" not in relative.parts:
            yield relative.as_posix(), path.read_bytes()


def _own_files(names: Iterable[str]) -> Iterable[tuple[str, bytes]]:
    for name in names:
        top = PACKAGE / name
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            yield path.relative_to(PACKAGE).as_posix(), path.read_bytes()


def sha256(path: Path) -> str:
    """Return the file's SHA-256, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
