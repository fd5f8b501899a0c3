"""
The emulated `/dev/nsm`: requests and answers over a socket, each behind its length.

The enclave's end and the hypervisor's end. The socket is one half of a pair that the
enclave inherits, so the hypervisor knows for certain which enclave it answers.
"""

import socket
from collections.abc import Callable
from typing import Final, final

MAX_MESSAGE: Final = 0x3000
"""Bytes of one message in either direction; the device's own largest response."""
_LENGTH_SIZE: Final = 4


@final
class SocketTransport:
    """The enclave's end: a `trusted.enclave.nsm.Transport`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __call__(self, request: bytes) -> bytes:
        """
        Exchange one message.

        Raises:
            OSError: The hypervisor is gone, or answered at impossible length.
        """
        _send(self._connection, request)
        answer = _receive(self._connection)
        if answer is None:
            msg = "the hypervisor closed the NSM"
            raise ConnectionError(msg)
        return answer


def serve(connection: socket.socket, handle: Callable[[bytes], bytes]) -> None:
    """
    Answer requests with *handle* until the enclave's end is closed.

    An enclave that breaks the framing is cut off: its NSM is gone, as if unplugged.
    """
    with connection:
        try:
            while (request := _receive(connection)) is not None:
                _send(connection, handle(request))
        except OSError:
            return


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(len(message).to_bytes(_LENGTH_SIZE, "big") + message)


def _receive(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, _LENGTH_SIZE)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > MAX_MESSAGE:
        msg = "an NSM message is too long"
        raise ConnectionError(msg)
    message = _exactly(connection, length)
    if message is None:
        msg = "an NSM message was cut off"
        raise ConnectionError(msg)
    return message


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    """Return *size* bytes, or None where the other end closed before the first."""
    gathered = bytearray()
    while len(gathered) < size:
        part = connection.recv(size - len(gathered))
        if not part:
            if not gathered:
                return None
            msg = "the other end closed in the middle of an NSM message"
            raise ConnectionError(msg)
        gathered += part
    return bytes(gathered)
