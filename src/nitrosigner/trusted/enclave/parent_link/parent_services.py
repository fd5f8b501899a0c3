"""
What we ask of the parent: records, watermarks, credentials, audit, a place to report.

Nothing that comes back is believed. An answer that does not fit its request closes the
connection, and the request is undecided: it may or may not have been carried out.
"""

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Final

from nitrosigner.trusted.enclave.parent_link.dialing import dial
from nitrosigner.trusted.enclave.parent_link.parent_connection import (
    NoAnswer,
    ParentConnection,
    open_connection,
)
from nitrosigner.trusted.enclave.ports import Clock, Vsock
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire import services
from nitrosigner.wire.addresses import SERVICES_PORT
from nitrosigner.wire.validator_api import Metrics

RECORD_DEADLINE: Final = 10.0
WATERMARKS_DEADLINE: Final = 4.0
CREDENTIALS_DEADLINE: Final = 15.0
AUDIT_DEADLINE: Final = 5.0
STATE_DEADLINE: Final = 2.0
"""Seconds for one request of each kind, connecting included."""
_READS: Final = "reads"
_WRITES: Final = "writes"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
"""Seconds between attempts to connect: doubled from the first to the longest."""
_AUDIT_CHUNK: Final = 256 * 1024
"""Bytes of events in one request."""
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,8192}")
"""Credentials become HTTP headers: no spaces, no line breaks."""


class StoreConflict(Refused):
    """The stored version was not the expected one; nothing was written."""

    def __init__(self, version: int) -> None:
        super().__init__(
            Code.VERSION_CONFLICT,
            "the record was changed by somebody else",
            "read it again and repeat the change with its current version",
        )
        self.version = version


