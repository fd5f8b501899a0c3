"""
The framed server on the vsock: records, watermarks, credentials, audit, reports.

A connection is long-lived and carries many requests at once; answers overtake one
another. Each request has a deadline and each connection a number of requests that may
be open: beyond it nothing more is read, so a peer that asks without end fills its own
socket and not our memory. A peer that doesn't speak the protocol is cut off.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

import msgspec

from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.untrusted.parent.record_store import RecordStore
from nitrosigner.untrusted.parent.service_times import ServiceTimes
from nitrosigner.untrusted.parent.vsock import Vsock
from nitrosigner.untrusted.parent.watermark_store import WatermarkStore
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire import frames, services
from nitrosigner.wire.services import (
    Absent,
    Advanced,
    AdvanceWatermarks,
    Answer,
    AppendAudit,
    Credentials,
    Done,
    Failed,
    Found,
    GetCredentials,
    GetRecord,
    ListRecords,
    ListWatermarks,
    PutRecord,
    ReadWatermarks,
    RemoveRecord,
    ReportMetrics,
    ReportState,
    Request,
    Watermarks,
)
from nitrosigner.wire.validator_api import Metrics

HIGH_WATER: Final = 256 * 1024
"""Bytes of answers that a slow peer leaves unread before we stop reading requests."""
_Result = TypeVar("_Result")


class ServicesLimits(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What the server bears."""

    max_connections: int = 16
    max_outstanding: int = 64
    """Open requests of one connection."""
    request_seconds: float = 20.0
    """For one request, the wait for its turn included."""
    stall_seconds: float = 30.0
    """For an unfinished frame to arrive, or unread answers to be taken."""


class ServicesCounts(msgspec.Struct, frozen=True):
    """What the server has done since it started."""

    connections: int
    accepted: int
    requests: int
    failed: int
    garbage: int


class Reports(Protocol):
    """Takes what the enclave says of itself."""

    def report(self, report: ReportState) -> None:
        """Keep *report* for whoever runs the parent."""
        ...

    def metrics(self, metrics: Metrics) -> None:
        """Keep the enclave's counters for whoever watches."""
        ...

    def enclave_connected(self, connections: int) -> None:
        """Learn how many connections the enclave holds."""
        ...


class RoleCredentialsPort(Protocol):
    """Gives the role's credentials."""

    async def get(self) -> Credentials:
        """Return them, or raise `Undecided`."""
        ...


