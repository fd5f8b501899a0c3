"""
A load generator: keep-alive HTTPS connections, in one of two ways.

*Saturating*: each connection sends its next request as soon as it has an answer.

*Open loop*: requests come due by a Poisson process of the given rate, whatever the
server does. One that finds every connection taken waits for the next that is free, and
its latency counts from when it was due, not from when it was sent: a server that
stalls is charged for everybody who would have come meanwhile.

It shares the machine with what it measures, so it is written to be cheap: requests are
bytes before the clock starts, and an answer is only checked for its status.
"""

import asyncio
import random
import resource
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEED: Final = 1
"""Of the arrivals: the same in every run."""
PATIENCE: Final = 30.0
"""Seconds for answers after the last request."""


@dataclass(frozen=True)
class Load:
    """What one run showed. Times in milliseconds."""

    requests: int
    """Answered."""
    failed: int
    """Answered with something else than 200, or not at all."""
    seconds: float
    p50: float
    p99: float
    slowest: float
    own_cpu_seconds: float
    failures: dict[str, int]
    """What was answered instead of 200, and how often."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    """Sends a request, waits for its whole answer, and says so."""

    def __init__(self, idle: Callable[["_Connection"], None]) -> None:
        self._idle = idle
        self._buffer = b""
        self._due = 0.0
        self._waiting = False
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._due, self._waiting = due, True
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def give_up(self) -> None:
        """Count what is still not answered."""
        if self._waiting:
            self._waiting = False
            self.failures["no answer"] += 1

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
        self.latencies.append(time.perf_counter() - self._due)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failures[f"{head[9:12].decode()} {body[:100].decode()}"] += 1
        self._buffer = b""
        self._waiting = False
        self._idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        if self._waiting:
            self.give_up()
            self._idle(self)


class _Run:
    """Hands requests to connections, until the time is over and all are answered."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._requests = requests
        self._next = 0
        self._under_way = 0
        self._ended = asyncio.get_running_loop().create_future()
        self.connections: list[_Connection] = []

    def begin(self, stop_at: float) -> None:
        raise NotImplementedError

    def idle(self, connection: _Connection) -> None:
        """Hear that *connection* may take its next request."""
        raise NotImplementedError

    def send(self, connection: _Connection, due: float) -> None:
        self._under_way += 1
        connection.send(self._requests[self._next % len(self._requests)], due)
        self._next += 1

    def answered(self) -> None:
        self._under_way -= 1

    def look(self, *, over: bool) -> None:
        if over and not self._under_way and not self._ended.done():
            self._ended.set_result(None)

    async def end(self, seconds: float) -> None:
        await asyncio.wait([self._ended], timeout=seconds)
        for one in self.connections:
            one.give_up()


class _Saturating(_Run):
    def begin(self, stop_at: float) -> None:
        self._stop_at = stop_at
        for one in self.connections:
            self.send(one, time.perf_counter())

    def idle(self, connection: _Connection) -> None:
        self.answered()
        now = time.perf_counter()
        if now < self._stop_at and not connection.lost:
            self.send(connection, now)
        self.look(over=now >= self._stop_at or all(c.lost for c in self.connections))


class _OpenLoop(_Run):
    def __init__(self, requests: Sequence[bytes], rate: float) -> None:
        super().__init__(requests)
        self._rate = rate
        self._source = random.Random(SEED)
        self._free: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        """When those were due that found every connection taken."""

    def begin(self, stop_at: float) -> None:
        self._stop_at = stop_at
        self._free.extend(self.connections)
        self._due = time.perf_counter() + self._source.expovariate(self._rate)
        self._wait_for_next()

    def idle(self, connection: _Connection) -> None:
        self.answered()
        if not connection.lost:
            if self._late:
                self.send(connection, self._late.popleft())
            else:
                self._free.append(connection)
        self._look()

    def _wait_for_next(self) -> None:
        if self._due < self._stop_at:
            delay = max(0.0, self._due - time.perf_counter())
            asyncio.get_running_loop().call_later(delay, self._arrive)
        else:
            self._look()

    def _arrive(self) -> None:
        # A timer may be late; whatever is due by then comes with its own due time.
        now = time.perf_counter()
        while self._due <= now and self._due < self._stop_at:
            if self._free:
                self.send(self._free.popleft(), self._due)
            else:
                self._late.append(self._due)
            self._due += self._source.expovariate(self._rate)
        self._wait_for_next()

    def _look(self) -> None:
        self.look(over=self._due >= self._stop_at and not self._late)


async def _drive(
    *,
    port: int,
    context: ssl.SSLContext,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    rate: float,
    around: Callable[[], None],
) -> Load:
    loop = asyncio.get_running_loop()
    run = _OpenLoop(requests, rate) if rate else _Saturating(requests)
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: _Connection(run.idle),
            "127.0.0.1",
            port,
            ssl=context,
            server_hostname="localhost",
        )
        run.connections.append(protocol)
    around()
    begun, cpu = time.perf_counter(), _cpu()
    run.begin(begun + seconds)
    await run.end(seconds + PATIENCE)
    took, cpu = time.perf_counter() - begun, _cpu() - cpu
    around()
    for one in run.connections:
        one.close()
    failures: Counter[str] = Counter()
    for one in run.connections:
        failures.update(one.failures)
    latencies = sorted(taken for one in run.connections for taken in one.latencies)
    return Load(
        requests=len(latencies),
        failed=failures.total(),
        seconds=took,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[int(len(latencies) * 0.99)],
        slowest=1000 * latencies[-1],
        own_cpu_seconds=cpu,
        failures=dict(failures),
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
    around: Callable[[], None] = lambda: None,
) -> Load:
    """
    Send *requests* round and round: *rate* a second, or as fast as answers come.

    Calls *around* when all connections stand, before the first request, and after the
    last answer: handshakes are no part of what is measured.
    """
    context = ssl.create_default_context(cafile=str(ca))
    return asyncio.run(
        _drive(
            port=port,
            context=context,
            requests=requests,
            connections=connections,
            seconds=seconds,
            rate=rate,
            around=around,
        )
    )


def post(path: str, body: bytes, token: str) -> bytes:
    """Return a whole HTTP request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
