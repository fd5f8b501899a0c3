"""
Prometheus' text format, version 0.0.4, as far as the parent needs it.

Label values may come from the enclave's report. They are taken only if they are short
plain words: what else arrives is counted under `other`, so that a report can neither
forge a line nor grow the number of series without end.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "nitrosigner_"
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_OTHER: Final = "other"


class Page:
    """Metrics in the order in which they were added."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def text(self) -> str:
        """Return the whole page."""
        return "\n".join([*self._lines, ""])

    def gauge(self, name: str, explanation: str, value: float) -> None:
        """Add what goes up and down."""
        self._head(name, "gauge", explanation)
        self._line(name, "", value)

    def counter(self, name: str, explanation: str, value: float) -> None:
        """Add what only grows. *name* ends in `_total`."""
        self._head(name, "counter", explanation)
        self._line(name, "", value)

    def counters(
        self, name: str, explanation: str, label: str, values: Mapping[str, int]
    ) -> None:
        """Add a counter for each value of *label*."""
        self._head(name, "counter", explanation)
        sums: dict[str, int] = {}
        for word, value in values.items():
            safe = word if _WORD.match(word) else _OTHER
            sums[safe] = sums.get(safe, 0) + value
        for word, value in sorted(sums.items()):
            self._line(name, f'{{{label}="{word}"}}', value)

    def histogram(
        self,
        name: str,
        explanation: str,
        buckets: Sequence[float],
        counts: Sequence[int],
        seconds: float,
    ) -> None:
        """
        Add a histogram.

        Args:
            name: Ends in `_seconds`.
            explanation: For people.
            buckets: Upper bounds.
            counts: For each bucket and for what lies above, not cumulative.
            seconds: The sum of all values.
        """
        self._head(name, "histogram", explanation)
        self.series(name, "", buckets, counts, seconds)

    def histograms(
        self,
        name: str,
        explanation: str,
        label: str,
        buckets: Sequence[float],
        values: Mapping[str, tuple[Sequence[int], float]],
    ) -> None:
        """Add a histogram for each value of *label*; the values are our own words."""
        self._head(name, "histogram", explanation)
        for word, (counts, seconds) in sorted(values.items()):
            self.series(name, f'{label}="{word}"', buckets, counts, seconds)

    def series(
        self,
        name: str,
        labels: str,
        buckets: Sequence[float],
        counts: Sequence[int],
        seconds: float,
    ) -> None:
        """Add one histogram's lines."""
        total = 0
        comma = "," if labels else ""
        for index, bound in enumerate([*buckets, math.inf]):
            total += counts[index] if index < len(counts) else 0
            shown = "+Inf" if bound == math.inf else repr(float(bound))
            self._line(f"{name}_bucket", f'{{{labels}{comma}le="{shown}"}}', total)
        braces = f"{{{labels}}}" if labels else ""
        self._line(f"{name}_sum", braces, seconds)
        self._line(f"{name}_count", braces, total)

    def _head(
        self,
        name: str,
        kind: Literal["counter", "gauge", "histogram"],
        explanation: str,
    ) -> None:
        self._lines.append(f"# HELP {PREFIX}{name} {explanation}")
        self._lines.append(f"# TYPE {PREFIX}{name} {kind}")

    def _line(self, name: str, labels: str, value: float) -> None:
        self._lines.append(f"{PREFIX}{name}{labels} {_number(value)}")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
