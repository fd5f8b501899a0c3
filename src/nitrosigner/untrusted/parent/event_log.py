"""
The parent's own log: JSON lines on standard error, from closed lists.

An event is one of `Event` and carries only the fields of `Details`. There is no field
that could hold bytes which passed through, an exception's text, or credentials: what
cannot be said cannot leak.
"""

import json
import logging
import time
from collections.abc import Callable
from enum import StrEnum, unique
from typing import Final, TextIO, TypedDict, Unpack

BURST: Final = 20
"""Lines of one event in one `WINDOW`; the rest are counted, not written. A peer that
knocks a thousand times a second must not fill the disk nor stall us."""
WINDOW: Final = 10.0
"""Seconds."""


@unique
class Event(StrEnum):
    """Everything that the parent ever says of itself."""

    STARTED = "started"
    METRICS = "metrics"
    DRAINING = "draining"
    STOPPED = "stopped"
    CONFIGURATION_REFUSED = "configuration_refused"
    START_FAILED = "start_failed"
    RELAY_ENCLAVE_ABSENT = "relay_enclave_absent"
    RELAY_ENCLAVE_BACK = "relay_enclave_back"
    RELAY_FULL = "relay_full"
    RELAY_IDLE = "relay_idle"
    EGRESS_REFUSED = "egress_refused"
    EGRESS_FAILED = "egress_failed"
    SERVICES_OPENED = "services_opened"
    SERVICES_CLOSED = "services_closed"
    SERVICES_GARBAGE = "services_garbage"
    SERVICES_FULL = "services_full"
    SERVICES_STALLED = "services_stalled"
    SERVICE_FAILED = "service_failed"
    STRANGER = "stranger"
    CREDENTIALS_FAILED = "credentials_failed"
    CREDENTIALS_REFRESHED = "credentials_refreshed"
    AUDIT_REPAIRED = "audit_repaired"
    AUDIT_ROTATED = "audit_rotated"
    STORE_PERMISSIONS_MENDED = "store_permissions_mended"
    STATE_NOT_WRITTEN = "state_not_written"
    ENCLAVE_STATE = "enclave_state"
    WATCHDOG = "watchdog"
    WATCHDOG_RESTART = "watchdog_restart"
    WATCHDOG_UNSURE = "watchdog_unsure"
    LIBRARY = "library"
    FAULT = "fault"


class Details(TypedDict, total=False):
    """The fields that an event may have. None holds what a peer sent."""

    port: int
    count: int
    size: int
    code: str
    """A `verdicts.Code`."""
    message: str
    """A verdict's sentence: written by us, for a person."""
    hint: str
    state: str
    """A name of the enclave's boot states, as it reported it."""
    kind: str
    """A type's name, a request's tag, a library's name."""
    where: str
    """File and line of our own source."""
    seconds: float
    path: str


class EventLog:
    """Writes events; never blocks on one event's flood, never fails its caller."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._windows: dict[Event, tuple[float, int]] = {}

    def __call__(self, event: Event, **details: Unpack[Details]) -> None:
        """Write one line, or count it when there were too many."""
        now = self._clock()
        since, count = self._windows.get(event, (now, 0))
        line: dict[str, object] = {"time": round(time.time(), 3), "event": event}
        if now - since >= WINDOW:
            if count > BURST:
                line["suppressed"] = count - BURST
            since, count = now, 0
        self._windows[event] = (since, count + 1)
        if count >= BURST:
            return
        line.update(details)
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # Whoever read our standard error is gone. Signing goes on without.
            return


class LibraryRecords(logging.Handler):
    """Turns what libraries log into events without their text."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Say that a library warned, and which; its text may hold anything."""
        self._log(Event.LIBRARY, kind=record.name, state=record.levelname.lower())
