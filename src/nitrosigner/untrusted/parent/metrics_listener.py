"""
`GET /metrics` for Prometheus, over plain HTTP on an address of the operator's choice.

It is read by machines of the same trust as the parent; there is nothing secret in it.
One request for each connection; a caller that dawdles is cut off.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from nitrosigner.untrusted.parent.prometheus_text import CONTENT_TYPE
from nitrosigner.verdicts import Code, Undecided

PATH: Final = "/metrics"
MAX_HEAD: Final = 8 * 1024
SECONDS: Final = 5.0
"""For a request to arrive, and for its answer to be taken."""
MAX_CONNECTIONS: Final = 16


class MetricsListener:
    """Answers with a page that is made when it is asked for."""

    def __init__(self, page: Callable[[], str]) -> None:
        self._page = page
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, address: str, port: int) -> int:
        """
        Listen, and return the port (of use when *port* is 0).

        Raises:
            Undecided: The address cannot be listened on.
        """
        try:
            self._server = await asyncio.start_server(
                self._take, address, port, limit=MAX_HEAD
            )
        except (OSError, OverflowError) as error:
            raise Undecided(
                Code.INTERNAL,
                f"{address} port {port} cannot be listened on for metrics",
                "choose another port under metrics, or stop what listens there",
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """End at once: a scrape that is cut off is made again."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(SECONDS):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.LimitOverrunError, EOFError):
            writer.transport.abort()
        finally:
            self._connections.discard(writer)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        body = ""
        if method not in (b"GET", b"HEAD"):
            status = "405 Method Not Allowed"
        elif target != PATH:
            status = "404 Not Found"
        else:
            status, body = "200 OK", self._page()
        data = body.encode()
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\n"
            f"content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode()
            + (b"" if method == b"HEAD" else data)
        )
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
