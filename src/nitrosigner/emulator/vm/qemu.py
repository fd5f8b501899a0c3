"""
An unmodified Debian QEMU, unpacked into the cache: nothing is installed.

It must know `vhost-user-test-device`, by which the NSM can be a process of ours.
QEMU has it since version 11, newer than Debian 12; so the packages of a later release
are unpacked beside each other and run through their own loader.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.image.build.cache_folder import turn
from nitrosigner.image.build.commands import run
from nitrosigner.image.build.debian_archive import DebianArchive
from nitrosigner.image.build.debian_mirror import Mirrors
from nitrosigner.image.build.machine import X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt

RELEASE: Final = "trixie"
NSM_DEVICE: Final = "vhost-user-test-device"
VSOCK_DEVICE: Final = "vhost-user-vsock-device"
_PACKAGES: Final = {
    "x86_64": ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"),
    "aarch64": ("qemu-system-arm", "qemu-system-common", "qemu-system-data"),
}
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_COMPLETE: Final = "complete"


@dataclass(frozen=True, slots=True)
class Qemu:
    """A tree with QEMU in it."""

    tree: Path
    machine: Machine = X86_64
    """What it emulates."""

    @property
    def command(self) -> tuple[str, ...]:
        """The words that start it, without its options."""
        return (
            str(self.tree / "usr/lib64/ld-linux-x86-64.so.2"),
            *("--library-path", str(self.tree / _LIBRARIES)),
            str(self.tree / f"usr/bin/qemu-system-{self.machine.name}"),
            *("-L", str(self.tree / "usr/share/qemu")),
            *("-L", str(self.tree / "usr/share/seabios")),
        )

    @property
    def version(self) -> str:
        """The first line of what it says of itself."""
        said = run([*self.command, "--version"], what="asking QEMU for its version")
        return said.decode(errors="replace").splitlines()[0]


def unpacked_qemu(
    cache: Path,
    mirrors: Callable[[], Mirrors],
    say: Callable[[str], None],
    machine: Machine = X86_64,
) -> Qemu:
    """
    Return QEMU from the cache, unpacked now if need be.

    Raises:
        NotBuilt: It cannot be had, or lacks the devices.
    """
    tree = cache / machine.file(f"qemu-{RELEASE}-backports.tree").removesuffix(".tree")
    with turn(cache, "qemu"):
        if not (tree / _COMPLETE).exists():
            say("fetching and unpacking QEMU, once")
            shutil.rmtree(tree, ignore_errors=True)
            _unpack(cache, mirrors, tree, _PACKAGES[machine.name])
            _check_devices(Qemu(tree, machine))
            (tree / _COMPLETE).touch()
    return Qemu(tree, machine)


def _unpack(
    cache: Path, mirrors: Callable[[], Mirrors], tree: Path, names: Sequence[str]
) -> None:
    archive = DebianArchive(cache, mirrors, RELEASE)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        packages = archive.download_with_dependencies(
            [f"{name}/{RELEASE}-backports" for name in names], Path(temporary)
        )
        tree.mkdir(parents=True)
        # As on a real system, where some packages still name /lib.
        for name in ("bin", "lib", "lib64", "sbin"):
            (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(f"usr/{name}")
        for package in packages:
            run(
                ["dpkg-deb", "--extract", str(package), str(tree)],
                what=f"unpacking {package.name}",
            )


def _check_devices(qemu: Qemu) -> None:
    said = run([*qemu.command, "-M", "none", "-device", "help"], what="probing QEMU")
    for device in (NSM_DEVICE, VSOCK_DEVICE):
        if f'"{device}"' not in said.decode(errors="replace"):
            raise NotBuilt(
                f"{qemu.version} has no device {device}",
                "version 11.1 of trixie-backports is known to have it",
            )
