"""
Frames: how messages are cut out of a stream of bytes between enclave and parent.

    version   1 byte    `VERSION`
    request   4 bytes   big endian; the answer repeats it, so answers may overtake
    length    4 bytes   big endian, of the payload, at most `MAX_PAYLOAD`
    payload

A stream may be cut anywhere: one read is not one message, and a message is not one
read. The length is judged before any memory is taken for it. After one bad frame
nothing that follows can be trusted to be a frame: close the connection.
"""

import struct
from typing import Final, NamedTuple

VERSION: Final = 1
MAX_PAYLOAD: Final = 1 << 20
"""Bytes. A full page of records fits: `services.MAX_PAGE_BYTES` and its overhead."""
MAX_REQUEST_ID: Final = (1 << 32) - 1

_HEADER: Final = struct.Struct(">BII")
HEADER_SIZE: Final = _HEADER.size


class BadFrame(ValueError):
    """The stream is not made of frames of this version. Close the connection."""


class Frame(NamedTuple):
    """One message: which request it belongs to, and its bytes."""

    request_id: int
    payload: bytes


def encode(request_id: int, payload: bytes) -> bytes:
    """
    Return one frame.

    Raises:
        ValueError: *payload* is longer than `MAX_PAYLOAD`, or *request_id* does not
            fit in 32 bits. Nobody would accept the frame.
    """
    if len(payload) > MAX_PAYLOAD:
        msg = f"a frame holds at most {MAX_PAYLOAD} bytes"
        raise ValueError(msg)
    if not 0 <= request_id <= MAX_REQUEST_ID:
        msg = "a request id has 32 bits"
        raise ValueError(msg)
    return _HEADER.pack(VERSION, request_id, len(payload)) + payload


class FrameReader:
    """
    Cuts frames out of a stream, however it was split on the way.

    Call `next` until it returns None after each `feed`; then never more than one
    unfinished frame is kept, `HEADER_SIZE` + `MAX_PAYLOAD` bytes.
    """

    __slots__ = ("_bad", "_buffer", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._bad = ""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """
        Take what was read from the stream.

        Raises:
            BadFrame: An earlier frame was bad.
        """
        if self._bad:
            raise BadFrame(self._bad)
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> Frame | None:
        """
        Return the next whole frame, or None until more is fed.

        Raises:
            BadFrame: Unknown version, or too long; at once, not when it has arrived.
        """
        if self._bad:
            raise BadFrame(self._bad)
        buffer, start = self._buffer, self._start
        held = len(buffer) - start
        if held == 0:
            return None
        # The version is judged by its one byte: a peer of another version may have
        # another header, and waiting for the rest of ours could last for ever.
        if buffer[start] != VERSION:
            self._refuse("unknown frame version")
        if held < HEADER_SIZE:
            return None
        _, request_id, length = _HEADER.unpack_from(buffer, start)
        if length > MAX_PAYLOAD:
            self._refuse("frame is too long")
        end = start + HEADER_SIZE + length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[start + HEADER_SIZE : end])
        self._start = end
        if end == len(buffer):
            buffer.clear()
            self._start = 0
        return Frame(request_id, payload)

    @property
    def pending(self) -> int:
        """Bytes kept of a frame that is not whole. Not 0 at the end: it was cut off."""
        return len(self._buffer) - self._start

    def _refuse(self, why: str) -> None:
        self._bad = why
        self._buffer = bytearray()
        self._start = 0
        raise BadFrame(why)
