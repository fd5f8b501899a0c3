"""
The way in: each caller's TCP connection becomes one vsock connection to the enclave.

It ends no TLS and knows no HTTP; there is nothing here to configure that could change
what is signed. When the enclave is not there the caller's connection is broken off at
once, so that a load balancer or a client sees it in a round trip, not in a timeout.
"""

import asyncio
import contextlib
import socket
from typing import Final

import msgspec

from nitrosigner.untrusted.parent.byte_relay import (
    Arrival,
    Pairs,
    Totals,
    reset,
    taken_from,
)
from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.untrusted.parent.vsock import Vsock
from nitrosigner.verdicts import Code, Undecided

BACKLOG: Final = 512


class RelayLimits(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What one relay bears."""

    max_connections: int = 1024
    """At once; the next one is broken off, not queued."""
    connect_seconds: float = 3.0
    """For the vsock connection. A present enclave takes it in less than a millisecond;
    under 30 connects at once some have waited for seconds on real hardware."""
    idle_seconds: float = 350.0
    """Without a byte in either direction. As a Network Load Balancer's."""


class RelayCounts(msgspec.Struct, frozen=True):
    """What a relay has done since it started."""

    connections: int
    accepted: int
    refused: int
    failed: int
    bytes_in: int
    bytes_out: int


class TcpRelay:
    """Listens on TCP and joins each connection to the enclave's vsock port."""

    def __init__(
        self, vsock: Vsock, enclave_port: int, limits: RelayLimits, log: EventLog
    ) -> None:
        self._vsock = vsock
        self._enclave_port = enclave_port
        self._limits = limits
        self._log = log
        self._totals = Totals()
        self._pairs = Pairs(self._totals, limits.idle_seconds)
        self._joining: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._where: tuple[str, int] | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._enclave_absent = False

    async def start(self, address: str, port: int) -> int:
        """
        Listen, and return the port (of use when *port* is 0).

        Raises:
            Undecided: The address cannot be listened on.
        """
        bound = await self._listen(address, port)
        self._where = (address, bound)
        self._sweep = asyncio.get_running_loop().create_task(
            self._pairs.sweep(lambda: self._log(Event.RELAY_IDLE))
        )
        return bound

    async def _listen(self, address: str, port: int) -> int:
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Caller(self), address, port, backlog=BACKLOG
            )
        except (OSError, OverflowError) as error:
            raise Undecided(
                Code.INTERNAL,
                f"{address} port {port} cannot be listened on",
                "choose another port, or stop what listens there",
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    @property
    def unanswered(self) -> int:
        """How many callers wait for an answer, those being joined included."""
        return self._pairs.unanswered + len(self._joining)

    @property
    def letting_in(self) -> bool:
        """Whether new callers are let in."""
        return self._server is not None

    def pause(self) -> None:
        """Let nobody new in; those inside stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def resume(self) -> None:
        """Let callers in again, where they were. Raise `Undecided` if that fails."""
        if self._server is None and self._where is not None:
            await self._listen(*self._where)

    def counts(self) -> RelayCounts:
        """Return what happened so far."""
        bytes_in, bytes_out = self._pairs.passed()
        return RelayCounts(
            connections=len(self._pairs) + len(self._joining),
            accepted=self._totals.accepted,
            refused=self._totals.refused,
            failed=self._totals.failed,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )

    async def stop(self, seconds: float) -> None:
        """Take nobody new; let those inside finish for *seconds*; end the rest."""
        if self._server is not None:
            self._server.close()
        await self._pairs.drain(seconds)
        tasks = [*self._joining, *([self._sweep] if self._sweep else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _take(self, transport: asyncio.Transport) -> None:
        if len(self._pairs) + len(self._joining) >= self._limits.max_connections:
            self._totals.refused += 1
            self._log(Event.RELAY_FULL, count=self._limits.max_connections)
            reset(taken_from(transport))
            return
        self._totals.accepted += 1
        sock: socket.socket = transport.get_extra_info("socket")
        # A caller that was unplugged must not hold a place for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        task = asyncio.get_running_loop().create_task(self._join(transport))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, transport: asyncio.Transport) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                enclave = await self._vsock.connect(self._enclave_port)
        except OSError:  # TimeoutError too
            self._totals.failed += 1
            if not self._enclave_absent:
                self._enclave_absent = True
                self._log(Event.RELAY_ENCLAVE_ABSENT, port=self._enclave_port)
            reset(taken_from(transport))
            return
        except asyncio.CancelledError:
            reset(taken_from(transport))
            raise
        if self._enclave_absent:
            self._enclave_absent = False
            self._log(Event.RELAY_ENCLAVE_BACK, port=self._enclave_port)
        self._pairs.join(taken_from(transport), enclave)


class _Caller(Arrival):
    """A caller's side: asks the relay for its counterpart when it arrives."""

    def __init__(self, relay: TcpRelay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection and look for the enclave."""
        super().connection_made(transport)
        self._relay._take(self.transport)  # noqa: SLF001 - its own part
