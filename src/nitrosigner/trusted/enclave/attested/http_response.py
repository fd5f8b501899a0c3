"""
Reads exactly one HTTP/1.1 response off a connection, within limits.

A byte after the response's end is an error: we never send two requests at once, so
nobody owes us a second answer. A response whose length only the end of the connection
tells is never whole: a cut connection must not look like an answer.
"""

from dataclasses import dataclass
from typing import Final

import httptools

MAX_RESPONSE: Final = 64 * 1024
"""Bytes on the wire. The longest answer of KMS that we ask for has about 12 KiB."""
MAX_HEADERS: Final = 64


class BadResponse(ValueError):
    """Not one HTTP response within the limits. Close the connection."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response."""

    status: int
    body: bytes
    keep_alive: bool
    date: str = ""
    """When it was made, as its sender says."""


class ResponseReader:
    """Feed it what arrives until `response` is there. For one response."""

    def __init__(self) -> None:
        self._callbacks = _Callbacks()
        self._parser = httptools.HttpResponseParser(self._callbacks)
        self._callbacks.parser = self._parser
        self._taken = 0
        self.response: HttpResponse | None = None

    @property
    def started(self) -> bool:
        """Whether anything has arrived."""
        return self._taken > 0

    def feed(self, data: bytes) -> None:
        """
        Take what was read.

        Raises:
            BadResponse: It is no response, too large, or there is more than one.
        """
        self._taken += len(data)
        if self.response is not None:
            raise BadResponse("bytes follow the response")
        if self._taken > MAX_RESPONSE:
            raise BadResponse("the response is too long")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BadResponse("this is no HTTP response") from error
        if self._callbacks.messages > 1 or self._callbacks.headers > MAX_HEADERS:
            raise BadResponse("this is more than one small HTTP response")
        if self._callbacks.complete:
            self.response = HttpResponse(
                status=self._parser.get_status_code(),
                body=bytes(self._callbacks.body),
                keep_alive=self._callbacks.keep_alive,
                date=self._callbacks.date.decode("latin-1"),
            )


class _Callbacks:
    """What the parser calls. It only counts: an exception in here would be lost."""

    def __init__(self) -> None:
        self.messages = 0
        self.headers = 0
        self.body = bytearray()
        self.complete = False
        self.date = b""
        self.keep_alive = False
        self.parser: httptools.HttpResponseParser | None = None

    def on_message_begin(self) -> None:
        self.messages += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers += 1
        if name.lower() == b"date":
            self.date = value

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.complete = True
        # Only in here: the parser forgets it once the message is over.
        if self.parser is not None:
            self.keep_alive = self.parser.should_keep_alive()
