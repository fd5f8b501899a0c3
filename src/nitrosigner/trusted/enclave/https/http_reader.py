"""
Bytes to requests.

llhttp does the parsing, with its strict defaults; what it leaves to us is decided here
and refused when in doubt: a target that is not a path, an encoding that is not plain
chunks, a second header where one is meant. After a refusal the stream is not read
further, because sender and receiver may disagree on where the next request begins.

A head that was just read needs no parsing when it comes again: see `repeated_head`.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

import httptools

from nitrosigner.trusted.enclave.https.http_messages import Request
from nitrosigner.trusted.enclave.https.repeated_head import RepeatedHead, remember
from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict

MAX_HEAD: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_HEADERS: Final = 64
MAX_TARGET: Final = 2048
MAX_LENGTH_DIGITS: Final = 20

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
_NEVER_AGAIN: Final = frozenset((b"transfer-encoding", b"expect"))
"""What makes a head one that is not remembered."""


class Phase(Enum):
    """What the next byte belongs to."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


# Looking a member up in an enumeration costs more than comparing it.
BETWEEN: Final = Phase.BETWEEN
HEAD: Final = Phase.HEAD
BODY: Final = Phase.BODY


class RequestReader:
    """Reads one connection's requests, until one has to be refused."""

    def __init__(
        self,
        admit: Callable[[Request], int],
        begun: Callable[[Phase], None],
        received: Callable[[Request], None],
    ) -> None:
        """
        Begin before the first request.

        Args:
            admit: Judges a head and returns the most bytes of body, or raises a
                verdict.
            begun: Hears of each new phase.
            received: Takes each whole request.
        """
        self._admit = admit
        self._begun = begun
        self._received = received
        self._parser: Any = httptools.HttpRequestParser(self)
        self._messages = 0
        self.refused: Verdict | None = None
        self.phase = BETWEEN
        self._head: RepeatedHead | None = None  # of what llhttp read last
        self._expects = False
        self._begin()

    @property
    def method(self) -> str:
        """Of the request that is being read, or was read last."""
        return self._request.method

    def feed(self, data: bytes) -> None:
        """Read *data*. Afterwards `refused` says whether that came to an end."""
        if self.refused is not None:
            return
        message, began = self._messages, self.phase
        try:
            if self._head is not None and began is BETWEEN:
                request = self._head.read(data)
                if request is not None:
                    self._take(request)
                    return
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(_malformed("this server speaks HTTP/1.1 only"))
        except httptools.HttpParserCallbackError:
            self.refuse(_unreadable())
        except httptools.HttpParserError:
            self.refuse(_malformed("this is not a request of HTTP/1.1"))
        except Exception:  # noqa: BLE001 - as httptools has it for what it calls
            self.refuse(_unreadable())
        if self.phase is began is BETWEEN and self._messages == message + 1:
            # One request was in it, all of it, and nothing of another one.
            plain = _NEVER_AGAIN.isdisjoint(self._seen)
            self._head = remember(data, self._request) if plain else None
        # A header that comes in pieces reaches the callbacks only when it is whole.
        if self.phase is HEAD and message == self._messages:
            self._head_raw += len(data)
            if self._head_raw > MAX_HEAD:
                self.refuse(_head_too_large())

    def refuse(self, verdict: Verdict) -> None:
        """Read nothing more; the first verdict is the one that counts."""
        if self.refused is None:
            self.refused = verdict
            self._body.clear()

    def take_expectation(self) -> bool:
        """Return once whether the sender waits for `100 Continue`."""
        expects, self._expects = self._expects, False
        return (
            expects and self.phase is BODY and not self._body and self.refused is None
        )

    def close(self) -> None:
        """Let go of everything. The parser and this object refer to each other."""
        self.refuse(Undecided(Code.OVERLOADED, "the connection is closed"))
        self._parser = None

    # --- what llhttp calls, which goes on after a refusal ---------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.refused is not None:
            return
        self._messages += 1
        self._begin()
        self._enter(HEAD)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        if self.refused is not None:
            return
        self._target += url
        if len(self._target) > MAX_TARGET:
            self.refuse(Malformed(Code.TOO_LARGE, "the request's target is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, of which none means anything here."""
        if self.refused is not None:
            return
        self._headers += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._headers > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            self.refuse(_head_too_large())
        if self.phase is not HEAD:
            return
        name = name.lower()
        if name in _ONCE:
            if name in self._seen:
                self.refuse(_malformed("a header that stands once stands twice"))
            self._seen[name] = value
        elif name == b"accept":
            before = self._request.accept
            self._request.accept = value if before is None else before + b"," + value
        elif name == b"upgrade":
            self.refuse(_malformed("this server speaks HTTP/1.1 only"))

    def on_headers_complete(self) -> None:
        """Judge the head before a byte of the body is taken."""
        if self.refused is not None:
            return
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        try:
            self._read_target()
            size = self._read_headers()
            self._body_limit = self._admit(request)
            if size > self._body_limit:
                raise _body_too_large(self._body_limit)
        except Verdict as verdict:
            self.refuse(verdict)
            return
        self._enter(BODY)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, if it still fits."""
        if self.refused is not None:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self.refuse(_body_too_large(self._body_limit))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over."""
        if self.refused is not None:
            return
        body = self._body
        self._request.body = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        self._enter(BETWEEN)
        self._received(self._request)

    # --- our own --------------------------------------------------------------------

    def _take(self, request: Request) -> None:
        """Judge a request whose head repeats, as those are that llhttp reads."""
        self._request = request
        self._enter(HEAD)
        try:
            limit = self._admit(request)
            if len(request.body) > limit:
                raise _body_too_large(limit)
        except Verdict as verdict:
            self.refuse(verdict)
            return
        self._enter(BETWEEN)
        self._received(request)

    def _begin(self) -> None:
        self._head = None
        self._request = Request()
        self._target = b""
        self._seen: dict[bytes, bytes] = {}
        self._headers = 0
        self._head_bytes = 0
        self._head_raw = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_limit = 0
        self._expects = False

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._begun(phase)

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
        if seen.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _malformed("the request's body is compressed")
        self._request.keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._request.authorization = seen.get(b"authorization")
        expect = seen.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise _malformed("the only expectation is 100-continue")
            self._expects = version == "1.1"
        return _body_size(seen, version)


def _body_size(seen: dict[bytes, bytes], version: str) -> int:
    """Return how many bytes of body are announced; 1 if they come in chunks."""
    encoding = seen.get(b"transfer-encoding")
    length = seen.get(b"content-length")
    if encoding is not None:
        # llhttp refuses both together, and takes `gzip, chunked`. Belt and braces:
        # this is where requests are smuggled.
        if encoding.lower() != b"chunked" or version == "1.0" or length is not None:
            raise _malformed("the only transfer encoding is chunked")
        return 1
    if length is None:
        return 0
    if len(length) > MAX_LENGTH_DIGITS:
        raise _malformed("the Content-Length is longer than any length")
    return int(length)


def _unreadable() -> Undecided:
    return Undecided(Code.INTERNAL, "the request could not be read")


def _malformed(sentence: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_HTTP, sentence, "see docs/openapi.json for what is served"
    )


def _head_too_large() -> Malformed:
    return Malformed(
        Code.TOO_LARGE,
        f"the request's headers are larger than {MAX_HEAD} bytes, "
        f"or more than {MAX_HEADERS}",
        "send fewer or shorter headers",
    )


def _body_too_large(limit: int) -> Malformed:
    if limit == 0:
        return _malformed("this request takes no body")
    return Malformed(
        Code.TOO_LARGE,
        f"the request's body is larger than {limit} bytes",
        "the manifest's limits.max_request_bytes is the most",
    )
