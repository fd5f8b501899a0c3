"""
Two connections as one: what arrives on either goes out on the other, unread.

Nothing here knows what the bytes are. What must hold: memory is bounded however slowly
a side reads, one side's end is the other's end, and a side that breaks off breaks the
other off too, so that a cut answer never looks like a finished one.

The sockets are not asyncio's: its transports cost more than the system calls. They lie
in an epoll of their own, which the loop sees as one file that can be read now and then.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

READ_SIZE: Final = 64 * 1024
"""Bytes read at once, and the most that is kept for each direction: while some of it
waits for a slow reader, its sender is not read."""
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

# One buffer for all: what was read is sent, or copied, before anything else is read.
_buffer: Final = memoryview(bytearray(READ_SIZE))


class Totals:
    """What passed since the start, for `state.json`."""

    __slots__ = ("accepted", "bytes_in", "bytes_out", "failed", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.failed = 0
        self.bytes_in = 0
        """Towards the enclave's counterpart: `near` to `far`."""
        self.bytes_out = 0


class Arrival(asyncio.Protocol):
    """A connection that asyncio made, of which nothing is read: it is to be relayed."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, and leave what it brings where it is."""
        self.transport = transport  # type: ignore[assignment] # sockets give Transport
        # A turn later, which is before anything is read: Debian 12's asyncio (3.11.2)
        # begins to read after this call, paused or not.
        asyncio.get_running_loop().call_soon(self.transport.pause_reading)


def taken_from(transport: asyncio.Transport) -> socket.socket:
    """
    Return a connection's socket, which asyncio then knows nothing of.

    Nothing may wait to be written: it would be lost.
    """
    taken: socket.socket = transport.get_extra_info("socket").dup()
    # Closes asyncio's descriptor. The connection is not shut down: ours is left.
    transport.abort()
    return taken


def reset(connection: socket.socket) -> None:
    """Break a connection off, so that its peer sees that it was if TCP can say so."""
    if connection.family in {socket.AF_INET, socket.AF_INET6}:
        # SO_LINGER of zero seconds: RST instead of FIN.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()


class Side:
    """One side of a pair."""

    __slots__ = (
        "_epoll",
        "_receive",
        "_send",
        "_watched",
        "connection",
        "ended",
        "moved",
        "number",
        "pair",
        "peer",
        "waiting",
    )

    peer: "Side"
    pair: "Pair"

    def __init__(self, connection: socket.socket, epoll: select.epoll) -> None:
        self.connection = connection
        self.moved = 0
        """Bytes that came from here."""
        self.waiting = b""
        """Bytes that are to go out here."""
        self.ended = False
        """Nothing more comes from here."""
        self._epoll = epoll
        self.number = connection.fileno()
        self._receive = connection.recv_into
        self._send = connection.send
        self._watched = 0

    def happened(self, events: int) -> None:
        """
        Do what *events* allow.

        Raises:
            OSError: The connection is broken, or its peer.
        """
        # What is broken or hung up is found out by reading and writing.
        if self.waiting and events & ~_IN:
            self._send_waiting()
        if self._watched & _IN and events & ~_OUT:
            self._read()

    def send(self, some: bytes | memoryview) -> None:
        """Send *some* now, or what remains of it when the reader has caught up."""
        try:
            sent = self._send(some)
        except BlockingIOError:
            sent = 0
        if sent < len(some):
            self.waiting = bytes(some[sent:])
            self.watch()
            self.peer.watch()

    def watch(self) -> None:
        """Wait for what this side can do next, and for nothing else."""
        # A reader that is slow: the side that writes to it is not read.
        reading = not self.ended and not self.peer.waiting
        wanted = (_IN if reading else 0) | (_OUT if self.waiting else 0)
        if wanted == self._watched:
            return
        # Not even for nothing: epoll tells of hung up connections whoever asks.
        if not self._watched:
            self._epoll.register(self.number, wanted)
        elif wanted:
            self._epoll.modify(self.number, wanted)
        else:
            self._epoll.unregister(self.number)
        self._watched = wanted

    def unwatch(self) -> None:
        """Wait for nothing any more."""
        if self._watched:
            self._epoll.unregister(self.number)
            self._watched = 0

    def _read(self) -> None:
        try:
            count = self._receive(_buffer)
        except BlockingIOError:
            return
        pair = self.pair
        if count:
            self.moved += count
            pair.unanswered = pair.near is self
            self.peer.send(_buffer[:count])
            return
        # Nothing waits at the peer, or this side would not have been read.
        self.ended = True
        self.watch()
        if self.peer.ended:
            pair.close()
        else:
            # It may be gone already, which is found out by reading it.
            with contextlib.suppress(OSError):
                self.peer.connection.shutdown(socket.SHUT_WR)

    def _send_waiting(self) -> None:
        try:
            sent = self._send(self.waiting)
        except BlockingIOError:
            return
        self.waiting = self.waiting[sent:]
        if not self.waiting:
            self.watch()
            self.peer.watch()


