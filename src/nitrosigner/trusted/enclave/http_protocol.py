"""
One connection: bytes to requests, responses to bytes, and the limits on both.

llhttp does the parsing, with its strict defaults; what it leaves to us is decided here
and refused when in doubt: a target that is not a path, an encoding that is not plain
chunks, a second header where one is meant. After a refusal the stream is not parsed
further, because sender and receiver may disagree on where the next request begins.

One request is worked on at a time. A sender that pipelines waits in the kernel's
buffers, not in ours. Every wait for the peer has an end.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

import httptools
import msgspec

from nitrosigner.trusted.enclave import http_messages
from nitrosigner.trusted.enclave.http_messages import Request, Response
from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict

MAX_HEAD: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_HEADERS: Final = 64
MAX_TARGET: Final = 2048
MAX_LENGTH_DIGITS: Final = 20
MAX_PIPELINED: Final = 16
"""Requests that were read ahead of the one in work. One more ends the connection."""
MAX_DRAINED: Final = 2 << 20
"""Bytes thrown away after a refusal, so that the refusal can still be read."""
WRITE_HIGH_WATER: Final = 256 * 1024

_ONCE: Final = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"expect",
        b"content-encoding",
    )
)


class Times(msgspec.Struct, frozen=True):
    """Seconds that a peer may take. All are totals: a byte now and then buys none."""

    head: float = 10.0
    """From the first byte of a request (on a new connection: from its start)."""
    body: float = 20.0
    """From the end of the headers."""
    idle: float = 75.0
    """Between two requests."""
    write: float = 20.0
    """Until a peer that stopped reading reads on."""
    drain: float = 2.0
    handshake: float = 10.0
    sweep: float = 1.0
    """How often the deadlines are looked at."""


class Exchange(Protocol):
    """What stands behind a connection: it judges heads and answers requests."""

    def admit(self, request: Request) -> int:
        """
        Judge a request by its head.

        Returns:
            The most bytes of body that it may have.

        Raises:
            Verdict: Answered without reading the body.
        """
        ...

    def serve(self, request: Request, answer: Callable[[Response, bool], None]) -> None:
        """
        Work on *request*; call *answer* exactly once, now or later.

        The second argument of *answer* says whether the connection may be kept.
        """
        ...

    def refuse(self, verdict: Verdict) -> Response:
        """Return the response for bytes that were no request, or not admitted."""
        ...


class _State(Enum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    DRAIN = 3
    """The last answer is written; what still comes is thrown away."""
    CLOSED = 4


class HttpProtocol(asyncio.Protocol):
    """A connection whose TLS handshake is done."""

    def __init__(
        self,
        on_made: Callable[["HttpProtocol", asyncio.Transport], Exchange],
        on_lost: Callable[["HttpProtocol"], None],
        times: Times,
    ) -> None:
        self._on_made = on_made
        self._on_lost = on_lost
        self._times = times
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._refused: Verdict | None = None
        self._busy = False
        self._paused = False
        self._shutting_down = False
        self._drained = 0
        self._messages = 0
        self._state = _State.IDLE
        self._begin()

    # --- what asyncio calls --------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for the first request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's contract
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_WATER)
        self._exchange = self._on_made(self, transport)
        self._deadline = self._loop.time() + self._times.head

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything. An answer that is still being made is thrown away."""
        del exc  # says how the peer left, which is its own affair
        self._state = _State.CLOSED
        self._queue.clear()
        self._body.clear()
        self._parser = None  # it refers back to us
        self._on_lost(self)

    def eof_received(self) -> bool:
        """Close; half-closed connections are not worth their states."""
        return False

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it may be parsed."""
        if self._state is _State.DRAIN:
            self._drained += len(data)
            if self._drained > MAX_DRAINED:
                self._close()
            return
        if self._stopped:
            return
        self._feed(data)
        if self._refused is not None and not self._busy and not self._queue:
            self._answer_refusal()
        elif self._queue or self._refused is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Stop: the peer does not read what it asked for."""
        self._paused = True
        self._deadline = self._loop.time() + self._times.write

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._paused = False
        self._deadline = self._loop.time() + self._times.idle
        self._next()

    # --- what llhttp calls ---------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._stopped:
            return
        self._messages += 1
        self._begin()
        self._state = _State.HEAD
        self._deadline = self._loop.time() + self._times.head

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        if self._stopped:
            return
        self._target += url
        if len(self._target) > MAX_TARGET:
            self._refuse(Malformed(Code.TOO_LARGE, "the request's target is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, of which none means anything here."""
        if self._stopped:
            return
        self._headers += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._headers > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            self._refuse(_head_too_large())
        if self._state is not _State.HEAD:
            return
        name = name.lower()
        if name in _ONCE:
            if name in self._seen:
                self._refuse(_malformed("a header that stands once stands twice"))
            self._seen[name] = value
        elif name == b"accept":
            self._request.accept = value
        elif name == b"upgrade":
            self._refuse(_malformed("this server speaks HTTP/1.1 only"))

    def on_headers_complete(self) -> None:
        """Judge the head before a byte of the body is taken."""
        if self._stopped:
            return
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        request.keep_alive = self._parser.should_keep_alive()
        try:
            self._read_target()
            size = self._read_headers()
            self._body_limit = self._exchange.admit(request)
            if size > self._body_limit:
                raise _body_too_large(self._body_limit)
        except Verdict as verdict:
            self._refuse(verdict)
            return
        self._state = _State.BODY
        self._deadline = self._loop.time() + self._times.body

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, if it still fits."""
        if self._stopped:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self._body.clear()
            self._refuse(_body_too_large(self._body_limit))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Serve the request, or let it wait for the one before it."""
        if self._stopped:
            return
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._state = _State.IDLE
        self._deadline = self._loop.time() + self._times.idle
        if self._busy or self._paused:
            if len(self._queue) >= MAX_PIPELINED:
                self._refuse(
                    Undecided(
                        Code.OVERLOADED,
                        "too many requests were sent ahead of their answers",
                        f"send at most {MAX_PIPELINED} requests ahead",
                    )
                )
                return
            self._queue.append(request)
        else:
            self._serve(request)

    # --- our own -------------------------------------------------------------------

    def _begin(self) -> None:
        self._request = Request()
        self._target = b""
        self._seen: dict[bytes, bytes] = {}
        self._headers = 0
        self._head_bytes = 0
        self._head_raw = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_limit = 0
        self._continue = False

    @property
    def _stopped(self) -> bool:
        """Whether the rest of the stream is of no interest, though llhttp goes on."""
        return self._refused is not None or self._state.value >= _State.DRAIN.value

    def _feed(self, data: bytes) -> None:
        message = self._messages
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(_malformed("this server speaks HTTP/1.1 only"))
        except httptools.HttpParserCallbackError:
            self._refuse(Undecided(Code.INTERNAL, "the request could not be read"))
        except httptools.HttpParserError:
            self._refuse(_malformed("this is not a request of HTTP/1.1"))
        # A header that comes in pieces reaches the callbacks only when it is whole.
        if self._state is _State.HEAD and message == self._messages:
            self._head_raw += len(data)
            if self._head_raw > MAX_HEAD:
                self._refuse(_head_too_large())
        if self._continue and not self._busy:
            self._say_continue()

    def _say_continue(self) -> None:
        self._continue = False
        if self._state is _State.BODY and not self._stopped and not self._body:
            self._transport.write(http_messages.CONTINUE)

    def _read_target(self) -> None:
        target = self._target
        if not target.startswith(b"/"):
            # The absolute form, which proxies send; every other form names no route.
            scheme, _, rest = target.partition(b"://")
            if scheme.lower() not in (b"http", b"https"):
                raise _malformed("the request's target is not a path")
            target = b"/" + rest.partition(b"/")[2]
        path, _, self._request.query = target.partition(b"?")
        if not path.isascii() or b"#" in target:
            raise _malformed("the request's target is not a path")
        self._request.path = path.decode("ascii")

    def _read_headers(self) -> int:
        """Check the headers that matter; return the body's size, 1 if chunked."""
        seen = self._seen
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _malformed("this server speaks HTTP/1.1 only")
        if b"host" not in seen and version == "1.1":
            raise _malformed("a request of HTTP/1.1 has a Host header")
        encoding = seen.get(b"transfer-encoding")
        if encoding is not None and (
            encoding.lower() != b"chunked"
            or version == "1.0"
            or b"content-length" in seen
        ):
            raise _malformed("the only transfer encoding is chunked")
        if seen.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _malformed("the request's body is compressed")
        expect = seen.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise _malformed("the only expectation is 100-continue")
            self._continue = version == "1.1"
        self._request.authorization = seen.get(b"authorization")
        if encoding is not None:
            return 1
        length = seen.get(b"content-length", b"0")
        if len(length) > MAX_LENGTH_DIGITS:
            raise _malformed("the Content-Length is longer than any length")
        return int(length)

    def _refuse(self, verdict: Verdict) -> None:
        """Take nothing more from this stream; the first verdict is the one told."""
        if self._refused is None:
            self._refused = verdict

    def _serve(self, request: Request) -> None:
        self._busy = True
        self._exchange.serve(
            request, lambda response, keep: self._answer(request, response, keep)
        )

    def _answer(self, request: Request, response: Response, keep: bool) -> None:
        self._busy = False
        if self._state is _State.CLOSED:
            return
        keep = keep and request.keep_alive and not self._shutting_down
        self._transport.write(
            http_messages.encode(
                response, keep_alive=keep, head=request.method == "HEAD"
            )
        )
        if not keep:
            self._close()
            return
        # Time that the peer waited for us is not held against it.
        now = self._loop.time()
        match self._state:
            case _State.HEAD:
                self._deadline = now + self._times.head
            case _State.BODY:
                self._deadline = now + self._times.body
            case _:
                self._deadline = now + self._times.idle
        if self._continue and not self._queue:
            self._say_continue()
        if self._queue or self._refused is not None:
            # Not from within the answer before: the stack would grow with the queue.
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._busy or self._paused or self._state is _State.CLOSED:
            return
        if self._queue:
            self._serve(self._queue.popleft())
        elif self._refused is not None:
            self._answer_refusal()
        else:
            self._transport.resume_reading()

    def _answer_refusal(self) -> None:
        """Say no, and read on for a little so that the peer gets to hear it."""
        assert self._refused is not None  # noqa: S101 - both callers looked
        if self._state is _State.DRAIN:
            return
        response = self._exchange.refuse(self._refused)
        head = self._request.method == "HEAD"
        self._transport.write(
            http_messages.encode(response, keep_alive=False, head=head)
        )
        self._body.clear()
        self._state = _State.DRAIN
        self._deadline = self._loop.time() + self._times.drain
        self._transport.resume_reading()

    def _close(self) -> None:
        if self._state is not _State.CLOSED:
            self._state = _State.DRAIN
            self._deadline = self._loop.time() + self._times.write
            self._transport.close()

    def look(self, now: float) -> None:
        """Act on the deadline if it has passed. The listener's sweeper calls this."""
        if now < self._deadline or self._state is _State.CLOSED:
            return
        if self._paused or self._state is _State.DRAIN:
            self._transport.abort()
        elif self._busy or self._queue:
            return  # our own work has its own deadlines
        elif self._state is _State.IDLE:
            self._close()
        else:
            self._refuse(
                Undecided(
                    Code.TOO_SLOW,
                    "the request did not arrive in time",
                    "send a request without pausing",
                )
            )
            self._answer_refusal()

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is being made."""
        self._shutting_down = True
        if not self._busy:
            self._close()


def _malformed(sentence: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_HTTP, sentence, "see docs/openapi.json for what is served"
    )


def _head_too_large() -> Malformed:
    return Malformed(
        Code.TOO_LARGE,
        f"the request's headers are larger than {MAX_HEAD} bytes, "
        f"or more than {MAX_HEADERS}",
    )


def _body_too_large(limit: int) -> Malformed:
    if limit == 0:
        return _malformed("this request takes no body")
    return Malformed(
        Code.TOO_LARGE,
        f"the request's body is larger than {limit} bytes",
        "the manifest's limits.max_request_bytes is the most",
    )
