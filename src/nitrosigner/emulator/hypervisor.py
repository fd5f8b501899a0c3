"""
Plays the Nitro hypervisor: measures a source tree, runs it, and vouches for it.

    python -m nitrosigner.emulator.hypervisor --data DIR --run RUN
        [--tree PATH] [--role-arn ARN] [--debug] [--log FILE]

What ships of the tree is first gathered into a private folder; that copy is what is
measured and what runs, so nothing can change in between. The enclave process can
import that copy, the distributions that `image/contents.toml` declares, and the
standard library. It gets no environment and no secrets; its NSM is one end of a socket
pair whose other end is here, so the measurements that are signed are those of exactly
that child. The PKI's private keys never leave this process.

Emulated: the same user's processes can read each other's memory, and the entry point
that stands in for the image's init is not measured.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, Self, final

from nitrosigner.emulator import nsm_socket
from nitrosigner.emulator.bounded_log import printed_into
from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm, initial_pcrs
from nitrosigner.image import contents, source_measurement
from nitrosigner.verdicts import Verdict

_SHIM: Final = ("__init__.py", "enclave_process.py", "nsm_socket.py", "vsock.py")
"""Files of this room that the enclave process needs. Not measured."""
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8"}
_IMAGE_PREFIX: Final = "image-"


@dataclass(frozen=True, slots=True)
class Image:
    """A gathered copy of what ships, and its measurements."""

    folder: Path
    pcrs: Mapping[int, bytes]
    """PCR0 to PCR2. Emulated."""


def gather_image(tree: Path, folder: Path) -> Image:
    """
    Make *folder*, which must not exist, the image of the source tree *tree*.

    Raises:
        Refused: The tree is not one that an image can be made of.
        OSError: The folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True)
    contents.gather_source(tree, folder)
    image = Image(folder, source_measurement.emulated_pcrs(folder))
    # After the measurement: from our own tree, whatever tree was asked for.
    shim = folder / contents.PACKAGE / "emulator"
    shim.mkdir()
    for name in _SHIM:
        shutil.copyfile(Path(__file__).with_name(name), shim / name)
    contents.link_distributions(folder)
    return image


@final
class EmulatedEnclave:
    """One running enclave process and its NSM."""

    def __init__(self, process: "subprocess.Popen[bytes]", nsm: EmulatedNsm) -> None:
        self._process = process
        self.nsm: Final = nsm

    @classmethod
    def launch(cls, image: Image, nsm: EmulatedNsm, run: Path) -> Self:
        """
        Start *image* with *nsm*; its vsock lies in the folder *run*.

        Call it from a thread that lives as long as the enclave should: the kernel
        ends the child with the thread that started it.

        Raises:
            OSError: The process cannot be started.
        """
        ours, theirs = socket.socketpair()
        shim = image.folder / contents.PACKAGE / "emulator" / "enclave_process.py"
        # -I: no environment, no user folder, no working directory on the path.
        # -S: nothing installed is importable but what the image links to.
        # -B: nothing is written into the image.
        command = [sys.executable, "-I", "-S", "-B", str(shim)]
        command += [str(os.getpid()), str(theirs.fileno()), str(run)]
        try:
            with theirs:
                process = subprocess.Popen(
                    command,
                    env=_ENVIRONMENT,
                    cwd=image.folder,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        except OSError:
            ours.close()
            raise
        threading.Thread(
            target=nsm_socket.serve, args=(ours, nsm.handle), daemon=True, name="nsm"
        ).start()
        return cls(process, nsm)

    @property
    def pid(self) -> int:
        """The process id of the enclave."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask the enclave to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End the enclave now."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """
        Return the enclave's status when it has ended, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: It still runs after *timeout* seconds.
        """
        return self._process.wait(timeout)


def measured_nsm(
    pki: NitroPki, image: Image, *, role_arn: str | None, debug: bool
) -> EmulatedNsm:
    """Return the NSM of an enclave that runs *image*."""
    pcrs = initial_pcrs(
        image.pcrs, instance_id=pki.instance_id, role_arn=role_arn, debug=debug
    )
    return EmulatedNsm(pki, pcrs, lambda: datetime.now(UTC))


def main() -> None:
    """Run one enclave, forward SIGTERM and SIGINT to it, end with its status."""
    parser = argparse.ArgumentParser(prog="hypervisor", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tree", type=Path, default=contents.source_root())
    parser.add_argument("--role-arn")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--log", type=Path, help="where to print, within bounds")
    options = parser.parse_args()
    with printed_into(options.log):
        status = _one_enclave(options)
    sys.exit(status if status >= 0 else 128 - status)


def _one_enclave(options: argparse.Namespace) -> int:
    run: Path = options.run.resolve()
    folder = run / f"{_IMAGE_PREFIX}{os.getpid()}"
    _remove_left_behind(run)
    try:
        pki = NitroPki.open(
            DataFolder(options.data.resolve()).emulator, datetime.now(UTC)
        )
        image = gather_image(options.tree.resolve(), folder)
        nsm = measured_nsm(pki, image, role_arn=options.role_arn, debug=options.debug)
        return _run(image, nsm, run)
    except (Verdict, OSError, ValueError) as error:
        print(f"hypervisor: error: {error}", file=sys.stderr)  # noqa: T201  # its log
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(image: Image, nsm: EmulatedNsm, run: Path) -> int:
    # The handlers stand before the launch, so that no request to end is lost; they are
    # not simply blocked meanwhile, because the enclave would inherit that.
    launched: list[EmulatedEnclave] = []
    asked: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for enclave in launched:
            enclave.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    enclave = EmulatedEnclave.launch(image, nsm, run)
    launched.append(enclave)
    if asked:
        enclave.terminate()
    return enclave.wait()


def _remove_left_behind(run: Path) -> None:
    """Remove the images of hypervisors that were killed."""
    for folder in run.glob(f"{_IMAGE_PREFIX}*"):
        owner = folder.name.removeprefix(_IMAGE_PREFIX)
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
