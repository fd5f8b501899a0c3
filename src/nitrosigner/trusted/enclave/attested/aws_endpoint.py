"""
Speaks HTTPS to one AWS host through the parent's egress proxy. TLS ends in here.

The parent sees the host's name and TLS records. It can refuse, delay or cut; it cannot
read, answer for AWS, or send us elsewhere: the certificate must name the host and
chain to an authority that the image or the administrator's manifest names.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from importlib import resources
from typing import Final

from nitrosigner.trusted.enclave.attested.http_response import (
    BadResponse,
    HttpResponse,
    ResponseReader,
)
from nitrosigner.trusted.enclave.parent_link.dialing import dial
from nitrosigner.trusted.enclave.ports import Vsock
from nitrosigner.wire.addresses import EGRESS_PORT

MAX_CONNECTIONS: Final = 8
"""Kept open at once. One request at a time on each."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds for the tunnel and the TLS handshake."""
EXCHANGE_TIMEOUT: Final = 10.0
"""Seconds for one request and its answer."""
_MAX_CONNECT_ANSWER: Final = 4096
_HTTPS: Final = 443
_CHUNK: Final = 64 * 1024


class EndpointError(Exception):
    """No answer. The request may or may not have arrived."""


def trusted_tls(authorities_pem: str) -> ssl.SSLContext:
    """
    Return a client context that trusts *authorities_pem* and nothing else.

    Raises:
        ValueError: There is no certificate in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authorities_pem)
    return context


def amazon_roots() -> str:
    """Return the roots that AWS endpoints chain to, as PEM. Part of the image."""
    package = resources.files("nitrosigner.trusted.enclave")
    return package.joinpath("amazon_roots.pem").read_text("ascii")


class AwsEndpoint:
    """One host, a few kept connections."""

    def __init__(self, vsock: Vsock, host: str, tls: ssl.SSLContext) -> None:
        self._vsock = vsock
        self.host: Final = host
        self._tls = tls
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False

    async def reach(self) -> None:
        """
        Make sure of one connection that is ready for use.

        Raises:
            EndpointError: Nobody answers there, or it is not the host we trust.
        """
        if not self._idle:
            self._keep(await self._connect())

    async def post(self, headers: Mapping[str, str], body: bytes) -> HttpResponse:
        """
        Send `POST /` and return the answer.

        Raises:
            EndpointError: There was none.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = (
            f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        async with self._slots:
            while self._idle:
                connection = self._idle.pop()
                try:
                    return await self._exchange(connection, request)
                except _Stale:
                    # The other end closed a connection that was idle, as they do.
                    continue
            try:
                return await self._exchange(await self._connect(), request)
            except _Stale as error:
                raise EndpointError("the connection was closed") from error

    async def _exchange(
        self, connection: "_Connection", request: bytes
    ) -> HttpResponse:
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                response = await connection.exchange(request)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | BadResponse | TimeoutError):
                raise EndpointError("there was no answer") from error
            raise
        if response.keep_alive:
            self._keep(connection)
        else:
            connection.close()
        return response

    def _keep(self, connection: "_Connection") -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> "_Connection":
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                raw = await dial(self._vsock, EGRESS_PORT, self._greet)
                try:
                    return _Connection(
                        *await asyncio.open_connection(
                            sock=raw, ssl=self._tls, server_hostname=self.host
                        )
                    )
                except BaseException:
                    raw.close()
                    raise
        except ssl.SSLError as error:
            raise EndpointError("its TLS certificate is not trusted") from error
        except (OSError, TimeoutError) as error:
            raise EndpointError("it cannot be reached") from error

    def _greet(self, connection: socket.socket) -> None:
        target = f"{self.host}:{_HTTPS}"
        connection.sendall(
            f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode()
        )
        # Byte by byte, so that nothing of what follows is taken: it happens once for
        # a connection that then serves for hours.
        answer = bytearray()
        while not answer.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte or len(answer) >= _MAX_CONNECT_ANSWER:
                raise ConnectionError("the egress proxy closed the connection")
            answer += byte
        version, _, rest = bytes(answer).partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest.startswith(b"200 "):
            raise ConnectionError("the egress proxy refused the host")

    def close(self) -> None:
        """Close what is idle; what is under way closes when it is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Stale(Exception):
    """A kept connection turned out to be closed before anything was answered."""


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    async def exchange(self, request: bytes) -> HttpResponse:
        response = ResponseReader()
        try:
            self._writer.write(request)
            await self._writer.drain()
            while response.response is None:
                part = await self._reader.read(_CHUNK)
                if not part:
                    raise ConnectionResetError
                response.feed(part)
        except ConnectionError as error:
            if response.started:
                raise
            raise _Stale from error
        return response.response

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            # abort, not close: TLS would wait for the other side's farewell.
            self._writer.transport.abort()
