"""The parent's two ends of the vsock, and their local stand-in."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent.vsock import KernelVsock, UnixVsock
from nitrosigner.verdicts import Undecided


def test_a_dead_parents_socket_is_replaced_and_a_living_ones_is_not(
    run: Path,
) -> None:
    vsock = UnixVsock(run, 16)
    first = vsock.listen(7001)
    with pytest.raises(Undecided, match="another parent"):
        vsock.listen(7001)
    first.close()  # as kill -9 does: the name stays
    second = vsock.listen(7001)
    path = run / "vsock" / "3.7001.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    second.close()


def test_a_file_of_somebody_is_not_removed(run: Path) -> None:
    (run / "vsock").mkdir()
    path = run / "vsock" / "3.7001.sock"
    path.write_text("precious")
    with pytest.raises(Undecided):
        UnixVsock(run, 16).listen(7001)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(Undecided, match="too long"):
        UnixVsock(tmp_path / ("x" * 100), 16).listen(7001)


def test_a_full_backlog_is_waited_for_not_mistaken_for_a_connection(
    run: Path,
) -> None:
    async def main() -> None:
        (run / "vsock").mkdir()
        enclave = socket.socket(socket.AF_UNIX)
        enclave.bind(str(run / "vsock" / "16.8443.sock"))
        enclave.listen(0)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            fillers.append(filler)
            filler.setblocking(False)
            try:
                filler.connect(enclave.getsockname())
            except BlockingIOError:
                break
        connecting = asyncio.create_task(UnixVsock(run, 16).connect(8443))
        await asyncio.sleep(0.02)
        assert not connecting.done()
        for _ in range(len(fillers) - 1):
            enclave.accept()[0].close()
        ours = await asyncio.wait_for(connecting, 30)
        theirs, _ = enclave.accept()
        ours.send(b"hello")
        assert theirs.recv(5) == b"hello"
        for one in (ours, theirs, enclave, *fillers):
            one.close()

    asyncio.run(main())


def test_nobody_there_is_an_os_error_and_leaves_nothing_open(run: Path) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            with pytest.raises(OSError):
                await UnixVsock(run, 16).connect(8443)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_a_kernels_vsock_listens_once_or_says_what_is_missing() -> None:
    vsock = KernelVsock(16)
    port = 700_000 + os.getpid()
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError:
        with pytest.raises(Undecided, match="no vsock"):
            vsock.listen(port)
        return
    first = vsock.listen(port)
    with pytest.raises(Undecided, match="cannot be listened on"):
        vsock.listen(port)
    first.close()
