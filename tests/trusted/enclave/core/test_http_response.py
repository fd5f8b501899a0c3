"""One response off a connection: whole, small, and nothing after it."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.enclave.attested.http_response import (
    MAX_HEADERS,
    MAX_RESPONSE,
    BadResponse,
    ResponseReader,
)

GOOD = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/x-amz-json-1.1\r\n"
    b"content-length: 11\r\n\r\nhello world"
)


@given(st.lists(st.integers(1, len(GOOD) - 1), max_size=8))
def test_a_response_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    reader = ResponseReader()
    places = [0, *sorted(set(cuts)), len(GOOD)]
    for start, end in itertools.pairwise(places):
        assert reader.response is None
        reader.feed(GOOD[start:end])
    assert reader.response is not None
    assert (reader.response.status, reader.response.body) == (400, b"hello world")
    assert reader.response.keep_alive


def test_chunks_are_put_together() -> None:
    reader = ResponseReader()
    reader.feed(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    )
    assert reader.response is not None
    assert reader.response.body == b"hello world"


def test_a_farewell_is_heard() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert reader.response is not None
    assert not reader.response.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1),
        b"HTTP/1.1 200 OK\r\na: " + b"b" * MAX_RESPONSE,
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        GOOD + GOOD,
        GOOD + b"\0",
        b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
    ],
    ids=lambda data: repr(data[-20:]),
)
def test_what_is_not_one_small_response_is_bad(data: bytes) -> None:
    reader = ResponseReader()
    with pytest.raises(BadResponse):
        reader.feed(data)
        reader.feed(b"\r\n")


@pytest.mark.parametrize("more", [b"\r\n", b"\0", GOOD])
def test_nothing_may_follow_a_response(more: bytes) -> None:
    reader = ResponseReader()
    reader.feed(GOOD)
    with pytest.raises(BadResponse):
        reader.feed(more)


def test_a_body_without_a_length_is_never_whole() -> None:
    """It would end where somebody cuts the connection."""
    reader = ResponseReader()
    reader.feed(b'HTTP/1.1 200 OK\r\n\r\n{"KeyId": "x"}')
    assert reader.response is None


def test_a_large_body_is_bad_before_it_has_arrived() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n")
    with pytest.raises(BadResponse):
        for _ in range(100):
            reader.feed(b"x" * 1024)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_response_or_a_verdict(data: bytes) -> None:
    reader = ResponseReader()
    with contextlib.suppress(BadResponse):
        reader.feed(b"HTTP/1.1 200 OK\r\n" + data)
