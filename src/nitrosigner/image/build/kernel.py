"""
Builds the kernel from Debian's source by our recipe, once, or takes one that is given.

Whatever happens here, an image gets a kernel with the hash in `kernel/recipe.toml`,
or one that somebody named on the command line, and `measurements.json` says which.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.image.build.cache_folder import put, taken, turn
from nitrosigner.image.build.commands import need_commands, run
from nitrosigner.image.build.debian_archive import DebianArchive, Package
from nitrosigner.image.build.debian_mirror import Mirrors
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt

_FOLDER: Final = Path(__file__).parents[1] / "kernel"
CONFIGURATION: Final = _FOLDER / "enclave.config"
RECIPE: Final = _FOLDER / "recipe.toml"
COMMANDS: Final = ("gcc", "ld", "make", "flex", "bison", "bc", "xz", "tar", "perl")
PACKAGES: Final = (
    *("gcc", "binutils", "make", "flex", "bison", "bc", "xz-utils", "perl"),
    *("libc6-dev", "libelf-dev"),
)
_CROSS_PACKAGES: Final = {"aarch64": ("gcc-aarch64-linux-gnu",)}
_MAGIC: Final = {
    # The boot protocols' magic numbers (linux, Documentation/arch/x86/boot.rst and
    # Documentation/arch/arm64/booting.rst).
    "x86_64": (0x202, b"HdrS"),
    "aarch64": (56, b"ARM\x64"),
}
_ENVIRONMENT: Final = {
    "LC_ALL": "C",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "nitrosigner",
    "KBUILD_BUILD_HOST": "enclave",
    "KBUILD_BUILD_VERSION": "1",
}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the source comes from."""

    release: str
    name: str
    version: str
    sha256: str


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kernel/recipe.toml`."""

    sha256: str
    version: str
    tarball: str
    source: Source
    toolchain: dict[str, str]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and where it came from."""

    data: bytes
    origin: str

    @property
    def sha256(self) -> str:
        """Of the kernel, hex."""
        return hashlib.sha256(self.data).hexdigest()


def recipe(machine: Machine = X86_64) -> Recipe:
    """
    Return the committed recipe.

    Raises:
        NotBuilt: There is none for this machine.
    """
    path = _FOLDER / machine.file(RECIPE.name)
    if not path.is_file():
        raise NotBuilt(
            f"there is no recipe for a kernel of {machine.name}",
            "give a kernel: --kernel FILE, the file Image of nitro-cli's blobs or of a "
            "build with CONFIG_NSM=y",
        )
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Recipe)


def configuration(machine: Machine = X86_64) -> Path:
    """Return the kernel's configuration for *machine*."""
    return _FOLDER / machine.file(CONFIGURATION.name)


def given_kernel(path: Path, machine: Machine = X86_64) -> Kernel:
    """
    Return the kernel in a file: AWS's own, or one that was built elsewhere.

    Raises:
        NotBuilt: It cannot be read, or is no kernel for *machine*.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotBuilt(f"the kernel {path} cannot be read: {error.strerror}") from None
    at, magic = _MAGIC[machine.name]
    if data[at : at + len(magic)] != magic:
        name = Path(machine.kernel_file).name
        raise NotBuilt(
            f"{path} is no kernel that an enclave on {machine.name} can start",
            f"it is the file {name} of nitro-cli's blobs, or of a kernel build",
        )
    with contextlib.suppress(NotBuilt):
        wanted = recipe(machine)
        if hashlib.sha256(data).hexdigest() == wanted.sha256:
            return Kernel(data, f"recipe {wanted.version}")
    return Kernel(data, "given by a file, not by the recipe")


def recipe_kernel(
    cache: Path,
    mirrors: Callable[[], Mirrors],
    say: Callable[[str], None],
    machine: Machine = X86_64,
) -> Kernel:
    """
    Return the recipe's kernel, from the cache or built now (some minutes).

    Raises:
        NotBuilt: Tools or source are missing, or another kernel came out.
    """
    wanted = recipe(machine)
    ending = Path(machine.kernel_file).name
    kept = cache / "kernels" / f"{wanted.sha256}.{ending}"
    with turn(cache, "kernel"):
        if not taken(kept, wanted.sha256):
            _check_toolchain(wanted, machine)
            archive = DebianArchive(cache, mirrors, wanted.source.release)
            source = wanted.source
            package = archive.fetch(Package(source.name, source.version, source.sha256))
            say(f"building the kernel {wanted.version}: five to ten minutes, once")
            built = _build(package, wanted, cache, machine)
            found = hashlib.sha256(built).hexdigest()
            if found != wanted.sha256:
                put(cache / "kernels" / f"{found}.{ending}", built)
                raise NotBuilt(
                    f"the kernel came out as {found}, the recipe says {wanted.sha256}",
                    "the same source and configuration make the same kernel; if the "
                    f"change is meant, write the new hash into {RECIPE.name}",
                )
            put(kept, built)
        return Kernel(kept.read_bytes(), f"recipe {wanted.version}")


def _check_toolchain(wanted: Recipe, machine: Machine) -> None:
    packages = (*PACKAGES, *_CROSS_PACKAGES.get(machine.name, ()))
    commands = (*COMMANDS, *wanted.toolchain)
    need_commands(commands, packages, "the kernel is built from source")
    if not Path("/usr/include/libelf.h").is_file():
        raise NotBuilt(
            "libelf's headers are missing: the kernel is built from source",
            f"as root: apt-get install {' '.join(packages)}",
        )
    for program, version in wanted.toolchain.items():
        said = run([program, "--version"], what=f"asking {program} for its version")
        first = said.decode(errors="replace").splitlines()[0]
        if first != version:
            raise NotBuilt(
                f"{program} here is {first!r}, the recipe needs {version!r}",
                "build on Debian 12, or give the finished kernel: --kernel FILE",
            )


def _build(package: Path, wanted: Recipe, cache: Path, machine: Machine) -> bytes:
    (cache / "kernels").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "kernels", prefix="build-") as place:
        folder = Path(place)
        _unpack(package, wanted.tarball, folder)
        make = ["nice", "-n", "10", "make", "-s", f"-j{os.cpu_count() or 1}"]
        if machine.cross:
            make += [f"ARCH={machine.kernel}", f"CROSS_COMPILE={machine.cross}"]
        chosen = configuration(machine)
        environment = {**_ENVIRONMENT, "PATH": "/usr/bin:/bin"}
        run(
            [*make, "allnoconfig", f"KCONFIG_ALLCONFIG={chosen}"],
            cwd=folder,
            env=environment,
            what="configuring the kernel",
        )
        check_configuration(
            chosen.read_text(encoding="utf-8"),
            (folder / ".config").read_text(encoding="utf-8"),
        )
        run(
            [*make, Path(machine.kernel_file).name],
            cwd=folder,
            env=environment,
            what="building the kernel",
        )
        return (folder / machine.kernel_file).read_bytes()


def check_configuration(wanted: str, got: str) -> None:
    """
    Check that the kernel's configuration has taken over every line of ours.

    Raises:
        NotBuilt: It dropped or changed one: a name of another version, or something
            that it depends on is missing.
    """
    set_lines = set(got.splitlines())
    names = {line.partition("=")[0] for line in set_lines}
    for line in wanted.splitlines():
        if not line.startswith("CONFIG_"):
            continue
        name, _, value = line.partition("=")
        if (name in names) if value == "n" else (line not in set_lines):
            raise NotBuilt(
                f"the kernel's configuration did not take over {line}",
                f"mend {CONFIGURATION.name}: what does it depend on?",
            )


def _unpack(package: Path, tarball: str, folder: Path) -> None:
    # Piped: neither the package's content nor the tarball is needed on the disk.
    started = time.monotonic()
    with (
        subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        ) as files,
        subprocess.Popen(
            ["tar", "--extract", "--to-stdout", f"./{tarball}"],
            stdin=files.stdout,
            stdout=subprocess.PIPE,
        ) as inner,
        subprocess.Popen(
            [
                *("tar", "--extract", "--xz", "--strip-components=1"),
                *("--directory", str(folder)),
            ],
            stdin=inner.stdout,
        ) as outer,
    ):
        for pipe in (files.stdout, inner.stdout):
            if pipe is not None:
                pipe.close()
        outer.wait()
    if outer.returncode != 0 or not (folder / "Makefile").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        raise NotBuilt(
            "the kernel's source could not be unpacked"
            f" ({time.monotonic() - started:.0f} s)",
            "is there room for 2 GB in the cache?",
        )
