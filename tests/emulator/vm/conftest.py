"""A guest made of Python: the driver's half of the rings, and QEMU's of vhost-user."""

import array
import contextlib
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nitrosigner.emulator.vm.guest_memory import GuestFault
from nitrosigner.emulator.vm.vhost_user import Device, VhostUser

SIZE = 1 << 20
GUEST = 0x4000_0000
USER = 0x7000_0000
RING = 16
PAGE = 4096
DEADLINE = 30.0


@dataclass
class Ring:
    """Where a ring's three parts lie in the shared memory, and its event descriptors."""

    descriptors: int
    available: int
    used: int
    kick: int
    call: int
    next_descriptor: int = 0
    taken: int = 0


class Guest:
    """One guest with memory, rings and a connection to one device."""

    def __init__(self, path: Path, queues: int) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, SIZE)
        self.memory = mmap.mmap(self.fd, SIZE)
        self._free = queues * 4 * PAGE
        self.qemu = socket.socket(socket.AF_UNIX)
        self.qemu.connect(str(path))
        self.ask(1)
        self.ask(15)
        self.send(16, struct.pack("<Q", 1 << 3))
        table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", GUEST, SIZE, USER, 0)
        self.send(5, table, [self.fd])
        self.rings = [self._ring(number) for number in range(queues)]

    def _ring(self, number: int) -> Ring:
        base = number * 4 * PAGE
        ring = Ring(
            base,
            base + PAGE,
            base + 2 * PAGE,
            os.eventfd(0, os.EFD_NONBLOCK),
            os.eventfd(0, os.EFD_NONBLOCK),
        )
        self.send(8, struct.pack("<II", number, RING))
        self.send(10, struct.pack("<II", number, 0))
        places = (USER + ring.descriptors, USER + ring.used, USER + ring.available)
        self.send(9, struct.pack("<IIQQQQ", number, 0, *places, 0))
        self.send(13, struct.pack("<Q", number), [ring.call])
        self.send(12, struct.pack("<Q", number), [ring.kick])
        self.send(18, struct.pack("<II", number, 1))
        return ring

    def send(self, request: int, body: bytes, fds: list[int] | None = None) -> None:
        message = struct.pack("<III", request, 1 | 8, len(body)) + body
        extra = []
        if fds:
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self.qemu.sendmsg([message], extra)
        assert self._answer() == bytes(8)

    def ask(self, request: int, body: bytes = b"") -> bytes:
        self.qemu.sendall(struct.pack("<III", request, 1, len(body)) + body)
        return self._answer()

    def _answer(self) -> bytes:
        header = self._exactly(12)
        return self._exactly(struct.unpack("<III", header)[2])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.qemu.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def place(self, data: bytes) -> int:
        """Put *data* into memory of its own; return the guest's address."""
        address = self._free
        self._free += (len(data) + 63) // 64 * 64
        self.memory[address : address + len(data)] = data
        return GUEST + address

    def offer(self, number: int, parts: list[tuple[int, int, bool]]) -> int:
        """Offer a chain of (address, length, device may write); return its head."""
        ring = self.rings[number]
        head = ring.next_descriptor
        for index, (address, length, writable) in enumerate(parts):
            place = (head + index) % RING
            last = index == len(parts) - 1
            flags = (0 if last else 1) | (2 if writable else 0)
            struct.pack_into(
                "<QIHH",
                self.memory,
                ring.descriptors + 16 * place,
                *(address, length, flags, (place + 1) % RING),
            )
        ring.next_descriptor = (head + len(parts)) % RING
        self.make_available(number, head)
        return head

    def make_available(self, number: int, head: int) -> None:
        ring = self.rings[number]
        (index,) = struct.unpack_from("<H", self.memory, ring.available + 2)
        place = ring.available + 4 + 2 * (index % RING)
        struct.pack_into("<H", self.memory, place, head)
        struct.pack_into("<H", self.memory, ring.available + 2, (index + 1) & 0xFFFF)

    def kick(self, number: int) -> None:
        os.eventfd_write(self.rings[number].kick, 1)

    def await_used(self, number: int) -> tuple[int, int]:
        """Return (head, bytes written) of the next chain that the device hands back."""
        ring = self.rings[number]
        deadline = time.monotonic() + DEADLINE
        while True:
            (index,) = struct.unpack_from("<H", self.memory, ring.used + 2)
            if index != ring.taken:
                place = ring.used + 4 + 8 * (ring.taken % RING)
                ring.taken = (ring.taken + 1) & 0xFFFF
                head, written = struct.unpack_from("<II", self.memory, place)
                return head, written
            left = deadline - time.monotonic()
            assert left > 0, "the device hands nothing back"
            select.select([ring.call], [], [], min(left, 0.1))
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(ring.call)

    def close(self) -> None:
        self.qemu.close()
        for ring in self.rings:
            os.close(ring.kick)
            os.close(ring.call)
        self.memory.close()
        os.close(self.fd)


@dataclass
class Running:
    """A device that serves a guest."""

    guest: Guest
    faults: list[GuestFault]
    thread: threading.Thread

    def await_fault(self) -> str:
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        (fault,) = self.faults
        return str(fault)


Start = Callable[[Device, int], Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Connect a guest to a device of so many rings."""
    started: list[Running] = []

    def begin(device: Device, queues: int) -> Running:
        path = tmp_path / f"device-{len(started)}.sock"
        transport = VhostUser(path, device, queues)
        faults: list[GuestFault] = []

        def serve() -> None:
            try:
                transport.serve()
            except GuestFault as fault:
                faults.append(fault)

        thread = threading.Thread(target=serve)
        thread.start()
        running = Running(Guest(path, queues), faults, thread)
        started.append(running)
        return running

    yield begin
    for running in started:
        running.guest.close()
        running.thread.join(DEADLINE)
        assert not running.thread.is_alive()