class ParentServices:
    """A client on one long-lived vsock connection. Everything may raise Undecided."""

    def __init__(self, vsock: Vsock, clock: Clock) -> None:
        self._vsock = vsock
        self._clock = clock
        self._connection: ParentConnection | None = None
        self._connecting = asyncio.Lock()
        self._pause = 0.0
        self._not_before = 0.0
        self._closed = False
        self.healthy = False
        """Whether the last use of the record store went well."""
        self._watermarks_fail = {_READS}
        """Which uses of the watermark store went wrong the last time."""

    # --- records ---

    async def get(self, collection: str, name: str) -> services.StoredRecord | None:
        """Return a record as it lies in the store, or None."""
        answer = await self._record(services.GetRecord(collection, name))
        match answer:
            case services.Absent():
                return None
            case services.Found(record) if record.name == name and _sane(record):
                return record
            case _:
                raise self._nonsense()

    async def page(
        self, collection: str, after: str = "", limit: int = services.MAX_PAGE
    ) -> services.Page:
        """Return the records after *after*, in name order."""
        answer = await self._record(services.ListRecords(collection, after, limit))
        if not isinstance(answer, services.Page) or len(answer.records) > limit:
            raise self._nonsense()
        last = after
        for record in answer.records:
            # Strictly ascending: a page cannot repeat a record or lead us in circles.
            if record.name <= last or not _sane(record):
                raise self._nonsense()
            last = record.name
        if answer.more and not answer.records:
            raise self._nonsense()
        return answer

    async def put(self, collection: str, name: str, expected: int, data: bytes) -> int:
        """
        Write if the stored version is *expected*; durable when it returns the new one.

        Raises:
            StoreConflict: Nothing was written.
            Undecided: It may or may not have been written.
        """
        answer = await self._record(
            services.PutRecord(collection, name, expected, data)
        )
        match answer:
            case services.Stored(version) if version == expected + 1:
                return version
            case services.Conflict(version) if version != expected and version >= 0:
                raise StoreConflict(version)
            case _:
                raise self._nonsense()

    async def remove(self, collection: str, name: str, expected: int) -> None:
        """Remove for good if the stored version is *expected*. Raises as `put`."""
        answer = await self._record(services.RemoveRecord(collection, name, expected))
        match answer:
            case services.Stored(0):
                return
            case services.Conflict(version) if version != expected and version >= 0:
                raise StoreConflict(version)
            case _:
                raise self._nonsense()

    # --- watermarks ---

    @property
    def watermarks_healthy(self) -> bool:
        """Whether the last reading and the last writing both went well."""
        return not self._watermarks_fail

    async def probe_watermark_writes(self) -> None:
        """
        If writing went wrong the last time, see whether it goes well again.

        A store that can be read and not written signs nothing, and whoever is not ready
        is asked for nothing: somebody has to try. Nothing comes of it: there is no such
        validator, and no such version.

        Raises:
            Undecided: It does not.
        """
        if _WRITES in self._watermarks_fail:
            nobody = bytes(services.PUBLIC_KEY_SIZE)
            await self.advance_watermarks(
                [services.WatermarkChange(nobody, services.MAX_VERSION - 1, b"\0")]
            )

    async def read_watermarks(
        self, public_keys: Sequence[bytes]
    ) -> dict[bytes, services.StoredWatermark]:
        """Return what lies in the store for them; at most MAX_WATERMARKS at once."""
        asked = services.ReadWatermarks(list(public_keys))
        answer = await self._watermark(asked, _READS)
        if not isinstance(answer, services.Watermarks):
            raise self._nonsense()
        found = {item.public_key: item for item in answer.items}
        # Each at most once, and nothing that was not asked for.
        if len(found) != len(answer.items) or found.keys() - set(public_keys):
            raise self._nonsense()
        self._watermarks_fail.discard(_READS)
        return found

    async def page_of_watermarks(
        self, after: bytes | None, limit: int = services.MAX_WATERMARKS
    ) -> services.WatermarkPage:
        """Return watermarks after that of *after*, in the store's own order."""
        answer = await self._watermark(
            services.ListWatermarks(after, limit), _READS, RECORD_DEADLINE
        )
        if not isinstance(answer, services.WatermarkPage) or not (
            len(answer.items) <= limit and (answer.items or not answer.more)
        ):
            raise self._nonsense()
        self._watermarks_fail.discard(_READS)
        return answer

    async def advance_watermarks(
        self, changes: Sequence[services.WatermarkChange]
    ) -> list[bool]:
        """
        Make each change whose condition holds, at most MAX_WATERMARKS; say for each.

        Raises:
            Undecided: Each may have been made, or be made yet, or not.
        """
        asked = services.AdvanceWatermarks(list(changes))
        answer = await self._watermark(asked, _WRITES)
        if not isinstance(answer, services.Advanced) or len(answer.written) != len(
            changes
        ):
            self._watermarks_fail.add(_WRITES)
            raise self._nonsense()
        self._watermarks_fail.discard(_WRITES)
        return answer.written

    # --- the rest ---

    async def credentials(self) -> services.Credentials:
        """Return the instance role's credentials, fit to stand in HTTP headers."""
        code = Code.CREDENTIALS_UNAVAILABLE
        given = await self._ask(services.GetCredentials(), CREDENTIALS_DEADLINE, code)
        if not isinstance(given, services.Credentials) or not (
            _VISIBLE.fullmatch(given.access_key_id)
            and _VISIBLE.fullmatch(given.secret_access_key)
            and (not given.session_token or _VISIBLE.fullmatch(given.session_token))
        ):
            raise self._nonsense(code)
        return given

    async def append_audit(self, events: list[bytes]) -> None:
        """Append JSON lines, in order; durable when it returns."""
        chunk: list[bytes] = []
        size = 0
        for event in events:
            if chunk and (
                size + len(event) > _AUDIT_CHUNK
                or len(chunk) == services.MAX_AUDIT_BATCH
            ):
                await self._append(chunk)
                chunk, size = [], 0
            chunk.append(event)
            size += len(event)
        if chunk:
            await self._append(chunk)

    async def report_state(
        self, state: str, code: str = "", message: str = "", hint: str = ""
    ) -> None:
        """Tell whoever runs the parent where the boot stands."""
        await self._done(
            services.ReportState(state, code, message, hint),
            STATE_DEADLINE,
            Code.STORAGE_UNAVAILABLE,
        )

    async def report_metrics(self, metrics: Metrics) -> None:
        """Tell the parent the counters, for whoever watches."""
        await self._done(
            services.ReportMetrics(metrics), STATE_DEADLINE, Code.STORAGE_UNAVAILABLE
        )

    def close(self) -> None:
        """Close for good; what is under way or comes later is undecided."""
        self._closed = True
        self._drop()

    # --- how ---

    async def _append(self, events: list[bytes]) -> None:
        await self._done(
            services.AppendAudit(events), AUDIT_DEADLINE, Code.AUDIT_UNAVAILABLE
        )

    async def _done(
        self, request: services.Request, deadline: float, code: Code
    ) -> None:
        answer = await self._ask(request, deadline, code)
        if not isinstance(answer, services.Done):
            raise self._nonsense(code)

    async def _record(self, request: services.Request) -> services.Answer:
        try:
            answer = await self._ask(request, RECORD_DEADLINE, Code.STORAGE_UNAVAILABLE)
        except Undecided:
            self.healthy = False
            raise
        self.healthy = True
        return answer

    async def _watermark(
        self,
        request: services.Request,
        use: str,
        deadline: float = WATERMARKS_DEADLINE,
    ) -> services.Answer:
        try:
            return await self._ask(request, deadline, Code.STORAGE_UNAVAILABLE)
        except Undecided:
            self._watermarks_fail.add(use)
            raise

    async def _ask(
        self, request: services.Request, deadline: float, code: Code
    ) -> services.Answer:
        try:
            async with asyncio.timeout(deadline):
                answer = await (await self._connected()).ask(request)
        except (NoAnswer, OSError, TimeoutError) as error:
            raise Undecided(
                code,
                "the parent did not answer",
                "is the parent process running, and its services port open?",
            ) from error
        if isinstance(answer, services.Failed):
            # Its sentence is the parent's word and stays there: its log has it.
            raise Undecided(
                code, "the parent could not do it", "the parent's log says why"
            )
        return answer

    async def _connected(self) -> ParentConnection:
        held = self._connection
        if held is not None and not held.closed:
            return held
        async with self._connecting:
            held = self._connection
            if held is not None and not held.closed:
                return held
            if self._closed:
                raise NoAnswer
            now = self._clock.monotonic()
            if now < self._not_before:
                raise NoAnswer
            # Counted down before the attempt, so that it also counts if we are
            # cancelled in the middle of it.
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._not_before = now + self._pause * (0.5 + random.random() / 2)
            connected = await dial(self._vsock, SERVICES_PORT)
            self._connection = await open_connection(connected)
            self._pause = 0.0
            self._not_before = 0.0
            return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _nonsense(self, code: Code = Code.STORAGE_UNAVAILABLE) -> Undecided:
        self._drop()
        if code is Code.STORAGE_UNAVAILABLE:
            self.healthy = False
            self._watermarks_fail.add(_READS)
        return Undecided(
            code,
            "the parent answered something that does not fit",
            "parent and enclave must be of one release; else its store is damaged",
        )


def _sane(record: services.StoredRecord) -> bool:
    return (
        record.version >= 1
        and 1 <= len(record.name) <= services.MAX_NAME
        and len(record.data) <= services.MAX_RECORD
    )
