"""The log says little, in one form, and neither floods nor fails its caller."""

import io
import json
import logging

from nitrosigner.untrusted.parent.event_log import (
    BURST,
    WINDOW,
    Event,
    EventLog,
    LibraryRecords,
)


def test_an_event_is_a_line_of_json() -> None:
    stream = io.StringIO()
    EventLog(stream)(Event.STARTED, port=443)
    line = json.loads(stream.getvalue())
    assert line.pop("time") > 0
    assert line == {"event": "started", "port": 443}


def test_a_flood_is_counted_not_written() -> None:
    stream, now = io.StringIO(), [0.0]
    log = EventLog(stream, lambda: now[0])
    for _ in range(1000):
        log(Event.RELAY_FULL)
    assert len(stream.getvalue().splitlines()) == BURST
    log(Event.STARTED)  # another event is not held back by it
    now[0] += WINDOW
    log(Event.RELAY_FULL)
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert last["suppressed"] == 1000 - BURST


def test_a_reader_that_is_gone_does_not_stop_us() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    EventLog(Broken())(Event.STARTED)
    closed = io.StringIO()
    closed.close()
    EventLog(closed)(Event.STARTED)


def test_what_libraries_say_is_not_repeated() -> None:
    stream = io.StringIO()
    handler = LibraryRecords(EventLog(stream))
    record = logging.LogRecord(
        "botocore.utils", logging.WARNING, "f", 1, "token CANARY", (), None
    )
    handler.handle(record)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["kind"], line["state"]) == (
        "library",
        "botocore.utils",
        "warning",
    )
    assert "CANARY" not in stream.getvalue()
