"""
The emulated enclave's first process: builds its world and runs the enclave program.

    python -I -S -B enclave_process.py HYPERVISOR_PID NSM_DESCRIPTOR RUN

It stands where `trusted/enclave/main.py` stands in an image and differs from it in one
thing: the NSM is a socket to the hypervisor, the vsock is made of UNIX sockets. It runs
from the folder that the hypervisor gathered, in which there is nothing but what ships
and this shim. The shim itself is not measured. That is emulation's limit: what stands
in for hardware is trusted here without proof.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import final

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Run the enclave program until it ends or the hypervisor does."""
    hypervisor, descriptor, run = int(arguments[0]), int(arguments[1]), arguments[2]
    _die_with(hypervisor)
    # The folder that holds the measured copy of the package. Isolated mode gave us
    # the standard library and nothing else.
    sys.path.insert(0, str(Path(__file__).parents[2]))

    import asyncio
    import socket

    from nitrosigner.emulator.nsm_socket import SocketTransport
    from nitrosigner.emulator.vsock import ENCLAVE_CID, UnixVsock
    from nitrosigner.trusted.enclave import assembly
    from nitrosigner.trusted.enclave.attested.nsm import NsmClient
    from nitrosigner.trusted.enclave.ports import World

    world = World(
        nsm=NsmClient(SocketTransport(socket.socket(fileno=descriptor))),
        vsock=UnixVsock(Path(run), ENCLAVE_CID),
        clock=MachineClock(),
    )
    asyncio.run(assembly.run(world))


@final
class MachineClock:
    """The port `Clock`: this machine's clocks."""

    def now(self) -> float:
        """Return Unix seconds, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


def _die_with(hypervisor: int) -> None:
    # An enclave does not outlive its hypervisor, even one that was killed.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit("enclave: the kernel does not know PR_SET_PDEATHSIG")
    if os.getppid() != hypervisor:
        sys.exit("enclave: the hypervisor is gone")


if __name__ == "__main__":
    main(sys.argv[1:])
