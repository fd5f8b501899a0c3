"""
The way out: HTTP CONNECT to an exact list of hosts; the bytes behind it are TLS.

The enclave checks the other end's certificate itself, so this list does not protect
the enclave: it keeps the enclave, should it ever be taken over, from talking to
anybody but KMS. Names are compared whole, with their port; there are no patterns.
"""

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from nitrosigner.untrusted.parent.byte_relay import Arrival, Pairs, Totals, taken_from
from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.untrusted.parent.vsock import Vsock
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire.api import error_body

MAX_HEAD: Final = 4 * 1024
"""Bytes from CONNECT to the empty line."""
HTTPS: Final = 443
_REQUEST_LINE: Final = re.compile(
    rb"([A-Z]{1,16}) ([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})"
    rb" HTTP/1\.[01]\Z"
)
_FIELD_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t\x21-\x7e]*\Z")
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"


class EgressLimits(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What the proxy bears."""

    max_connections: int = 64
    head_seconds: float = 10.0
    connect_seconds: float = 5.0
    idle_seconds: float = 120.0


class EgressCounts(msgspec.Struct, frozen=True):
    """What the proxy has done since it started."""

    connections: int
    accepted: int
    refused: int
    failed: int
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class Destination:
    """A host and port as CONNECT names them, in lower case."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Destination":
        """Read `host:port`. Raise `Malformed` if it is not that."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdecimal():
            raise Malformed(Code.MALFORMED_REQUEST, "a destination is host:port")
        if not 0 < int(port) <= 0xFFFF:
            raise Malformed(Code.MALFORMED_REQUEST, "a port is 1 to 65535")
        return cls(host.strip("[]").lower(), int(port))


def kms_destinations(region: str) -> frozenset[Destination]:
    """Return where *region*'s KMS answers, the FIPS 140 endpoint included."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return frozenset(
        Destination(f"{service}.{region}.{suffix}", HTTPS)
        for service in ("kms", "kms-fips")
    )


