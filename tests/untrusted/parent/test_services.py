"""The framed server answers who speaks the protocol and outlives who doesn't."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.untrusted.parent.services import Services, ServicesLimits
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import frames, services
from nitrosigner.wire.addresses import SERVICES_PORT
from nitrosigner.wire.services import (
    Absent,
    Advanced,
    AdvanceWatermarks,
    Answer,
    AppendAudit,
    Conflict,
    Credentials,
    Done,
    Failed,
    Found,
    GetCredentials,
    GetRecord,
    ListRecords,
    Page,
    PutRecord,
    ReadWatermarks,
    RemoveRecord,
    ReportMetrics,
    ReportState,
    Request,
    Stored,
    StoredRecord,
    StoredWatermark,
    WatermarkChange,
    Watermarks,
)
from nitrosigner.wire.validator_api import Histogram, Metrics

CANARY = b"CANARY-0f1e2d3c"
KEY, OTHER = b"k" * 48, b"o" * 48


class Role:
    def __init__(self) -> None:
        self.failing = False
        self.waiting = False

    async def get(self) -> Credentials:
        if self.waiting:
            await asyncio.Event().wait()
        if self.failing:
            raise Undecided(Code.CREDENTIALS_UNAVAILABLE, "no role", "attach one")
        return Credentials(
            access_key_id="A",
            secret_access_key="CANARY-0f1e2d3c",
            session_token="T",
            expires=5,
        )


class Reports:
    def __init__(self) -> None:
        self.reports: list[ReportState] = []
        self.connections: list[int] = []
        self.counted: list[Metrics] = []

    def report(self, report: ReportState) -> None:
        self.reports.append(report)

    def metrics(self, metrics: Metrics) -> None:
        self.counted.append(metrics)

    def enclave_connected(self, connections: int) -> None:
        self.connections.append(connections)


class Peer:
    """An enclave's end that speaks frames, or whatever a test wants."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer
        self.frames = frames.FrameReader()

    def send(self, number: int, request: Request) -> None:
        self.writer.write(frames.encode(number, services.encode(request)))

    async def receive(self) -> tuple[int, Answer]:
        while (frame := self.frames.next()) is None:
            data = await asyncio.wait_for(self.reader.read(1 << 20), 30)
            if not data:
                raise ConnectionResetError
            self.frames.feed(data)
        return frame.request_id, services.decode_answer(frame.payload)

    async def ask(self, request: Request, number: int = 7) -> Answer:
        self.send(number, request)
        answered, answer = await self.receive()
        assert answered == number
        return answer

    async def cut_off(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 30) == b""
        return True


class World:
    def __init__(self, server: Services, enclave: Any, store: Any, tmp: Path) -> None:
        self.server, self.enclave, self.store = server, enclave, store
        self.watermarks: Any = None
        self.role: Role
        self.reports: Reports
        self.audit_path = tmp / "audit.jsonl"
        self.peers: list[Peer] = []

    async def peer(self) -> Peer:
        self.peers.append(Peer(*await self.enclave.connect(SERVICES_PORT)))
        return self.peers[-1]


@pytest.fixture
def started(
    vsock: Any,
    enclave: Any,
    log: Any,
    *,
    memory_store: Any,
    memory_watermarks: Any,
    tmp_path: Path,
) -> Any:
    @asynccontextmanager
    async def start(
        *, with_watermarks: bool = True, **limits: Any
    ) -> AsyncIterator[World]:
        role, reports = Role(), Reports()
        audit = AuditLog(tmp_path / "audit.jsonl")
        server = Services(
            store=memory_store,
            watermarks=memory_watermarks if with_watermarks else None,
            credentials=role,
            audit=audit,
            reports=reports,
            limits=ServicesLimits(**limits),
            log=log,
        )
        await server.start(vsock, SERVICES_PORT)
        world = World(server, enclave, memory_store, tmp_path)
        world.role, world.reports = role, reports
        world.watermarks = memory_watermarks
        try:
            yield world
        finally:
            for peer in world.peers:
                peer.writer.transport.abort()
                with contextlib.suppress(ConnectionError):
                    await peer.writer.wait_closed()
            if memory_store.gate is not None:
                memory_store.gate.set()
            await server.stop(1)
            server._audit_threads.shutdown()
            server._store_threads.shutdown()
            audit.close()
            await asyncio.sleep(0)

    return start


