"""The relay passes bytes on, whatever its two sides do to it."""

import asyncio
import contextlib
import hashlib
import os
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nitrosigner.untrusted.parent.byte_relay import (
    READ_SIZE,
    Arrival,
    Pairs,
    Totals,
    taken_from,
)
from nitrosigner.untrusted.parent.tcp_relay import RelayLimits, TcpRelay
from nitrosigner.verdicts import Undecided

PORT = 8443
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def started(vsock: Any, enclave: Any, log: Any) -> Any:
    """Return a context: a relay and its port, before an enclave that *handler* plays."""

    @asynccontextmanager
    async def start(
        handler: Handler | None = echo, **limits: Any
    ) -> AsyncIterator[tuple[TcpRelay, int]]:
        relay = TcpRelay(vsock, PORT, RelayLimits(**limits), log)
        port = await relay.start("127.0.0.1", 0)
        server = None
        if handler is not None:
            server = await asyncio.start_unix_server(handler, sock=enclave.listen(PORT))
        try:
            yield relay, port
        finally:
            await hang_up()
            await relay.stop(0)
            if server is not None:
                server.close()

    return start


_dialled: list[asyncio.StreamWriter] = []


async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _dialled.append(writer)
    return reader, writer


async def broken_off(port: int) -> bool:
    """Call, and return whether the call was broken off, not merely ended."""
    try:
        reader, _ = await dial(port)
        await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return True
    return False


async def hang_up() -> None:
    while _dialled:
        writer = _dialled.pop()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_nothing_is_read_before_a_counterpart_is_there() -> None:
    """Also where asyncio begins to read behind `connection_made`, as Debian 12's does."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            theirs.sendall(b"early")
            arrival = Arrival()
            made = loop.create_task(loop.create_connection(lambda: arrival, sock=ours))
            while not hasattr(arrival, "transport"):
                await asyncio.sleep(0)
            # What _SelectorTransport._add_reader of Python 3.11.2 does.
            loop._add_reader(ours.fileno(), arrival.transport._read_ready)  # type: ignore[attr-defined]
            await made
            for _ in range(10):
                await asyncio.sleep(0)
            with taken_from(arrival.transport) as taken:
                await asyncio.sleep(0)
                assert ours.fileno() < 0  # asyncio has let go of it
                theirs.sendall(b" and late")
                assert taken.recv(100) == b"early and late"

    asyncio.run(main())


@contextlib.contextmanager
def joined(pairs: Pairs) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Join two connections; return their other ends."""
    (near, caller), (far, enclave) = socket.socketpair(), socket.socketpair()
    for one in (near, caller, far, enclave):
        one.setblocking(False)
    pairs.join(near, far)
    with caller, enclave:
        yield caller, enclave


def test_what_a_slow_reader_has_not_taken_is_kept_once_and_its_sender_not_read() -> (
    None
):
    """Nor is it noticed again and again that the sender has hung up meanwhile."""

    async def main() -> None:
        pairs = Pairs(Totals(), 60)
        with joined(pairs) as (caller, enclave):
            (pair,) = pairs._living
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += enclave.send(bytes(READ_SIZE))
                    await asyncio.sleep(0)
            enclave.close()
            for _ in range(10):
                await asyncio.sleep(0)
            assert 0 < len(pair.near.waiting) <= READ_SIZE
            assert pair.far.moved < sent
            assert pairs._epoll.poll(0) == []
            received = 0
            loop = asyncio.get_running_loop()
            while data := await loop.sock_recv(caller, 1 << 20):
                received += len(data)
            assert received == sent
            assert len(pairs) == 1  # the caller may still talk, and finds out
            caller.send(b"anybody there?")
            while len(pairs):
                await asyncio.sleep(0)

    asyncio.run(main())


