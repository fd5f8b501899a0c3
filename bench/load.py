"""
A load generator: keep-alive HTTPS connections, each sending its next request at once.

It shares the machine with what it measures, so it is written to be cheap: requests are
bytes before the clock starts, and an answer is only checked for its status.
"""

import asyncio
import resource
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """What one run showed. Times in milliseconds."""

    requests: int
    failed: int
    seconds: float
    p50: float
    p99: float
    slowest: float
    own_cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    """Sends, waits for a whole answer, sends the next."""

    def __init__(self, requests: Sequence[bytes], first: int, step: int) -> None:
        self._requests, self._at, self._step = requests, first, step
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.failed = 0
        self.stop_at = 0.0
        self.pace = 0.0
        self._due = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def start(self, stop_at: float, pace: float) -> None:
        self.stop_at, self.pace, self._due = stop_at, pace, time.perf_counter()
        self._next()

    def _next(self) -> None:
        now = time.perf_counter()
        if now >= self.stop_at:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        if self.pace and now < self._due:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._due += self.pace
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._at % len(self._requests)])
        self._at += self._step

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lowered = head.lower()
        at = lowered.index(b"content-length:") + 15
        length = int(lowered[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failed += 1
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.done.done():
            self.failed += 1
            self.done.set_result(None)


async def _run(
    *,
    port: int,
    context: ssl.SSLContext,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    rate: float,
) -> Load:
    loop = asyncio.get_running_loop()
    opened = []
    for number in range(connections):
        _, protocol = await loop.create_connection(
            lambda number=number: _Connection(requests, number, connections),
            "127.0.0.1",
            port,
            ssl=context,
            server_hostname="localhost",
        )
        opened.append(protocol)
    begun, cpu = time.perf_counter(), _cpu()
    for protocol in opened:
        protocol.start(begun + seconds, connections / rate if rate else 0.0)
    await asyncio.wait([protocol.done for protocol in opened], timeout=seconds + 30)
    took, cpu = time.perf_counter() - begun, _cpu() - cpu
    latencies = sorted(one for p in opened for one in p.latencies)
    return Load(
        requests=len(latencies),
        failed=sum(p.failed for p in opened),
        seconds=took,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[int(len(latencies) * 0.99)],
        slowest=1000 * latencies[-1],
        own_cpu_seconds=cpu,
    )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def drive(
    port: int,
    ca: Path,
    requests: Sequence[bytes],
    *,
    connections: int = 16,
    seconds: float = 5.0,
    rate: float = 0.0,
) -> Load:
    """Send *requests* round and round: *rate* a second, or as fast as answers come."""
    context = ssl.create_default_context(cafile=str(ca))
    return asyncio.run(
        _run(
            port=port,
            context=context,
            requests=requests,
            connections=connections,
            seconds=seconds,
            rate=rate,
        )
    )


def post(path: str, body: bytes, token: str) -> bytes:
    """Return a whole HTTP request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
