"""The Grafana dashboard and the shipped metrics name what the parent really shows."""

import json
import re
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent import metrics
from nitrosigner.untrusted.parent.egress_proxy import EgressCounts
from nitrosigner.untrusted.parent.enclave_metrics import EnclaveMetrics
from nitrosigner.untrusted.parent.service_times import ServiceTimes
from nitrosigner.untrusted.parent.services import ServicesCounts
from nitrosigner.untrusted.parent.state import EnclaveState, ParentState
from nitrosigner.untrusted.parent.tcp_relay import RelayCounts
from nitrosigner.wire.validator_api import LATENCY_BUCKETS, Histogram, Metrics

DASHBOARD = Path(__file__).parents[2] / "docs/operations/grafana-dashboard.json"


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """Every metric that the parent shows, by name."""
    enclave = EnclaveMetrics()
    enclave.keep(
        Metrics(
            permitted={"ATTESTATION": 1},
            prevented={"double_vote": 1},
            malformed=1,
            undecided={"storage_unavailable": 1},
            shed=1,
            latency=Histogram(counts=[0] * (len(LATENCY_BUCKETS) + 1), sum=0),
            in_flight=0,
            keys_loaded=1,
            keys_enabled=1,
            watermark_age=0,
            kms_calls=1,
            certificate_not_after=1_900_000_000,
            clock_offset=-1.5,
        )
    )
    state = ParentState(
        pid=1,
        started=1,
        written=1,
        address="127.0.0.1",
        port=1,
        stopping=False,
        enclave=EnclaveState(state="ready", connections=1),
        relay=RelayCounts(0, 0, 0, 0, 0, 0),
        egress=EgressCounts(0, 0, 0, 0, 0, 0),
        services=ServicesCounts(0, 0, 0, 0, 0),
    )
    page = metrics.page(state, enclave, ServiceTimes())
    return set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))


def test_every_metric_of_the_grafana_dashboard_exists(shown: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]
    assert len(expressions) > 20
    for expression in expressions:
        for name in re.findall(r"nitrosigner_\w+", expression):
            family = re.sub(r"_(bucket|sum|count)\Z", "", name)
            assert {name, family} & shown, name


def test_every_metric_that_goes_to_cloudwatch_exists(
    shown: set[str], node: None
) -> None:
    from nitrosigner.infrastructure import deployed_settings

    del node
    for names in deployed_settings.SHIPPED_METRICS.values():
        assert set(names) <= shown


def test_panels_do_not_lie_on_one_another() -> None:
    places = [
        (panel["gridPos"]["x"], panel["gridPos"]["y"])
        for panel in json.loads(DASHBOARD.read_text())["panels"]
    ]
    assert len(set(places)) == len(places)
