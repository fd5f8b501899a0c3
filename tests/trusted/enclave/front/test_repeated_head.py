"""
A head that repeats is read without llhttp, and nobody can tell.

Each stream is read twice, by a connection that remembers and by one that never does:
what is admitted, served, answered and waited for must be the same after every piece.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nitrosigner.trusted.enclave.https import repeated_head
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
from nitrosigner.trusted.enclave.https.http_protocol import HttpProtocol, Times
from nitrosigner.trusted.enclave.https.http_reader import RequestReader
from nitrosigner.trusted.enclave.https.repeated_head import RepeatedHead, remember
from nitrosigner.verdicts import Code, Refused, Verdict

LIMIT = 1000
HOST = b"Host: a\r\n"
TOKEN = b"Authorization: Bearer x\r\n"


class Forgetful(RequestReader):
    """Reads everything with llhttp."""

    _head = property(lambda _: None, lambda _, __: None)  # type: ignore[assignment]


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass


def told(request: Request) -> tuple[object, ...]:
    return (
        request.method,
        request.path,
        request.query,
        request.authorization,
        request.accept,
        request.body,
        request.keep_alive,
    )


class Connection:
    """A connection, and everything that can be told of it from outside."""

    def __init__(self, *, remembers: bool, later: bool = False) -> None:
        self.later = later
        self.waiting: list[Callable[[], None]] = []
        self.seen: list[tuple[object, ...]] = []
        self.transport = Transport()
        self.protocol = HttpProtocol(lambda *_: self, lambda _: None, Times())
        self.protocol.connection_made(self.transport)
        if not remembers:
            protocol = self.protocol
            protocol._reader = Forgetful(
                self.admit, protocol._phase_begun, protocol._received
            )

    def admit(self, request: Request) -> int:
        self.seen.append(("asked", *told(request)[:-2], request.keep_alive))
        if request.path == "/refused":
            raise Refused(Code.UNKNOWN_ROUTE, "no", "")
        if request.path == "/broken":
            raise ZeroDivisionError
        request.admitted = len(self.seen)
        return LIMIT if request.method == "POST" else 0

    def serve(self, request: Request, answer: Callable[[Response], None]) -> None:
        self.seen.append(("served", *told(request), request.admitted))
        if request.path == "/crash":
            raise ZeroDivisionError
        response = Response(200, request.path.encode() + request.body)
        if self.later:
            self.waiting.append(lambda: answer(response))
        else:
            answer(response)

    def refuse(self, verdict: Verdict) -> Response:
        return refusal(verdict)

    @property
    def read_by_llhttp(self) -> int:
        return self.protocol._reader._messages

    async def take(self, piece: bytes) -> tuple[object, ...]:
        if self.transport.reading:
            self.protocol.data_received(piece)
        elif self.waiting:
            self.waiting.pop()()
            await asyncio.sleep(0)
        reader, refused = self.protocol._reader, self.protocol._reader.refused
        return (
            self.seen,
            self.transport.written,
            self.transport.closed,
            self.transport.reading,
            self.protocol._state,
            reader.phase,
            reader.method,
            refused and (type(refused), refused.code, refused.message),
        )


async def compare(pieces: list[bytes], *, later: bool) -> int:
    """Return how many requests were read without llhttp; see no other difference."""
    one = Connection(remembers=True, later=later)
    other = Connection(remembers=False, later=later)
    for piece in pieces:
        assert await one.take(piece) == await other.take(piece)
        # The clock goes on between the two, and is all that differs.
        assert abs(one.protocol._deadline - other.protocol._deadline) < 2
    return other.read_by_llhttp - one.read_by_llhttp


def post(
    body: bytes = b"hello",
    *,
    path: bytes = b"/a",
    headers: bytes = HOST + TOKEN,
    length: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    digits = b"%d" % len(body) if length is None else length
    line = b"POST %b HTTP/1.1\r\n" % path
    return b"%b%bContent-Length: %b\r\n%b\r\n%b" % (line, headers, digits, after, body)


GOOD = post()
CHUNKED = (
    b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n"
)


# What is read so, and what is not. After GOOD, twice, comes this in one piece.
REPEATED = {
    "the same": GOOD,
    "another path": post(path=b"/api/v1/eth2/sign/0x" + b"ab" * 48),
    "another body": post(b"HELLO"),
    "a longer body": post(b"x" * LIMIT),
    "no body": post(b""),
    "a body that looks like a request": post(GOOD),
    "a body of empty lines": post(b"\r\n\r\n" * 3),
    "a body that is too long": post(b"x" * (LIMIT + 1)),
    "what is not admitted": post(path=b"/refused"),
    "what breaks when it is judged": post(path=b"/broken"),
    "what breaks when it is served": post(path=b"/crash"),
}
NEW = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "an empty line before": b"\r\n" + GOOD,
    "an empty line behind": GOOD + b"\r\n",
    "a byte too few": GOOD[:-1],
    "a byte too many": GOOD + b"!",
    "two": GOOD * 2,
    "half of another one behind": GOOD + GOOD[:20],
    "another one behind a body announced as shorter": post(length=b"0", body=GOOD),
    "a length too small": post(length=b"4"),
    "a length too large": post(length=b"6"),
    "a length with a zero before": post(length=b"05"),
    "a length with a sign": post(length=b"+5"),
    "a negative length": post(length=b"-5"),
    "a length with a space": post(length=b"5 "),
    "no length": post(length=b""),
    "two lengths": post(after=b"Content-Length: 5\r\n"),
    "no end of the head": GOOD.partition(b"\r\n\r\n")[0],
    "nothing but a request line": b"POST /a HTTP/1.1\r\n",
    "a head without a header": b"POST /a HTTP/1.1\r\n\r\n",
    "no body, and no end of the head": post(b"")[:-4],
    "another token": post(headers=HOST + TOKEN.replace(b"x", b"y")),
    "no token": post(headers=HOST),
    "another order": post(headers=TOKEN + HOST),
    "another spelling": post(headers=HOST.lower() + TOKEN),
    "one more header": post(headers=HOST + TOKEN + b"A: b\r\n"),
    "one more header behind": post(after=b"A: b\r\n"),
    "an end of the connection": post(after=b"Connection: close\r\n"),
    "chunks": CHUNKED,
    "chunks and a length": post(after=b"Transfer-Encoding: chunked\r\n"),
    "bare line feeds": GOOD.replace(b"\r\n", b"\n"),
    "another method": GOOD.replace(b"POST", b"PUT"),
    "a method without a body": b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "another version": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "the next version": GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "a query": post(path=b"/a?b=c"),
    "a fragment": post(path=b"/a#b"),
    "an escape": post(path=b"/%61"),
    "the absolute form": post(path=b"http://a/b"),
    "no path": post(path=b"*"),
    "a space in the path": post(path=b"/a b"),
    "two spaces": post(path=b" /a"),
    "a null in the path": post(path=b"/\0"),
    "a byte beyond ASCII": post(path=b"/\xe9"),
    "a long path": post(path=b"/" + b"a" * 600),
    "a path that is too long": post(path=b"/" + b"a" * 3000),
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("later", [False, True])
def test_a_request_under_the_same_head_is_read_without_llhttp(
    name: str, later: bool
) -> None:
    pieces = [GOOD, GOOD, REPEATED[name], GOOD, GOOD]
    assert asyncio.run(compare(pieces, later=later)) >= 2 - later


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("later", [False, True])
def test_whatever_differs_is_llhttps(name: str, later: bool) -> None:
    asyncio.run(compare([GOOD, GOOD, NEW[name], GOOD, GOOD, GOOD], later=later))


@pytest.mark.parametrize("name", NEW)
def test_only_the_path_and_the_body_may_differ(name: str) -> None:
    assert remembered().read(NEW[name]) is None


@pytest.mark.parametrize("name", REPEATED)
def test_the_head_says_what_it_said_when_llhttp_read_it(name: str) -> None:
    request = remembered().read(REPEATED[name])
    assert request is not None
    assert told(request)[2:5] == (b"", b"Bearer x", None)
    assert request.keep_alive
    assert REPEATED[name].endswith(b"\r\n\r\n" + request.body)


def remembered() -> RepeatedHead:
    head = remember(GOOD, Request("POST", "/a", b"", b"Bearer x", body=b"hello"))
    assert head is not None
    return head


FORGOTTEN = {
    "chunks": [CHUNKED],
    "an expectation": [post(after=b"Expect: 100-continue\r\n")],
    "an end of the connection": [post(after=b"Connection: close\r\n")],
    "another version": [GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")],
    "another method": [GOOD.replace(b"POST", b"PUT", 1)],
    "no body": [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"],
    "two in a piece": [GOOD * 2],
    "one in two pieces": [GOOD[:20], GOOD[20:]],
    "a head and its body": [GOOD[:-5], GOOD[-5:]],
    "an end and a whole one": [GOOD[:-5], GOOD[-5:] + GOOD],
    "an empty line before": [b"\r\n" + GOOD],
    "an empty line behind": [GOOD + b"\r\n"],
    "a zero before the length": [post(length=b"05")],
    "a tab before the length": [post(length=b"\t5")],
    "no length": [b"POST /a HTTP/1.1\r\n" + HOST + b"\r\n"],
    "a length in another header": [
        b"POST /a HTTP/1.1\r\nX-Content-Length: 0\r\n" + HOST + b"\r\n"
    ],
    "a query": [post(path=b"/a?b")],
    "much header": [post(headers=HOST + b"A: %b\r\n" % (b"b" * 2048))],
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_what_is_not_plain_is_not_remembered(name: str) -> None:
    async def main() -> None:
        connection = Connection(remembers=True, later=True)
        await connection.take(GOOD)
        for piece in FORGOTTEN[name]:
            connection.protocol._reader.feed(piece)
        assert connection.protocol._reader._head is None

    asyncio.run(main())
    pieces = [GOOD, *FORGOTTEN[name] * 2, GOOD, GOOD]
    asyncio.run(compare(pieces, later=False))
    asyncio.run(compare(pieces, later=True))


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Content-Length: 5\r\n" + HOST,
        b"A: Content-Length: 5\r\n" + HOST,
        HOST + b"Accept: text/plain\r\nAccept: */*\r\n",
        HOST + b"Connection: keep-alive\r\n",
    ],
)
def test_it_is_the_header_of_that_name_that_may_differ(headers: bytes) -> None:
    pieces = [post(headers=headers), post(b"hello, hello", headers=headers)] * 2
    pieces.append(post(headers=headers.replace(b"5", b"6")))
    assert asyncio.run(compare(pieces, later=False)) >= 3


def test_what_may_be_remembered_has_an_end() -> None:
    header = b"A: %b\r\n" % (b"b" * (repeated_head.MAX_REMEMBERED - 100))
    pieces = [post(headers=HOST + header)] * 3
    assert asyncio.run(compare(pieces, later=False)) == 2
    pieces = [post(headers=HOST + header + b"C: %b\r\n" % (b"d" * 100))] * 3
    assert asyncio.run(compare(pieces, later=False)) == 0


def test_each_connection_has_a_memory_of_its_own() -> None:
    async def main() -> None:
        first, second = Connection(remembers=True), Connection(remembers=True)
        for connection in (first, second):
            for _ in range(3):
                await connection.take(GOOD)
            assert connection.read_by_llhttp == 1

    asyncio.run(main())


# --- and any other stream -----------------------------------------------------------

HEADERS = [
    HOST + TOKEN,
    HOST + TOKEN,
    HOST,
    TOKEN,
    HOST + b"Connection: close\r\n",
    HOST + b"Connection: keep-alive\r\n",
    HOST + b"Expect: 100-continue\r\n",
    HOST + b"Accept: text/plain\r\nAccept: */*\r\n",
    HOST + b"X-Content-Length: 5\r\n",
    HOST + b"Content-Length: 5\r\n",
    HOST + b"Transfer-Encoding: chunked\r\n",
    HOST + b"A: " + b"b" * 2500 + b"\r\n",
]
PATHS = [b"/a", b"/a", b"/b/0x00", b"/a?b", b"/%61", b"/refused", b"/broken", b"*"]
BODIES = [b"", b"hello", b"hello", b"x" * 12, b"x" * (LIMIT + 1), GOOD, b"\r\n\r\n"]
LENGTHS = [None, None, None, None, b"5", b"05", b"0", b"12", b"-1", b""]
TAILS = [b""] * 6 + [b"\r\n", b"!", b"G", GOOD, GOOD[:30], CHUNKED]


@st.composite
def messages(draw: Any) -> bytes:
    message: bytes = post(
        draw(st.sampled_from(BODIES)),
        path=draw(st.sampled_from(PATHS)),
        headers=draw(st.sampled_from(HEADERS)),
        length=draw(st.sampled_from(LENGTHS)),
    )
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(message) - 1))
        byte = draw(st.sampled_from([b"", b"\0", b"\r", b"\n", b" ", b"5", b":"]))
        message = message[:at] + byte + message[at + 1 :]
    return message + draw(st.sampled_from(TAILS))


PIECE = st.one_of(st.just(GOOD), st.just(post(b"")), messages(), st.binary(max_size=9))


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(PIECE, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 400)), max_size=4),
    later=st.booleans(),
)
@example(pieces=[GOOD] * 5, cuts=[(4, 50)], later=False)
@example(pieces=[GOOD] * 3 + [CHUNKED] + [GOOD] * 3, cuts=[], later=True)
def test_no_stream_is_read_otherwise_than_without_a_memory(
    pieces: list[bytes], cuts: list[tuple[int, int]], later: bool
) -> None:
    pieces = [GOOD, GOOD, *pieces]
    for which, at in cuts:
        # Where a piece is cut, its end is joined to the next one: no boundary is kept.
        if which < len(pieces) - 1:
            whole = pieces[which] + pieces[which + 1]
            pieces[which : which + 2] = whole[:at], whole[at:]
    asyncio.run(compare(pieces, later=later))
