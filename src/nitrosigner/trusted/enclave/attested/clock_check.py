"""
Whether the wall clock is right, by clocks that the parent cannot touch.

Nothing in an enclave keeps the kernel's clock right after init has set it. The
hypervisor writes its own time into each attestation document; AWS writes one into each
answer, inside TLS. They are compared with the kernel's clock, and between readings the
monotonic clock carries them on, so that a jump shows at once.

What is dated in here (records, deletions, certificates) is dated by the hypervisor, and
not at all while AWS contradicts it. No duty and no transaction depends on any of them.
"""

import asyncio
import datetime as dt
from dataclasses import dataclass
from typing import Final

import cbor2

from nitrosigner.trusted.enclave.ports import Clock, Nsm
from nitrosigner.verdicts import Code, Undecided

TOLERANCE: Final = 30.0
"""Seconds that two clocks may be apart. An answer of AWS may have taken ten to arrive
and names whole seconds; a document is made in milliseconds; AWS itself takes requests
that are dated wrong by five minutes."""
LOOK_EVERY: Final = 60.0
"""Seconds between questions to the hypervisor."""
READING_KEPT: Final = 3600.0
"""Seconds without an answer of the hypervisor after which nobody knows any more."""
AWS_KEPT: Final = 24 * 3600.0
"""Seconds for which AWS's time is carried on. A clock drifts a few seconds in a day."""
_DATE: Final = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110, section 5.6.7."""
_EARLIEST: Final = 1_700_000_000.0
"""Unix seconds (November 2023): before that, the hypervisor's clock is not set."""


class NoTime(Exception):
    """The hypervisor does not say what time it is."""


def hypervisor_time(nsm: Nsm) -> float:
    """
    Return Unix seconds, as the hypervisor has them. Blocks.

    The document comes from the device, so it is read without verification.

    Raises:
        NoTime: It gave no document, or one without a believable time.
        Undecided: The device did not answer.
    """
    document = nsm.attest()
    try:
        _, _, payload, _ = cbor2.loads(document)
        timestamp = cbor2.loads(payload)["timestamp"]
    except (cbor2.CBORError, ValueError, TypeError, KeyError):
        raise NoTime from None
    if not isinstance(timestamp, int) or timestamp / 1000 < _EARLIEST:
        raise NoTime
    return timestamp / 1000


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a clock said when the monotonic clock stood at *at*."""

    said: float
    at: float

    def now(self, monotonic: float) -> float:
        return self.said + monotonic - self.at


class ClockCheck:
    """The port `Clock` for what is dated, and the judge of the kernel's clock."""

    def __init__(self, nsm: Nsm, clock: Clock) -> None:
        """Judge *clock*. Knows nothing before the first `look`."""
        self._nsm = nsm
        self._clock = clock
        self._hypervisor: _Reading | None = None
        self._aws: _Reading | None = None

    async def look(self) -> None:
        """
        Ask the hypervisor.

        Raises:
            Undecided: It did not answer, or gave no time. What was known stays.
        """
        try:
            # In a thread: a device that hangs must not hang the signatures with it.
            said = await asyncio.to_thread(hypervisor_time, self._nsm)
        except NoTime:
            raise Undecided(
                Code.NSM_UNAVAILABLE,
                "the Nitro Security Module's documents hold no time",
                "start the enclave again; if that does not help, on another instance",
            ) from None
        at = self._clock.monotonic()
        held = self._hypervisor
        if held is not None and abs(held.now(at) - said) > TOLERANCE:
            # The monotonic clock stood still meanwhile (a paused machine), or the
            # hypervisor's was set. How old AWS's word is cannot be told any more.
            self._aws = None
        self._hypervisor = _Reading(said, at)

    def heard(self, date: str) -> None:
        """Take the `Date` of an answer that AWS gave just now, over TLS."""
        try:
            said = dt.datetime.strptime(date, _DATE).replace(tzinfo=dt.UTC)
        except ValueError:
            return  # as good as none
        self._aws = _Reading(said.timestamp() + 0.5, self._clock.monotonic())

    def now(self) -> float:
        """
        Return Unix seconds, as the hypervisor has them.

        Raises:
            Undecided: AWS has another time, or the hypervisor has said none.
        """
        monotonic = self._clock.monotonic()
        if self._hypervisor is None or self._contradicted(monotonic):
            raise _unsound("nobody knows for certain what time it is")
        return self._hypervisor.now(monotonic)

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return self._clock.monotonic()

    @property
    def offset(self) -> float:
        """Seconds by which the kernel's clock is ahead of the hypervisor's."""
        if self._hypervisor is None:
            return 0.0
        return self._clock.now() - self._hypervisor.now(self._clock.monotonic())

    @property
    def objection(self) -> Undecided | None:
        """What is wrong with the clocks; None: they agree."""
        monotonic = self._clock.monotonic()
        held = self._hypervisor
        if held is None or monotonic - held.at > READING_KEPT:
            return _unsound("the hypervisor has not said for long what time it is")
        if self._contradicted(monotonic):
            return _unsound("the hypervisor's clock is not AWS's")
        if abs(self.offset) > TOLERANCE:
            return _unsound(f"the clock is {self.offset:+.0f} s off the hypervisor's")
        return None

    def _contradicted(self, monotonic: float) -> bool:
        aws, held = self._aws, self._hypervisor
        if aws is None or held is None or monotonic - aws.at > AWS_KEPT:
            return False
        return abs(aws.now(monotonic) - held.now(monotonic)) > TOLERANCE


def _unsound(sentence: str) -> Undecided:
    return Undecided(
        Code.CLOCK_UNSOUND,
        sentence,
        "start the enclave again, which sets its clock; if that does not help, "
        "on another instance",
    )
