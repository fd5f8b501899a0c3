"""
The guest's vsock as a virtio device, made of the UNIX sockets of `emulator.vsock`.

The guest's port N of CID 3 is the socket `3.N.sock`; whoever connects to the socket
`16.N.sock` reaches the guest's port N. This machine's own AF_VSOCK is not touched.

What the guest says is not believed: it may address nobody but the parent, it gets as
many connections as there are places, and more data than it was given credit for ends
the connection. What is kept for it is bounded by that credit.
"""

import collections
import contextlib
import selectors
import socket
from collections.abc import Sequence
from typing import Final, final

from nitrosigner.emulator.vm.vhost_user import VhostUser
from nitrosigner.emulator.vm.vsock_connection import BUFFER, Connection
from nitrosigner.emulator.vm.vsock_packet import (
    CLOSED,
    HEADER,
    NO_MORE_SENDING,
    STREAM,
    Operation,
    Packet,
    decode,
)
from nitrosigner.emulator.vsock import UnixVsock
from nitrosigner.wire.addresses import PARENT_CID

QUEUES: Final = 3
MAX_CONNECTIONS: Final = 1024
MAX_WAITING: Final = 1024
"""Packets for the guest. While so many wait, nothing is taken from it."""
DATA_WAITING: Final = 64
"""Packets for the guest, above which no more data is read for it."""
_TO_GUEST: Final = 0
_FROM_GUEST: Final = 1
_FIRST_PORT: Final = 1 << 30
_CHUNK: Final = 1 << 15


