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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

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
    StoredRecord,
    Watermarks,
)
from nitrosigner.wire.validator_api import Metrics

HIGH_WATER: Final = 256 * 1024
"""Bytes of answers that a slow peer leaves unread before we stop reading requests."""
READ_SIZE: Final = 256 * 1024
"""Bytes read at once."""

# One buffer for all: the loop fills it and calls `buffer_updated` before it reads any
# other socket, and what is in it is copied.
_buffer: Final = memoryview(bytearray(READ_SIZE))


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


class _Asked(NamedTuple):
    """
    A request that is being carried out.

    No task waits for it: that would cost more than most requests do.
    """

    kind: type[Request]
    began: float
    """On the loop's clock."""
    work: Future[Any] | asyncio.Future[Any]
    as_answer: Callable[[Any], Answer]
    """Makes the work's result an answer."""


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
        self.ended = asyncio.Event()
        """Set when a request or a connection has ended."""
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
        for connection in self._connections:
            connection.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(connection.busy for connection in self._connections):
                    self.ended.clear()
                    await self.ended.wait()
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

    def begin(self, request: Request) -> _Asked:
        """Begin what *request* asks for. However that fails, it fails in its work."""
        self._requests += 1
        try:
            services.check(request)
            work, as_answer = self._begin(request)
        except Exception as error:  # noqa: BLE001 - judged as if the work had raised it
            work, as_answer = Future[Any](), _itself
            work.set_exception(error)
        began = asyncio.get_running_loop().time()
        return _Asked(type(request), began, work, as_answer)

    def judge(self, asked: _Asked) -> Answer:
        """Return what came of a request by now. Every failure is a `Failed`."""
        kind, work = asked.kind, asked.work
        now = asyncio.get_running_loop().time()
        self.times.took(kind.__name__, now - asked.began)
        error = work.exception() if work.done() and not work.cancelled() else _LATE
        if error is None:
            return asked.as_answer(work.result())
        if error is _LATE:
            failed = Failed(
                code=_UNAVAILABLE.get(kind, Code.STORAGE_UNAVAILABLE),
                message="the parent did not finish in time; it may still happen",
            )
        elif isinstance(error, Verdict):
            failed = Failed(code=error.code, message=_sentence(error))
        else:  # the one place where a request's fault ends
            self.log(Event.FAULT, kind=type(error).__name__)
            failed = Failed(
                code=Code.INTERNAL,
                message="the parent met a fault of its own; see its log",
            )
        self._failed += 1
        self.times.failed(failed.code)
        self.log(Event.SERVICE_FAILED, kind=kind.__name__, code=failed.code)
        return failed

    def _begin(
        self, request: Request
    ) -> tuple[Future[Any] | asyncio.Future[Any], Callable[[Any], Answer]]:
        store, in_store = self._store, self._store_threads.submit
        match request:
            case AdvanceWatermarks(changes):
                return self._watermark_store.advance(changes), Advanced
            case AppendAudit(events):
                written = self._audit_threads.submit(self._audit.append, events)
                return written, _done
            case ReadWatermarks(public_keys):
                return self._watermark_store.read(public_keys), Watermarks
            case ListWatermarks(after_key, count):
                return self._watermark_store.page(after_key, count), _itself
            case GetRecord(collection, name):
                return in_store(store.get, collection, name), _found
            case ListRecords(collection, after, limit):
                return in_store(store.page, collection, after, limit), _itself
            case PutRecord(collection, name, expected, data):
                return in_store(store.put, collection, name, expected, data), _itself
            case RemoveRecord(collection, name, expected):
                return in_store(store.remove, collection, name, expected), _itself
            case GetCredentials():
                loop = asyncio.get_running_loop()
                return loop.create_task(self._credentials.get()), _itself
            case ReportState():
                self._reports.report(request)
            case ReportMetrics(metrics):
                self._reports.metrics(metrics)
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing, _done

    @property
    def _watermark_store(self) -> WatermarkStore:
        if self._watermarks is None:
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "this parent has no watermark store",
                'name one in its configuration, under "watermarks"',
            )
        return self._watermarks

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
            self.ended.set()
            self.log(Event.SERVICES_CLOSED, count=len(self._connections))
            self._reports.enclave_connected(len(self._connections))


