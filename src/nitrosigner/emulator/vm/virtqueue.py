"""
A split virtqueue, from the device's side (VIRTIO 1.2, section 2.7).

The guest owns the descriptor table and the available ring, and may write anything
into them at any time. Each value is read once and checked before it is used; what is
wrong is a `GuestFault`, after which the device does not look at the ring again.
Indirect descriptors and event indices are not offered.
"""

import struct
from dataclasses import dataclass
from typing import Final, final

from nitrosigner.emulator.vm.guest_memory import GuestFault, GuestMemory

MAX_SIZE: Final = 1024
MAX_CHAIN_BYTES: Final = 1 << 18
"""Bytes that one chain may read or write: four times the largest vsock packet."""
_DESCRIPTOR: Final = struct.Struct("<QIHH")
_NEXT: Final = 1
_WRITE: Final = 2
_NO_INTERRUPT: Final = 1


@dataclass(frozen=True, slots=True)
class Chain:
    """A buffer that the guest offers."""

    head: int
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]

    def read(self) -> bytes:
        """Return what the guest wrote, copied once."""
        return b"".join(self.readable)

    @property
    def room(self) -> int:
        """Bytes that may be written."""
        return sum(len(view) for view in self.writable)

    def write(self, data: bytes) -> None:
        """
        Write *data* to the beginning of what may be written.

        Raises:
            GuestFault: There is no room for it.
        """
        if self.room < len(data):
            msg = "a buffer that is too small"
            raise GuestFault(msg)
        position = 0
        for view in self.writable:
            part = data[position : position + len(view)]
            view[: len(part)] = part
            position += len(part)


@final
class Virtqueue:
    """One ring. It must be `begin`-ed before it is used."""

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        """Index of the next available entry that we have not taken."""
        self.running = False
        self._memory = GuestMemory()
        self._descriptors = memoryview(b"")
        self._available = memoryview(b"")
        self._used = memoryview(b"")

    def begin(
        self, memory: GuestMemory, descriptors: int, used: int, available: int
    ) -> None:
        """
        Use the rings at these addresses of QEMU's.

        Raises:
            GuestFault: They are not in memory, or the size is none.
        """
        if not 0 < self.size <= MAX_SIZE or self.size & (self.size - 1):
            msg = "a ring of an impossible size"
            raise GuestFault(msg)
        self._memory = memory
        self._descriptors = memory.at_user(descriptors, _DESCRIPTOR.size * self.size)
        # flags, index, then the ring: all 16 bits. Then the same with pairs of 32.
        self._available = memory.at_user(available, 4 + 2 * self.size)
        self._used = memory.at_user(used, 4 + 8 * self.size)
        self.running = True

    def end(self) -> None:
        """Stop using the rings."""
        self.running = False
        self._descriptors = self._available = self._used = memoryview(b"")

    def take(self) -> Chain | None:
        """
        Return the next buffer that the guest offers, if there is one.

        Raises:
            GuestFault: The ring is nonsense.
        """
        if not self.running:
            return None
        (index,) = struct.unpack_from("<H", self._available, 2)
        waiting = (index - self.base) & 0xFFFF
        if waiting == 0:
            return None
        if waiting > self.size:
            msg = "more buffers than the ring has places"
            raise GuestFault(msg)
        place = 4 + 2 * (self.base % self.size)
        (head,) = struct.unpack_from("<H", self._available, place)
        self.base = (self.base + 1) & 0xFFFF
        return self._chain(head)

    def give_back(self, chain: Chain, written: int) -> None:
        """Hand *chain* back, with *written* bytes in it."""
        (index,) = struct.unpack_from("<H", self._used, 2)
        place = 4 + 8 * (index % self.size)
        struct.pack_into("<II", self._used, place, chain.head, written)
        # Python's stores are not reordered by x86, and the index is one store.
        struct.pack_into("<H", self._used, 2, (index + 1) & 0xFFFF)

    @property
    def wants_interrupt(self) -> bool:
        """Whether the guest asks to be told about buffers that were handed back."""
        if not self.running:
            return False
        (flags,) = struct.unpack_from("<H", self._available, 0)
        return not flags & _NO_INTERRUPT

    def _chain(self, head: int) -> Chain:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        number, total = head, 0
        for _ in range(self.size):
            if number >= self.size:
                msg = "a descriptor outside the table"
                raise GuestFault(msg)
            address, length, flags, following = _DESCRIPTOR.unpack_from(
                self._descriptors, _DESCRIPTOR.size * number
            )
            if flags & ~(_NEXT | _WRITE):
                msg = "a descriptor of a kind that was not offered"
                raise GuestFault(msg)
            total += length
            if total > MAX_CHAIN_BYTES:
                msg = "a buffer that is too long"
                raise GuestFault(msg)
            view = self._memory.at_guest(address, length)
            if flags & _WRITE:
                writable.append(view)
            elif writable:
                msg = "a buffer to read behind one to write"
                raise GuestFault(msg)
            else:
                readable.append(view)
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            number = following
        msg = "a chain of descriptors without an end"
        raise GuestFault(msg)
