"""
Counters in the text format that Prometheus reads (version 0.0.4).

Names and labels are ours, from closed lists; nothing that a caller chose is in them.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from nitrosigner.wire.validator_api import LATENCY_BUCKETS, Metrics

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "nitrosigner"


def exposition(metrics: Metrics) -> bytes:
    """Return *metrics* as Prometheus reads them."""
    return "\n".join((*_lines(metrics), "")).encode()


def _lines(metrics: Metrics) -> Iterator[str]:
    yield from _by_label(
        "duties_permitted_total", "Duties signed.", "kind", metrics.permitted
    )
    yield from _by_label(
        "duties_prevented_total", "Duties refused.", "reason", metrics.prevented
    )
    yield from _one(
        "duties_malformed_total", "Duties that were malformed.", metrics.malformed
    )
    yield from _by_label(
        "duties_undecided_total",
        "Duties that could not be decided.",
        "reason",
        metrics.undecided,
    )
    yield from _one(
        "duties_shed_total", "Duties turned away for lack of time.", metrics.shed
    )
    yield from _histogram(metrics)
    yield from _one(
        "duties_in_flight", "Duties under way.", metrics.in_flight, kind="gauge"
    )
    yield from _one(
        "validator_keys_loaded", "Keys in memory.", metrics.keys_loaded, kind="gauge"
    )
    yield from _one(
        "validator_keys_enabled", "Keys that sign.", metrics.keys_enabled, kind="gauge"
    )
    yield from _one(
        "watermark_age_seconds",
        "Since a watermark was last made durable; -1: not since boot.",
        metrics.watermark_age,
        kind="gauge",
    )
    yield from _one("kms_calls_total", "Calls to KMS.", metrics.kms_calls)


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {text}"
    yield f"# TYPE {PREFIX}_{name} {kind}"


def _one(name: str, text: str, value: float, *, kind: str = "counter") -> Iterator[str]:
    yield from _head(name, text, kind)
    yield f"{PREFIX}_{name} {value!r}"


def _by_label(
    name: str, text: str, label: str, values: Mapping[str, int]
) -> Iterator[str]:
    yield from _head(name, text, "counter")
    for key, value in sorted(values.items()):
        yield f'{PREFIX}_{name}{{{label}="{_label(key)}"}} {value}'


def _label(value: str) -> str:
    return "".join(c for c in value if c.isascii() and (c.isalnum() or c == "_"))


def _histogram(metrics: Metrics) -> Iterator[str]:
    name = "duty_seconds"
    yield from _head(name, "From the whole request to the signature.", "histogram")
    total = 0
    for bound, count in zip(
        (*LATENCY_BUCKETS, "+Inf"), metrics.latency.counts, strict=True
    ):
        total += count
        yield f'{PREFIX}_{name}_bucket{{le="{bound}"}} {total}'
    yield f"{PREFIX}_{name}_sum {metrics.latency.sum!r}"
    yield f"{PREFIX}_{name}_count {total}"
