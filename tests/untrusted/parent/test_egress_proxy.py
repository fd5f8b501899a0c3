"""Out of the enclave goes only what names an allowed host, exactly."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.untrusted.parent.egress_proxy import (
    MAX_HEAD,
    Destination,
    EgressLimits,
    EgressProxy,
    kms_destinations,
    parse_connect,
)
from nitrosigner.verdicts import Malformed
from nitrosigner.wire.addresses import EGRESS_PORT

KMS = Destination("kms.eu-west-1.amazonaws.com", 443)
CONNECT = b"CONNECT kms.eu-west-1.amazonaws.com:443 HTTP/1.1\r\n"
HOST = b"Host: kms.eu-west-1.amazonaws.com:443\r\n\r\n"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def started(vsock: Any, log: Any) -> Any:
    @asynccontextmanager
    async def start(
        pin: Destination | None = None, **limits: Any
    ) -> AsyncIterator[Any]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = EgressProxy(
            kms_destinations("eu-west-1"),
            {KMS: pin or Destination("127.0.0.1", port)},
            EgressLimits(**limits),
            log,
        )
        await proxy.start(vsock, EGRESS_PORT)
        try:
            yield proxy
        finally:
            await proxy.stop(0)
            server.close()
            await asyncio.sleep(0)

    return start


async def ask(enclave: Any, *parts: bytes) -> tuple[int, dict[str, Any], bytes]:
    reader, writer = await enclave.connect(EGRESS_PORT)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    return status, json.loads(body)["error"] if body else {}, answer


def test_kms_is_reached_and_bytes_pass(started: Any, enclave: Any) -> None:
    async def main() -> None:
        async with started() as proxy:
            reader, writer = await enclave.connect(EGRESS_PORT)
            writer.write(CONNECT + HOST)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            for size in (1, 517, 300_000):
                writer.write(bytes(size))
                assert await reader.readexactly(size) == bytes(size)
            assert proxy.counts().connections == 1
            assert proxy.counts().bytes_in == proxy.counts().bytes_out == 300_518
            writer.close()

    asyncio.run(main())


def test_a_request_that_comes_byte_by_byte_is_understood(
    started: Any, enclave: Any
) -> None:
    async def main() -> None:
        async with started():
            reader, writer = await enclave.connect(EGRESS_PORT)
            for byte in CONNECT + HOST:
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()

    asyncio.run(main())


def test_bytes_that_did_not_wait_for_the_answer_are_not_lost(
    started: Any, enclave: Any
) -> None:
    async def main() -> None:
        async with started():
            reader, writer = await enclave.connect(EGRESS_PORT)
            writer.write(CONNECT + HOST + b"client hello")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(12) == b"client hello"
            writer.write(b" and more")
            assert await reader.readexactly(9) == b" and more"
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "target",
    [
        b"169.254.169.254:80",
        b"localhost:443",
        b"kms.eu-west-1.amazonaws.com:80",
        b"kms.us-east-1.amazonaws.com:443",
        b"kms.eu-west-1.amazonaws.com.evil.example:443",
        b"evil-kms.eu-west-1.amazonaws.com:443",
        b"kms.eu-west-1.amazonaws.com.:443",
        b"secretsmanager.eu-west-1.amazonaws.com:443",
        b"[::1]:443",
    ],
)
def test_any_other_host_or_port_is_refused(
    started: Any, enclave: Any, log: Any, target: bytes
) -> None:
    async def main() -> None:
        async with started() as proxy:
            status, error, _ = await ask(
                enclave, b"CONNECT " + target + b" HTTP/1.1\r\n\r\n"
            )
            assert (status, error["code"]) == (403, "not_allowed")
            assert error["hint"]
            assert proxy.counts().refused == 1

    asyncio.run(main())
    assert log.lines == [
        {"time": log.lines[0]["time"], "event": "egress_refused", "code": "not_allowed"}
    ]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://kms.eu-west-1.amazonaws.com/ HTTP/1.1\r\n\r\n", 400),
        (b"POST kms.eu-west-1.amazonaws.com:443 HTTP/1.1\r\n\r\n", 405),
        (b"CONNECT kms.eu-west-1.amazonaws.com HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.eu-west-1.amazonaws.com:0 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.eu-west-1.amazonaws.com:99999 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.eu-west-1.amazonaws.com:443\r\n\r\n", 400),
        (CONNECT + b"no colon\r\n\r\n", 400),
        (CONNECT + b"Fold: a\r\n b\r\n\r\n", 400),
        (CONNECT + b"Nul: a\0b\r\n\r\n", 400),
        (b"\x16\x03\x01 a TLS client hello \r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"x" * (MAX_HEAD + 1), 413),
        (CONNECT + b"X: " + b"y" * MAX_HEAD + b"\r\n\r\n", 413),
    ],
)
def test_what_is_no_connect_request_is_malformed(
    started: Any, enclave: Any, request_: bytes, status: int
) -> None:
    async def main() -> None:
        async with started() as proxy:
            assert (await ask(enclave, request_))[0] == status
            assert proxy.counts().accepted == 0

    asyncio.run(main())


def test_a_request_that_never_ends_is_given_up(started: Any, enclave: Any) -> None:
    async def main() -> None:
        async with started(head_seconds=0.1) as proxy:
            status, error, _ = await ask(enclave, CONNECT)
            assert (status, error["code"]) == (408, "too_slow")
            assert proxy.counts().connections == 0

    asyncio.run(main())


def test_a_peer_that_leaves_before_asking_costs_nothing(
    started: Any, enclave: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started() as proxy:
            _, writer = await enclave.connect(EGRESS_PORT)
            await wait_for(lambda: proxy.counts().connections == 1)
            writer.close()
            await wait_for(lambda: proxy.counts().connections == 0)

    asyncio.run(main())


def test_an_unreachable_host_is_undecided(started: Any, enclave: Any, log: Any) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound and not listening
            pin = Destination("127.0.0.1", closed.getsockname()[1])
            async with started(pin) as proxy:
                status, error, _ = await ask(enclave, CONNECT, HOST)
                assert (status, error["code"]) == (503, "kms_unavailable")
                assert proxy.counts().failed == 1

    asyncio.run(main())
    assert log.events == ["egress_failed"]


def test_a_host_that_does_not_answer_is_given_up(started: Any, enclave: Any) -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(full.getsockname())
            pin = Destination("127.0.0.1", full.getsockname()[1])
            async with started(pin, connect_seconds=0.2):
                status, error, _ = await ask(enclave, CONNECT, HOST)
                assert (status, error["code"]) == (503, "kms_unavailable")
            for filler in fillers:
                filler.close()

    asyncio.run(main())


def test_the_connection_after_the_last_place_is_told_so(
    started: Any, enclave: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(max_connections=1) as proxy:
            reader, writer = await enclave.connect(EGRESS_PORT)
            writer.write(CONNECT + HOST)
            await reader.readuntil(b"\r\n\r\n")
            status, error, _ = await ask(enclave, b"")
            assert (status, error["code"]) == (503, "overloaded")
            writer.write(b"undisturbed")
            assert await reader.readexactly(11) == b"undisturbed"
            writer.close()
            await wait_for(lambda: proxy.counts().connections == 0)

    asyncio.run(main())


def test_names_are_compared_without_regard_to_case() -> None:
    head = b"CONNECT KMS.eu-West-1.amazonaws.COM:443 HTTP/1.1"
    assert parse_connect(head) == KMS


def test_the_fips_endpoint_is_allowed_and_spelt_right() -> None:
    assert kms_destinations("us-gov-west-1") == {
        Destination("kms.us-gov-west-1.amazonaws.com", 443),
        Destination("kms-fips.us-gov-west-1.amazonaws.com", 443),
    }
    assert Destination("kms.cn-north-1.amazonaws.com.cn", 443) in kms_destinations(
        "cn-north-1"
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_a_destination_or_malformed(head: bytes) -> None:
    with contextlib.suppress(Malformed):
        found = parse_connect(head)
        assert head.startswith(b"CONNECT ")
        assert 0 < found.port < 65_536


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:²", "h:0"])
def test_a_destination_is_host_and_port(text: str) -> None:
    with pytest.raises(Malformed):
        Destination.parse(text)
