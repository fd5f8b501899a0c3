"""
What whoever runs the parent may know: `state.json`, replaced whole, never half-written.

It says how far the enclave's boot has come, in the enclave's own words, and how much
has passed. `nitrosigner doctor` reads it when nothing answers on the network. It is a
report, never an input.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.untrusted.parent.egress_proxy import EgressCounts
from nitrosigner.untrusted.parent.enclave_metrics import EnclaveMetrics
from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.untrusted.parent.services import ServicesCounts
from nitrosigner.untrusted.parent.tcp_relay import RelayCounts
from nitrosigner.wire.services import ReportState
from nitrosigner.wire.validator_api import Metrics

INTERVAL: Final = 2.0
"""Seconds between writes while only counters change."""


class EnclaveState(msgspec.Struct, frozen=True):
    """What the enclave last reported. `state` is empty until it has."""

    state: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""
    reported: float = 0
    """Unix seconds, by the parent's clock."""
    connections: int = 0
    """That the enclave holds to the parent's services; 0: it is not there."""


class ParentState(msgspec.Struct, frozen=True):
    """The whole of `state.json`."""

    pid: int
    started: float
    written: float
    address: str
    port: int
    stopping: bool
    enclave: EnclaveState
    relay: RelayCounts | None = None
    egress: EgressCounts | None = None
    services: ServicesCounts | None = None


def read(path: Path) -> ParentState:
    """
    Read what a parent wrote.

    Raises:
        OSError: There is no such file.
        ValueError: It is no state of this version.
    """
    return msgspec.json.decode(path.read_bytes(), type=ParentState)


class StateFile:
    """Keeps the state and writes it: at once when the enclave reports, else seldom."""

    def __init__(
        self,
        path: Path,
        log: EventLog,
        clock: Callable[[], float] = time.time,
        interval: float = INTERVAL,
    ) -> None:
        self._path = path
        self._log = log
        self._clock = clock
        self._interval = interval
        self._started = clock()
        self._enclave = EnclaveState()
        self._address = ""
        self._port = 0
        self._stopping = False
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._sources: (
            tuple[
                Callable[[], RelayCounts],
                Callable[[], EgressCounts],
                Callable[[], ServicesCounts],
            ]
            | None
        ) = None
        self._written = b""
        self.enclave_metrics: Final = EnclaveMetrics()

    def report(self, report: ReportState) -> None:
        """Keep what the enclave says of its boot."""
        if report.state != self._enclave.state or report.code != self._enclave.code:
            self._log(Event.ENCLAVE_STATE, state=report.state, code=report.code)
        self._enclave = msgspec.structs.replace(
            self._enclave,
            state=report.state,
            code=report.code,
            message=report.message,
            hint=report.hint,
            reported=self._clock(),
        )
        self._changed.set()

    def metrics(self, metrics: Metrics) -> None:
        """Keep the enclave's counters. They are not written to the file."""
        self.enclave_metrics.keep(metrics)

    def enclave_connected(self, connections: int) -> None:
        """Keep how many connections the enclave holds."""
        self._enclave = msgspec.structs.replace(self._enclave, connections=connections)
        self._changed.set()

    def listening(
        self,
        address: str,
        port: int,
        relay: Callable[[], RelayCounts],
        egress: Callable[[], EgressCounts],
        services: Callable[[], ServicesCounts],
    ) -> None:
        """Keep where callers are let in, and where the counters are."""
        self._address, self._port = address, port
        self._sources = (relay, egress, services)
        self._changed.set()

    def stopping(self) -> None:
        """Keep that the parent is about to end."""
        self._stopping = True
        self._changed.set()

    def current(self) -> ParentState:
        """Return the state as it is now; `written` is left at 0."""
        sources = self._sources
        return ParentState(
            pid=os.getpid(),
            started=self._started,
            written=0,
            address=self._address,
            port=self._port,
            stopping=self._stopping,
            enclave=self._enclave,
            relay=sources[0]() if sources else None,
            egress=sources[1]() if sources else None,
            services=sources[2]() if sources else None,
        )

    async def keep(self) -> None:
        """Write whatever changes, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._changed.wait()
            self._changed.clear()
            await self.write()

    async def write(self) -> None:
        """Write the state if it changed. Failing is said in the log, and no more."""
        # Whoever cancels us does not end the thread that writes: the next one to write
        # must wait for it, or both rename one file.
        await asyncio.shield(asyncio.create_task(self._write()))

    async def _write(self) -> None:
        async with self._writing:
            await self._write_changes()

    async def _write_changes(self) -> None:
        state = self.current()
        image = msgspec.json.encode(state)
        if image == self._written:
            return
        stamped = msgspec.structs.replace(state, written=self._clock())
        try:
            await asyncio.to_thread(self._replace, msgspec.json.encode(stamped))
        except OSError:
            self._log(Event.STATE_NOT_WRITTEN, path=str(self._path))
        else:
            self._written = image

    def _replace(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        # Not synced: it tells of processes that a power cut ends too.
        fresh.write_bytes(data + b"\n")
        fresh.replace(self._path)
