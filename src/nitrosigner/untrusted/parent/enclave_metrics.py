"""The enclave's counters, as it last reported them. A report, never an input."""

import time
from collections.abc import Callable

from nitrosigner.wire.validator_api import Metrics


class EnclaveMetrics:
    """The enclave's last report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reported = 0.0
        self.latest: Metrics | None = None

    def keep(self, metrics: Metrics) -> None:
        """Keep a report in place of the one before."""
        self.latest = metrics
        self._reported = self._clock()

    @property
    def age(self) -> float:
        """Seconds since the last report."""
        return self._clock() - self._reported
