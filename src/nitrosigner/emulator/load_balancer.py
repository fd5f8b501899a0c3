"""
A TCP load balancer in front of several signers: round robin among those that are ready.

As AWS's Network Load Balancer it looks into no byte of a connection, and asks each
target's `/healthcheck` over HTTPS. If no target is healthy, all are tried: whether one
can sign is the enclave's word, not ours.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from nitrosigner.untrusted.parent.enclave_health import probe

EVERY: Final = 0.3
"""Seconds between two questions to one target."""
ANSWER: Final = 3.0
UNHEALTHY_AFTER: Final = 2
"""Answers that say so in a row. One good answer makes a target healthy."""
CONNECT: Final = 1.0
_CHUNK: Final = 1 << 16


@dataclass(slots=True)
class _Target:
    port: int
    bad: int = UNHEALTHY_AFTER

    @property
    def healthy(self) -> bool:
        return self.bad < UNHEALTHY_AFTER


@final
class LoadBalancer:
    """Listens on the loopback address. Every method is for one event loop."""

    def __init__(self, targets: Sequence[int]) -> None:
        """Balance between *targets*, ports of the loopback address."""
        self._targets = [_Target(port) for port in targets]
        self._turn = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def healthy(self) -> list[bool]:
        """Which targets are sent new connections."""
        return [target.healthy for target in self._targets]

    async def start(self) -> int:
        """Begin to ask and to listen; return the port."""
        for target in self._targets:
            self._keep(asyncio.create_task(self._ask(target)))
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, target: _Target) -> None:
        while True:
            health = await probe("127.0.0.1", target.port, ANSWER)
            target.bad = 0 if health.ready else target.bad + 1
            await asyncio.sleep(EVERY)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # asyncio does not keep a callback's task, and stop() must find it.
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        try:
            other = await self._connect()
            if other is not None:
                # The end of either direction is the end of both: TLS says goodbye in
                # its own way, and a dead target must not leave its caller waiting.
                ways = {
                    asyncio.ensure_future(_pour(reader, other[1])),
                    asyncio.ensure_future(_pour(other[0], writer)),
                }
                try:
                    await asyncio.wait(ways, return_when="FIRST_COMPLETED")
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
                    other[1].transport.abort()
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _connect(
        self,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        start = next(self._turn) % len(self._targets)
        turned = self._targets[start:] + self._targets[:start]
        for target in [one for one in turned if one.healthy] or turned:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT):
                    return await asyncio.open_connection("127.0.0.1", target.port)
        return None


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
