"""The program itself: one ready line, closed logs, and an end in order."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent import control_socket, state
from nitrosigner.wire import frames, services
from nitrosigner.wire.addresses import EGRESS_PORT, HTTPS_PORT, SERVICES_PORT
from nitrosigner.wire.services import (
    Advanced,
    AdvanceWatermarks,
    Answer,
    AppendAudit,
    Done,
    Failed,
    Found,
    GetCredentials,
    GetRecord,
    PutRecord,
    ReadWatermarks,
    ReportState,
    Request,
    Stored,
    StoredRecord,
    StoredWatermark,
    WatermarkChange,
    Watermarks,
)

Start = Callable[..., "Parent"]


class Parent:
    def __init__(self, folder: Path, run: Path, **changes: Any) -> None:
        self.folder = folder
        config = folder / "config.json"
        config.write_text(
            json.dumps(
                {
                    "listen": {"address": "127.0.0.1", "port": 0},
                    "vsock": {"kind": "unix", "run": str(run)},
                    "region": "eu-west-1",
                    "store": {"kind": "sqlite", "path": str(folder / "store.db")},
                    "watermarks": {
                        "kind": "sqlite",
                        "path": str(folder / "watermarks.db"),
                    },
                    "imds_endpoint": "http://127.0.0.1:1/",
                    "audit": {"path": str(folder / "audit.jsonl")},
                    "state": str(folder / "state.json"),
                    "limits": {"drain_seconds": 0.5},
                }
                | changes
            )
        )
        self.errors = (folder / f"stderr-{time.monotonic_ns()}").open("w+b")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "nitrosigner.untrusted.parent",
                "--config",
                str(config),
            ],
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def ready(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        return int(json.loads(line)["port"])

    def log(self) -> list[dict[str, Any]]:
        self.errors.seek(0)
        return [json.loads(line) for line in self.errors.read().splitlines()]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def start(tmp_path: Path, run: Path) -> Iterator[Start]:
    started: list[Parent] = []

    def begin(**changes: Any) -> Parent:
        started.append(Parent(tmp_path, run, **changes))
        return started[-1]

    yield begin
    for parent in started:
        parent.close()


async def ask(enclave: Any, *requests: Request) -> list[Answer]:
    reader, writer = await enclave.connect(SERVICES_PORT)
    frame_reader = frames.FrameReader()
    answers = []
    for number, request in enumerate(requests):
        writer.write(frames.encode(number, services.encode(request)))
        while (frame := frame_reader.next()) is None:
            frame_reader.feed(await asyncio.wait_for(reader.read(1 << 20), 30))
        assert frame.request_id == number
        answers.append(services.decode_answer(frame.payload))
    writer.close()
    await writer.wait_closed()
    return answers


def test_it_serves_and_ends_in_order(start: Start, enclave: Any) -> None:
    parent = start()
    parent.ready()
    answers = asyncio.run(
        ask(
            enclave,
            PutRecord("keys", "alice", 0, b"sealed"),
            AppendAudit([b'{"n":1}']),
            GetCredentials(),
            ReportState("kms", "kms_refused", "KMS said no", "look at the policy"),
        )
    )
    assert answers[0] == Stored(1)
    assert answers[1] == Done()
    assert isinstance(answers[2], Failed)
    assert answers[2].code == "credentials_unavailable"
    assert parent.end() == 0
    assert parent.process.stdout is not None
    assert parent.process.stdout.read() == b""  # one line, no more
    shown = state.read(parent.folder / "state.json")
    assert shown.enclave.state == "kms"
    assert shown.enclave.code == "kms_refused"
    assert shown.stopping
    assert shown.services is not None
    assert shown.services.requests == 4
    events = [line["event"] for line in parent.log()]
    assert events[0] == "started"
    # We left and then asked it to end: it may have heard of both in one turn.
    events.remove("services_closed")
    assert events[-2:] == ["draining", "stopped"]
    assert "fault" not in events


def test_it_is_woken_in_no_hurry(start: Start) -> None:
    parent = start()
    parent.ready()
    threads = os.listdir(f"/proc/{parent.process.pid}/task")
    assert len(threads) > 1
    assert {os.sched_getscheduler(int(one)) for one in threads} == {os.SCHED_BATCH}
    assert parent.end() == 0


def test_it_survives_the_enclaves_coming_and_going(start: Start, enclave: Any) -> None:
    parent = start()
    port = parent.ready()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    async def call() -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionResetError:
            return b"reset"
        writer.write(b"ping")
        try:
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def main() -> None:
        assert await call() == b"reset"
        for _ in range(2):
            server = await asyncio.start_unix_server(echo, sock=enclave.listen(8443))
            assert await call() == b"ping"
            server.close()
            await server.wait_closed()
            assert await call() == b"reset"

    asyncio.run(main())
    assert parent.end() == 0


def test_records_survive_kill_9_and_a_new_parent_takes_over(
    start: Start, enclave: Any
) -> None:
    parent = start()
    parent.ready()
    asyncio.run(
        ask(enclave, PutRecord("keys", "alice", 0, b"sealed"), AppendAudit([b"{}"]))
    )
    parent.end(signal.SIGKILL)
    again = start()
    again.ready()
    (found,) = asyncio.run(ask(enclave, GetRecord("keys", "alice")))
    assert found == Found(StoredRecord("alice", 1, b"sealed"))
    assert (again.folder / "audit.jsonl").read_bytes() == b"{}\n"
    assert again.end() == 0


def test_watermarks_survive_kill_9(start: Start, enclave: Any) -> None:
    keys = [bytes([number]) * 48 for number in range(100)]
    parent = start()
    parent.ready()
    first = [AdvanceWatermarks([WatermarkChange(key, 0, key)]) for key in keys]
    assert asyncio.run(ask(enclave, *first)) == [Advanced([True])] * len(keys)
    parent.end(signal.SIGKILL)
    again = start()
    again.ready()
    (found,) = asyncio.run(ask(enclave, ReadWatermarks(keys)))
    assert found == Watermarks([StoredWatermark(key, 1, key) for key in keys])
    (late,) = asyncio.run(ask(enclave, first[0]))
    assert late == Advanced([False])
    assert again.end() == 0


def test_two_parents_do_not_share_a_run_folder(start: Start) -> None:
    first = start()
    first.ready()
    second = start(audit={"path": str(first.folder / "other.jsonl")})
    assert second.process.wait(30) == 4
    (line,) = second.log()
    assert line["event"] == "start_failed"
    assert "another parent" in line["message"]
    # Both were told one state file: it is still the first one's.
    shown = state.read(first.folder / "state.json")
    assert (shown.pid, shown.stopping) == (first.process.pid, False)
    assert first.end() == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"region": "nowhere"}, "region"), ({"surprise": 1}, "surprise")],
)
def test_a_bad_configuration_ends_it_with_a_reason(
    start: Start, changes: Any, named: str
) -> None:
    parent = start(**changes)
    assert parent.process.wait(30) == 2
    (line,) = parent.log()
    assert line["event"] == "configuration_refused"
    assert named in line["message"]


@pytest.mark.parametrize("name", ["store.db", "watermarks.db"])
def test_a_damaged_store_ends_it_and_stays_as_it_is(start: Start, name: str) -> None:
    parent = start()
    parent.ready()
    assert parent.end() == 0
    store = parent.folder / name
    store.write_bytes(b"damaged" * 1000)
    again = start()
    assert again.process.wait(30) == 3
    (line,) = again.log()
    assert line["event"] == "start_failed"
    assert line["code"] == "record_untrusted"
    assert line["hint"]
    assert store.read_bytes() == b"damaged" * 1000


def test_nobody_else_may_read_what_it_writes(start: Start) -> None:
    parent = start()
    parent.ready()
    assert parent.end() == 0
    for name in ("store.db", "watermarks.db", "audit.jsonl", "state.json"):
        assert (parent.folder / name).stat().st_mode & 0o077 == 0


def test_garbage_on_every_door_leaves_it_alive(start: Start, enclave: Any) -> None:
    parent = start()
    port = parent.ready()

    async def throw(kind: str, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            if kind == "tcp":
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            else:
                reader, writer = await enclave.connect(int(kind))
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 30)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def main() -> None:
        doors = ("tcp", str(SERVICES_PORT), str(EGRESS_PORT))
        for door in doors:
            for _ in range(10):
                # No frame of version 1, and no end that a CONNECT could wait for.
                await throw(door, b"\xff" + os.urandom(5000) + b"CANARY")
        (answer,) = await ask(enclave, PutRecord("keys", "a", 0, b"x"))
        assert answer == Stored(1)

    asyncio.run(main())
    assert parent.end() == 0
    assert "CANARY" not in json.dumps(parent.log())
    assert "fault" not in {line["event"] for line in parent.log()}


def test_a_watchdog_may_have_callers_kept_out_and_let_in(
    start: Start, enclave: Any, tmp_path: Path
) -> None:
    control = tmp_path / "parent.sock"
    behind = enclave.listen(HTTPS_PORT)
    behind.settimeout(30)
    parent = start(control=str(control), metrics={"port": 0})
    port = parent.ready()

    def tell(command: str) -> dict[str, Any]:
        return asyncio.run(control_socket.ask(control, command, 10))

    assert tell("status") == {"letting_in": True, "unanswered": 0}
    assert tell("drain")["letting_in"] is False
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 30)
    assert tell("resume")["letting_in"] is True
    with socket.create_connection(("127.0.0.1", port), 30) as caller:
        caller.sendall(b"ping")
        inside, _ = behind.accept()
        with inside:
            inside.settimeout(30)
            assert inside.recv(4, socket.MSG_WAITALL) == b"ping"
    behind.close()
    assert tell("open the vault")["error"]["code"] == "malformed_request"
    assert control.stat().st_mode & 0o777 == 0o600
    assert parent.end() == 0
    assert not control.exists()


def test_prometheus_finds_the_counters(start: Start) -> None:
    parent = start(metrics={"port": 0})
    parent.ready()
    (port,) = [line["port"] for line in parent.log() if line["event"] == "metrics"]
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    assert "nitrosigner_enclave_ready 0" in text
    assert "nitrosigner_relay_connections 0" in text
