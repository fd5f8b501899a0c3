"""
One multiplexed connection of frames to the parent: requests out, answers matched by id.

The first thing on it that cannot be explained ends it. Everything that was waiting is
told that there is no answer, which says nothing about whether it was done.
"""

import asyncio
import socket
from typing import Final

from nitrosigner.wire import frames, services

MAX_OUTSTANDING: Final = 256
"""Requests that wait for an answer at the same time."""
_MAX_ABANDONED: Final = 64
"""Unanswered requests whose asker gave up, after which the connection is given up."""


class NoAnswer(Exception):
    """The request may or may not have been carried out."""


class ParentConnection(asyncio.Protocol):
    """Made by `open_connection`; dead after its first error."""

    def __init__(self) -> None:
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[services.Answer]] = {}
        self._abandoned: set[int] = set()
        self._last_id = 0
        self.closed = False

    # --- what the loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # create_connection with a stream socket gives a Transport; the base class is
        # only what the signature in typeshed says.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand out every whole answer."""
        try:
            self._reader.feed(data)
            while (frame := self._reader.next()) is not None:
                self._answer(frame.request_id, services.decode_answer(frame.payload))
        except ValueError:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell everybody who waits."""
        self.close()

    # --- what we call ---

    async def ask(self, request: services.Request) -> services.Answer:
        """
        Send *request* and return the answer, whatever it is. Wrap it in a deadline.

        Raises:
            NoAnswer: The connection ended first, or was full.
        """
        if self.closed or self._transport is None:
            raise NoAnswer
        if len(self._waiting) >= MAX_OUTSTANDING:
            raise NoAnswer
        self._last_id = self._last_id % frames.MAX_REQUEST_ID + 1
        number = self._last_id
        answer: asyncio.Future[services.Answer] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[number] = answer
        self._transport.write(frames.encode(number, services.encode(request)))
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(number)
            raise

    def close(self) -> None:
        """End the connection. What waits gets no answer."""
        if self.closed:
            return
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NoAnswer())
        self._waiting.clear()
        self._abandoned.clear()

    def _answer(self, number: int, answer: services.Answer) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(answer)
        elif number in self._abandoned:
            self._abandoned.discard(number)
        else:
            msg = "an answer to nothing"
            raise ValueError(msg)

    def _abandon(self, number: int) -> None:
        if self._waiting.pop(number, None) is None:
            return
        # Its late answer must not be taken for an unexplained one.
        self._abandoned.add(number)
        if len(self._abandoned) > _MAX_ABANDONED:
            self.close()


async def open_connection(connected: socket.socket) -> ParentConnection:
    """Return a connection that speaks on *connected*, and owns it."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(ParentConnection, sock=connected)
    except BaseException:
        connected.close()
        raise
    return connection
