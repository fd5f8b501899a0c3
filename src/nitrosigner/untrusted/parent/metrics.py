"""
What Prometheus is told: the enclave's own counters, and the parent's.

Counts and durations. No name of a key, a client or a message is in either, and nothing
in here is an input to anything. While no enclave is connected its part is left out, so
that an alert on its absence fires instead of old numbers standing still.
"""

from typing import Final

from nitrosigner.untrusted.parent.enclave_metrics import EnclaveMetrics
from nitrosigner.untrusted.parent.prometheus_text import Page
from nitrosigner.untrusted.parent.service_times import ServiceTimes
from nitrosigner.untrusted.parent.state import ParentState
from nitrosigner.wire.validator_api import LATENCY_BUCKETS, Metrics

READY: Final = "ready"
"""The boot state in which an enclave signs."""


def page(state: ParentState, enclave: EnclaveMetrics, times: ServiceTimes) -> str:
    """Return everything as text."""
    page = Page()
    there = state.enclave.connections > 0
    page.gauge(
        "enclave_connections",
        "Connections that the enclave holds to this parent; 0: it is not there.",
        state.enclave.connections,
    )
    page.gauge(
        "enclave_ready",
        "1 if the enclave is connected and last reported that it serves.",
        int(there and state.enclave.state == READY),
    )
    if there and enclave.latest is not None:
        _enclave(page, enclave.latest, enclave.age)
    _parent(page, state, times)
    return page.text()


def _enclave(page: Page, metrics: Metrics, age: float) -> None:
    page.gauge(
        "enclave_report_age_seconds", "Since the enclave's counters arrived.", age
    )
    page.counters(
        "duties_permitted_total",
        "Validator duties signed, by kind.",
        "kind",
        metrics.permitted,
    )
    page.counters(
        "duties_prevented_total",
        "Validator duties refused, by the slashing rule or the error's code.",
        "reason",
        metrics.prevented,
    )
    page.counters(
        "duties_undecided_total",
        "Validator duties that could not be decided and were not signed, by code.",
        "code",
        metrics.undecided,
    )
    page.counter(
        "duties_malformed_total", "Requests that were no duty.", metrics.malformed
    )
    page.counter(
        "duties_shed_total",
        "Duties turned away because of too much load; undecided ones all.",
        metrics.shed,
    )
    page.histogram(
        "duty_seconds",
        "From a whole request to its signature, inside the enclave.",
        LATENCY_BUCKETS,
        metrics.latency.counts,
        metrics.latency.sum,
    )
    page.gauge("duties_in_flight", "Duties under way.", metrics.in_flight)
    page.gauge("validator_keys_loaded", "Validator keys loaded.", metrics.keys_loaded)
    page.gauge(
        "validator_keys_enabled", "Validator keys that sign.", metrics.keys_enabled
    )
    page.gauge(
        "watermark_age_seconds",
        "Since a duty's watermark was made durable; -1: not since boot.",
        metrics.watermark_age,
    )
    page.counter(
        "kms_calls_total", "Calls of KMS since the enclave's boot.", metrics.kms_calls
    )
    page.gauge(
        "certificate_not_after_seconds",
        "When the enclave's server certificate ends, in Unix seconds.",
        metrics.certificate_not_after,
    )
    page.gauge(
        "clock_offset_seconds",
        "Seconds by which the enclave's clock is ahead of the hypervisor's. Beyond 30 "
        "either way it is not ready.",
        metrics.clock_offset,
    )


def _parent(page: Page, state: ParentState, times: ServiceTimes) -> None:
    page.gauge(
        "parent_start_time_seconds",
        "When the parent started, in Unix seconds.",
        state.started,
    )
    page.gauge("parent_stopping", "1 while the parent drains.", int(state.stopping))
    page.counters(
        "services_requests_total",
        "What the enclave asked of the parent, by kind.",
        "kind",
        times.requests,
    )
    page.counters(
        "services_failures_total",
        "What the parent could not do, by code.",
        "code",
        times.failures,
    )
    page.histograms(
        "services_seconds",
        "How long the parent took, by kind; AdvanceWatermarks is a durable write.",
        "kind",
        LATENCY_BUCKETS,
        times.histograms,
    )
    if state.services is not None:
        page.counter(
            "services_garbage_total",
            "Connections cut off because no protocol was spoken.",
            state.services.garbage,
        )
    for name, counts in (("relay", state.relay), ("egress", state.egress)):
        if counts is None:
            continue
        page.gauge(f"{name}_connections", "Open now.", counts.connections)
        for what, value in (
            ("accepted", counts.accepted),
            ("refused", counts.refused),
            ("failed", counts.failed),
        ):
            page.counter(f"{name}_{what}_total", f"Connections {what}.", value)
        page.counters(
            f"{name}_bytes_total",
            "Bytes passed on, seen from the enclave.",
            "direction",
            {"in": counts.bytes_in, "out": counts.bytes_out},
        )
