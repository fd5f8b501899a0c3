"""A vsock of UNIX sockets: found by number, private, and robust to what the dead leave."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from nitrosigner.emulator.vsock import UnixVsock, socket_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "r"
    folder.mkdir()
    if len(str(socket_path(folder, 16, 65535)).encode()) > 107:
        pytest.skip("this machine's temporary folder is too deep for UNIX sockets")
    return folder


def _listen_as_parent(run: Path, port: int) -> socket.socket:
    return UnixVsock(run, 3).listen(port)


def test_bytes_reach_the_parents_port(run: Path) -> None:
    with (
        _listen_as_parent(run, 7001) as listener,
        UnixVsock(run, 16).connect(7001) as ours,
    ):
        assert ours.gettimeout() is None
        theirs, _ = listener.accept()
        with theirs:
            ours.sendall(b"hello")
            assert theirs.recv(5) == b"hello"


def test_ports_and_ids_are_separate(run: Path) -> None:
    with _listen_as_parent(run, 7001), UnixVsock(run, 16).listen(7001):
        assert socket_path(run, 3, 7001).is_socket()
        assert socket_path(run, 16, 7001).is_socket()
        with pytest.raises(FileNotFoundError):
            UnixVsock(run, 16).connect(7002)


def test_sockets_are_for_their_owner_only(run: Path) -> None:
    before = os.umask(0)
    try:
        with UnixVsock(run, 16).listen(8443):
            path = socket_path(run, 16, 8443)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_what_a_dead_process_left_is_replaced(run: Path) -> None:
    UnixVsock(run, 3).listen(7001).close()
    assert socket_path(run, 3, 7001).exists()
    with pytest.raises(ConnectionRefusedError):
        UnixVsock(run, 16).connect(7001)
    with _listen_as_parent(run, 7001), UnixVsock(run, 16).connect(7001):
        pass


def test_a_living_listener_is_not_displaced(run: Path) -> None:
    with _listen_as_parent(run, 7001) as first:
        with pytest.raises(OSError, match="listens there") as caught:
            _listen_as_parent(run, 7001)
        assert caught.value.errno == errno.EADDRINUSE
        # The probe is a connection of its own; ours comes behind it.
        with UnixVsock(run, 16).connect(7001) as ours:
            ours.sendall(b"x")
            first.settimeout(30)
            probe, _ = first.accept()
            probe.close()
            theirs, _ = first.accept()
            with theirs:
                assert theirs.recv(1) == b"x"


def test_a_file_that_is_no_socket_is_replaced(run: Path) -> None:
    path = socket_path(run, 16, 8443)
    path.parent.mkdir()
    path.write_text("left by something else")
    with UnixVsock(run, 16).listen(8443):
        assert path.is_socket()


def test_a_run_folder_that_is_too_deep_is_said_to_be(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    for attempt in (UnixVsock(deep, 16).listen, UnixVsock(deep, 16).connect):
        with pytest.raises(OSError, match="too long for sockets"):
            attempt(8443)
