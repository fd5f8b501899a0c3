"""
Plays the Nitro hypervisor: measures an image file, boots it, and vouches for it.

    python -m nitrosigner.emulator.vm --data DIR --run RUN --image FILE
        [--role-arn ARN] [--memory MIB] [--accelerator tcg|kvm] [--log FILE]

The file is copied first; the copy is what is measured and what boots. The keys of the
emulated Nitro PKI never leave this process; the machine's NSM is a device whose other
end is here. What the guest prints goes to our standard output.
"""

import argparse
import functools
import os
import shutil
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from nitrosigner.emulator.bounded_log import printed_into
from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm, initial_pcrs
from nitrosigner.emulator.vm.machine_options import DEFAULT_MEMORY
from nitrosigner.emulator.vm.qemu import unpacked_qemu
from nitrosigner.emulator.vm.virtual_machine import (
    MachineSize,
    VirtualMachine,
    unpack_image,
)
from nitrosigner.image.build.cache_folder import default_cache
from nitrosigner.image.build.debian_mirror import machine_mirrors
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.verdicts import Verdict

_PLACE = "machine-"


def main() -> int:
    """Run one machine until it ends or we are told to end."""
    parser = argparse.ArgumentParser(prog="hypervisor", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--role-arn")
    parser.add_argument("--memory", type=int, default=DEFAULT_MEMORY)
    parser.add_argument("--accelerator", choices=["tcg", "kvm"], default="tcg")
    parser.add_argument("--cache", type=Path, default=default_cache(os.environ))
    parser.add_argument("--log", type=Path, help="where to print, within bounds")
    options = parser.parse_args()
    with printed_into(options.log):
        return _one_machine(options)


def _one_machine(options: argparse.Namespace) -> int:
    run: Path = options.run.resolve()
    place = run / f"{_PLACE}{os.getpid()}"
    _remove_left_behind(run)
    try:
        place.mkdir(mode=0o700, parents=True)
        image = place / "image.eif"
        shutil.copyfile(options.image, image)
        pki = NitroPki.open(
            DataFolder(options.data.resolve()).emulator, datetime.now(UTC)
        )
        nsm = measured_nsm(pki, image, options.role_arn)
        parts = unpack_image(image, place)
        machine = VirtualMachine(
            qemu=unpacked_qemu(options.cache, machine_mirrors, _say, parts.machine),
            parts=parts,
            size=MachineSize(memory=options.memory, accelerator=options.accelerator),
            run=run,
            place=place,
            answer=nsm.handle,
            console=_console,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, functools.partial(_end, machine))
        _say(f"QEMU is process {machine.pid}")
        machine.run_until_end()
    except (Verdict, OSError) as error:
        _say(f"error: {error}")
        return 1
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 1


def measured_nsm(pki: NitroPki, image: Path, role_arn: str | None) -> EmulatedNsm:
    """
    Return the NSM of a machine that boots *image*.

    Raises:
        Malformed: It is no image.
        Refused: Its signature is not true.
    """
    with image.open("rb") as file:
        measured = read_eif(file).checked_measurements().registers
    pcrs = initial_pcrs(measured, instance_id=pki.instance_id, role_arn=role_arn)
    return EmulatedNsm(pki, {**pcrs, **measured}, lambda: datetime.now(UTC))


def _end(machine: VirtualMachine, _number: int, _frame: FrameType | None) -> None:
    machine.kill()


def _console(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    print(f"hypervisor: {text}", file=sys.stderr)  # noqa: T201  # its log


def _remove_left_behind(run: Path) -> None:
    """Remove the folders of hypervisors that were killed."""
    for folder in run.glob(f"{_PLACE}*"):
        owner = folder.name.removeprefix(_PLACE)
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
