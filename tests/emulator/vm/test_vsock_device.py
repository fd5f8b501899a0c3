"""The vsock as a device, between a guest made of Python and UNIX sockets."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nitrosigner.emulator.vm.guest_memory import GuestFault
from nitrosigner.emulator.vm.vsock_connection import BUFFER
from nitrosigner.emulator.vm.vsock_device import MAX_CONNECTIONS, QUEUES, VsockDevice
from nitrosigner.emulator.vm.vsock_packet import (
    CLOSED,
    HEADER,
    NO_MORE_SENDING,
    Operation,
    Packet,
    decode,
)
from nitrosigner.emulator.vsock import UnixVsock, socket_path

CID = 16
PARENT = 3
PORT = 7001
HTTPS = 8443
OURS = 5000
ROOM = 4096
ALLOCATED = 1 << 18


def packet(operation: int, payload: bytes = b"", **fields: Any) -> Packet:
    said: dict[str, Any] = {
        "source": CID,
        "destination": PARENT,
        "source_port": OURS,
        "destination_port": PORT,
        "allocated": ALLOCATED,
        **fields,
    }
    return Packet(operation=operation, payload=payload, **said)


class Talker:
    """The guest's driver: sends packets, offers buffers, reads what comes."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest
        self.buffers: dict[int, int] = {}
        self.spare = guest.place(bytes(1 << 17))
        for _ in range(8):
            self.offer(guest.place(bytes(ROOM)))

    def offer(self, address: int) -> None:
        head = self.guest.offer(0, [(address, ROOM, True)])
        self.buffers[head] = address
        self.guest.kick(0)

    def send(self, one: Packet) -> None:
        self.raw(one.encode())

    def raw(self, data: bytes) -> None:
        place = self.spare - 0x4000_0000
        self.guest.memory[place : place + len(data)] = data
        self.guest.offer(1, [(self.spare, len(data), False)])
        self.guest.kick(1)
        self.guest.await_used(1)

    def receive(self) -> Packet:
        head, written = self.guest.await_used(0)
        address = self.buffers.pop(head)
        place = address - 0x4000_0000
        data = bytes(self.guest.memory[place : place + written])
        self.offer(address)
        return decode(data)

    def connect(self, **fields: Any) -> None:
        self.send(packet(Operation.REQUEST, **fields))
        assert self.receive().operation == Operation.RESPONSE


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def parent(run: Path) -> Iterator[socket.socket]:
    with UnixVsock(run, PARENT).listen(PORT) as listener:
        listener.settimeout(30)
        yield listener


@pytest.fixture
def device(run: Path) -> VsockDevice:
    return VsockDevice(UnixVsock(run, PARENT), CID, [HTTPS])


@pytest.fixture
def talker(device: VsockDevice, start: Callable[..., Any]) -> Talker:
    return Talker(start(device, QUEUES).guest)


def accepted(parent: socket.socket) -> socket.socket:
    end, _ = parent.accept()
    end.settimeout(30)
    return end


def exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        assert part
        data += part
    return data


def test_the_guest_learns_its_cid(talker: Talker) -> None:
    answer = talker.guest.ask(24, struct.pack("<III", 0, 8, 0) + bytes(8))
    assert answer[12:] == CID.to_bytes(8, "little")


