"""The NSM as a device: requests in pairs of buffers."""

import os
import select
from collections.abc import Callable

import pytest

from nitrosigner.emulator.vm.nsm_device import MAX_REQUEST, NsmDevice

ROOM = 0x3000


def test_a_request_is_answered_into_the_buffer_behind_it(start: Callable) -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return b"answer to " + request

    guest = start(NsmDevice(answer), 1).guest
    for number in range(20):
        request = b"request %d" % number
        into = guest.place(bytes(ROOM))
        first = guest.offer(0, [(guest.place(request), len(request), False)])
        second = guest.offer(0, [(into, ROOM, True)])
        guest.kick(0)
        assert guest.await_used(0) == (first, 0)
        assert guest.await_used(0) == (second, len(b"answer to " + request))
        offset = into - 0x4000_0000
        expected = b"answer to " + request
        assert guest.memory[offset : offset + len(expected)] == expected
    assert len(asked) == 20


def test_the_answers_buffer_may_come_later(start: Callable) -> None:
    guest = start(NsmDevice(bytes.upper), 1).guest
    guest.offer(0, [(guest.place(b"abc"), 3, False)])
    guest.kick(0)
    guest.offer(0, [(guest.place(bytes(3)), 3, True)])
    guest.kick(0)
    guest.await_used(0)
    assert guest.await_used(0)[1] == 3


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([(0, 3, True)], "without a request"),
        ([(0, MAX_REQUEST + 1, False)], "too long"),
    ],
)
def test_what_is_no_request_ends_the_device(
    start: Callable, parts: list[tuple[int, int, bool]], fault: str
) -> None:
    running = start(NsmDevice(bytes.upper), 1)
    guest = running.guest
    place = guest.place(bytes(MAX_REQUEST + 1))
    guest.offer(0, [(place, length, writable) for _, length, writable in parts])
    guest.offer(0, [(place, ROOM // 4, True)])
    guest.kick(0)
    assert fault in running.await_fault()


def test_no_room_for_the_answer_ends_the_device(start: Callable) -> None:
    running = start(NsmDevice(lambda _: bytes(100)), 1)
    guest = running.guest
    guest.offer(0, [(guest.place(b"abc"), 3, False)])
    guest.offer(0, [(guest.place(bytes(99)), 99, True)])
    guest.kick(0)
    assert "too small" in running.await_fault()


def test_a_stopped_ring_says_how_far_it_came(start: Callable) -> None:
    guest = start(NsmDevice(bytes.upper), 1).guest
    guest.offer(0, [(guest.place(b"abc"), 3, False)])
    guest.offer(0, [(guest.place(bytes(3)), 3, True)])
    guest.kick(0)
    guest.await_used(0)
    guest.await_used(0)
    assert guest.ask(11, bytes(8)) == b"\0\0\0\0\2\0\0\0"


def test_a_new_call_descriptor_gets_what_the_old_one_may_have_missed(
    start: Callable,
) -> None:
    # QEMU hands over a masked descriptor first, and replays nothing of it.
    guest = start(NsmDevice(bytes.upper), 1).guest
    new = os.eventfd(0)
    try:
        guest.send(13, bytes(8), [new])
        assert select.select([new], [], [], 10)[0]
    finally:
        os.close(new)


def test_a_guest_that_wants_no_interrupts_gets_none(start: Callable) -> None:
    guest = start(NsmDevice(bytes.upper), 1).guest
    ring = guest.rings[0]
    guest.memory[ring.available : ring.available + 2] = b"\1\0"
    guest.offer(0, [(guest.place(b"abc"), 3, False)])
    guest.offer(0, [(guest.place(bytes(3)), 3, True)])
    guest.kick(0)
    guest.await_used(0)
    guest.await_used(0)
    # An answer to a control message comes after whatever the kick has caused.
    guest.ask(1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(ring.call)
