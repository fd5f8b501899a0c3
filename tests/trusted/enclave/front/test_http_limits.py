"""
The stream of bytes itself: too much, too slow, ambiguous. All refused, all bounded.
"""

import json
import socket
import ssl
import time
from typing import Any

import pytest

SIGN = b"/api/v1/keys/hot/sign/transaction"
TX = json.dumps(
    {
        "transaction": {
            "type": "0x2",
            "chainId": 31337,
            "nonce": 0,
            "to": "0x" + "11" * 20,
            "gas": 21000,
            "maxFeePerGas": 1000,
        }
    }
).encode()


def post(*headers: bytes, body: bytes = TX) -> bytes:
    return (
        b"POST "
        + SIGN
        + b" HTTP/1.1\r\n"
        + b"".join(each + b"\r\n" for each in headers)
        + b"\r\n"
        + body
    )


LENGTH = b"Content-Length: %d" % len(TX)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(TX), TX)
HOST = b"Host: a"

SMUGGLING = {
    "two lengths": post(HOST, LENGTH, LENGTH),
    "two unequal lengths": post(HOST, LENGTH, b"Content-Length: 3"),
    "length and chunks": post(HOST, LENGTH, CHUNKED, body=CHUNKS),
    "chunks and length": post(HOST, CHUNKED, LENGTH, body=CHUNKS),
    "chunks twice": post(HOST, CHUNKED, CHUNKED, body=CHUNKS),
    "chunks in gzip": post(HOST, b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "almost chunked": post(HOST, b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunked last but one": post(
        HOST, b"Transfer-Encoding: chunked, identity", body=CHUNKS
    ),
    "a space before the colon": post(HOST, b"Content-Length : %d" % len(TX), body=TX),
    "a folded header": post(HOST, b"A: b\r\n c", LENGTH),
    "bare line feeds": post(HOST, LENGTH).replace(b"\r\n", b"\n"),
    "a plus sign": post(HOST, b"Content-Length: +%d" % len(TX)),
    "a hex length": post(HOST, b"Content-Length: 0x10"),
    "a negative length": post(HOST, b"Content-Length: -1"),
    "an endless length": post(HOST, b"Content-Length: " + b"9" * 30),
    "zeros before the length": post(HOST, b"Content-Length: " + b"0" * 5000 + b"9"),
    "a null in a header": post(HOST, b"A: \0", LENGTH),
    "a bad chunk size": post(HOST, CHUNKED, body=b"zz\r\nx\r\n0\r\n\r\n"),
    "a chunk too short": post(HOST, CHUNKED, body=b"5\r\nabc\r\n0\r\n\r\n"),
    "two hosts": post(HOST, b"Host: b", LENGTH),
    "no host": post(LENGTH),
    "two authorizations": post(HOST, LENGTH, *[b"Authorization: Bearer x"] * 2),
    "a compressed body": post(HOST, LENGTH, b"Content-Encoding: gzip"),
    "an unknown expectation": post(HOST, LENGTH, b"Expect: miracles"),
    "an upgrade": post(HOST, LENGTH, b"Connection: upgrade", b"Upgrade: h2c"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /upcheck\r\n\r\n",
    "HTTP/1.2": b"GET /upcheck HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/1.0 with chunks": post(HOST, CHUNKED, body=CHUNKS).replace(
        b"HTTP/1.1", b"HTTP/1.0"
    ),
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "another target": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in the path": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path beyond ASCII": "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a body where none is": b"GET /upcheck HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    "noise": bytes(range(256)),
    "a TLS record": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_an_ambiguous_request_gets_400_and_the_connection_ends(
    front: Any, name: Any
) -> None:
    # Whatever stands behind it must not be taken for a request.
    behind = post(HOST, LENGTH)
    head, _, body = front.raw(SMUGGLING[name] + behind).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 ")), head
    assert b"\r\nConnection: close" in head
    assert json.loads(body)["error"]["code"] in (
        "malformed_http",
        "method_not_allowed",
    )
    assert front.keys.signed == []
    assert front.alive


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        post(HOST, LENGTH, b"A: " + b"b" * 17000),
        post(HOST, LENGTH, *[b"A: b"] * 70),
        post(HOST, LENGTH, *[b"A: " + b"b" * 1000] * 20),
        post(HOST, CHUNKED, body=CHUNKS[:-2] + b"T: " + b"x" * 20000 + b"\r\n\r\n"),
    ],
    ids=["target", "one header", "many headers", "much header", "trailers"],
)
def test_a_head_that_is_too_large_gets_413(front: Any, request_bytes: Any) -> None:
    answer = front.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert b'"too_large"' in answer
    assert front.alive


def test_a_header_that_never_ends_is_cut_off(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(b"GET /upcheck HTTP/1.1\r\nA: ")
        with pytest.raises((OSError, AssertionError)):
            for _ in range(4096):
                connection.sendall(b"b" * 4096)
            assert connection.recv(1), "closed"
            raise OSError
    assert front.alive


def test_a_large_body_is_refused_before_it_is_sent(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(post(HOST, b"Content-Length: 70000", body=b""))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert front.alive


def test_a_large_body_in_chunks_is_refused_when_it_passes_the_limit(front: Any) -> None:
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    answer = front.raw(post(HOST, CHUNKED, body=chunk * 17))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_the_refusal_is_heard_by_a_sender_who_goes_on_sending(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(post(HOST, b"Content-Length: 1000000", body=b""))
        for _ in range(10):
            connection.sendall(b"x" * 16384)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_in_chunks_is_taken(front: Any) -> None:
    body = b"".join(
        b"%x;note=1\r\n%s\r\n" % (len(piece), piece)
        for piece in (TX[:10], TX[10:11], TX[11:])
    )
    answer = front.raw(
        post(HOST, CHUNKED, b"Connection: close", body=body + b"0\r\nT: x\r\n\r\n")
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_sender_who_waits_for_100_is_told_to_go_on(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(
            post(HOST, LENGTH, b"Expect: 100-continue", b"Connection: close", body=b"")
        )
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(TX)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_sender_who_waits_for_100_is_refused_without_sending(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(
            post(HOST, b"Content-Length: 70000", b"Expect: 100-continue", body=b"")
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_the_absolute_form_of_a_target_is_taken(front: Any) -> None:
    answer = front.raw(
        b"GET https://elsewhere:1/upcheck HTTP/1.1\r\nHost: a\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_http_1_0_is_answered_and_closed(front: Any) -> None:
    answer = front.raw(b"GET /upcheck HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer


def test_pipelined_requests_are_answered_in_order(front: Any) -> None:
    requests = [
        b"GET /api/v1/keys/%s HTTP/1.1\r\nHost: a\r\n\r\n" % name
        for name in (b"hot", b"cold", b"nobody", b"hot")
    ]
    requests.append(b"GET /upcheck HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = front.raw(b"".join(requests))
    statuses = [line[:12] for line in answer.split(b"HTTP/1.1 ")[1:]]
    assert [status[:3] for status in statuses] == [
        b"200",
        b"200",
        b"404",
        b"200",
        b"200",
    ]
    assert (
        answer.index(b'"hot"') < answer.index(b'"cold"') < answer.index(b"unknown_key")
    )


def test_signatures_that_are_pipelined_are_answered_in_order(front: Any) -> None:
    one = post(HOST, LENGTH)
    last = post(HOST, LENGTH, b"Connection: close")
    answer = front.raw(one * 9 + last)
    assert answer.count(b"HTTP/1.1 200 ") == 10
    assert len(front.keys.signed) == 10


def test_too_many_pipelined_requests_end_the_connection(front: Any) -> None:
    answer = front.raw(post(HOST, LENGTH) * 200)
    assert answer.count(b"HTTP/1.1 200 ") == 17
    assert answer.count(b"HTTP/1.1 503 ") == 1
    assert answer.rstrip().endswith(b"}}")
    assert front.alive


def test_a_refused_request_in_a_pipeline_ends_it_in_its_place(front: Any) -> None:
    answer = front.raw(post(HOST, LENGTH) + b"BAD STUFF\r\n\r\n" + post(HOST, LENGTH))
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.index(b"HTTP/1.1 200 ") < answer.index(b"HTTP/1.1 400 ")
    assert len(front.keys.signed) == 1


# --- time ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun",
    [b"G", b"GET /upcheck HTTP/1.1\r\nHost", post(HOST, LENGTH, body=b"{")],
    ids=["a letter", "half a head", "half a body"],
)
def test_a_request_that_does_not_come_to_its_end_gets_408(
    front: Any, begun: Any
) -> None:
    began = time.monotonic()
    answer = front.raw(begun)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b'"too_slow"' in answer
    assert time.monotonic() - began < 20  # the usual limit is longer
    assert front.keys.signed == []
    assert front.alive


@pytest.mark.parametrize(
    "slow", [b"GET /upcheck HTTP/1.1\r\nA: ", post(HOST, LENGTH, body=b"")]
)
def test_a_byte_now_and_then_buys_no_time(front: Any, slow: Any) -> None:
    began = time.monotonic()
    with front.connect() as connection:
        connection.sendall(slow)
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 20:
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_on_which_nothing_is_asked_is_closed(
    front: Any, read_to_end: Any
) -> None:
    with front.connect(None) as connection:
        assert read_to_end(connection) == b""
    with front.connect() as connection:
        connection.sendall(b"GET /upcheck HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


def test_a_handshake_that_does_not_go_on_is_ended(front: Any) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=30) as raw:
        raw.sendall(b"\x16\x03\x01")
        assert raw.recv(100) == b""
    with socket.create_connection(("127.0.0.1", front.port), timeout=30) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.recv(100)
    assert front.alive


def test_a_peer_that_does_not_read_is_dropped(front: Any) -> None:
    with front.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one = b"GET /api/v1/keys HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.settimeout(0.2)
        assert front.front is not None
        try:
            for _ in range(100_000):
                connection.sendall(one)
        except (TimeoutError, ssl.SSLError, OSError):
            pass
        front.wait(lambda: front.front.connections == 0)
    assert front.alive