def test_a_reader_that_goes_away_with_bytes_waiting_for_it_ends_the_pair(
    wait_for: Any,
) -> None:
    async def main() -> None:
        pairs = Pairs(Totals(), 60)
        with joined(pairs) as (caller, enclave):
            (pair,) = pairs._living
            while not pair.near.waiting:
                with contextlib.suppress(BlockingIOError):
                    enclave.send(bytes(READ_SIZE))
                await asyncio.sleep(0)
            caller.close()
            await wait_for(lambda: len(pairs) == 0)
            with pytest.raises(ConnectionError):
                while enclave.recv(1):
                    pass

    asyncio.run(main())


def test_both_sides_of_a_pair_may_break_in_one_turn() -> None:
    async def main() -> None:
        faults: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        totals = Totals()
        pairs = Pairs(totals, 60)
        with joined(pairs) as (caller, enclave), joined(pairs) as (other, answering):
            for one in (caller, enclave, other):
                one.send(b"unread")
            for _ in range(10):
                await asyncio.sleep(0)
            assert sum(pairs.passed()) == 18
            caller.send(b"last words")
            caller.close()  # with unread bytes: a reset
            enclave.close()
            other.send(b", too")
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(pairs) == 1
            assert answering.recv(100) == b"unread, too"
            await pairs.drain(0)
            assert len(pairs) == 0
        assert faults == []

    asyncio.run(main())


def test_what_goes_in_comes_out(started: Any, wait_for: Any) -> None:
    async def main() -> None:
        async with started() as (relay, port):
            reader, writer = await dial(port)
            for size in (1, 700, 65_536, 65_537, 3_000_000):
                sent = os.urandom(size)
                writer.write(sent)
                assert await reader.readexactly(size) == sent
            writer.close()
            await wait_for(lambda: relay.counts().connections == 0)
            counts = relay.counts()
            assert counts.accepted == 1
            assert counts.bytes_in == counts.bytes_out == 3_000_000 + 131_774

    asyncio.run(main())


def test_bytes_that_dribble_one_by_one_arrive(started: Any) -> None:
    async def main() -> None:
        async with started() as (_, port):
            reader, writer = await dial(port)
            for byte in b"dribble":
                writer.write(bytes([byte]))
                assert await reader.readexactly(1) == bytes([byte])
            writer.close()

    asyncio.run(main())


