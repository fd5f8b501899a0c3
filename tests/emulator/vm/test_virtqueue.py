"""A ring that a guest may fill with anything."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.emulator.vm.guest_memory import GuestFault, GuestMemory
from nitrosigner.emulator.vm.virtqueue import MAX_CHAIN_BYTES, Virtqueue

SIZE = 1 << 16
GUEST = 0x1000
USER = 0x9000_0000
RING = 8
AVAILABLE, USED = 0x1000, 0x2000


class Memory:
    def __init__(self, size: int = SIZE) -> None:
        descriptor = os.memfd_create("guest")
        os.ftruncate(descriptor, size)
        self.memory = GuestMemory()
        self.memory.replace([(GUEST, size, USER, 0, descriptor)])
        self.view = self.memory.at_guest(GUEST, size)
        self.ring = Virtqueue()
        self.ring.size = RING
        self.ring.begin(self.memory, USER, USER + USED, USER + AVAILABLE)

    def describe(
        self, number: int, address: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        struct.pack_into(
            "<QIHH", self.view, 16 * number, address, length, flags, following
        )

    def offer(self, *heads: int) -> None:
        (index,) = struct.unpack_from("<H", self.view, AVAILABLE + 2)
        for head in heads:
            place = AVAILABLE + 4 + 2 * (index % RING)
            struct.pack_into("<H", self.view, place, head)
            index = (index + 1) & 0xFFFF
        struct.pack_into("<H", self.view, AVAILABLE + 2, index)


def test_a_chain_is_read_written_and_handed_back() -> None:
    guest = Memory()
    guest.view[0x4000:0x4005] = b"hello"
    guest.describe(3, GUEST + 0x4000, 5, 1, 1)
    guest.describe(1, GUEST + 0x5000, 2, 3, 2)
    guest.describe(2, GUEST + 0x6000, 4, 2)
    guest.offer(3)
    chain = guest.ring.take()
    assert chain is not None
    assert (chain.read(), chain.room) == (b"hello", 6)
    chain.write(b"world")
    guest.ring.give_back(chain, 5)
    assert guest.view[0x5000:0x5002] == b"wo"
    assert guest.view[0x6000:0x6003] == b"rld"
    assert struct.unpack_from("<HHII", guest.view, USED) == (0, 1, 3, 5)
    assert guest.ring.take() is None


def test_the_index_wraps() -> None:
    guest = Memory()
    guest.ring.base = 0xFFFE
    struct.pack_into("<H", guest.view, AVAILABLE + 2, 0xFFFE)
    guest.describe(0, GUEST + 0x4000, 1)
    for _ in range(4):
        guest.offer(0)
        assert guest.ring.take() is not None
    assert guest.ring.base == 2


@pytest.mark.parametrize(
    ("describe", "fault"),
    [
        ([(0, GUEST + SIZE - 1, 2, 0, 0)], "outside the guest's memory"),
        ([(0, GUEST - 1, 1, 0, 0)], "outside the guest's memory"),
        ([(0, 2**64 - 1, 1, 0, 0)], "outside the guest's memory"),
        ([(0, GUEST, 1, 1, 0)], "without an end"),
        ([(0, GUEST, 1, 1, RING)], "outside the table"),
        ([(0, GUEST, 1, 4, 0)], "not offered"),
        ([(0, GUEST, 1, 3, 1), (1, GUEST, 1, 0, 0)], "behind one to write"),
        ([(0, GUEST, 2**32 - 1, 0, 0)], "too long"),
    ],
)
def test_nonsense_in_a_descriptor_is_a_fault(
    describe: list[tuple[int, int, int, int, int]], fault: str
) -> None:
    guest = Memory()
    for one in describe:
        guest.describe(*one)
    guest.offer(0)
    with pytest.raises(GuestFault, match=fault):
        guest.ring.take()


def test_a_long_chain_of_small_parts_is_bounded_too() -> None:
    guest = Memory(1 << 18)
    part = MAX_CHAIN_BYTES // RING + 1
    for number in range(RING):
        following = number + 1
        flags = 1 if following < RING else 0
        guest.describe(number, GUEST, part, flags, following % RING)
    guest.offer(0)
    with pytest.raises(GuestFault, match="too long"):
        guest.ring.take()


def test_more_buffers_than_places_is_a_fault() -> None:
    guest = Memory()
    struct.pack_into("<H", guest.view, AVAILABLE + 2, RING + 1)
    with pytest.raises(GuestFault, match="more buffers"):
        guest.ring.take()


def test_a_head_outside_the_table_is_a_fault() -> None:
    guest = Memory()
    guest.offer(RING)
    with pytest.raises(GuestFault, match="outside the table"):
        guest.ring.take()


def test_an_answer_that_does_not_fit_is_a_fault() -> None:
    guest = Memory()
    guest.describe(0, GUEST + 0x4000, 3, 2)
    guest.offer(0)
    chain = guest.ring.take()
    assert chain is not None
    with pytest.raises(GuestFault, match="too small"):
        chain.write(b"four")


@pytest.mark.parametrize("size", [0, 3, 2048])
def test_a_ring_of_an_impossible_size_does_not_begin(size: int) -> None:
    ring = Virtqueue()
    ring.size = size
    with pytest.raises(GuestFault, match="impossible size"):
        ring.begin(GuestMemory(), USER, USER, USER)


def test_a_ring_outside_the_memory_does_not_begin() -> None:
    guest = Memory()
    with pytest.raises(GuestFault, match="outside"):
        guest.ring.begin(guest.memory, USER + SIZE - 8, USER + USED, USER + AVAILABLE)


def test_a_ring_that_has_ended_gives_nothing() -> None:
    guest = Memory()
    guest.offer(0)
    guest.ring.end()
    assert guest.ring.take() is None
    assert not guest.ring.wants_interrupt


@given(
    table=st.binary(min_size=16 * RING, max_size=16 * RING),
    available=st.binary(min_size=4 + 2 * RING, max_size=4 + 2 * RING),
    addresses=st.lists(st.integers(0, SIZE), max_size=RING),
)
def test_whatever_is_in_the_ring_it_ends_soon_and_in_one_way(
    table: bytes, available: bytes, addresses: list[int]
) -> None:
    guest = Memory()
    guest.view[: len(table)] = table
    guest.view[AVAILABLE : AVAILABLE + len(available)] = available
    # Random addresses never hit; let some of them be believable.
    for number, address in enumerate(addresses):
        struct.pack_into("<QI", guest.view, 16 * number, GUEST + address, address % 977)
    try:
        for _ in range(RING + 1):
            chain = guest.ring.take()
            if chain is None:
                return
            assert len(chain.read()) + chain.room <= MAX_CHAIN_BYTES
            guest.ring.give_back(chain, 0)
    except GuestFault:
        return
    # It gave at most as many as the ring has places before it ran dry.
    pytest.fail("more chains than places")
