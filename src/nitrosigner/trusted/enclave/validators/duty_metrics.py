"""
What became of duties, in numbers. Keys, clients and messages never stand in it.
"""

import re
from bisect import bisect_left
from collections import Counter
from typing import Final

from nitrosigner.trusted.signing.slashing import Slashable
from nitrosigner.verdicts import Malformed, Refused, Verdict
from nitrosigner.wire import validator_api
from nitrosigner.wire.validator_api import LATENCY_BUCKETS

_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")


class DutyMetrics:
    """Counters since boot."""

    def __init__(self) -> None:
        self._permitted: Counter[str] = Counter()
        self._prevented: Counter[str] = Counter()
        self._undecided: Counter[str] = Counter()
        self._malformed = 0
        self._latency = [0] * (len(LATENCY_BUCKETS) + 1)
        self._seconds = 0.0
        self._advanced: float | None = None

    def signed(self, kind: str, seconds: float, count: int = 1) -> None:
        """Count signatures that leave, *seconds* after their request was whole."""
        self._permitted[kind] += count
        self._latency[bisect_left(LATENCY_BUCKETS, seconds)] += count
        self._seconds += seconds * count

    def said(self, verdict: Verdict, count: int = 1) -> None:
        """Count duties that *verdict* was spoken over."""
        match verdict:
            case Slashable():
                rule = _CAPITAL.sub("_", type(verdict).__name__).lower()
                self._prevented[rule] += count
            case Refused():
                self._prevented[verdict.code.value] += count
            case Malformed():
                self._malformed += count
            case _:
                self._undecided[verdict.code.value] += count

    def advanced(self, now: float) -> None:
        """Note that a watermark was durable at *now*, on the monotonic clock."""
        self._advanced = now

    def snapshot(
        self,
        *,
        now: float,
        shed: int,
        in_flight: int,
        keys_loaded: int,
        keys_enabled: int,
        kms_calls: int,
        certificate_not_after: int,
        clock_offset: float,
    ) -> validator_api.Metrics:
        """Return everything as it stands at *now*, on the monotonic clock."""
        return validator_api.Metrics(
            permitted=dict(self._permitted),
            prevented=dict(self._prevented),
            malformed=self._malformed,
            undecided=dict(self._undecided),
            shed=shed,
            latency=validator_api.Histogram(
                counts=list(self._latency), sum=self._seconds
            ),
            in_flight=in_flight,
            keys_loaded=keys_loaded,
            keys_enabled=keys_enabled,
            watermark_age=-1.0 if self._advanced is None else now - self._advanced,
            kms_calls=kms_calls,
            certificate_not_after=certificate_not_after,
            clock_offset=clock_offset,
        )
