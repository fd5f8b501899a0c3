"""
A vsock made of UNIX sockets: port N of CID C is the file `vsock/C.N.sock`.

Like the real one it has no encryption and no authentication; unlike the real one,
every process of this user can connect to anything in the run folder.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Final, final

from nitrosigner.wire.addresses import PARENT_CID

ENCLAVE_CID: Final = 16
"""What the emulated hypervisor gives its one enclave. AWS starts at 16 too."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds until a listener that does not accept counts as absent."""
BACKLOG: Final = 512
MAX_SOCKET_PATH: Final = 107
"""Bytes in the path of a UNIX socket (sun_path without its terminator)."""


def socket_path(run: Path, cid: int, port: int) -> Path:
    """Return where *port* of *cid* lies in the *run* folder."""
    return run / "vsock" / f"{cid}.{port}.sock"


@final
class UnixVsock:
    """The port `trusted.enclave.ports.Vsock`, for the holder of *cid*."""

    def __init__(self, run: Path, cid: int) -> None:
        self.run: Final = run
        self._cid = cid

    def connect(self, port: int) -> socket.socket:
        """
        Return a connected, blocking stream socket to the parent's *port*.

        Raises:
            OSError: Nobody listens there, or it timed out.
        """
        path = _fitting(socket_path(self.run, PARENT_CID, port))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect(path)
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_now(self, port: int) -> socket.socket:
        """
        Return a connected socket to the parent's *port* that does not block.

        Raises:
            OSError: Nobody listens there, or not now.
        """
        path = _fitting(socket_path(self.run, PARENT_CID, port))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, port: int) -> socket.socket:
        """
        Return a bound, listening stream socket of our own *port*.

        A file that a dead process left behind is replaced.

        Raises:
            OSError: Somebody listens there already, or the folder cannot be used.
        """
        place = socket_path(self.run, self._cid, port)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = _fitting(place)
        if _alive(path):
            raise OSError(errno.EADDRINUSE, "another process listens there", path)
        place.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before bind: Linux makes the file with the socket's own mode, so that
            # there is no moment at which others may connect.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener


def _fitting(path: Path) -> str:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise OSError(
            errno.ENAMETOOLONG, "the run folder's path is too long for sockets", path
        )
    return str(path)


def _alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        # Anything else (a full backlog, a timeout) comes from a living listener.
        except OSError as error:
            return error.errno not in (errno.ENOTSOCK, errno.ENOTDIR)
        return True
