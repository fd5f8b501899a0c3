"""How many, how it ends, and what it costs."""

import socket
import ssl
from contextlib import ExitStack
from typing import Any

import pytest

from nitrosigner.wire import manifest

SIGN = "/api/v1/keys/hot/sign/transaction"
GET = b"GET /upcheck HTTP/1.1\r\nHost: a\r\n\r\n"


def small(running: Any) -> None:
    from nitrosigner.trusted.enclave.https.http_protocol import Times

    running.limits = manifest.Limits(max_connections=4)
    running.times = Times(idle=30, head=30, sweep=0.02, drain=0.2)


def test_one_connection_too_many_is_told_so(start: Any) -> None:
    front = start(small)
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(front.connect())
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        late = stack.enter_context(front.connect())
        late.sendall(GET)
        answer = late.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"overloaded"' in answer
        assert b"\r\nRetry-After: 1" in answer
        # Those who were there first are served as before.
        connection.sendall(GET)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    front.wait(lambda: front.front.connections == 0)
    assert front.alive


def test_far_too_many_connections_are_closed_unheard(start: Any) -> None:
    front = start(small)
    with ExitStack() as stack:
        for _ in range(4 + 32):
            stack.enter_context(
                socket.create_connection(("127.0.0.1", front.port), timeout=30)
            )
        front.wait(lambda: front.front.connections == 36)
        with pytest.raises((ssl.SSLError, OSError)):
            stack.enter_context(front.connect())
        assert front.front.connections == 36
    front.wait(lambda: front.front.connections == 0)
    assert front.alive


def test_handshakes_that_fail_leave_nothing_behind(front: Any) -> None:
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", front.port), timeout=30) as raw:
            raw.sendall(b"not TLS at all\r\n\r\n")
    # Some may still stand in the queue of the kernel, and count when they come.
    front.wait(lambda: front.alive)
    front.wait(lambda: front.front.connections == 0)


def test_a_caller_who_leaves_before_the_answer_harms_nobody(front: Any) -> None:
    import asyncio

    gate = asyncio.Event()
    front.wait(lambda: front.services.lines)
    front.services.hang = gate
    body = (
        b'{"transaction":{"type":"0x2","chainId":31337,"nonce":0,"gas":21000,'
        b'"to":"0x1111111111111111111111111111111111111111","maxFeePerGas":9}}'
    )
    with front.connect() as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
            % (SIGN.encode(), len(body), body)
        )
        front.wait(lambda: front.keys.signed)
    front.wait(lambda: front.front.connections == 0)
    front.loop.loop.call_soon_threadsafe(gate.set)
    front.wait(lambda: len(front.services.lines) == 2)
    front.services.hang = None
    assert front.alive


def test_closing_finishes_what_is_under_way(front: Any) -> None:
    import asyncio

    gate = asyncio.Event()
    front.wait(lambda: front.services.lines)
    front.services.hang = gate
    body = (
        b'{"transaction":{"type":"0x2","chainId":31337,"nonce":0,"gas":21000,'
        b'"to":"0x1111111111111111111111111111111111111111","maxFeePerGas":9}}'
    )
    with front.connect() as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
            % (SIGN.encode(), len(body), body)
        )
        front.wait(lambda: front.keys.signed)
        front.loop.loop.call_soon_threadsafe(front.front.close)
        front.loop.loop.call_soon_threadsafe(gate.set)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close" in answer
    with pytest.raises(OSError):
        front.connect()