def test_one_direction_may_end_before_the_other(started: Any) -> None:
    async def counts_then_answers(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        everything = await reader.read()  # until the end of the caller's direction
        writer.write(b"%d" % len(everything))
        writer.close()

    async def main() -> None:
        async with started(counts_then_answers) as (_relay, port):
            reader, writer = await dial(port)
            writer.write(b"x" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"100000"
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_the_enclave_may_end_its_direction_first(started: Any, wait_for: Any) -> None:
    received = bytearray()

    async def answers_then_reads(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"bye")
        writer.write_eof()
        received.extend(await reader.read())
        writer.close()

    async def main() -> None:
        async with started(answers_then_reads) as (relay, port):
            reader, writer = await dial(port)
            assert await reader.read() == b"bye"
            writer.write(b"still talking")
            writer.write_eof()
            await wait_for(lambda: bytes(received) == b"still talking")
            await wait_for(lambda: relay.counts().connections == 0)
            writer.close()

    asyncio.run(main())


def test_an_absent_enclave_breaks_the_caller_off_at_once(
    started: Any, log: Any
) -> None:
    async def main() -> None:
        async with started(None) as (relay, port):
            for _ in range(3):
                assert await broken_off(port)
            assert relay.counts().failed == 3
            assert relay.counts().connections == 0

    asyncio.run(main())
    assert log.events == ["relay_enclave_absent"]


def test_an_enclave_that_comes_back_is_found_again(
    started: Any, enclave: Any, log: Any
) -> None:
    async def main() -> None:
        async with started(None) as (_, port):
            assert await broken_off(port)
            listener = enclave.listen(PORT)
            server = await asyncio.start_unix_server(echo, sock=listener)
            reader, writer = await dial(port)
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
            writer.close()
            server.close()

    asyncio.run(main())
    assert log.events == ["relay_enclave_absent", "relay_enclave_back"]


def test_a_dead_enclaves_socket_is_as_good_as_none(started: Any, enclave: Any) -> None:
    async def main() -> None:
        enclave.listen(PORT).close()  # the name stays, nobody listens
        async with started(None) as (_relay, port):
            assert await broken_off(port)

    asyncio.run(main())


def test_a_cut_answer_does_not_look_finished(started: Any) -> None:
    async def half_an_answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readexactly(4)
        writer.transport.pause_reading()
        writer.write(b"half")
        unread = writer.get_extra_info("socket").fileno()
        await asyncio.to_thread(select.select, [unread], [], [], 5)
        writer.transport.abort()  # as a killed enclave: unread bytes, then gone

    async def main() -> None:
        async with started(half_an_answer) as (_, port):
            reader, writer = await dial(port)
            writer.write(b"ask!")
            assert await reader.readexactly(4) == b"half"
            writer.write(b"moremoremore")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 30)
            writer.close()

    asyncio.run(main())


def test_a_callers_reset_reaches_the_enclave(started: Any, wait_for: Any) -> None:
    ended: list[str] = []

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.append("ended")
        writer.close()

    async def main() -> None:
        async with started(watch) as (relay, port):
            _, writer = await dial(port)
            writer.write(b"hello")
            await writer.drain()
            await wait_for(lambda: relay.counts().bytes_in == 5)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
            await wait_for(lambda: ended)
            await wait_for(lambda: relay.counts().connections == 0)

    asyncio.run(main())


def test_two_hundred_connections_at_once(started: Any) -> None:
    async def one(port: int, number: int) -> None:
        reader, writer = await dial(port)
        for turn in range(5):
            sent = b"%d/%d " % (number, turn) * 200
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with started() as (relay, port):
            await asyncio.gather(*(one(port, number) for number in range(200)))
            assert relay.counts().accepted == 200
            assert relay.counts().failed == 0

    asyncio.run(main())


def test_the_connection_after_the_last_place_is_broken_off(
    started: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(max_connections=2) as (relay, port):
            inside = [await dial(port) for _ in range(2)]
            await wait_for(lambda: relay.counts().connections == 2)
            assert await broken_off(port)
            assert relay.counts().refused == 1
            for reader, writer in inside:  # those inside are not disturbed
                writer.write(b"ok")
                assert await reader.readexactly(2) == b"ok"
            inside[0][1].close()
            await wait_for(lambda: relay.counts().connections == 1)
            reader, writer = await dial(port)  # and a place that is left is taken
            writer.write(b"in")
            assert await reader.readexactly(2) == b"in"
            writer.close()
            inside[1][1].close()

    asyncio.run(main())
    assert log.events == ["relay_full"]


def test_memory_stays_bounded_when_a_caller_does_not_read(
    started: Any, wait_for: Any
) -> None:
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                writer.write(bytes(1 << 15))
                await writer.drain()
                written += 1 << 15
        writer.close()

    async def main() -> None:
        async with started(pour) as (_relay, port):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", port))
            last = -1

            def stands_still() -> bool:
                nonlocal last
                still, last = last == written and written > 0, written
                return still

            await asyncio.sleep(0)
            for _ in range(20):
                await wait_for(stands_still)
            # Kernel buffers of two sockets and ours; 62 MiB were on offer.
            assert written < 16 << 20
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 8 * 1024  # KiB
            # The slow reader then gets everything, in order.
            total = 0
            while data := await loop.sock_recv(sock, 1 << 20):
                total += len(data)
            assert total == 2000 << 15
            sock.close()

    asyncio.run(main())


def test_a_large_transfer_both_ways_through_slow_readers_is_not_altered(
    started: Any,
) -> None:
    async def main() -> None:
        async with started() as (_, port):
            reader, writer = await dial(port)
            sent, received = hashlib.sha256(), hashlib.sha256()
            size = 24 << 20

            async def send() -> None:
                block = os.urandom(1 << 16)
                for _ in range(size >> 16):
                    writer.write(block)
                    sent.update(block)
                    await writer.drain()
                writer.write_eof()

            task = asyncio.create_task(send())
            total, turn = 0, 0
            while data := await reader.read(3001 if turn % 50 == 0 else 1 << 17):
                turn += 1
                total += len(data)
                received.update(data)
                if turn % 50 == 0:
                    await asyncio.sleep(0)
            await task
            assert total == size
            assert sent.digest() == received.digest()
            writer.close()

    asyncio.run(main())


def test_a_pair_that_stands_still_is_ended(
    started: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(idle_seconds=0.1) as (relay, port):
            reader, writer = await dial(port)
            writer.write(b"once")
            assert await reader.readexactly(4) == b"once"
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.readexactly(1), 30)
            writer.close()
            await wait_for(lambda: relay.counts().connections == 0)

    asyncio.run(main())
    assert "relay_idle" in log.events


def test_a_full_enclave_backlog_ends_in_the_connect_timeout(
    vsock: Any, log: Any, run: Any, enclave: Any
) -> None:
    async def main() -> None:
        path = enclave.listen(PORT)
        path.listen(0)
        fillers = []
        with contextlib.suppress(BlockingIOError):
            while True:
                filler = socket.socket(socket.AF_UNIX)
                fillers.append(filler)
                filler.setblocking(False)
                filler.connect(path.getsockname())
        relay = TcpRelay(vsock, PORT, RelayLimits(connect_seconds=0.2), log)
        port = await relay.start("127.0.0.1", 0)
        assert await broken_off(port)
        await hang_up()
        await relay.stop(0)
        for one in (path, *fillers):
            one.close()

    asyncio.run(main())


def test_draining_lets_the_last_answer_through(started: Any, wait_for: Any) -> None:
    async def main() -> None:
        answer = asyncio.Event()

        async def slow(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await reader.readexactly(3)
            await answer.wait()
            writer.write(b"done")
            writer.close()

        async with started(slow) as (relay, port):
            reader, writer = await dial(port)
            writer.write(b"ask")
            await wait_for(lambda: relay.counts().bytes_in == 3)
            stopping = asyncio.create_task(relay.stop(5))
            await asyncio.sleep(0)
            with pytest.raises(OSError):
                await dial(port)
            assert not stopping.done()
            answer.set()
            assert await reader.read() == b"done"
            writer.close()
            await asyncio.wait_for(stopping, 30)

    asyncio.run(main())


def test_a_paused_relay_lets_nobody_in_and_those_inside_stay(
    started: Any, wait_for: Any
) -> None:
    answer = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await answer.wait()
        writer.write(b"answer")
        await reader.read()
        writer.close()

    async def main() -> None:
        async with started(slow) as (relay, port):
            reader, writer = await dial(port)
            assert relay.unanswered <= 1
            writer.write(b"question")
            await wait_for(lambda: relay.counts().bytes_in == 8)
            relay.pause()
            assert not relay.letting_in
            with pytest.raises(ConnectionError):
                await dial(port)
            assert relay.unanswered == 1
            answer.set()
            assert await reader.readexactly(6) == b"answer"
            assert relay.unanswered == 0
            await relay.resume()
            await relay.resume()
            assert relay.letting_in
            again, other = await dial(port)
            other.write(b"question")
            assert await again.readexactly(6) == b"answer"

    asyncio.run(main())


def test_a_port_that_is_taken_is_a_verdict(vsock: Any, log: Any) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            relay = TcpRelay(vsock, PORT, RelayLimits(), log)
            with pytest.raises(Undecided, match="cannot be listened on"):
                await relay.start("127.0.0.1", taken.getsockname()[1])

    asyncio.run(main())
