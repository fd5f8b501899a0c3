"""
One virtual machine that runs an enclave image, and the devices that Nitro would give.

QEMU's `microvm` announces its devices on the kernel's command line, as Nitro does, and
has nothing else: no PCI, no ACPI, no disk, no network. When the guest restarts or
panics the machine is ended; on Nitro the hypervisor ends the enclave then.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from nitrosigner.emulator.supervisor import tethered
from nitrosigner.emulator.vm import heartbeat
from nitrosigner.emulator.vm.guest_memory import GuestFault
from nitrosigner.emulator.vm.nsm_device import VIRTIO_ID, NsmDevice
from nitrosigner.emulator.vm.qemu import NSM_DEVICE, VSOCK_DEVICE, Qemu
from nitrosigner.emulator.vm.vhost_user import VhostUser
from nitrosigner.emulator.vm.vsock_device import QUEUES, VsockDevice
from nitrosigner.emulator.vsock import ENCLAVE_CID, UnixVsock
from nitrosigner.image.build.machine import MACHINES, X86_64, Machine
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.wire.addresses import HEARTBEAT_PORT, HTTPS_PORT, PARENT_CID

_KINDS: Final = {
    # What QEMU calls the machine, and what the command line needs there besides: as the
    # hypervisor appends its devices, this is not measured.
    "x86_64": ("microvm,acpi=off,pcie=off", ""),
    "aarch64": ("virt,acpi=off,gic-version=3", " console=ttyAMA0"),
}
_ENDINGS: Final = (b"reboot: machine restart", b"Kernel panic")
_MAX_LINE: Final = 4096


@dataclass(frozen=True, slots=True)
class MachineSize:
    """What the machine is given."""

    memory: int
    """MiB."""
    vcpus: int = 1
    accelerator: str = "tcg"
    """`tcg` is software emulation; `kvm` where the machine has it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an image is made of, unpacked where QEMU reads it."""

    kernel: Path
    ramdisk: Path
    command_line: str
    machine: Machine = X86_64


def unpack_image(image: Path, place: Path) -> Parts:
    """
    Unpack the image file *image* into the folder *place*.

    Raises:
        Malformed: It is no image.
        OSError: The folder cannot be written.
    """
    kernel, ramdisk = place / "kernel", place / "ramdisk"
    with image.open("rb") as file:
        eif = read_eif(file)
        with kernel.open("wb") as out:
            out.writelines(eif.chunks(eif.kernel))
        with ramdisk.open("wb") as out:
            for section in eif.ramdisks:
                out.writelines(eif.chunks(section))
        machine = MACHINES[eif.architecture]
        return Parts(kernel, ramdisk, eif.command_line, machine)


def qemu_options(
    parts: Parts, size: MachineSize, vsock: Path, nsm: Path
) -> Sequence[str]:
    """Return QEMU's options for a machine with two devices at these sockets."""
    memory = f"{size.memory}M"
    kind, console = _KINDS[parts.machine.name]
    return (
        *("-machine", f"{kind},memory-backend=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
        *("-m", memory, "-smp", str(size.vcpus)),
        *("-accel", size.accelerator),
        *("-cpu", "host" if size.accelerator == "kvm" else "max"),
        *("-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio"),
        # What QEMU itself may do on this machine: not much.
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *("-rtc", "base=utc"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-kernel", str(parts.kernel), "-initrd", str(parts.ramdisk)),
        *("-append", f"{parts.command_line}{console}"),
        *("-chardev", f"socket,id=vsock,path={vsock}"),
        *("-device", f"{VSOCK_DEVICE},chardev=vsock"),
        *("-chardev", f"socket,id=nsm,path={nsm}"),
        "-device",
        f"{NSM_DEVICE},chardev=nsm,virtio-id={VIRTIO_ID},num_vqs=1,config_size=0",
    )


@final
class VirtualMachine:
    """
    A machine that runs *parts*, with the vsock in the folder *run*.

    Args:
        qemu: Which QEMU.
        parts: What it boots.
        size: What it is given.
        run: The run folder of the local stack, where the parent's sockets are.
        place: A private folder for this machine's own sockets.
        answer: The NSM: one encoded request to its encoded answer.
        console: Is handed each line that the guest prints.
    """

    def __init__(
        self,
        *,
        qemu: Qemu,
        parts: Parts,
        size: MachineSize,
        run: Path,
        place: Path,
        answer: Callable[[bytes], bytes],
        console: Callable[[bytes], None],
    ) -> None:
        self._console = console
        parent = UnixVsock(run, PARENT_CID)
        self._heartbeat = parent.listen(HEARTBEAT_PORT)
        sockets = {"vsock": place / "vsock.sock", "nsm": place / "nsm.sock"}
        devices = {
            "vsock": VhostUser(
                sockets["vsock"],
                VsockDevice(parent, ENCLAVE_CID, [HTTPS_PORT]),
                QUEUES,
            ),
            "nsm": VhostUser(sockets["nsm"], NsmDevice(answer), 1),
        }
        options = qemu_options(parts, size, sockets["vsock"], sockets["nsm"])
        self._start(heartbeat.serve, self._heartbeat)
        for name, device in devices.items():
            self._start(self._serve, name, device)
        self._process = subprocess.Popen(
            tethered((*qemu.command, *options)),
            env={"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    def run_until_end(self) -> int:
        """Pass the console on until the machine ends; return QEMU's status."""
        output = self._process.stdout
        if output is None:  # pragma: no cover  # asked for
            raise RuntimeError
        with output:
            while line := output.readline(_MAX_LINE):
                self._console(line)
                if any(ending in line for ending in _ENDINGS):
                    self.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End the machine now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _serve(self, name: str, device: VhostUser) -> None:
        try:
            device.serve()
        except GuestFault as fault:
            # On Nitro a guest that breaks its devices loses them. Here it is ended:
            # whatever it was, it was no image of ours.
            print(f"hypervisor: the guest broke its {name}: {fault}", file=sys.stderr)  # noqa: T201
        finally:
            # Without one of its devices it would hang, not fail.
            self.kill()

    @staticmethod
    def _start(target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()
