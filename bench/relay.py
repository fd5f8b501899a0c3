"""
What the parent's relay costs for each request and its answer.

    python bench/relay.py [--seconds 3] [--json]

A process answers each 700 bytes with 700 bytes on a UNIX socket that stands in for the
enclave's vsock; the relay is the production class in a process of its own; 16
connections ask as fast as they can. The reference is the same load on the answering
process without a relay. CPU time is the relay's own, which a busy machine does not
stretch; rates are.
"""

import argparse
import asyncio
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.tcp_relay import RelayLimits, TcpRelay
from nitrosigner.untrusted.parent.vsock import UnixVsock
from nitrosigner.wire.addresses import HTTPS_PORT

ENCLAVE_CID: Final = 16
CONNECTIONS: Final = 16
MESSAGE: Final = b"x" * 700
"""About one signed transaction's request or answer, with its TLS record around it."""
LIMIT_MICROSECONDS: Final = 60.0
"""Of the relay's CPU for a round trip: 3,000 in a second then take less than a fifth of
one of the two cores."""


def _child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def _answer(listener: socket.socket) -> None:
    """Send back whatever comes, on any number of connections."""
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection.fileno(), select.EPOLLIN)
                continue
            try:
                data = connections[number].recv(65_536)
                connections[number].sendall(data)
            except ConnectionError:  # the load ended with an answer on its way
                data = b""
            if not data:
                poll.unregister(number)
                connections.pop(number).close()


def _relay(run: Path, tell: int) -> None:
    async def main() -> None:
        relay = TcpRelay(
            UnixVsock(run, ENCLAVE_CID),
            HTTPS_PORT,
            RelayLimits(),
            EventLog(sys.stderr),
        )
        port = await relay.start("127.0.0.1", 0)
        os.write(tell, b"%d\n" % port)
        await asyncio.Event().wait()

    asyncio.run(main())


def _load(dial: Callable[[], socket.socket], seconds: float) -> dict[str, float]:
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    received: dict[int, int] = {}
    sent_at: dict[int, float] = {}
    taken: list[float] = []
    for _ in range(CONNECTIONS):
        connection = dial()
        number = connection.fileno()
        connections[number] = connection
        poll.register(number, select.EPOLLIN)
        received[number] = 0
        sent_at[number] = time.perf_counter()
        connection.sendall(MESSAGE)
    start = time.perf_counter()
    now = start
    while now - start < seconds:
        for number, _ in poll.poll(1.0):
            data = connections[number].recv(65_536)
            if not data:
                msg = "a connection was broken off"
                raise RuntimeError(msg)
            received[number] += len(data)
            if received[number] < len(MESSAGE):
                continue
            received[number] = 0
            now = time.perf_counter()
            taken.append(now - sent_at[number])
            sent_at[number] = now
            connections[number].sendall(MESSAGE)
        now = time.perf_counter()
    poll.close()
    for connection in connections.values():
        connection.close()
    taken.sort()
    return {
        "round_trips": len(taken),
        "per_second": len(taken) / (now - start),
        "p99_milliseconds": taken[int(len(taken) * 0.99)] * 1000,
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(seconds: float = 2.0) -> dict[str, float]:
    """
    Run the relay and its reference.

    Returns:
        `relay_microseconds` (CPU of a round trip), `per_second` and
        `p99_milliseconds` through the relay, `direct_per_second` without it, `ratio`
        of the two rates, `limit` for `relay_microseconds`, and whether that is `ok`.
    """
    run = Path(tempfile.mkdtemp(prefix="ns-"))
    children: list[int] = []
    try:
        (run / "vsock").mkdir()
        path = str(run / "vsock" / f"{ENCLAVE_CID}.{HTTPS_PORT}.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(256)
            children.append(_child(lambda: _answer(listener)))
        told, tell = os.pipe()
        relay = _child(lambda: _relay(run, tell))
        children.append(relay)
        os.close(tell)
        with os.fdopen(told) as pipe:
            port = int(pipe.readline())

        def direct() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            return connection

        def through() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

        reference = _load(direct, seconds / 2)
        before = _cpu_seconds(relay)
        relayed = _load(through, seconds)
        spent = _cpu_seconds(relay) - before
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        shutil.rmtree(run)
    return {
        "relay_microseconds": round(spent / relayed["round_trips"] * 1e6, 2),
        "limit": LIMIT_MICROSECONDS,
        "ok": spent / relayed["round_trips"] * 1e6 <= LIMIT_MICROSECONDS,
        "per_second": round(relayed["per_second"]),
        "p99_milliseconds": round(relayed["p99_milliseconds"], 3),
        "direct_per_second": round(reference["per_second"]),
        "ratio": round(relayed["per_second"] / reference["per_second"], 3),
    }


def main() -> int:
    """Measure and print; fail when the relay costs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.seconds)
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"relay: {found['relay_microseconds']:.1f} µs of CPU for a round trip"
            f" (limit {found['limit']:.0f}), {found['per_second']:,.0f}/s with"
            f" {CONNECTIONS} connections, p99 {found['p99_milliseconds']:.2f} ms;"
            f" without a relay {found['direct_per_second']:,.0f}/s"
        )
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
