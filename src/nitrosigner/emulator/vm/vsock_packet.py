"""
One packet of a virtio socket (VIRTIO 1.2, section 5.10).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from nitrosigner.emulator.vm.guest_memory import GuestFault

HEADER: Final = struct.Struct("<QQIIIHHIII")
STREAM: Final = 1
MAX_PAYLOAD: Final = 1 << 16
"""Bytes; linux, include/linux/virtio_vsock.h: VIRTIO_VSOCK_MAX_PKT_BUF_SIZE."""

NO_MORE_RECEIVING: Final = 1
NO_MORE_SENDING: Final = 2
CLOSED: Final = NO_MORE_RECEIVING | NO_MORE_SENDING


class Operation(IntEnum):
    """What a packet says."""

    REQUEST = 1
    RESPONSE = 2
    RESET = 3
    SHUTDOWN = 4
    DATA = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet. *allocated* and *forwarded* are the sender's credit (bytes)."""

    source: int
    destination: int
    source_port: int
    destination_port: int
    kind: int = STREAM
    operation: int
    flags: int = 0
    allocated: int = 0
    forwarded: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        header = HEADER.pack(
            self.source,
            self.destination,
            self.source_port,
            self.destination_port,
            len(self.payload),
            self.kind,
            self.operation,
            self.flags,
            self.allocated,
            self.forwarded & 0xFFFFFFFF,
        )
        return header + self.payload


def decode(data: bytes) -> Packet:
    """
    Read what a guest sent.

    Raises:
        GuestFault: It is no packet.
    """
    if len(data) < HEADER.size:
        msg = "a packet shorter than its header"
        raise GuestFault(msg)
    (
        *addresses,
        length,
        kind,
        operation,
        flags,
        allocated,
        forwarded,
    ) = HEADER.unpack_from(data)
    if length > MAX_PAYLOAD or length > len(data) - HEADER.size:
        msg = "a packet that says it is longer than it is"
        raise GuestFault(msg)
    return Packet(
        source=addresses[0],
        destination=addresses[1],
        source_port=addresses[2],
        destination_port=addresses[3],
        kind=kind,
        operation=operation,
        flags=flags,
        allocated=allocated,
        forwarded=forwarded,
        payload=data[HEADER.size : HEADER.size + length],
    )
