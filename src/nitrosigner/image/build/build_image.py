"""
One image from locked inputs. The same commit makes the same bytes, anywhere.

Nothing of this machine gets in: no time, no path, no environment, no version of a
tool that is not locked. Two builds in different folders are compared by a test.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nitrosigner
from nitrosigner.image import contents, measurements_file
from nitrosigner.image.build import application, base_system, sbom, wheels
from nitrosigner.image.build import standard_library as library
from nitrosigner.image.build.base_system import DebianLock
from nitrosigner.image.build.cache_folder import put, sha256_of
from nitrosigner.image.build.debian_archive import DebianArchive
from nitrosigner.image.build.debian_mirror import Mirrors
from nitrosigner.image.build.deterministic_cpio import archive, padded
from nitrosigner.image.build.file_tree import FileTree
from nitrosigner.image.build.kernel import Kernel
from nitrosigner.image.build.locked_python import LockedPython
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt
from nitrosigner.image.eif.measure import Measurements
from nitrosigner.image.eif.metadata import Build, Metadata
from nitrosigner.image.eif.writer import ImageContents, write_eif

IMAGE_NAME: Final = "enclave.eif"
SBOM_NAME: Final = "sbom.cdx.json"
COMMAND_LINE: Final = "reboot=k panic=30 pci=off console=ttyS0 random.trust_cpu=on"
"""What AWS's own images have, without what our kernel does not know: that would be
handed to the init. Not `root=`: with a ramdisk that panics."""
INIT: Final = f"""\
#!/usr/bin/python3.11 -ISB
import sys
sys.path.append("/{application.APPLICATION}")
from nitrosigner.trusted.init.first_process import main
main()
"""


_IMPORT: Final = """
import importlib, json, sys
for name in json.load(sys.stdin):
    importlib.import_module(name)
"""


@dataclass(frozen=True, slots=True)
class Ramdisks:
    """The two file systems, before they are packed."""

    base: FileTree
    application: FileTree


@dataclass(frozen=True, slots=True)
class Built:
    """What a build left in its folder."""

    image: Path
    measurements: Measurements
    size: int


def build(
    output: Path,
    *,
    source: Path,
    kernel: Kernel,
    cache: Path,
    mirrors: Callable[[], Mirrors],
    say: Callable[[str], None],
    machine: Machine = X86_64,
) -> Built:
    """
    Build the image of the source tree *source* into the folder *output*.

    Raises:
        Verdict: It cannot be built.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = base_system.locked(machine)
    say("fetching locked packages and wheels")
    debian = _debian(machine, cache, mirrors)
    files = application.application_files(
        source, wheels.shipped_of_wheels(cache, machine)
    )
    with tempfile.TemporaryDirectory(prefix="nitrosigner-") as place:
        # Bytecode and compressed bytes are the same on every machine; what makes them
        # runs here.
        tools = debian if machine is X86_64 else _debian(X86_64, cache, mirrors)
        python = LockedPython(tools, Path(place) / "tools")
        say("compiling and packing")
        disks = ramdisks(debian, files, python)
        if machine is X86_64:
            check_importable(disks, Path(place) / "image")
        else:
            here = application.application_files(
                source, wheels.shipped_of_wheels(cache)
            )
            check_same_modules(disks, machine, _tried(tools, here))
        packed = [
            padded(python.gzip(archive(disk)))
            for disk in (disks.base, disks.application)
        ]
    image = output / IMAGE_NAME
    measurements = write_eif(
        image,
        ImageContents(
            kernel=kernel.data,
            command_line=COMMAND_LINE,
            ramdisks=packed,
            metadata=_metadata(kernel),
            aarch64=machine is not X86_64,
        ),
        replace=True,
    )
    of_wheels = wheels.locked(machine)
    put(output / SBOM_NAME, sbom.document(lock, of_wheels, kernel, measurements))
    put(
        output / measurements_file.NAME,
        measurements_file.encode(
            measurements,
            _details(lock, of_wheels, kernel, source, packed=packed, image=image),
        ),
    )
    return Built(image, measurements, image.stat().st_size)


