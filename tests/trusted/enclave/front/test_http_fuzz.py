"""
Noise into the protocol object: only well-formed answers come out, and not too much.
"""

import asyncio
from collections.abc import Callable

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.trusted.enclave.https import http_protocol
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
from nitrosigner.trusted.enclave.https.http_protocol import HttpProtocol, Times
from nitrosigner.verdicts import Verdict

LIMIT = 1000


class Transport(asyncio.Transport):
    """Takes what is written, and says so when it is too much."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass


class Exchange:
    """Answers at once, or when it is told to."""

    def __init__(self, later: bool) -> None:
        self.later = later
        self.waiting: list[Callable[[], None]] = []
        self.served: list[Request] = []

    def admit(self, request: Request) -> int:
        return LIMIT if request.method == "POST" else 0

    def serve(self, request: Request, answer: Callable[[Response], None]) -> None:
        assert len(request.body) <= LIMIT
        assert len(self.waiting) == 0, "one at a time"
        self.served.append(request)
        response = Response(200, b"{}")
        if self.later:
            self.waiting.append(lambda: answer(response))
        else:
            answer(response)

    def refuse(self, verdict: Verdict) -> Response:
        return refusal(verdict)


class Answers:
    """Reads what came out, as a client would."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.ended = False

    def on_headers_complete(self) -> None:
        self.statuses.append(self.parser.get_status_code())
        self.ended = not self.parser.should_keep_alive()

    def read(self, data: bytes) -> None:
        self.parser = httptools.HttpResponseParser(self)
        data = data.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        # llhttp reads an answer without a body only if it is told so.
        if data:
            self.parser.feed_data(data)


PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"HEAD / HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://a/b?c HTTP/1.1\r\n",
    b"POST / HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 1001\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\n",
    b"Authorization: Bearer x\r\n",
    b"\r\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"3e8\r\n",
    b"x" * 1000,
    b"X: " + b"y" * 400 + b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b"\x16\x03",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
]
STREAM = st.lists(
    st.one_of(st.sampled_from(PIECES), st.binary(max_size=40)), max_size=30
)


async def drive(
    pieces: list[bytes], cut: int, later: bool
) -> tuple[Transport, Exchange]:
    transport, exchange = Transport(), Exchange(later)
    lost: list[HttpProtocol] = []
    protocol = HttpProtocol(lambda *_: exchange, lost.append, Times())
    protocol.connection_made(transport)
    stream = b"".join(pieces)
    turns = 0
    while stream and not transport.closed:
        turns += 1
        assert turns < 200_000, "it neither reads nor works"
        if transport.reading:
            protocol.data_received(stream[:cut])
            stream = stream[cut:]
        elif exchange.waiting:
            exchange.waiting.pop()()
        await asyncio.sleep(0)
    while exchange.waiting:
        exchange.waiting.pop()()
        await asyncio.sleep(0)
    assert len(protocol._queue) <= http_protocol.MAX_PIPELINED
    # Whatever is left must come to its end when its time has passed.
    far = asyncio.get_running_loop().time() + 1000
    for _ in range(4):
        protocol.look(far)
        far += 1000
        await asyncio.sleep(0)
    assert transport.closed
    protocol.connection_lost(None)
    assert lost == [protocol]
    return transport, exchange


@settings(max_examples=300, deadline=None)
@given(pieces=STREAM, cut=st.integers(1, 5000), later=st.booleans())
def test_any_stream_gets_only_well_formed_answers(
    pieces: list[bytes], cut: int, later: bool
) -> None:
    transport, exchange = asyncio.run(drive(pieces, cut, later))
    answers = Answers()
    if not any(request.method == "HEAD" for request in exchange.served):
        answers.read(bytes(transport.written))
        assert len(answers.statuses) <= len(exchange.served) + 1
        assert set(answers.statuses) <= {200, 400, 408, 413, 503}
    assert len(transport.written) <= 1000 * (len(exchange.served) + 1)


@settings(max_examples=100, deadline=None)
@given(pieces=STREAM, cut=st.integers(1, 50))
def test_how_the_stream_is_cut_changes_nothing(pieces: list[bytes], cut: int) -> None:
    _, first = asyncio.run(drive(pieces, 1 << 20, later=False))
    _, second = asyncio.run(drive(pieces, cut, later=False))
    assert [request.path for request in first.served] == [
        request.path for request in second.served
    ]
    assert [request.body for request in first.served] == [
        request.body for request in second.served
    ]


# --- what the noise finds only by luck ---------------------------------------------


def alone(later: bool = False) -> tuple[HttpProtocol, Transport, Exchange]:
    transport, exchange = Transport(), Exchange(later)
    protocol = HttpProtocol(lambda *_: exchange, lambda _: None, Times())
    protocol.connection_made(transport)
    return protocol, transport, exchange


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_header_in_pieces_is_counted_before_it_is_whole() -> None:
    async def main() -> None:
        protocol, transport, _ = alone()
        protocol.data_received(b"GET / HTTP/1.1\r\nA: ")
        for _ in range(17):
            protocol.data_received(b"b" * 1024)
        assert transport.written.startswith(b"HTTP/1.1 413 ")

    asyncio.run(main())


def test_after_a_refusal_the_sender_may_finish_before_it_is_closed() -> None:
    async def main() -> None:
        protocol, transport, _ = alone()
        now = asyncio.get_running_loop().time()
        protocol.data_received(b"nonsense\r\n\r\n")
        assert transport.written.startswith(b"HTTP/1.1 400 ")
        protocol.data_received(b"x" * 100_000)
        protocol.look(now + 1)
        assert not transport.closed
        protocol.look(now + 1000)
        assert transport.closed

    asyncio.run(main())


def test_a_sender_who_never_finishes_is_closed() -> None:
    async def main() -> None:
        protocol, transport, _ = alone()
        protocol.data_received(b"nonsense\r\n\r\n")
        sent = 0
        while not transport.closed:
            protocol.data_received(b"x" * 65536)
            sent += 65536
        assert sent <= http_protocol.MAX_DRAINED + 65536

    asyncio.run(main())


def test_reading_goes_on_when_a_pipeline_is_drained() -> None:
    async def main() -> None:
        protocol, transport, exchange = alone(later=True)
        for _ in range(3):
            protocol.data_received(GET * 3)
            assert not transport.reading
            for _ in range(3):
                exchange.waiting.pop()()
                await asyncio.sleep(0)
            assert transport.reading
        assert len(exchange.served) == 9

    asyncio.run(main())


def test_a_peer_that_reads_nothing_is_asked_for_nothing_and_dropped() -> None:
    async def main() -> None:
        protocol, transport, exchange = alone()
        protocol.pause_writing()
        protocol.data_received(GET * 3)
        assert exchange.served == []
        assert not transport.reading
        protocol.resume_writing()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(exchange.served) == 3
        assert transport.reading
        protocol.pause_writing()
        protocol.look(asyncio.get_running_loop().time() + 1000)
        assert transport.closed

    asyncio.run(main())