class Services:
    """Answers requests, and listens for those who ask them."""

    def __init__(
        self,
        *,
        store: RecordStore,
        credentials: RoleCredentialsPort,
        audit: AuditLog,
        reports: Reports,
        limits: ServicesLimits,
        log: EventLog,
        watermarks: WatermarkStore | None = None,
    ) -> None:
        self._store = store
        self._watermarks = watermarks
        self._credentials = credentials
        self._audit = audit
        self._reports = reports
        self.limits = limits
        self.log = log
        # Threads of their own: a store that hangs must not keep the audit log waiting,
        # and SQLite has one writer whatever we do.
        self._store_threads = ThreadPoolExecutor(store.threads, "store")
        self._audit_threads = ThreadPoolExecutor(1, "audit")
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._accepted = 0
        self._requests = 0
        self._failed = 0
        self.garbage = 0
        self.times: Final = ServiceTimes()

    async def start(self, vsock: Vsock, port: int) -> None:
        """Listen on the parent's *port*. Raise `Undecided` if that cannot be."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, vsock), sock=vsock.listen(port)
        )

    async def stop(self, seconds: float) -> None:
        """Take no more requests, answer the open ones for *seconds*, and end."""
        if self._server is not None:
            self._server.close()
        open_ones = [task for one in self._connections for task in one.drain()]
        if open_ones:
            await asyncio.wait(open_ones, timeout=seconds)
        for connection in list(self._connections):
            connection.end()
        # A thread inside a write is left to finish it; it cannot be stopped halfway.
        self._store_threads.shutdown(wait=False, cancel_futures=True)
        self._audit_threads.shutdown(wait=False, cancel_futures=True)

    def counts(self) -> ServicesCounts:
        """Return what happened so far."""
        return ServicesCounts(
            connections=len(self._connections),
            accepted=self._accepted,
            requests=self._requests,
            failed=self._failed,
            garbage=self.garbage,
        )

    async def answer(self, request: Request) -> Answer:
        """Return the answer to *request*. Every failure is a `Failed`."""
        self._requests += 1
        began = time.monotonic()
        try:
            services.check(request)
            async with asyncio.timeout(self.limits.request_seconds):
                return await self._do(request)
        except Verdict as verdict:
            failed = Failed(code=verdict.code, message=_sentence(verdict))
        except TimeoutError:
            failed = Failed(
                code=_UNAVAILABLE.get(type(request), Code.STORAGE_UNAVAILABLE),
                message="the parent did not finish in time; it may still happen",
            )
        finally:
            self.times.took(type(request).__name__, time.monotonic() - began)
        self._failed += 1
        self.times.failed(failed.code)
        self.log(Event.SERVICE_FAILED, kind=type(request).__name__, code=failed.code)
        return failed

    async def _do(self, request: Request) -> Answer:
        store = self._store
        match request:
            case GetRecord(collection, name):
                record = await self._stored(store.get, collection, name)
                return Absent() if record is None else Found(record=record)
            case ListRecords(collection, after, limit):
                return await self._stored(store.page, collection, after, limit)
            case PutRecord(collection, name, expected, data):
                return await self._stored(store.put, collection, name, expected, data)
            case RemoveRecord(collection, name, expected):
                return await self._stored(store.remove, collection, name, expected)
            case ReadWatermarks(public_keys):
                found = await self._waited(
                    lambda: self._watermark_store.read(public_keys)
                )
                return Watermarks(items=found)
            case ListWatermarks(after_key, count):
                return await self._waited(
                    lambda: self._watermark_store.page(after_key, count)
                )
            case AdvanceWatermarks(changes):
                done = await self._waited(
                    lambda: self._watermark_store.advance(changes)
                )
                return Advanced(written=done)
            case GetCredentials():
                return await self._credentials.get()
            case AppendAudit(events):
                await self._threaded(
                    self._audit_threads, functools.partial(self._audit.append, events)
                )
                return Done()
            case ReportState():
                self._reports.report(request)
                return Done()
            case ReportMetrics(metrics):
                self._reports.metrics(metrics)
                return Done()

    async def _stored(self, call: Callable[..., _Result], *values: object) -> _Result:
        return await self._threaded(
            self._store_threads, functools.partial(call, *values)
        )

    async def _threaded(
        self, threads: ThreadPoolExecutor, call: Callable[[], _Result]
    ) -> _Result:
        return await self._waited(lambda: threads.submit(call))

    @property
    def _watermark_store(self) -> WatermarkStore:
        if self._watermarks is None:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "this parent has no watermark store",
                'name one in its configuration, under "watermarks"',
            )
        return self._watermarks

    async def _waited(self, begin: Callable[[], Future[_Result]]) -> _Result:
        try:
            return await asyncio.wrap_future(begin())
        except (Verdict, asyncio.CancelledError):
            raise
        except Exception as error:  # the one place where a request's failure ends
            self.log(Event.FAULT, kind=type(error).__name__)
            raise Undecided(
                Code.INTERNAL, "the parent met a fault of its own; see its log"
            ) from error

    def opened(self, connection: "_Connection") -> bool:
        """Return whether *connection* may stay."""
        if len(self._connections) >= self.limits.max_connections:
            self.log(Event.SERVICES_FULL, count=self.limits.max_connections)
            return False
        self._accepted += 1
        self._connections.add(connection)
        self.log(Event.SERVICES_OPENED, count=len(self._connections))
        self._reports.enclave_connected(len(self._connections))
        return True

    def closed(self, connection: "_Connection") -> None:
        """Forget *connection*."""
        if connection in self._connections:
            self._connections.discard(connection)
            self.log(Event.SERVICES_CLOSED, count=len(self._connections))
            self._reports.enclave_connected(len(self._connections))


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: Services, vsock: Vsock) -> None:
        self._server = server
        self._vsock = vsock
        self._reader = frames.FrameReader()
        self._open: dict[int, asyncio.Task[None]] = {}
        self._draining = False
        self._unread = False
        self._reading = True
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # sockets give Transport
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if not self._vsock.is_our_enclave(transport.get_extra_info("socket")):
            self._server.log(Event.STRANGER)
            self.transport.abort()
        elif not self._server.opened(self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        with self._cut_off_garbage():
            self._reader.feed(data)
            self._take_frames()

    def eof_received(self) -> bool:
        # The open requests are still carried out; nobody is there for the answers.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._draining = True
        self._watch(stalled=False)
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._unread = True
        self._regulate()

    def resume_writing(self) -> None:
        self._unread = False
        with self._cut_off_garbage():
            self._take_frames()

    def drain(self) -> list["asyncio.Task[None]"]:
        """Take no more requests; return the open ones."""
        self._draining = True
        return list(self._open.values())

    def end(self) -> None:
        """Close now, with the answers that are ready."""
        for task in self._open.values():
            task.cancel()
        self.transport.close()

    def _take_frames(self) -> None:
        while not self._full():
            frame = self._reader.next()
            if frame is None:
                break
            request = services.decode_request(frame.payload)
            if frame.request_id in self._open:
                msg = "a request id is in use"
                raise ValueError(msg)
            self._open[frame.request_id] = asyncio.get_running_loop().create_task(
                self._answer(frame.request_id, request)
            )
        self._regulate()

    async def _answer(self, request_id: int, request: Request) -> None:
        try:
            answer = await self._server.answer(request)
            if not self.transport.is_closing():
                self.transport.write(frames.encode(request_id, services.encode(answer)))
        finally:
            del self._open[request_id]
        if not self.transport.is_closing():
            with self._cut_off_garbage():
                self._take_frames()

    def _full(self) -> bool:
        return (
            self._draining
            or self._unread
            or len(self._open) >= self._server.limits.max_outstanding
        )

    def _regulate(self) -> None:
        """Read on only while there is room; watch what may never move on by itself."""
        if self.transport.is_closing():
            return
        reading = not self._full()
        if reading != self._reading:
            self._reading = reading
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
        unfinished = reading and self._reader.pending > 0
        self._watch(stalled=self._unread or unfinished)

    def _watch(self, *, stalled: bool) -> None:
        if stalled and self._stalled is None:
            self._stalled = asyncio.get_running_loop().call_later(
                self._server.limits.stall_seconds, self._cut_off_stalled
            )
        elif not stalled and self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _cut_off_stalled(self) -> None:
        self._server.log(Event.SERVICES_STALLED)
        self.transport.abort()

    @contextlib.contextmanager
    def _cut_off_garbage(self) -> Iterator[None]:
        try:
            yield
        except ValueError:
            # The cause may quote what was sent; nothing of it is said.
            self._server.garbage += 1
            self._server.log(Event.SERVICES_GARBAGE)
            self.transport.abort()


_UNAVAILABLE: Final[dict[type, Code]] = {
    GetCredentials: Code.CREDENTIALS_UNAVAILABLE,
    AppendAudit: Code.AUDIT_UNAVAILABLE,
}


def _sentence(verdict: Verdict) -> str:
    sentence = f"{verdict.message}: {verdict.hint}" if verdict.hint else verdict.message
    return sentence[: services.MAX_SENTENCE]
