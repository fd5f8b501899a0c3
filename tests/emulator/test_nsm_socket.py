"""The socket that stands for /dev/nsm, and everything that can go wrong on it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from nitrosigner.emulator.nsm_socket import MAX_MESSAGE, SocketTransport, serve


@contextmanager
def _served(handle: Callable[[bytes], bytes]) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    thread = threading.Thread(target=serve, args=(theirs, handle))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(30)
        assert not thread.is_alive()


def test_requests_are_answered_in_order() -> None:
    with _served(lambda request: request[::-1]) as ours:
        transport = SocketTransport(ours)
        for request in (b"abc", b"", b"x" * MAX_MESSAGE, b"last"):
            assert transport(request) == request[::-1]


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x30\x01" + bytes(0x3001),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_an_enclave_that_breaks_the_framing_is_cut_off(sent: bytes) -> None:
    with _served(lambda request: request) as ours:
        ours.sendall(sent)
        # Unread bytes at the other end make the kernel say "reset" instead of "end".
        with suppress(ConnectionResetError):
            assert ours.recv(1) == b""


def test_a_message_that_is_cut_off_ends_the_service() -> None:
    with _served(lambda request: request) as ours:
        ours.sendall(b"\x00\x00\x00\x05ab")
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""


def test_half_a_length_ends_the_service() -> None:
    with _served(lambda request: request) as ours:
        ours.sendall(b"\x00\x00")
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""


def test_a_hypervisor_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(OSError):
            SocketTransport(ours)(b"x")


@pytest.mark.parametrize("answer", [b"", b"\x00\x00", b"\x00\x00\x00\x05ab"])
def test_an_answer_that_is_cut_off_is_an_error(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            SocketTransport(ours)(b"x")


def test_an_answer_of_impossible_length_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ConnectionError, match="too long"):
            SocketTransport(ours)(b"x")