class Pair:
    """Two joined connections, from when both stand until both are gone."""

    __slots__ = ("_on_end", "far", "near", "seen", "unanswered")

    def __init__(self, near: Side, far: Side, on_end: Callable[["Pair"], None]) -> None:
        """Join *near* and *far* and let both be read."""
        self.near, self.far = near, far
        self.seen = 0
        self.unanswered = False
        """What came last went from near to far: an answer is outstanding."""
        self._on_end = on_end
        near.peer, far.peer = far, near
        near.pair = far.pair = self
        near.watch()
        far.watch()

    @property
    def moved(self) -> int:
        """Bytes that passed in both directions."""
        return self.near.moved + self.far.moved

    def close(self) -> None:
        """Both directions have ended, and everything has been sent."""
        self._end(socket.socket.close)

    def abort(self) -> None:
        """Break both sides off now; what is waiting is dropped."""
        self._end(reset)

    def _end(self, close: Callable[[socket.socket], None]) -> None:
        for side in (self.near, self.far):
            side.unwatch()
            close(side.connection)
        self._on_end(self)


class Pairs:
    """
    The living pairs of one listener, and the sweep that ends the idle ones.

    The sweep costs nothing for each byte: it compares how much has passed since the
    sweep before. A pair therefore ends between one and two idle times.
    """

    def __init__(self, totals: Totals, idle: float) -> None:
        self._living: set[Pair] = set()
        self._sides: dict[int, Side] = {}
        self._epoll = select.epoll()
        self._totals = totals
        self._idle = idle
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._living)

    def join(self, near: socket.socket, far: socket.socket) -> Pair:
        """Join two connections, which must not block, and keep an eye on them."""
        if not self._living:
            self._empty.clear()
            asyncio.get_running_loop().add_reader(self._epoll, self._turn)
        sides = Side(near, self._epoll), Side(far, self._epoll)
        pair = Pair(*sides, self._end)
        self._living.add(pair)
        self._sides[near.fileno()], self._sides[far.fileno()] = sides
        return pair

    def passed(self) -> tuple[int, int]:
        """Return bytes that went near to far and far to near, the living included."""
        return (
            self._totals.bytes_in + sum(pair.near.moved for pair in self._living),
            self._totals.bytes_out + sum(pair.far.moved for pair in self._living),
        )

    @property
    def unanswered(self) -> int:
        """How many pairs wait for an answer from far."""
        return sum(pair.unanswered for pair in self._living)

    async def sweep(self, on_idle: Callable[[], None]) -> None:
        """Break off what stood still for a whole idle time. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._idle)
            for pair in list(self._living):
                if pair.seen == pair.moved + 1:
                    on_idle()
                    pair.abort()
                # One more than what passed, so that a new pair is not yet idle.
                pair.seen = pair.moved + 1

    async def drain(self, seconds: float) -> None:
        """Wait *seconds* for every pair to end by itself; break the rest off."""
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            for pair in list(self._living):
                pair.abort()

    def _turn(self) -> None:
        sides = self._sides
        for number, events in self._epoll.poll(0):
            side = sides.get(number)
            if side is None:  # its peer, a moment ago, was the end of both
                continue
            try:
                side.happened(events)
            except OSError:
                side.pair.abort()

    def _end(self, pair: Pair) -> None:
        for side in (pair.near, pair.far):
            del self._sides[side.number]
        self._living.discard(pair)
        self._totals.bytes_in += pair.near.moved
        self._totals.bytes_out += pair.far.moved
        if not self._living:
            asyncio.get_running_loop().remove_reader(self._epoll)
            self._empty.set()