def ramdisks(
    debian: FileTree, files: Mapping[str, bytes], python: LockedPython
) -> Ramdisks:
    """Return both file systems: what ships of Debian, and the application's *files*."""
    of_debian = debian.files
    chosen = library.needed(
        [path for path in of_debian if path.startswith(library.ROOT)],
        application.python_sources(files),
        of_debian,
    )
    modules = {path: of_debian[path] for path in chosen}
    base = application.compiled(modules, "", python)
    for path, entry in debian:
        if not path.startswith(library.ROOT) and (entry.is_file or entry.data):
            base.add(path, entry)
    base_system.add_root_folders(base)
    base.add_file("init", INIT.encode(), executable=True)
    return Ramdisks(
        base, application.compiled(files, f"{application.APPLICATION}/", python)
    )


def _debian(machine: Machine, cache: Path, mirrors: Callable[[], Mirrors]) -> FileTree:
    lock = base_system.locked(machine)
    return base_system.shipped_of_debian(
        lock, DebianArchive(cache, mirrors, lock.release, machine)
    )


def _tried(debian: FileTree, files: Mapping[str, bytes]) -> set[str]:
    """Return the modules of the image that can be run here: `check_importable`'s."""
    of_debian = debian.files
    chosen = library.needed(
        [path for path in of_debian if path.startswith(library.ROOT)],
        application.python_sources(files),
        of_debian,
    )
    of_application = {
        f"{application.APPLICATION}/{path}"
        for path in files
        if path.endswith((".py", ".so"))
    }
    return {_plain(path, X86_64) for path in chosen | of_application}


def check_same_modules(
    disks: Ramdisks, machine: Machine, tried: AbstractSet[str]
) -> None:
    """
    Check that an image which cannot be run here has the modules of one that can.

    Raises:
        NotBuilt: One of the two has a module that the other lacks.
    """
    found = {
        _plain(path.removesuffix("c"), machine)
        for tree in (disks.base, disks.application)
        for path in tree.files
        if path.startswith((library.ROOT, f"{application.APPLICATION}/"))
        and path.endswith((".pyc", ".so"))
    }
    different = sorted(tried ^ found)
    if different:
        raise NotBuilt(
            f"the images for {X86_64.name} and {machine.name} differ in "
            f"{', '.join(different[:5])}",
            "are both locks of the same versions? make lock-image",
        )


def _plain(path: str, machine: Machine) -> str:
    """Return *path* without the machine that an extension is for."""
    return path.replace(f"-{machine.name}-linux-gnu.so", ".so")


def check_importable(disks: Ramdisks, place: Path) -> None:
    """
    Import every module of ours in the image's Python, with what is in the image.

    A module that `standard_library` wrongly left out is found here, not at boot.

    Raises:
        NotBuilt: One cannot be imported.
    """
    both = FileTree()
    for tree in (disks.base, disks.application):
        for path, entry in tree:
            both.add(path, entry)
    prefix = f"{application.APPLICATION}/"
    ours = [
        path.removeprefix(prefix).removesuffix(".pyc").removesuffix("/__init__")
        for path in disks.application.files
        if path.startswith(f"{prefix}{contents.PACKAGE}/") and path.endswith(".pyc")
    ]
    LockedPython(both, place).run(
        _IMPORT,
        json.dumps([name.replace("/", ".") for name in ours]).encode(),
        path=str(place / application.APPLICATION),
    )


def _metadata(kernel: Kernel) -> Metadata:
    return Metadata(
        image_name="nitrosigner",
        image_version=nitrosigner.__version__,
        build_metadata=Build(
            build_tool_version=nitrosigner.__version__,
            operating_system="Debian 12",
            kernel_version=kernel.origin,
        ),
    )


def _details(
    lock: DebianLock,
    of_wheels: Sequence[wheels.Wheel],
    kernel: Kernel,
    source: Path,
    *,
    packed: list[bytes],
    image: Path,
) -> Mapping[str, Any]:
    return {
        "image": {"sha256": sha256_of(image), "bytes": image.stat().st_size},
        "kernel": {
            "sha256": kernel.sha256,
            "bytes": len(kernel.data),
            "origin": kernel.origin,
        },
        "command_line": COMMAND_LINE,
        "ramdisks": [{"bytes": len(disk)} for disk in packed],
        "packages": {one.name: one.version for one in lock.packages},
        "wheels": {one.name: one.version for one in of_wheels},
        "source_commit": source_commit(source),
    }


def source_commit(source: Path) -> str | None:
    """
    Return the commit that *source* is, None if it is none or was changed.

    A note for people: what counts is what was measured.
    """
    git = ["git", "-C", str(source)]
    try:
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."],
            capture_output=True,
            check=True,
        ).stdout
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if changed.strip() else head.decode("ascii").strip()