@final
class VsockDevice:
    """The vsock of the guest *cid*, whose *ports* can be reached from outside."""

    def __init__(self, vsock: UnixVsock, cid: int, ports: Sequence[int]) -> None:
        self.config = cid.to_bytes(8, "little")
        self._cid = cid
        self._parent = vsock
        self._ports = ports
        self._listeners: list[socket.socket] = []
        self._connections: dict[tuple[int, int], Connection] = {}
        self._waiting: collections.deque[tuple[Packet, Connection | None]] = (
            collections.deque()
        )
        self._next_port = _FIRST_PORT
        self._transport: VhostUser | None = None

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def attach(self, transport: VhostUser) -> None:
        """Listen for those who want to reach the guest."""
        self._transport = transport
        enclave = UnixVsock(self._parent.run, self._cid)
        for port in self._ports:
            listener = enclave.listen(port)
            listener.setblocking(False)
            self._listeners.append(listener)
            transport.selector.register(
                listener,
                selectors.EVENT_READ,
                lambda _, listener=listener, port=port: self._accept(listener, port),
            )

    def reset(self) -> None:
        """Close every connection: the guest has gone."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._waiting.clear()

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            listener.close()

    def on_kick(self, queue: int) -> None:
        """
        Take packets from the guest, or fill buffers that it has offered.

        Raises:
            GuestFault: A packet or a buffer is nonsense.
        """
        if queue in {_FROM_GUEST, _TO_GUEST}:
            self._pump()

    def _pump(self) -> None:
        transport = self._transport
        if transport is None:
            return
        incoming = transport.queues[_FROM_GUEST]
        given = False
        while True:
            self._fill()
            if len(self._waiting) >= MAX_WAITING:
                break
            chain = incoming.take()
            if chain is None:
                break
            packet = decode(chain.read())
            incoming.give_back(chain, 0)
            given = True
            self._receive(packet)
        if given:
            transport.notify(_FROM_GUEST)
        for connection in list(self._connections.values()):
            self._watch(connection)

    def _fill(self) -> None:
        """Put waiting packets into the buffers that the guest has offered."""
        transport = self._transport
        if transport is None or not self._waiting:
            return
        ring = transport.queues[_TO_GUEST]
        filled = False
        while self._waiting and (chain := ring.take()) is not None:
            packet, connection = self._waiting.popleft()
            room = max(chain.room - HEADER.size, 0)
            payload, rest = packet.payload[:room], packet.payload[room:]
            if rest:
                self._waiting.appendleft((_with(packet, rest, connection), connection))
            data = _with(packet, payload, connection).encode()
            chain.write(data)
            ring.give_back(chain, len(data))
            filled = True
        if filled:
            transport.notify(_TO_GUEST)

    def _send(
        self,
        connection: Connection,
        operation: Operation,
        payload: bytes = b"",
        flags: int = 0,
    ) -> None:
        packet = Packet(
            source=PARENT_CID,
            destination=self._cid,
            source_port=connection.host_port,
            destination_port=connection.guest_port,
            operation=operation,
            flags=flags,
            payload=payload,
        )
        self._waiting.append((packet, connection))

    def _refuse(self, packet: Packet) -> None:
        """Answer a packet that belongs to no connection."""
        if packet.operation != Operation.RESET:
            answer = Packet(
                source=packet.destination,
                destination=self._cid,
                source_port=packet.destination_port,
                destination_port=packet.source_port,
                kind=packet.kind,
                operation=Operation.RESET,
            )
            self._waiting.append((answer, None))

    def _receive(self, packet: Packet) -> None:
        key = (packet.destination_port, packet.source_port)
        connection = self._connections.get(key)
        if (
            packet.source != self._cid
            or packet.destination != PARENT_CID
            or packet.kind != STREAM
        ):
            self._refuse(packet)
        elif connection is None:
            if packet.operation == Operation.REQUEST:
                self._connect(packet)
            else:
                self._refuse(packet)
        elif packet.operation == Operation.REQUEST:
            self._refuse(packet)
            self._drop(connection)
        else:
            self._continue(connection, packet)

    def _connect(self, packet: Packet) -> None:
        """The guest wants a connection to a port of its parent's."""
        if len(self._connections) >= MAX_CONNECTIONS:
            self._refuse(packet)
            return
        try:
            end = self._parent.connect_now(packet.destination_port)
        except OSError:
            self._refuse(packet)
            return
        connection = Connection(end, packet.destination_port, packet.source_port)
        connection.established = True
        connection.take_credit(packet)
        self._connections[connection.key] = connection
        self._send(connection, Operation.RESPONSE)

    def _accept(self, listener: socket.socket, port: int) -> None:
        """Somebody wants a connection to a port of the guest's."""
        try:
            end, _ = listener.accept()
        except OSError:  # gone again
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            end.close()
            return
        end.setblocking(False)
        self._next_port += 1
        if self._next_port >= 1 << 32:
            self._next_port = _FIRST_PORT
        connection = Connection(end, self._next_port, port)
        self._connections[connection.key] = connection
        self._send(connection, Operation.REQUEST)
        self._pump()

    def _continue(self, connection: Connection, packet: Packet) -> None:
        connection.take_credit(packet)
        match packet.operation:
            case Operation.RESPONSE:
                connection.established = True
            case Operation.DATA:
                if not connection.queue(packet.payload):
                    self._refuse(packet)
                    self._drop(connection)
                    return
            case Operation.CREDIT_REQUEST:
                self._send(connection, Operation.CREDIT_UPDATE)
            case Operation.SHUTDOWN:
                connection.guest_done |= bool(packet.flags & NO_MORE_SENDING)
                connection.guest_closed |= packet.flags & CLOSED == CLOSED
            case Operation.RESET:
                # Said to us after all that the guest has sent: deliver that first.
                with contextlib.suppress(OSError):
                    connection.flush()
                self._drop(connection)
                return
            case _:
                pass
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        """Pass on what the guest has sent; end the connection when that is due."""
        try:
            connection.flush()
        except OSError:
            self._end(connection)
            return
        if connection.owes_credit:
            self._send(connection, Operation.CREDIT_UPDATE)
        if not connection.outgoing:
            if connection.guest_closed:
                self._end(connection)
            elif connection.guest_done:
                connection.finish_sending()

    def _end(self, connection: Connection) -> None:
        """Tell the guest that it is over."""
        self._send(connection, Operation.RESET)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.key, None)
        if self._transport is not None and connection.watched:
            self._transport.selector.unregister(connection.end)
            connection.watched = 0
        connection.end.close()

    def _watch(self, connection: Connection) -> None:
        """Have the loop look at the connection's socket for what it may do now."""
        transport = self._transport
        if transport is None:
            return
        wanted = 0
        if connection.may_read and len(self._waiting) < DATA_WAITING:
            wanted |= selectors.EVENT_READ
        if connection.outgoing:
            wanted |= selectors.EVENT_WRITE
        if wanted == connection.watched:
            return
        if connection.watched:
            transport.selector.unregister(connection.end)
        if wanted:
            transport.selector.register(
                connection.end,
                wanted,
                lambda mask: self._on_socket(connection, mask),
            )
        connection.watched = wanted

    def _on_socket(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(connection)
        if mask & selectors.EVENT_READ and connection.watched:
            self._read(connection)
        self._pump()

    def _read(self, connection: Connection) -> None:
        size = min(_CHUNK, connection.credit)
        if size <= 0:
            return
        try:
            data = connection.end.recv(size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end(connection)
            return
        if data:
            connection.sent += len(data)
            self._send(connection, Operation.DATA, data)
        else:
            connection.host_done = True
            flags = CLOSED if connection.guest_done else NO_MORE_SENDING
            self._send(connection, Operation.SHUTDOWN, flags=flags)


def _with(packet: Packet, payload: bytes, connection: Connection | None) -> Packet:
    """Return *packet* with *payload* and the credit of this moment."""
    forwarded = 0
    if connection is not None:
        forwarded = connection.forwarded
        connection.announced = forwarded
    return Packet(
        source=packet.source,
        destination=packet.destination,
        source_port=packet.source_port,
        destination_port=packet.destination_port,
        kind=packet.kind,
        operation=packet.operation,
        flags=packet.flags,
        allocated=BUFFER,
        forwarded=forwarded,
        payload=payload,
    )
