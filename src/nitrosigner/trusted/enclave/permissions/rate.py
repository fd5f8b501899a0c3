"""
A rate that callers share: some at once, then so many a second.

Strangers have a rate of their own, smaller than that of clients, so that they cannot
use up what clients need.
"""

from typing import Final

from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.verdicts import Code, Undecided

STRANGERS_AT_ONCE: Final = 20
STRANGERS_PER_SECOND: Final = 10.0
CLIENTS_AT_ONCE: Final = 100
CLIENTS_PER_SECOND: Final = 50.0


class _Bucket:
    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: int, per_second: float, now: float) -> None:
        self._most, self._per_second = float(most), per_second
        self._left, self._at = float(most), now

    def take(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SharedRate:
    """Two buckets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._strangers = _Bucket(STRANGERS_AT_ONCE, STRANGERS_PER_SECOND, now)
        self._clients = _Bucket(CLIENTS_AT_ONCE, CLIENTS_PER_SECOND, now)

    def take(self, *, known: bool) -> None:
        """
        Take one.

        Raises:
            Undecided: There is none left for now (OVERLOADED).
        """
        bucket = self._clients if known else self._strangers
        if not bucket.take(self._clock.monotonic()):
            raise Undecided(
                Code.OVERLOADED,
                "this is asked for too often",
                "ask again in a second, or with a credential",
            )
