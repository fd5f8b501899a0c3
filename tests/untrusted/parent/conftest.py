"""What the parent's tests share: run folders, peers, a log that can be read."""

import asyncio
import io
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.vsock import UnixVsock

DEADLINE = 10.0


class ReadableLog(EventLog):
    """A log whose lines a test can read."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        super().__init__(self.text)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


class EnclaveSide:
    """Plays the enclave's end of the vsock with plain sockets."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.cid = 16

    def listen(self, port: int) -> socket.socket:
        (self.run / "vsock").mkdir(exist_ok=True)
        path = self.run / "vsock" / f"{self.cid}.{port}.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(512)
        listener.setblocking(False)
        return listener

    async def connect(
        self, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(
            str(self.run / "vsock" / f"3.{port}.sock"), limit=1 << 22
        )


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for a condition, letting the loop run; fail after a deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.005)


@pytest.fixture
def run() -> Iterator[Path]:
    """A run folder with a path short enough for UNIX sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ns-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def log() -> ReadableLog:
    return ReadableLog()


@pytest.fixture
def enclave(run: Path) -> EnclaveSide:
    return EnclaveSide(run)


@pytest.fixture
def vsock(run: Path) -> UnixVsock:
    return UnixVsock(run, 16)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    return eventually