class _Connection(asyncio.BufferedProtocol):
    transport: asyncio.Transport

    def __init__(self, server: Services, vsock: Vsock) -> None:
        self._server = server
        self._vsock = vsock
        self._reader = frames.FrameReader()
        self._loop = asyncio.get_running_loop()
        # In the order in which they were asked.
        self._open: dict[int, _Asked] = {}
        self._too_late: asyncio.TimerHandle | None = None
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

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take_frames(_buffer[:nbytes])

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
        self._take_frames()

    @property
    def busy(self) -> bool:
        """Whether a request is open."""
        return bool(self._open)

    def drain(self) -> None:
        """Take no more requests."""
        self._draining = True

    def end(self) -> None:
        """Close now, with the answers that are ready."""
        for asked in self._open.values():
            asked.work.cancel()
        self._open.clear()
        self.transport.close()

    def _take_frames(self, arrived: memoryview | None = None) -> None:
        try:
            if arrived is not None:
                self._reader.feed(arrived)
            while not self._full():
                frame = self._reader.next()
                if frame is None:
                    break
                self._ask(frame.request_id, services.decode_request(frame.payload))
        except ValueError:
            # The cause may quote what was sent; nothing of it is said.
            self._server.garbage += 1
            self._server.log(Event.SERVICES_GARBAGE)
            self.transport.abort()
        else:
            self._regulate()

    def _ask(self, request_id: int, request: Request) -> None:
        if request_id in self._open:
            msg = "a request id is in use"
            raise ValueError(msg)
        asked = self._open[request_id] = self._server.begin(request)
        asked.work.add_done_callback(functools.partial(self._done, request_id))
        if self._too_late is None:
            self._too_late = self._loop.call_later(
                self._server.limits.request_seconds, self._give_up
            )

    def _done(self, request_id: int, work: Future[Any] | asyncio.Future[Any]) -> None:
        # In whatever thread has done it; a thread may outlive the loop.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer, request_id, work)

    def _answer(self, request_id: int, work: Future[Any] | asyncio.Future[Any]) -> None:
        asked = self._open.get(request_id)
        if asked is None or asked.work is not work:
            return  # was given up, and its number may be another's now
        answer = self._server.judge(asked)
        del self._open[request_id]
        self._server.ended.set()
        if self.transport.is_closing():
            return
        self.transport.write(frames.encode(request_id, services.encode(answer)))
        if not self._reading:
            self._take_frames()

    def _give_up(self) -> None:
        """Answer what was asked too long ago, and come again for the next."""
        limit = self._server.limits.request_seconds
        overdue = self._loop.time() - limit
        for request_id, asked in list(self._open.items()):
            if asked.began > overdue:
                break
            # What has not begun is not carried out later.
            asked.work.cancel()
            self._answer(request_id, asked.work)
        oldest = next(iter(self._open.values()), None)
        self._too_late = oldest and self._loop.call_at(
            oldest.began + limit, self._give_up
        )

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


_LATE: Final = TimeoutError()
"""What is the matter with work that is not done."""
_UNAVAILABLE: Final[dict[type, Code]] = {
    GetCredentials: Code.CREDENTIALS_UNAVAILABLE,
    AppendAudit: Code.AUDIT_UNAVAILABLE,
}


def _sentence(verdict: Verdict) -> str:
    sentence = f"{verdict.message}: {verdict.hint}" if verdict.hint else verdict.message
    return sentence[: services.MAX_SENTENCE]


def _itself(answer: Answer) -> Answer:
    return answer


def _done(nothing: None) -> Answer:
    del nothing
    return Done()


def _found(record: StoredRecord | None) -> Answer:
    return Absent() if record is None else Found(record=record)
