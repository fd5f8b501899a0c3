"""
Requests and responses as values, and the bytes of a response.

One response is one `bytes`, so that it is one write. Nothing that a caller sent is ever
put into a header.
"""

from http import HTTPStatus
from typing import Any, Final

import msgspec

from nitrosigner.verdicts import Verdict
from nitrosigner.wire import api

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"
PEM: Final = b"application/x-pem-file"

_NO_STORE: Final = b"\r\nCache-Control: no-store\r\nContent-Type: "
_LENGTH: Final = b"\r\nContent-Length: "
_KEEP: Final = b"\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Basic first: clients that know nothing else (Java's, and so Teku's) may look at one
# line only.
_CHALLENGE: Final = (
    b'\r\nWWW-Authenticate: Basic realm="nitrosigner"\r\nWWW-Authenticate: Bearer'
)

encode_json: Final = msgspec.json.Encoder().encode


class Request(msgspec.Struct, gc=False):
    """One request whose head, and later whose body, was read within the limits."""

    method: str = ""
    path: str = ""
    query: bytes = b""
    authorization: bytes | None = None
    accept: bytes | None = None
    """Every Accept header, joined by commas."""
    body: bytes = b""
    keep_alive: bool = True
    admitted: Any = None
    """What the exchange found out when it judged the head."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """What is answered."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: bytes = b""
    """Further header lines, each begun with CR LF. Constants only."""


def ok(body: object) -> Response:
    """Return 200 with *body* as JSON."""
    return Response(200, encode_json(body))


def refusal(verdict: Verdict, headers: bytes = b"") -> Response:
    """Return *verdict* as a response."""
    if verdict.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers += b"\r\nRetry-After: 1"
    elif verdict.status == HTTPStatus.UNAUTHORIZED:
        headers += _CHALLENGE
    return Response(
        verdict.status, encode_json(api.error_body(verdict)), headers=headers
    )


def encode(response: Response, *, keep_alive: bool, head: bool = False) -> bytes:
    """Return the bytes of *response*. With *head* its body is left out."""
    return b"".join(
        (
            _STATUS_LINES[response.status],
            _NO_STORE,
            response.content_type,
            response.headers,
            _LENGTH,
            b"%d" % len(response.body),
            _KEEP if keep_alive else _CLOSE,
            b"" if head else response.body,
        )
    )
