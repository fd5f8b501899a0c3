"""
Judges one enclave's answers, from its start to its end. Time is an argument.

It must not be restarted because something else is down: a boot that waits for KMS and
says so, an enclave whose store is away, or one whose parent takes no connections, would
only lose time. What says nothing at all, or has ended, is started again.
"""

from enum import StrEnum, unique
from typing import Final, final

from nitrosigner.untrusted.parent.enclave_health import Health
from nitrosigner.untrusted.parent.watchdog_configuration import Probe

_CERTIFICATE: Final = "certificate"
_CLOCK: Final = "clock"
_SIGNING: Final = "signing"


@unique
class Phase(StrEnum):
    """Where things stand."""

    STOPPED = "stopped"
    STARTING = "starting"
    BOOTING = "booting"
    SERVING = "serving"
    DEGRADED = "degraded"
    """It answers, and says that it is not ready."""
    SILENT = "silent"
    """It has missed an answer, not yet too many."""
    NO_RELAY = "no_relay"
    """The parent's relay is not there; nobody can ask the enclave."""
    DRAINING = "draining"
    BACKING_OFF = "backing_off"


@unique
class Reason(StrEnum):
    """Why the enclave was started again. Closed list."""

    NONE = ""
    START_FAILED = "start_failed"
    ENDED = "ended"
    NO_BOOT = "no_boot"
    SILENT = "silent"
    DEGRADED = "degraded"
    CERTIFICATE = "certificate"
    """It will end soon; a restart makes a new one."""
    CLOCK = "clock"
    """It went wrong while the enclave ran; a start sets it."""
    SIGNING = "signing"
    """It has lost the processes that sign; only a start brings them back."""
    ASKED = "asked"


class Restart(Exception):
    """The enclave has to be started again. The text is a sentence for the log."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Say why."""
        super().__init__(message)
        self.reason: Final = reason
        self.message: Final = message

    @property
    def planned(self) -> bool:
        """It works; callers should not notice."""
        return self.reason in {Reason.ASKED, Reason.CERTIFICATE, Reason.CLOCK}


@final
class Vigil:
    """One enclave's."""

    def __init__(self, told: Probe, began: float) -> None:
        """Begin at *began*, on the same clock as all that follow."""
        self._told = told
        self._heard = began
        self._answered = False
        self._was_ready = False
        self._silent = 0
        self._unready_since: float | None = None
        self._ready_since: float | None = None

    def ready_for(self, now: float) -> float:
        """Return for how many seconds it has been ready without a break."""
        return 0.0 if self._ready_since is None else now - self._ready_since

    def judge(self, now: float, health: Health, *, reports: bool) -> Phase:
        """
        Take one answer, or silence.

        Args:
            now: Seconds, monotonic.
            health: What was answered.
            reports: The enclave reported of its boot to the parent lately.

        Raises:
            Restart: It has to be started again.
        """
        if not health.listening and self._answered:
            # The parent's to mend, whoever keeps that; our clock does not run.
            self._silent, self._ready_since = 0, None
            return Phase.NO_RELAY
        if not health.reached:
            return self._silence(now, reports=reports)
        self._answered, self._silent = True, 0
        if not health.ready:
            self._ready_since = None
            if not health.checks.get(_SIGNING, True):
                raise Restart(Reason.SIGNING, "its signing processes have ended")
            if self._unready_since is None:
                self._unready_since = now
            unready = now - self._unready_since
            # Only one that went wrong under way: a start that did not set the clock
            # will not do so the next time either.
            if (
                self._was_ready
                and unready > self._told.clock_seconds
                and not health.checks.get(_CLOCK, True)
            ):
                raise Restart(Reason.CLOCK, "its clock is wrong, and a start sets it")
            if unready > self._told.degraded_seconds:
                raise Restart(Reason.DEGRADED, "it was not ready for too long")
            return Phase.DEGRADED
        self._unready_since = None
        self._was_ready = True
        if self._ready_since is None:
            self._ready_since = now
        if not health.checks.get(_CERTIFICATE, True):
            raise Restart(Reason.CERTIFICATE, "its certificate ends soon")
        return Phase.SERVING

    def _silence(self, now: float, *, reports: bool) -> Phase:
        self._ready_since = None
        if self._answered:
            self._silent += 1
            if self._silent >= self._told.silent_times:
                raise Restart(Reason.SILENT, f"{self._silent} times without an answer")
            return Phase.SILENT
        if reports:
            self._heard = now
        if now - self._heard > self._told.boot_seconds:
            raise Restart(Reason.NO_BOOT, "no answer, and no report of its boot")
        return Phase.BOOTING
