"""
The door: accepts connections, counts them, and watches their deadlines.

A connection counts from the moment it is accepted, its handshake included. When the
manifest's number is reached, a few more are let in to be told so (503), and beyond
those connections are closed unheard: the work that strangers can cause is bounded.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from nitrosigner.trusted.enclave.https.http_protocol import (
    Exchange,
    HttpProtocol,
    Times,
)

OVERFLOW: Final = 32
"""Connections past the limit that get a 503 instead of silence."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds to wait when the system has no descriptor left for us."""
SHUTDOWN: Final = 2.0
"""Seconds that a peer has to answer the end of TLS."""

OnMade = Callable[[asyncio.Transport, bool], Exchange]
"""Makes the exchange of a connection; the flag says that it is one too many."""


class Listener:
    """Serves one listening socket until closed. Has what `asyncio.Server` has."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        on_made: OnMade,
        *,
        max_connections: int,
        times: Times,
    ) -> None:
        self._socket = listening
        self._context = context
        self._on_made = on_made
        self._max = max_connections
        self._times = times
        self._protocols: set[HttpProtocol] = set()
        self._welcomes: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many are open, handshakes included."""
        return len(self._protocols) + len(self._welcomes)

    def start(self) -> None:
        """Begin to accept."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._accept(), name="accept"),
            loop.create_task(self._sweep(), name="sweep"),
        ]

    def present(self, context: ssl.SSLContext, on_made: OnMade) -> None:
        """Shake hands so from now on; close each connection after its next answer."""
        self._context, self._on_made = context, on_made
        for protocol in list(self._protocols):
            protocol.retire()

    def close(self) -> None:
        """Accept nobody more; close each connection after the answer under way."""
        for task in self._tasks:
            task.cancel()
        for welcome in self._welcomes:
            welcome.cancel()
        self._socket.close()
        for protocol in list(self._protocols):
            protocol.close_when_idle()
        self._check_closed()

    async def wait_closed(self) -> None:
        """Wait until the last connection is gone. Call `close` first."""
        await self._closed.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve_forever(self) -> None:
        """Serve until cancelled or closed."""
        try:
            await asyncio.gather(*self._tasks)
        finally:
            self.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError:
                # Out of descriptors, or the peer left before it was accepted. The
                # next one may succeed; a tight loop would help nobody.
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            if self.connections >= self._max + OVERFLOW:
                connection.close()
                continue
            task = loop.create_task(self._welcome(connection))
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    async def _welcome(self, connection: socket.socket) -> None:
        """Do the handshake and hand over to the protocol."""
        too_many = self.connections > self._max
        loop = asyncio.get_running_loop()
        on_made = self._on_made
        try:
            await loop.connect_accepted_socket(
                lambda: HttpProtocol(
                    lambda protocol, transport: self._made(
                        protocol, on_made(transport, too_many)
                    ),
                    self._lost,
                    self._times,
                ),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._times.handshake,
                ssl_shutdown_timeout=SHUTDOWN,
            )
        except (OSError, asyncio.CancelledError):
            # Not TLS, no common version, an unknown certificate, too slow, gone: the
            # alert told the peer what there is to tell.
            with contextlib.suppress(OSError):
                connection.close()

    def _made(self, protocol: HttpProtocol, exchange: Exchange) -> Exchange:
        self._protocols.add(protocol)
        return exchange

    def _lost(self, protocol: HttpProtocol) -> None:
        self._protocols.discard(protocol)
        self._check_closed()

    def _check_closed(self) -> None:
        if self._socket.fileno() < 0 and not self._protocols:
            self._closed.set()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._times.sweep)
            now = loop.time()
            for protocol in list(self._protocols):
                protocol.look(now)
