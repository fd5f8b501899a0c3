"""What the parent's tests share: run folders, peers, a log that can be read."""

import asyncio
import io
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent import dynamodb_store, dynamodb_watermarks
from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client
from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.record_store import (
    check_expected,
    check_page,
    check_read,
    check_write,
    cut_page,
)
from nitrosigner.untrusted.parent.secrets_manager_store import secrets_manager_client
from nitrosigner.untrusted.parent.vsock import UnixVsock
from nitrosigner.untrusted.parent.watermark_store import check_advance
from nitrosigner.untrusted.parent.watermark_store import (
    check_page as check_watermarks_page,
)
from nitrosigner.untrusted.parent.watermark_store import (
    check_read as check_watermarks_read,
)
from nitrosigner.verdicts import Malformed
from nitrosigner.wire.services import (
    Conflict,
    Page,
    Stored,
    StoredRecord,
    StoredWatermark,
    WatermarkChange,
    WatermarkPage,
)

DEADLINE = 30.0


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


class MemoryStore:
    """A record store in memory that can fail on demand, and wait on demand."""

    threads = 2

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], StoredRecord] = {}
        self.failures: list[BaseException] = []
        self.gate: threading.Event | None = None
        self.lock = threading.Lock()
        self.closed = False

    def _begin(self) -> None:
        if self.gate is not None:
            assert self.gate.wait(DEADLINE)
        if self.failures:
            raise self.failures.pop(0)

    def get(self, collection: str, name: str) -> StoredRecord | None:
        check_read(collection, name)
        self._begin()
        with self.lock:
            return self.records.get((collection, name))

    def page(self, collection: str, after: str, limit: int) -> Page:
        check_page(collection, after, limit)
        self._begin()
        with self.lock:
            return cut_page(
                [
                    record
                    for (where, name), record in sorted(self.records.items())
                    if where == collection and name > after
                ],
                limit,
            )

    def put(
        self, collection: str, name: str, expected: int, data: bytes
    ) -> Stored | Conflict:
        check_write(collection, name, expected, data)
        self._begin()
        with self.lock:
            now = self.records.get((collection, name))
            version = now.version if now else 0
            if now and (now.version, now.data) == (expected + 1, data):
                return Stored(version=version)
            if version != expected:
                return Conflict(version=version)
            self.records[collection, name] = StoredRecord(
                name=name, version=expected + 1, data=data
            )
            return Stored(version=expected + 1)

    def remove(self, collection: str, name: str, expected: int) -> Stored | Conflict:
        check_read(collection, name)
        check_expected(expected)
        self._begin()
        with self.lock:
            now = self.records.get((collection, name))
            version = now.version if now else 0
            if version != expected:
                return Conflict(version=version)
            self.records.pop((collection, name), None)
            return Stored(version=0)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


class SerialClient:
    """
    A boto3 client on moto whose calls happen one at a time, as each does at AWS.

    moto checks and writes without a lock, so threads could meet inside it where the
    real service's calls are atomic. `before[operation]` runs once, before that
    operation, outside the lock: the place to let another writer in between.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.lock = threading.Lock()
        self.before: dict[str, Callable[[], None]] = {}
        self.calls: list[str] = []

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self.client, operation)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(operation)
            hook = self.before.pop(operation, None)
            if hook is not None:
                hook()
            with self.lock:
                return method(*args, **kwargs)

        return call


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[SerialClient]:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = SerialClient(secrets_manager_client("eu-west-1"))
        yield client
        client.client.close()


class MemoryWatermarks:
    """
    A watermark store in memory that can fail in every way a real one can.

    `failures` fail calls before they do anything, `lost` after they did it; while
    `held` is a list, calls wait in it until `release`.
    """

    def __init__(self) -> None:
        self.items: dict[bytes, StoredWatermark] = {}
        self.failures: list[BaseException] = []
        self.lost: list[BaseException] = []
        self.held: list[Callable[[], None]] | None = None
        self.requests: list[Any] = []
        self.closed = False
        self.lock = threading.Lock()

    def read(self, public_keys: Sequence[bytes]) -> Future[list[StoredWatermark]]:
        return self._do(
            lambda: check_watermarks_read(public_keys),
            lambda: [self.items[key] for key in public_keys if key in self.items],
        )

    def advance(self, changes: Sequence[WatermarkChange]) -> Future[list[bool]]:
        self.requests.append(list(changes))
        return self._do(
            lambda: check_advance(changes),
            lambda: [self._advance(change) for change in changes],
        )

    def page(self, after: bytes | None, limit: int) -> Future[WatermarkPage]:
        return self._do(
            lambda: check_watermarks_page(after, limit),
            lambda: self._page(after or b"", limit),
        )

    def release(self) -> None:
        held, self.held = self.held, None
        for act in held or ():
            act()

    def close(self) -> None:
        self.closed = True

    def _page(self, after: bytes, limit: int) -> WatermarkPage:
        keys = sorted(key for key in self.items if key > after)
        return WatermarkPage(
            [self.items[key] for key in keys[:limit]], len(keys) > limit
        )

    def _advance(self, change: WatermarkChange) -> bool:
        held = self.items.get(change.public_key)
        if (held.version if held else 0) != change.expected:
            return False
        self.items[change.public_key] = StoredWatermark(
            change.public_key, change.expected + 1, change.data
        )
        return True

    def _do(self, check: Callable[[], None], work: Callable[[], Any]) -> Future[Any]:
        answer: Future[Any] = Future()

        def act() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                check()
            except Malformed as error:
                answer.set_exception(error)
                return
            if self.failures:
                answer.set_exception(self.failures.pop(0))
                return
            with self.lock:
                done = work()
            if self.lost:
                answer.set_exception(self.lost.pop(0))
            else:
                answer.set_result(done)

        if self.held is None:
            act()
        else:
            self.held.append(act)
        return answer


@pytest.fixture
def memory_watermarks() -> MemoryWatermarks:
    return MemoryWatermarks()


def make_tables(client: Any) -> None:
    """Make the tables of records and of watermarks, as an operator would."""
    for name, keys in {
        "records": (dynamodb_store.PARTITION_KEY, dynamodb_store.SORT_KEY),
        "watermarks": (dynamodb_watermarks.PARTITION_KEY,),
    }.items():
        client.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": key, "KeyType": kind}
                for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": "S"} for key in keys
            ],
            BillingMode="PAY_PER_REQUEST",
        )


@pytest.fixture
def make_dynamodb_tables() -> Callable[[Any], None]:
    return make_tables


@pytest.fixture
def dynamodb(monkeypatch: pytest.MonkeyPatch) -> Iterator[SerialClient]:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = SerialClient(dynamodb_client("eu-west-1", parallel=8))
        make_tables(client)
        client.calls.clear()
        yield client
        client.client.close()
