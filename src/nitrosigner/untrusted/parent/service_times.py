"""How often the enclave asked its parent for what, how that ended, how long it took."""

from bisect import bisect_left
from collections import Counter
from typing import Final

from nitrosigner.wire.validator_api import LATENCY_BUCKETS


class ServiceTimes:
    """Counters since the parent started."""

    def __init__(self) -> None:
        self.requests: Final[Counter[str]] = Counter()
        self.failures: Final[Counter[str]] = Counter()
        self._counts: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def took(self, kind: str, seconds: float) -> None:
        """Count one answered request. *kind* is a request type's name."""
        self.requests[kind] += 1
        counts = self._counts.setdefault(kind, [0] * (len(LATENCY_BUCKETS) + 1))
        counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self._seconds[kind] += seconds  # type: ignore[assignment] # Counter sums floats

    def failed(self, code: str) -> None:
        """Count one that was answered with `Failed`."""
        self.failures[code] += 1

    @property
    def histograms(self) -> dict[str, tuple[list[int], float]]:
        """Counts by bucket and the sum of seconds, by kind."""
        return {
            kind: (counts, float(self._seconds[kind]))
            for kind, counts in self._counts.items()
        }
