"""
One connection between the guest and a UNIX socket, and its credit in both directions.
"""

import contextlib
import socket
from typing import Final, final

from nitrosigner.emulator.vm.vsock_packet import Packet

BUFFER: Final = 256 * 1024
"""Bytes that the guest may send before they were passed on."""


@final
class Connection:
    """*end* does not block. Counters are bytes since the beginning."""

    def __init__(self, end: socket.socket, host_port: int, guest_port: int) -> None:
        self.end: Final = end
        self.host_port: Final = host_port
        self.guest_port: Final = guest_port
        self.established = False
        self.watched = 0
        """What the loop looks for on *end*."""
        self.outgoing = bytearray()
        """Sent by the guest, not yet passed on."""
        self.received = 0
        self.forwarded = 0
        self.announced = 0
        """What the guest was last told of `forwarded`."""
        self.sent = 0
        self.guest_done = False
        """The guest sends no more."""
        self.guest_closed = False
        self.host_done = False
        self._allocated = 0
        self._forwarded_by_guest = 0

    @property
    def key(self) -> tuple[int, int]:
        """What identifies it: both ports."""
        return (self.host_port, self.guest_port)

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for."""
        under_way = (self.sent - self._forwarded_by_guest) & 0xFFFFFFFF
        return self._allocated - under_way

    @property
    def may_read(self) -> bool:
        """Whether more may be read for the guest."""
        return self.established and not self.host_done and self.credit > 0

    @property
    def owes_credit(self) -> bool:
        """Whether the guest should hear that it may send more."""
        return self.forwarded - self.announced > BUFFER // 2

    def take_credit(self, packet: Packet) -> None:
        """Note how much room the guest says that it has."""
        self._allocated = packet.allocated
        self._forwarded_by_guest = packet.forwarded

    def queue(self, data: bytes) -> bool:
        """Take *data* from the guest; return False if it had no credit for it."""
        self.received += len(data)
        if self.received - self.forwarded > BUFFER:
            return False
        self.outgoing += data
        return True

    def flush(self) -> None:
        """
        Pass on what the socket takes now.

        Raises:
            OSError: The other end is gone.
        """
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self.outgoing:
                count = self.end.send(self.outgoing)
                del self.outgoing[:count]
                self.forwarded += count

    def finish_sending(self) -> None:
        """Let the other end see the end of what the guest sent."""
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_WR)
