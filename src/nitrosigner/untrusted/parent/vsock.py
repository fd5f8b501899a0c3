"""
Where the parent meets its enclave: a vsock, or locally UNIX sockets in its place.

On a vsock any enclave of the host can knock on the parent's ports, not only ours;
`is_our_enclave` is asked for each accepted connection.
"""

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final, Protocol

from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.addresses import PARENT_CID

BACKLOG: Final = 512
RETRY: Final = 0.005
"""Seconds between attempts at a UNIX socket whose backlog is full."""
MAX_UNIX_PATH: Final = 107
"""Bytes of a UNIX socket's path on Linux (unix(7): 108 with the closing zero)."""


class Vsock(Protocol):
    """The two ends. Not trusted by anybody: what passes is sealed by its ends."""

    def listen(self, port: int) -> socket.socket:
        """
        Return a listening socket of the parent's *port* that does not block.

        Raises:
            Undecided: The port is taken, or this machine has no vsock.
        """
        ...

    async def connect(self, port: int) -> socket.socket:
        """
        Return a connected socket of the enclave's *port* that does not block.

        Cancelling it leaves nothing open.

        Raises:
            OSError: Nobody listens there.
        """
        ...

    def is_our_enclave(self, peer: socket.socket) -> bool:
        """Return whether *peer*, just accepted, is the enclave that we serve."""
        ...


class KernelVsock:
    """AF_VSOCK, as on an EC2 host with Nitro Enclaves."""

    def __init__(self, enclave_cid: int) -> None:
        self._enclave_cid = enclave_cid

    def listen(self, port: int) -> socket.socket:
        """Listen on every address of this host: only its enclaves can reach it."""
        listener = self._socket()
        try:
            listener.bind((socket.VMADDR_CID_ANY, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise Undecided(
                Code.INTERNAL,
                f"vsock port {port} cannot be listened on",
                "is another parent running on this host?",
            ) from error
        return listener

    async def connect(self, port: int) -> socket.socket:
        """Connect to the enclave's *port*."""
        made = self._socket()
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(made, (self._enclave_cid, port))
        except BaseException:
            made.close()
            raise
        return made

    def is_our_enclave(self, peer: socket.socket) -> bool:
        """Return whether the kernel says that *peer* has our enclave's CID."""
        try:
            return bool(peer.getpeername()[0] == self._enclave_cid)
        except OSError:
            return False

    def _socket(self) -> socket.socket:
        try:
            made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError as error:
            raise Undecided(
                Code.INTERNAL,
                "this machine has no vsock",
                "load the vhost_vsock or virtio vsock module, or use a unix run folder",
            ) from error
        made.setblocking(False)
        return made


class UnixVsock:
    """UNIX sockets `<run>/vsock/<cid>.<port>.sock`, as in the local stack."""

    def __init__(self, run: Path, enclave_cid: int) -> None:
        self._folder = run / "vsock"
        self._enclave_cid = enclave_cid

    def listen(self, port: int) -> socket.socket:
        """Listen, in place of a dead parent's socket but not of a living one's."""
        path = self._path(PARENT_CID, port)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_dead(path, port)
            return self._bound(path)
        except OSError as error:
            raise Undecided(
                Code.INTERNAL,
                f"the local stand-in of vsock port {port} cannot be listened on",
                "check that the run folder belongs to you and is writable",
            ) from error

    async def connect(self, port: int) -> socket.socket:
        """Connect to the enclave's *port*; while its backlog is full, try again."""
        path = self._path(self._enclave_cid, port)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            while True:
                # Not loop.sock_connect: a UNIX socket that meets a full backlog says
                # EAGAIN, which means "nothing was begun", and asyncio takes it for
                # "in progress" and then for connected.
                try:
                    made.connect(path)
                except BlockingIOError:
                    await asyncio.sleep(RETRY)
                else:
                    return made
        except BaseException:
            made.close()
            raise

    def is_our_enclave(self, peer: socket.socket) -> bool:
        """Return True: the folder's mode keeps everyone else out."""
        del peer
        return True

    def _bound(self, path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            os.chmod(path, 0o600)  # noqa: PTH101 - it is a socket's name, a str
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def _path(self, cid: int, port: int) -> str:
        path = str(self._folder / f"{cid}.{port}.sock")
        if len(os.fsencode(path)) > MAX_UNIX_PATH:
            raise Undecided(
                Code.INTERNAL,
                "the run folder's path is too long for a UNIX socket",
                "choose a shorter one",
            )
        return path

    def _remove_dead(self, path: str, port: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                return  # bind will refuse, and nothing of anybody's is removed
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)  # noqa: PTH108 - it is a socket's name, a str
                    return
            raise Undecided(
                Code.INTERNAL,
                f"another parent listens in place of vsock port {port}",
                "stop it first, or use another run folder",
            )