class EgressProxy:
    """Listens on the vsock for CONNECT."""

    def __init__(
        self,
        allowed: frozenset[Destination],
        pins: dict[Destination, Destination],
        limits: EgressLimits,
        log: EventLog,
    ) -> None:
        """
        Make a proxy.

        Args:
            allowed: The only destinations. Found by DNS unless pinned.
            pins: Allowed destinations that are reached at this address instead.
            limits: Numbers and times.
            log: For events.
        """
        self._routes = {one: one for one in allowed} | pins
        self._limits = limits
        self._log = log
        self._totals = Totals()
        self._pairs = Pairs(self._totals, limits.idle_seconds)
        self._asking: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.Task[None] | None = None

    async def start(self, vsock: Vsock, port: int) -> None:
        """Listen on the parent's *port*. Raise `Undecided` if that cannot be."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Asker(self, vsock), sock=vsock.listen(port)
        )
        self._sweep = loop.create_task(self._pairs.sweep(lambda: None))

    def counts(self) -> EgressCounts:
        """Return what happened so far."""
        bytes_out, bytes_in = self._pairs.passed()
        return EgressCounts(
            connections=len(self._pairs) + len(self._asking),
            accepted=self._totals.accepted,
            refused=self._totals.refused,
            failed=self._totals.failed,
            bytes_out=bytes_out,
            bytes_in=bytes_in,
        )

    async def stop(self, seconds: float) -> None:
        """Take nobody new; let those inside finish for *seconds*; end the rest."""
        if self._server is not None:
            self._server.close()
        await self._pairs.drain(seconds)
        tasks = [*self._asking, *([self._sweep] if self._sweep else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _take(self, asker: "_Asker") -> None:
        task = asyncio.get_running_loop().create_task(self._answer(asker))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, asker: "_Asker") -> None:
        transport = asker.transport
        try:
            if len(self._asking) + len(self._pairs) > self._limits.max_connections:
                raise Undecided(
                    Code.OVERLOADED,
                    "the egress proxy has no place for another connection",
                )
            far = await self._reach(asker)
        except Verdict as verdict:
            if isinstance(verdict, Undecided):
                self._totals.failed += 1
                self._log(Event.EGRESS_FAILED, code=verdict.code)
            else:
                self._totals.refused += 1
                self._log(Event.EGRESS_REFUSED, code=verdict.code)
            transport.write(_refusal(verdict))
            transport.close()
            return
        except (ConnectionError, asyncio.CancelledError) as error:
            transport.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if transport.is_closing():
            far.close()
            return
        self._totals.accepted += 1
        pair = self._pairs.join(taken_from(transport), far)
        pair.near.moved += len(asker.rest)
        try:
            pair.near.send(_ESTABLISHED)
            pair.far.send(asker.rest)
        except OSError:  # gone since
            pair.abort()

    async def _reach(self, asker: "_Asker") -> socket.socket:
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                head = await asker.head
        except TimeoutError:
            raise Malformed(
                Code.TOO_SLOW, "the CONNECT request did not arrive in time"
            ) from None
        asked = parse_connect(head)
        route = self._routes.get(asked)
        if route is None:
            raise Refused(
                Code.NOT_ALLOWED,
                "this host and port is not on the egress allow-list",
                "only the region's KMS endpoints are, and what the parent's "
                "configuration adds",
            )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                transport, _ = await loop.create_connection(
                    Arrival,
                    route.host,
                    route.port,
                    happy_eyeballs_delay=0.25,
                )
        except OSError:  # names that are not found and TimeoutError too
            raise Undecided(
                Code.KMS_UNAVAILABLE,
                "the parent cannot reach this host",
                "check the VPC endpoint, the route and the security group",
            ) from None
        return taken_from(transport)


class _Asker(asyncio.Protocol):
    """Collects the head of a CONNECT request, no more than `MAX_HEAD` bytes."""

    transport: asyncio.Transport
    head: asyncio.Future[bytes]

    def __init__(self, proxy: EgressProxy, vsock: Vsock) -> None:
        self._proxy = proxy
        self._vsock = vsock
        self._buffer = bytearray()
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # sockets give Transport
        self.head = asyncio.get_running_loop().create_future()
        if not self._vsock.is_our_enclave(transport.get_extra_info("socket")):
            self._proxy._log(Event.STRANGER)  # noqa: SLF001 - its own part
            self.head.cancel()
            self.transport.abort()
            return
        self._proxy._take(self)  # noqa: SLF001 - its own part

    def data_received(self, data: bytes) -> None:
        if self.head.done():  # too slow: the refusal is on its way
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD):
            self.head.set_exception(
                Malformed(Code.TOO_LARGE, f"a CONNECT request has {MAX_HEAD} bytes")
            )
        elif end >= 0:
            # A client hello that did not wait for our answer.
            self.rest = bytes(self._buffer[end + 4 :])
            self.head.set_result(bytes(self._buffer[:end]))
        else:
            return
        self._buffer.clear()
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.head.done():
            self.head.set_exception(ConnectionResetError())


def parse_connect(head: bytes) -> Destination:
    """
    Return whom a CONNECT request names. *head* is without its final empty line.

    Raises:
        Malformed: It is no HTTP/1 request, or not CONNECT.
    """
    first, *fields = head.split(b"\r\n")
    found = _REQUEST_LINE.match(first)
    if found is None or not all(_FIELD_LINE.match(field) for field in fields):
        raise Malformed(
            Code.MALFORMED_HTTP,
            "this is no CONNECT request",
            "the egress port takes only: CONNECT host:port HTTP/1.1",
        )
    method, host, port = found.groups()
    if method != b"CONNECT":
        raise Malformed(Code.METHOD_NOT_ALLOWED, "the egress port takes only CONNECT")
    return Destination.parse(f"{host.decode()}:{port.decode()}")


def _refusal(verdict: Verdict) -> bytes:
    body = msgspec.json.encode(error_body(verdict))
    status = HTTPStatus(verdict.status)
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body
