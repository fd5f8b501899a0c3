"""
One connection: its requests in order, its answers, and an end to every wait.

One request is worked on at a time. A sender that pipelines waits in the kernel's
buffers, not in ours. What a peer may take is a total: a byte now and then buys nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol

import msgspec

from nitrosigner.trusted.enclave.https import http_messages
from nitrosigner.trusted.enclave.https.http_messages import Request, Response
from nitrosigner.trusted.enclave.https.http_reader import (
    BETWEEN,
    BODY,
    HEAD,
    Phase,
    RequestReader,
)
from nitrosigner.verdicts import Code, Undecided, Verdict

MAX_PIPELINED: Final = 16
"""Requests that were read ahead of the one in work. One more ends the connection."""
MAX_DRAINED: Final = 2 << 20
"""Bytes thrown away after a refusal, so that the refusal can still be read."""
WRITE_HIGH_WATER: Final = 256 * 1024
READ_SIZE: Final = 64 * 1024
"""Bytes read at once. Without a buffer of ours asyncio takes 256 KiB for each read."""


class Times(msgspec.Struct, frozen=True):
    """Seconds that a peer may take."""

    handshake: float = 10.0
    head: float = 10.0
    """From the first byte of a request (on a new connection: from its start)."""
    body: float = 20.0
    """From the end of the headers."""
    idle: float = 75.0
    """Between two requests."""
    write: float = 20.0
    """Until a peer that stopped reading reads on."""
    drain: float = 2.0
    """After a refusal, until it closes."""
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
            Verdict: Answered without reading the body; the connection ends.
        """
        ...

    def serve(self, request: Request, answer: Callable[[Response], None]) -> None:
        """Work on *request*; call *answer* exactly once, now or later."""
        ...

    def refuse(self, verdict: Verdict) -> Response:
        """Return the response for bytes that were no request, or not admitted."""
        ...


class _State(Enum):
    OPEN = auto()
    ENDING = auto()
    """The last answer is written; what still comes is thrown away."""
    CLOSED = auto()


_OPEN: Final = _State.OPEN
_ENDING: Final = _State.ENDING
_CLOSED: Final = _State.CLOSED
_buffer: Final = memoryview(bytearray(READ_SIZE))
"""One for all connections: what is read into it is copied out of it at once."""


class HttpProtocol(asyncio.BufferedProtocol):
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
        self._now = asyncio.get_running_loop().time
        self._queue: deque[Request] = deque()
        self._busy = False
        self._paused = False
        self._holding = False
        self._last = False
        self._drained = 0
        self._state = _OPEN
        self._deadline = self._now() + times.head

    # --- what asyncio calls ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's contract
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_WATER)
        self._exchange = self._on_made(self, transport)
        self._reader = RequestReader(
            self._exchange.admit, self._phase_begun, self._received
        )
        self._deadline = self._now() + self._times.head

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything. An answer that is still being made is thrown away."""
        del exc  # says how the peer left, which is its own affair
        self._state = _CLOSED
        self._queue.clear()
        self._reader.close()
        self._on_lost(self)

    def eof_received(self) -> bool:
        """Close; half-closed connections are not worth their states."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the shared buffer to the loop."""
        del sizehint
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.data_received(bytes(_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Read what came, as far as it may be read."""
        if self._state is not _OPEN:
            self._drained += len(data)
            if self._drained > MAX_DRAINED:
                self._transport.close()
            return
        self._reader.feed(data)
        if self._reader.refused is not None or self._queue:
            if self._busy or self._queue:
                self._holding = True
                self._transport.pause_reading()
            else:
                self._answer_refusal()
        elif not self._busy:
            self._say_continue()

    def pause_writing(self) -> None:
        """Stop: the peer does not read what it asked for."""
        self._paused = True
        self._deadline = self._now() + self._times.write

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._paused = False
        self._restart_deadline()
        self._next()

    # --- what the listener calls ----------------------------------------------------

    def look(self, now: float) -> None:
        """Act on the deadline if it has passed."""
        if now < self._deadline or self._state is _CLOSED:
            return
        if self._paused or self._state is _ENDING:
            self._transport.abort()
        elif self._busy or self._queue:
            return  # our own work has its own deadlines
        elif self._reader.phase is BETWEEN:
            self._end(self._times.write)
            self._transport.close()
        else:
            self._reader.refuse(
                Undecided(
                    Code.TOO_SLOW,
                    "the request did not arrive in time",
                    "send a request without pausing",
                )
            )
            self._answer_refusal()

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is being made."""
        self._last = True
        if not self._busy and self._state is _OPEN:
            self._end(self._times.write)
            self._transport.close()

    def retire(self) -> None:
        """Close between two requests: now, or after what has begun to arrive."""
        self._last = True
        if self._reader.phase is BETWEEN and not self._queue:
            self.close_when_idle()

    # --- our own --------------------------------------------------------------------

    def _phase_begun(self, phase: Phase) -> None:
        times = self._times
        if phase is HEAD:
            seconds = times.head
        elif phase is BODY:
            seconds = times.body
        else:
            seconds = times.idle
        self._deadline = self._now() + seconds

    def _restart_deadline(self) -> None:
        """Begin the phase's time again: the wait before was for us."""
        self._phase_begun(self._reader.phase)

    def _received(self, request: Request) -> None:
        if not self._busy and not self._paused and not self._queue:
            self._serve(request)
        elif len(self._queue) < MAX_PIPELINED:
            self._queue.append(request)
        else:
            self._reader.refuse(
                Undecided(
                    Code.OVERLOADED,
                    "too many requests were sent ahead of their answers",
                    f"send at most {MAX_PIPELINED} requests ahead",
                )
            )

    def _serve(self, request: Request) -> None:
        self._busy = True
        self._exchange.serve(request, lambda response: self._answer(request, response))

    def _answer(self, request: Request, response: Response) -> None:
        self._busy = False
        if self._state is not _OPEN:
            return
        keep_alive = request.keep_alive and not self._last
        self._transport.write(http_messages.encode(response, keep_alive=keep_alive))
        if not keep_alive:
            self._end(self._times.write)
            self._transport.close()
            return
        if not self._paused:
            self._restart_deadline()
        if self._holding:
            # Not from within the answer before: the stack would grow with the queue.
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._say_continue()

    def _next(self) -> None:
        if self._busy or self._paused or self._state is not _OPEN:
            return
        if self._queue:
            self._serve(self._queue.popleft())
        elif self._reader.refused is not None:
            self._answer_refusal()
        else:
            self._holding = False
            self._transport.resume_reading()
            self._say_continue()

    def _say_continue(self) -> None:
        if self._reader.take_expectation():
            self._transport.write(http_messages.CONTINUE)

    def _answer_refusal(self) -> None:
        """Say no, and read on for a little so that the peer gets to hear it."""
        verdict = self._reader.refused
        if verdict is None or self._state is not _OPEN:
            return
        self._transport.write(
            http_messages.encode(
                self._exchange.refuse(verdict),
                keep_alive=False,
                head=self._reader.method == "HEAD",
            )
        )
        self._end(self._times.drain)
        self._transport.resume_reading()

    def _end(self, seconds: float) -> None:
        """Answer nothing more, and be gone within *seconds*."""
        self._state = _ENDING
        self._reader.close()
        self._deadline = self._now() + seconds
