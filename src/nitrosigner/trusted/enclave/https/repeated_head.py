"""
A head that repeats: what llhttp made of it once need not be found out again.

A client that keeps its connection sends the same header lines with each request; the
key in the path, the body and its length change. Such a request is read here, without a
call back for each of its lines, and nothing else is.

The danger in a second way to read HTTP is that the two disagree on where a request
ends: that is how requests are smuggled. They cannot, because nothing is judged here.

- What is remembered is a POST that llhttp has read on this very connection, alone and
  whole out of one piece, after which it expected another message. Whatever llhttp reads
  next takes its place.
- A later piece is taken for another such request only if (1) its request line is of the
  plainest form: the same method and version, a path of characters that mean nothing but
  themselves; (2) the bytes from there to the first empty line are those remembered, but
  for the digits of the one Content-Length; (3) those digits are what one writes for the
  number of bytes behind the empty line, so that nothing is missing or left over.
- llhttp would read the same: it stands between two messages, where nothing is left of
  the one before; it knows the header lines, all but the length; and that is right.
- Everything else goes to llhttp, which misses nothing of what is taken here: pieces are
  taken as they came, from the first byte of a message to the last one.

Only how a request is *read* is remembered. Whether it is admitted is asked for each.
"""

import re
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.https.http_messages import Request

MAX_REMEMBERED: Final = 2048
"""Bytes of header lines, for each connection; longer ones are read as if new."""

# No `?`, `%` or `#`, no scheme, and nothing near the limits on a target.
_REQUEST_LINE: Final = re.compile(rb"POST (/[0-9A-Za-z/_.-]{0,511}) HTTP/1\.1\r\n")
_LENGTH: Final = re.compile(
    rb"(?<=\r\n)content-length: ?([0-9]+)(?=\r\n)", re.IGNORECASE
)
_END: Final = b"\r\n\r\n"


class RepeatedHead(msgspec.Struct, frozen=True, gc=False):
    """Header lines, and what they mean."""

    before_length: bytes
    """From the end of the request line to the digits of the Content-Length."""
    after_length: bytes
    """From there to the end of the head, the empty line included."""
    authorization: bytes | None
    accept: bytes | None

    def read(self, data: bytes) -> Request | None:
        """Return the request that *data* is, if it is just one under this head."""
        line = _REQUEST_LINE.match(data)
        if line is None:
            return None
        begin = line.end()
        end = data.find(_END, begin) + 4
        # Without an end this compares with nothing, which no head is.
        if data[begin:end] != b"%b%d%b" % (
            self.before_length,
            len(data) - end,
            self.after_length,
        ):
            return None
        return Request(
            "POST",
            line[1].decode("ascii"),
            b"",
            self.authorization,
            self.accept,
            data[end:],
        )


def remember(data: bytes, read: Request) -> RepeatedHead | None:
    """
    Return the head of a request that may be repeated, or None.

    Args:
        data: The bytes that llhttp took for *read*, without Expect and without chunks.
        read: What it made of them.
    """
    line = _REQUEST_LINE.match(data)
    if line is None or not read.keep_alive:
        return None
    end = data.find(_END, line.end()) + 4
    length = _LENGTH.search(data, line.end(), end)
    if length is None or end - line.end() > MAX_REMEMBERED:
        return None
    head = RepeatedHead(
        data[line.end() : length.start(1)],
        data[length.end(1) : end],
        read.authorization,
        read.accept,
    )
    # It must read the very bytes that it comes from as llhttp did.
    again = head.read(data)
    same = again is not None and (again.path, again.body) == (read.path, read.body)
    return head if same else None