def test_the_guest_reaches_a_port_of_its_parent(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect()
    with accepted(parent) as end:
        talker.send(packet(Operation.DATA, b"ping"))
        assert exactly(end, 4) == b"ping"
        end.sendall(b"pong")
        said = talker.receive()
        assert (said.operation, said.payload) == (Operation.DATA, b"pong")
        assert (said.source, said.source_port) == (PARENT, PORT)
        assert (said.destination, said.destination_port) == (CID, OURS)
        assert said.allocated == BUFFER
        assert said.forwarded == 4


def test_the_parent_reaches_the_guests_port(talker: Talker, run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(socket_path(run, CID, HTTPS)))
        asked = talker.receive()
        assert asked.operation == Operation.REQUEST
        assert asked.destination_port == HTTPS
        ports = {
            "source_port": HTTPS,
            "destination_port": asked.source_port,
        }
        talker.send(packet(Operation.RESPONSE, **ports))
        end.sendall(b"hello")
        assert talker.receive().payload == b"hello"
        talker.send(packet(Operation.DATA, b"answer", **ports))
        end.settimeout(30)
        assert exactly(end, 6) == b"answer"


def test_a_guest_that_does_not_listen_closes_the_connection(
    talker: Talker, run: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(30)
        end.connect(str(socket_path(run, CID, HTTPS)))
        asked = talker.receive()
        talker.send(
            packet(
                Operation.RESET,
                source_port=HTTPS,
                destination_port=asked.source_port,
            )
        )
        assert end.recv(1) == b""


def test_what_does_not_fit_into_one_buffer_comes_in_several(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect()
    blob = os.urandom(100_000)
    with accepted(parent) as end:
        end.sendall(blob)
        gathered = b""
        while len(gathered) < len(blob):
            one = talker.receive()
            assert len(one.payload) <= ROOM - HEADER.size
            gathered += one.payload
        assert gathered == blob


def test_the_guest_gets_no_more_than_it_has_room_for(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect(allocated=1000)
    with accepted(parent) as end:
        end.sendall(bytes(3000))
        gathered = talker.receive().payload
        assert len(gathered) == 1000
        # Nothing more, until the guest says that it has read.
        talker.send(packet(Operation.CREDIT_REQUEST, allocated=1000))
        assert talker.receive().operation == Operation.CREDIT_UPDATE
        talker.send(packet(Operation.CREDIT_UPDATE, allocated=1000, forwarded=1000))
        assert len(talker.receive().payload) == 1000


def test_what_the_guest_sends_without_credit_ends_the_connection(
    talker: Talker, parent: socket.socket, device: VsockDevice
) -> None:
    talker.connect()
    with accepted(parent):  # and never reads
        operations = set()
        for _ in range(2 * BUFFER // 65536 + 8):
            talker.send(packet(Operation.DATA, bytes(65536)))
        while Operation.RESET not in operations:
            operations.add(talker.receive().operation)
    assert device.connections == 0


def test_a_guest_that_reads_what_it_is_told_can_send_for_ever(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect()
    sent = 0
    known = 0
    with accepted(parent) as end:
        while sent < 8 * BUFFER:
            if sent - known + 65536 > BUFFER:
                known = talker.receive().forwarded
                continue
            talker.send(packet(Operation.DATA, bytes(65536)))
            sent += 65536
            exactly(end, 65536)


@pytest.mark.parametrize(
    "fields",
    [
        {"destination_port": 9},
        {"destination": 2},
        {"destination": 4},
        {"source": 17},
        {"kind": 2},
    ],
)
def test_whom_it_may_not_reach_is_reset(
    talker: Talker, parent: socket.socket, fields: dict[str, int]
) -> None:
    talker.send(packet(Operation.REQUEST, **fields))
    assert talker.receive().operation == Operation.RESET
    parent.setblocking(False)
    with pytest.raises(BlockingIOError):
        parent.accept()


def test_a_packet_of_no_connection_is_reset_and_a_reset_is_not(talker: Talker) -> None:
    talker.send(packet(Operation.RESET))
    talker.send(packet(Operation.DATA, b"x", source_port=77))
    said = talker.receive()
    assert (said.operation, said.destination_port) == (Operation.RESET, 77)


def test_a_second_request_on_a_connection_ends_it(
    talker: Talker, parent: socket.socket, device: VsockDevice
) -> None:
    talker.connect()
    with accepted(parent) as end:
        talker.send(packet(Operation.REQUEST))
        assert talker.receive().operation == Operation.RESET
        assert end.recv(1) == b""
    assert device.connections == 0


def test_half_closed_connections_still_carry_the_other_half(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect()
    with accepted(parent) as end:
        talker.send(packet(Operation.SHUTDOWN, flags=NO_MORE_SENDING))
        assert end.recv(1) == b""
        end.sendall(b"late")
        assert talker.receive().payload == b"late"
        end.shutdown(socket.SHUT_WR)
        said = talker.receive()
        assert (said.operation, said.flags) == (Operation.SHUTDOWN, CLOSED)


def test_what_was_sent_before_closing_arrives(
    talker: Talker, parent: socket.socket, device: VsockDevice
) -> None:
    talker.connect()
    with accepted(parent) as end:
        # More than the socket takes at once.
        for _ in range(BUFFER // 65536):
            talker.send(packet(Operation.DATA, bytes(65536)))
        talker.send(packet(Operation.SHUTDOWN, flags=CLOSED))
        assert exactly(end, BUFFER) == bytes(BUFFER)
        assert end.recv(1) == b""
    while talker.receive().operation != Operation.RESET:
        pass
    assert device.connections == 0


def test_the_guest_gets_so_many_connections_and_no_more(
    run: Path, device: VsockDevice, talker: Talker
) -> None:
    with UnixVsock(run, PARENT).listen(PORT) as parent:
        ends = []
        for number in range(MAX_CONNECTIONS):
            talker.connect(source_port=10_000 + number)
            ends.append(parent.accept()[0])
        talker.send(packet(Operation.REQUEST, source_port=9))
        assert talker.receive().operation == Operation.RESET
        for end in ends:
            end.close()


def test_a_parent_that_is_too_busy_to_accept_resets(run: Path, talker: Talker) -> None:
    path = socket_path(run, PARENT, 7003)
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        operations = []
        for number in range(4):
            talker.send(
                packet(
                    Operation.REQUEST,
                    source_port=20_000 + number,
                    destination_port=7003,
                )
            )
            operations.append(talker.receive().operation)
    assert operations[0] == Operation.RESPONSE
    assert operations[-1] == Operation.RESET


def test_when_the_guest_is_gone_its_connections_are_closed(
    talker: Talker, parent: socket.socket
) -> None:
    talker.connect()
    with accepted(parent) as end:
        talker.guest.ask(11, bytes(8))
        assert end.recv(1) == b""


@pytest.mark.parametrize("data", [b"", b"x" * 43])
def test_what_is_shorter_than_a_header_ends_the_device(
    device: VsockDevice, start: Callable[..., Any], data: bytes
) -> None:
    running = start(device, QUEUES)
    running.guest.offer(1, [(running.guest.place(data), len(data), False)])
    running.guest.kick(1)
    assert "shorter" in running.await_fault()


def test_a_payload_that_is_not_there_ends_the_device(
    device: VsockDevice, start: Callable[..., Any]
) -> None:
    running = start(device, QUEUES)
    data = bytearray(packet(Operation.DATA, b"abc").encode())
    struct.pack_into("<I", data, 24, 4)
    running.guest.offer(1, [(running.guest.place(bytes(data)), len(data), False)])
    running.guest.kick(1)
    assert "longer than it is" in running.await_fault()


def test_a_buffer_without_room_for_a_header_ends_the_device(
    device: VsockDevice, start: Callable[..., Any]
) -> None:
    running = start(device, QUEUES)
    guest = running.guest
    guest.offer(0, [(guest.place(bytes(8)), 8, True)])
    data = packet(Operation.REQUEST, destination_port=1).encode()
    guest.offer(1, [(guest.place(data), len(data), False)])
    guest.kick(1)
    assert "too small" in running.await_fault()


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    packets=st.lists(
        st.builds(
            packet,
            st.integers(0, 9),
            st.binary(max_size=100),
            source=st.sampled_from([CID, CID, CID, 0, 2**64 - 1]),
            destination=st.sampled_from([PARENT, PARENT, PARENT, 2, 0]),
            source_port=st.sampled_from([1, 2, 2**32 - 1]),
            destination_port=st.sampled_from([PORT, PORT, 0, 2**32 - 1]),
            kind=st.sampled_from([1, 1, 1, 2, 0]),
            flags=st.integers(0, 2**32 - 1),
            allocated=st.integers(0, 2**32 - 1),
            forwarded=st.integers(0, 2**32 - 1),
        ),
        max_size=20,
    )
)
def test_whatever_a_guest_sends_the_next_guests_words_still_get_through(
    talker: Talker, parent: socket.socket, packets: list[Packet]
) -> None:
    for one in packets:
        talker.send(one)
    # End what the random packets began, then talk as a driver does.
    for port in (1, 2, 2**32 - 1, OURS):
        talker.send(packet(Operation.RESET, source_port=port))
    ends = []
    parent.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ends.append(parent.accept()[0])
    for end in ends:
        end.close()
    parent.settimeout(30)
    talker.send(packet(Operation.REQUEST))
    deadline = time.monotonic() + 30
    while True:
        said = talker.receive()
        if said.operation == Operation.RESPONSE and said.destination_port == OURS:
            break
        assert time.monotonic() < deadline
    end = accepted(parent)
    with end:
        talker.send(packet(Operation.DATA, b"still here"))
        assert exactly(end, 10) == b"still here"
        talker.send(packet(Operation.RESET))
        assert end.recv(1) == b""


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_packet_or_a_fault(data: bytes) -> None:
    try:
        one = decode(data)
    except GuestFault:
        return
    assert len(one.payload) <= len(data) - HEADER.size
    assert decode(one.encode()) == one
    assert decode(replace(one, payload=b"").encode()).payload == b""
