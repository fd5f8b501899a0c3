"""What the watchdog is told, in one JSON file. It is read again on `reload`."""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from nitrosigner.untrusted.parent.enclave_program import ProgramEnclave
from nitrosigner.untrusted.parent.nitro_cli import NitroCliEnclave
from nitrosigner.verdicts import Code, Malformed

MAX_CONFIGURATION: Final = 64 * 1024

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Probe(_Part, frozen=True, kw_only=True):
    """How health is asked: through the relay, as callers come."""

    address: Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 443
    every_seconds: Seconds = 5.0
    answer_seconds: Seconds = 5.0
    silent_times: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    """So often without an answer, and the enclave is started again."""
    degraded_seconds: Seconds = 600.0
    """So long alive but not ready, and it is started again. Not soon: an absent store
    or KMS is not mended by a restart."""
    clock_seconds: Seconds = 90.0
    """So long not ready because of a clock that was right before, and it is started
    again. The enclave asks every 60 s; what a pause of the machine did is over then."""
    boot_seconds: Seconds = 120.0
    """Without an answer and without a report of its boot for so long after a start,
    and it is started again. A boot that waits for KMS reports, and is left to wait."""


class BackOff(_Part, frozen=True, kw_only=True):
    """Between restarts: doubled each time, and of that a random part is waited."""

    first_seconds: Seconds = 1.0
    last_seconds: Seconds = 60.0
    steady_seconds: Seconds = 300.0
    """Ready for so long, and past failures are forgotten."""


class WatchdogConfiguration(_Part, frozen=True, kw_only=True):
    """The whole file."""

    enclave: NitroCliEnclave | ProgramEnclave
    probe: Probe = Probe()
    back_off: BackOff = BackOff()
    control: Text = "/var/lib/nitrosigner/watchdog.sock"
    """Where commands are taken: status, start, stop, restart, reload."""
    status: Text = "/var/lib/nitrosigner/watchdog-status.json"
    parent_control: Text | None = None
    """The parent's control socket: it is told to let nobody in before an end."""
    parent_state: Text | None = None
    """The parent's `state.json`, where the boot's reports are."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 20.0
    """For answers under way, before the enclave is ended."""


def read(path: Path) -> WatchdogConfiguration:
    """
    Read the file.

    Raises:
        Malformed: Says what is wrong with it, and where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIGURATION + 1)
    except OSError as error:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"the configuration {path} cannot be read: {error.strerror}",
            "name it with: --config FILE",
        ) from error
    if len(data) > MAX_CONFIGURATION:
        raise Malformed(
            Code.TOO_LARGE, f"a configuration has at most {MAX_CONFIGURATION} bytes"
        )
    try:
        return msgspec.json.decode(data, type=WatchdogConfiguration)
    except ValueError as error:
        raise Malformed(Code.MALFORMED_REQUEST, f"configuration: {error}") from error
