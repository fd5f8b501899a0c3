"""
The program of the enclave image. No options, no environment: all it is told is in the
manifest, which an administrator signed.
"""

import asyncio
import socket
import time
from typing import Final

from nitrosigner.trusted.enclave import assembly
from nitrosigner.trusted.enclave.attested.nsm import NsmClient, NsmDevice
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.wire.addresses import PARENT_CID

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one vsock connection to the parent."""
BACKLOG: Final = 512


class KernelVsock:
    """The port `Vsock`: AF_VSOCK."""

    def connect(self, port: int) -> socket.socket:
        """Return a connected, blocking stream socket to the parent's *port*."""
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect((PARENT_CID, port))
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, port: int) -> socket.socket:
        """Return a bound, listening stream socket of our own *port*."""
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listener.bind((socket.VMADDR_CID_ANY, port))
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener


class KernelClock:
    """The port `Clock`: the kernel's clocks."""

    def now(self) -> float:
        """Return Unix seconds, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


def main() -> None:
    """Run until the enclave is terminated."""
    world = World(nsm=NsmClient(NsmDevice()), vsock=KernelVsock(), clock=KernelClock())
    asyncio.run(assembly.run(world))


if __name__ == "__main__":
    main()
