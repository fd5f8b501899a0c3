"""
How much may be under way at once: overload is said before it makes anything late.

A duty that is answered late earns nothing, and one that waits takes from those behind
it. So a bounded number is let in, everything beyond hears 503 at once, and whoever has
waited too long when its turn comes is not signed for.
"""

from typing import Final

from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.verdicts import Code, Undecided

MAX_IN_FLIGHT: Final = 20_000
"""Signatures under way, each key of a batch one. Two cores make some 2,500 a second of
distinct roots and twice as many of one root: about what fits into `DEADLINE`."""
DEADLINE: Final = 4.0
"""Seconds, from the whole request to the signing. A third of a slot: later, the vote
or block is late."""


class DutyLoad:
    """Counts what is under way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.in_flight = 0
        self.shed = 0
        """Duties turned away since boot."""

    def enter(self, count: int) -> float:
        """
        Let *count* signatures in; return when they came, for `demand_in_time`.

        Whoever got in calls `leave` with the same count, once.

        Raises:
            Undecided: There is no room for all of them (OVERLOADED).
        """
        if self.in_flight + count > MAX_IN_FLIGHT:
            self.shed += count
            raise Undecided(
                Code.OVERLOADED,
                "too many duties are under way",
                "ask again, or another signer; send fewer duties at once",
            )
        self.in_flight += count
        return self._clock.monotonic()

    def leave(self, count: int) -> None:
        """Make room again."""
        self.in_flight -= count

    def demand_in_time(self, entered: float, count: int = 1) -> float:
        """
        Make sure that duties that came at *entered* are still worth signing.

        Returns:
            What time it is, on the monotonic clock.

        Raises:
            Undecided: They waited too long (OVERLOADED).
        """
        now = self._clock.monotonic()
        if now - entered > DEADLINE:
            self.shed += count
            raise Undecided(
                Code.OVERLOADED,
                f"the duty waited longer than {DEADLINE:g} seconds",
                "ask again; the same message is signed again without harm",
            )
        return now

    def seconds_since(self, entered: float) -> float:
        """Return how long ago *entered* was."""
        return self._clock.monotonic() - entered