def test_each_request_gets_its_answer(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            assert await peer.ask(GetRecord("keys", "alice")) == Absent()
            assert await peer.ask(PutRecord("keys", "alice", 0, b"x")) == Stored(1)
            record = StoredRecord("alice", 1, b"x")
            assert await peer.ask(GetRecord("keys", "alice")) == Found(record)
            assert await peer.ask(ListRecords("keys", "", 10)) == Page([record], False)
            assert await peer.ask(PutRecord("keys", "alice", 0, b"y")) == Conflict(1)
            assert await peer.ask(RemoveRecord("keys", "alice", 2)) == Conflict(1)
            assert await peer.ask(RemoveRecord("keys", "alice", 1)) == Stored(0)
            assert isinstance(await peer.ask(GetCredentials()), Credentials)
            assert await peer.ask(AppendAudit([b'{"n":1}', b'{"n":2}'])) == Done()
            assert world.audit_path.read_bytes() == b'{"n":1}\n{"n":2}\n'
            report = ReportState("kms", "kms_refused", "no", "ask")
            assert await peer.ask(report) == Done()
            assert world.reports.reports == [report]
            counted = Metrics(
                permitted={"ATTESTATION": 1},
                prevented={},
                malformed=0,
                undecided={},
                shed=0,
                latency=Histogram(counts=[1], sum=0.1),
                in_flight=0,
                keys_loaded=1,
                keys_enabled=1,
                watermark_age=0.5,
                kms_calls=1,
                certificate_not_after=1_900_000_000,
                clock_offset=-1.5,
            )
            assert await peer.ask(ReportMetrics(counted)) == Done()
            assert world.reports.counted == [counted]
            assert world.server.counts().requests == 11
            assert world.server.counts().failed == 0

    asyncio.run(main())


def test_watermarks_are_advanced_and_read(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            changes = [WatermarkChange(KEY, 0, b"x"), WatermarkChange(OTHER, 1, b"y")]
            assert await peer.ask(AdvanceWatermarks(changes)) == Advanced([True, False])
            found = await peer.ask(ReadWatermarks([OTHER, KEY]))
            assert found == Watermarks([StoredWatermark(KEY, 1, b"x")])

    asyncio.run(main())


def test_questions_for_watermarks_do_not_wait_for_one_another(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            world.watermarks.held = []
            peer = await world.peer()
            for number in range(40):
                key = bytes([number]) * 48
                change = WatermarkChange(key, 0, b"x")
                peer.send(number, AdvanceWatermarks([change]))
            assert await peer.ask(GetRecord("keys", "a"), 100) == Absent()
            assert len(world.watermarks.held) == 40
            world.watermarks.release()
            got = dict([await peer.receive() for _ in range(40)])
            assert got == {number: Advanced([True]) for number in range(40)}

    asyncio.run(main())


@pytest.mark.parametrize("when", ["failures", "lost"])
def test_a_failing_watermark_store_is_a_failed_answer(
    started: Any, log: Any, when: str
) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            getattr(world.watermarks, when).extend([
                Undecided(Code.STORAGE_UNAVAILABLE, "the disk is full", "make room"),
                ZeroDivisionError("CANARY-0f1e2d3c"),
            ])  # fmt: skip
            request = AdvanceWatermarks([WatermarkChange(KEY, 0, b"x")])
            full = await peer.ask(request)
            assert full == Failed("storage_unavailable", "the disk is full: make room")
            fault = await peer.ask(request)
            assert isinstance(fault, Failed)
            assert fault.code == "internal"
            written = when == "lost"
            assert await peer.ask(request) == Advanced([not written])
            assert world.server.counts().failed == 2

    asyncio.run(main())
    assert CANARY.decode() not in log.text.getvalue()


def test_a_watermark_store_that_hangs_fails_in_time(started: Any) -> None:
    async def main() -> None:
        async with started(request_seconds=0.05) as world:
            world.watermarks.held = []
            peer = await world.peer()
            answer = await peer.ask(AdvanceWatermarks([WatermarkChange(KEY, 0, b"x")]))
            assert isinstance(answer, Failed)
            assert answer.code == "storage_unavailable"
            # It had not begun, so it is not carried out later.
            world.watermarks.release()
            assert await peer.ask(ReadWatermarks([KEY])) == Watermarks([])

    asyncio.run(main())


def test_a_parent_without_a_watermark_store_says_so(started: Any) -> None:
    async def main() -> None:
        async with started(with_watermarks=False) as world:
            peer = await world.peer()
            for request in (
                ReadWatermarks([KEY]),
                AdvanceWatermarks([WatermarkChange(KEY, 0, b"x")]),
            ):
                answer = await peer.ask(request)
                assert isinstance(answer, Failed)
                assert answer.code == "storage_unavailable"
                assert "configuration" in answer.message

    asyncio.run(main())


def test_requests_that_come_byte_by_byte_are_answered(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            request = services.encode(GetRecord("keys", "alice"))
            for byte in frames.encode(1, request) + frames.encode(2, request):
                peer.writer.write(bytes([byte]))
                await peer.writer.drain()
            assert await peer.receive() == (1, Absent())
            assert await peer.receive() == (2, Absent())

    asyncio.run(main())


def test_a_quick_answer_overtakes_a_slow_one(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            peer.send(1, GetRecord("keys", "slow"))
            peer.send(2, GetCredentials())
            assert (await peer.receive())[0] == 2
            world.store.gate.set()
            assert (await peer.receive())[0] == 1

    asyncio.run(main())


def test_many_requests_of_many_connections_all_get_their_own_answer(
    started: Any,
) -> None:
    async def one(world: World, name: str) -> None:
        peer = await world.peer()
        for number in range(100):
            data = f"{name}-{number}".encode()
            peer.send(number, PutRecord("keys", f"{name}.{number}", 0, data))
        got = dict([await peer.receive() for _ in range(100)])
        assert got == {number: Stored(1) for number in range(100)}
        for number in range(100):
            peer.send(number, GetRecord("keys", f"{name}.{number}"))
        found = dict([await peer.receive() for _ in range(100)])
        for number in range(100):
            assert found[number].record.data == f"{name}-{number}".encode()

    async def main() -> None:
        async with started() as world:
            await asyncio.gather(*(one(world, f"peer{n}") for n in range(8)))

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n" + CANARY,
        b"\x16\x03\x01\x02\x00" + CANARY,
        b"\x01" + (1).to_bytes(4) + (frames.MAX_PAYLOAD + 1).to_bytes(4),
        frames.encode(1, b""),
        frames.encode(1, CANARY),
        frames.encode(1, b"\xc1" * 10),
        frames.encode(1, services.encode(Done())),
        frames.encode(1, b"\x81\xa1t\xa6reboot"),
        frames.encode(1, services.encode(GetCredentials()) + b"\0"),
        frames.encode(
            1, b"\x84\xa1t\xa3get\xaacollection\xa4keys\xa4name\xa1a\xa5extra\x01"
        ),
        frames.encode(1, services.encode(ListRecords("keys", "", 1 << 40))),
        frames.encode(1, services.encode(PutRecord("keys", "a", -1, b"x"))),
        frames.encode(1, services.encode(PutRecord("keys", "a", 0, bytes(65_537)))),
        frames.encode(1, services.encode(ReadWatermarks([]))),
        frames.encode(1, services.encode(ReadWatermarks([KEY + b"x"]))),
        frames.encode(
            1, services.encode(AdvanceWatermarks([WatermarkChange(KEY, -1, b"x")]))
        ),
        frames.encode(1, b"\xdd\xff\xff\xff\xff"),
        frames.encode(1, b"\x91" * 100_000),
    ],
)
def test_a_peer_that_sends_garbage_is_cut_off_without_a_quote(
    started: Any, log: Any, garbage: bytes, wait_for: Any
) -> None:
    async def main() -> None:
        async with started() as world:
            innocent = await world.peer()
            peer = await world.peer()
            peer.writer.write(garbage)
            assert await peer.cut_off()
            assert world.server.garbage == 1
            assert await innocent.ask(GetRecord("keys", "a")) == Absent()

    asyncio.run(main())
    assert log.events.count("services_garbage") == 1
    assert CANARY.decode() not in log.text.getvalue()


def test_an_identifier_that_is_in_use_is_garbage(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            peer.send(5, GetRecord("keys", "a"))
            peer.send(5, GetRecord("keys", "b"))
            assert await peer.cut_off()

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_",
    [
        GetRecord("secrets", "a"),
        GetRecord("keys", "../a"),
        GetRecord("keys", "a" * 129),
        PutRecord("keys", "", 0, b"x"),
        ListRecords("keys", "a/b", 5),
        ReadWatermarks([KEY, OTHER, KEY]),
        AdvanceWatermarks([WatermarkChange(KEY, n, b"x") for n in (0, 1)]),
        AppendAudit([b'{"a":\n1}']),
        AppendAudit([b""]),
        AppendAudit([b"x" * (services.MAX_AUDIT_EVENT + 1)]),
        AppendAudit([b"x" * 4000] * 200),
        ReportState("kms", message="x" * 600),
    ],
)
def test_a_request_out_of_bounds_fails_and_the_connection_stays(
    started: Any, request_: Request
) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            answer = await peer.ask(request_)
            assert isinstance(answer, Failed)
            assert answer.code == "malformed_request"
            assert world.store.records == {}
            assert world.watermarks.items == {}
            assert world.audit_path.read_bytes() == b""
            assert await peer.ask(GetRecord("keys", "a")) == Absent()

    asyncio.run(main())


def test_a_failing_store_is_a_failed_answer_and_the_next_request_succeeds(
    started: Any, log: Any
) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            world.store.failures = [
                Undecided(Code.STORAGE_UNAVAILABLE, "the disk is full", "make room"),
                ZeroDivisionError("CANARY-0f1e2d3c"),
            ]
            full = await peer.ask(PutRecord("keys", "a", 0, b"x"))
            assert full == Failed("storage_unavailable", "the disk is full: make room")
            fault = await peer.ask(PutRecord("keys", "a", 0, b"x"))
            assert isinstance(fault, Failed)
            assert fault.code == "internal"
            assert CANARY.decode() not in fault.message
            assert await peer.ask(PutRecord("keys", "a", 0, b"x")) == Stored(1)

    asyncio.run(main())
    assert log.events.count("service_failed") == 2
    assert CANARY.decode() not in log.text.getvalue()


def test_missing_credentials_are_a_failed_answer(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            world.role.failing = True
            peer = await world.peer()
            answer = await peer.ask(GetCredentials())
            assert answer == Failed("credentials_unavailable", "no role: attach one")

    asyncio.run(main())


def test_a_full_audit_disk_is_a_failed_answer(started: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with started() as world:
            os.close(world.server._audit._file)
            full = os.open("/dev/full", os.O_WRONLY)
            world.server._audit._file = full
            peer = await world.peer()
            answer = await peer.ask(AppendAudit([b"{}"]))
            assert isinstance(answer, Failed)
            assert answer.code == "audit_unavailable"

    asyncio.run(main())


def test_what_hangs_is_answered_when_its_time_is_over(started: Any) -> None:
    async def main() -> None:
        async with started(request_seconds=0.1) as world:
            world.store.gate = threading.Event()
            world.role.waiting = True
            peer = await world.peer()
            answer = await peer.ask(GetRecord("keys", "a"))
            assert isinstance(answer, Failed)
            assert answer.code == "storage_unavailable"
            assert "may still happen" in answer.message
            answer = await peer.ask(GetCredentials())
            assert isinstance(answer, Failed)
            assert answer.code == "credentials_unavailable"
            # The store hangs in its own threads: the audit log does not wait for it.
            assert await peer.ask(AppendAudit([b"{}"])) == Done()

    asyncio.run(main())


def test_each_request_has_its_own_time(started: Any, wait_for: Any) -> None:
    async def main() -> None:
        async with started(request_seconds=0.1) as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            for number in (1, 2, 3):
                peer.send(number, GetRecord("keys", "a"))
                await wait_for(lambda: world.server.counts().requests == number)  # noqa: B023
            for number in (1, 2, 3):
                answered, answer = await peer.receive()
                assert answered == number
                assert isinstance(answer, Failed)
            assert await peer.ask(AppendAudit([b"{}"]), 1) == Done()

    asyncio.run(main())


def test_what_was_given_up_does_not_answer_another_request_of_its_number(
    started: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(request_seconds=0.3) as world:
            world.store.gate = threading.Event()
            world.watermarks.held = []
            peer = await world.peer()
            failed = await peer.ask(PutRecord("keys", "a", 0, b"x"), 5)
            assert isinstance(failed, Failed)
            peer.send(5, AdvanceWatermarks([WatermarkChange(KEY, 0, b"x")]))
            await wait_for(lambda: world.watermarks.held)
            world.store.gate.set()  # the write that was given up is done now
            world.server._store_threads.shutdown()
            await asyncio.sleep(0)
            world.watermarks.release()
            assert await peer.receive() == (5, Advanced([True]))

    asyncio.run(main())


def test_any_number_of_refused_requests_may_come_together(started: Any) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            for number in range(3000):
                peer.send(number, GetRecord("secrets", "a"))
            answers = [await peer.receive() for _ in range(3000)]
            assert sorted(number for number, _ in answers) == list(range(3000))
            assert {answer.code for _, answer in answers} == {"malformed_request"}

    asyncio.run(main())


def test_no_more_requests_are_read_than_may_be_open(
    started: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(max_outstanding=4) as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            for number in range(3000):
                peer.send(number, PutRecord("keys", f"k{number}", 0, bytes(1000)))
            await wait_for(lambda: world.server._connections)
            connection = next(iter(world.server._connections))
            await wait_for(lambda: len(connection._open) == 4)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(connection._open) == 4
            assert connection._reader.pending < 1 << 20
            world.store.gate.set()
            answers = [await peer.receive() for _ in range(3000)]
            assert sorted(number for number, _ in answers) == list(range(3000))
            assert {answer for _, answer in answers} == {Stored(1)}

    asyncio.run(main())


def test_a_peer_that_does_not_read_its_answers_is_cut_off(
    started: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started(stall_seconds=0.2) as world:
            world.store.put("keys", "big", 0, bytes(60_000))
            peer = await world.peer()
            peer.writer.transport.pause_reading()
            for number in range(200):
                peer.send(number, GetRecord("keys", "big"))
            await wait_for(lambda: world.server.counts().requests > 5)
            await wait_for(lambda: world.server.counts().connections == 0)
            assert world.server.counts().requests < 120  # 12 MB would have been

    asyncio.run(main())
    assert "services_stalled" in log.events


def test_a_frame_that_never_ends_is_cut_off(started: Any, log: Any) -> None:
    async def main() -> None:
        async with started(stall_seconds=0.1) as world:
            peer = await world.peer()
            peer.writer.write(frames.encode(1, bytes(1000))[:-1])
            assert await peer.cut_off()

    asyncio.run(main())
    assert "services_stalled" in log.events


def test_an_idle_connection_is_left_alone(started: Any) -> None:
    async def main() -> None:
        async with started(stall_seconds=0.05) as world:
            peer = await world.peer()
            assert await peer.ask(GetRecord("keys", "a")) == Absent()
            waiting = asyncio.create_task(peer.receive())
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            assert await peer.ask(GetRecord("keys", "a")) == Absent()

    asyncio.run(main())


def test_the_connection_after_the_last_place_is_cut_off(started: Any, log: Any) -> None:
    async def main() -> None:
        async with started(max_connections=1) as world:
            first = await world.peer()
            assert await first.ask(GetRecord("keys", "a")) == Absent()
            second = await world.peer()
            assert await second.cut_off()
            assert await first.ask(GetRecord("keys", "a")) == Absent()

    asyncio.run(main())
    assert "services_full" in log.events


def test_a_stranger_on_the_vsock_is_cut_off(
    started: Any, log: Any, vsock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock, "is_our_enclave", lambda peer: False)

    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            assert await peer.cut_off()
            assert world.server.counts().connections == 0

    asyncio.run(main())
    assert "stranger" in log.events


def test_an_enclave_that_leaves_in_the_middle_is_forgotten_and_its_write_done(
    started: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started() as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            peer.send(1, PutRecord("keys", "a", 0, b"x"))
            await wait_for(lambda: world.server.counts().requests == 1)
            peer.writer.transport.abort()
            await wait_for(lambda: world.server.counts().connections == 0)
            world.store.gate.set()
            await wait_for(lambda: world.store.records)
            assert world.reports.connections == [1, 0]

    asyncio.run(main())


def test_stopping_answers_what_was_asked_and_takes_nothing_new(
    started: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started() as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            peer.send(1, PutRecord("keys", "a", 0, b"x"))
            await wait_for(lambda: world.server.counts().requests == 1)
            stopping = asyncio.create_task(world.server.stop(60))
            await asyncio.sleep(0)
            peer.send(2, PutRecord("keys", "b", 0, b"x"))
            world.store.gate.set()
            assert await peer.receive() == (1, Stored(1))
            await asyncio.wait_for(stopping, 5)
            assert await peer.cut_off()
            assert list(world.store.records) == [("keys", "a")]

    asyncio.run(main())


def test_stopping_does_not_wait_for_answers_that_nobody_waits_for(
    started: Any, wait_for: Any
) -> None:
    async def main() -> None:
        async with started() as world:
            world.store.gate = threading.Event()
            peer = await world.peer()
            peer.send(1, PutRecord("keys", "a", 0, b"x"))
            await wait_for(lambda: world.server.counts().requests == 1)
            stopping = asyncio.create_task(world.server.stop(60))
            await asyncio.sleep(0)
            assert not stopping.done()
            peer.writer.transport.abort()
            await asyncio.wait_for(stopping, 5)

    asyncio.run(main())


def test_credentials_are_in_no_log_line(started: Any, log: Any) -> None:
    async def main() -> None:
        async with started() as world:
            peer = await world.peer()
            await peer.ask(GetCredentials())

    asyncio.run(main())
    assert CANARY.decode() not in log.text.getvalue()
    assert all(json.dumps(line) for line in log.lines)
