"""What Prometheus reads, judged by a reader of its own text format."""

import asyncio
import math
import re
from pathlib import Path

import msgspec
import pytest

from nitrosigner.untrusted.parent import metrics
from nitrosigner.untrusted.parent.egress_proxy import EgressCounts
from nitrosigner.untrusted.parent.enclave_metrics import EnclaveMetrics
from nitrosigner.untrusted.parent.metrics_listener import MetricsListener
from nitrosigner.untrusted.parent.service_times import ServiceTimes
from nitrosigner.untrusted.parent.services import ServicesCounts
from nitrosigner.untrusted.parent.state import EnclaveState, ParentState
from nitrosigner.untrusted.parent.tcp_relay import RelayCounts
from nitrosigner.verdicts import Undecided
from nitrosigner.wire.validator_api import LATENCY_BUCKETS, Histogram, Metrics

ROOT = Path(__file__).parents[3]
LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)+)\})? (\S+)\Z')
REPORT = Metrics(
    permitted={"ATTESTATION": 41, "BLOCK_V2": 1},
    prevented={"double_vote": 3},
    malformed=2,
    undecided={"storage_unavailable": 5},
    shed=4,
    latency=Histogram(counts=[1, 2, 0, 39, *[0] * 9], sum=0.25),
    in_flight=7,
    keys_loaded=16,
    keys_enabled=15,
    watermark_age=1.5,
    kms_calls=1,
    certificate_not_after=1_900_000_000,
    clock_offset=-1.5,
)
STATE = ParentState(
    pid=1,
    started=1_700_000_000.5,
    written=0,
    address="127.0.0.1",
    port=1,
    stopping=False,
    enclave=EnclaveState(state="ready", connections=2),
    relay=RelayCounts(3, 10, 1, 2, 100, 200),
    egress=EgressCounts(0, 4, 1, 0, 10, 20),
    services=ServicesCounts(2, 2, 50, 1, 0),
)


def read(text: str) -> dict[str, float]:
    """Return the samples; fail on what Prometheus would not take."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in kinds, "a metric stands twice"
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = LINE.match(line)
            assert match, line
            name, labels, value = match.groups()
            family = re.sub(r"_(bucket|sum|count)\Z", "", name)
            assert name in kinds or kinds[family] == "histogram", line
            key = f"{name}{{{labels}}}" if labels else name
            assert key not in found, "a series stands twice"
            found[key] = float(value)
    return found


def reported(report: Metrics = REPORT) -> EnclaveMetrics:
    enclave = EnclaveMetrics(iter([10.0, 12.0]).__next__)
    enclave.keep(report)
    return enclave


def test_every_counter_of_the_enclave_is_shown() -> None:
    found = read(metrics.page(STATE, reported(), ServiceTimes()))
    assert found['nitrosigner_duties_permitted_total{kind="ATTESTATION"}'] == 41
    assert found['nitrosigner_duties_prevented_total{reason="double_vote"}'] == 3
    assert found['nitrosigner_duties_undecided_total{code="storage_unavailable"}'] == 5
    assert found["nitrosigner_duties_malformed_total"] == 2
    assert found["nitrosigner_duties_shed_total"] == 4
    assert found["nitrosigner_duties_in_flight"] == 7
    assert found["nitrosigner_validator_keys_loaded"] == 16
    assert found["nitrosigner_validator_keys_enabled"] == 15
    assert found["nitrosigner_watermark_age_seconds"] == 1.5
    assert found["nitrosigner_kms_calls_total"] == 1
    assert found["nitrosigner_certificate_not_after_seconds"] == 1_900_000_000
    assert found["nitrosigner_clock_offset_seconds"] == -1.5
    assert found["nitrosigner_enclave_report_age_seconds"] == 2
    assert found["nitrosigner_enclave_ready"] == 1


def test_a_histogram_is_cumulative_and_ends_in_infinity() -> None:
    found = read(metrics.page(STATE, reported(), ServiceTimes()))
    bucket = 'nitrosigner_duty_seconds_bucket{le="%s"}'
    assert [found[bucket % bound] for bound in LATENCY_BUCKETS[:4]] == [1, 3, 3, 42]
    assert found[bucket % "+Inf"] == found["nitrosigner_duty_seconds_count"] == 42
    assert found["nitrosigner_duty_seconds_sum"] == 0.25


def test_the_parents_own_work_is_shown() -> None:
    times = ServiceTimes()
    times.took("AdvanceWatermarks", 0.002)
    times.took("AdvanceWatermarks", 9.0)
    times.failed("storage_unavailable")
    found = read(metrics.page(STATE, EnclaveMetrics(), times))
    kind = 'kind="AdvanceWatermarks"'
    assert found[f"nitrosigner_services_requests_total{{{kind}}}"] == 2
    assert found[f'nitrosigner_services_seconds_bucket{{{kind},le="0.0025"}}'] == 1
    assert found[f'nitrosigner_services_seconds_bucket{{{kind},le="+Inf"}}'] == 2
    assert found[f"nitrosigner_services_seconds_sum{{{kind}}}"] == pytest.approx(9.002)
    assert found['nitrosigner_services_failures_total{code="storage_unavailable"}'] == 1
    assert found["nitrosigner_relay_connections"] == 3
    assert found['nitrosigner_egress_bytes_total{direction="out"}'] == 10


def test_every_name_is_explained_to_operators_and_no_other() -> None:
    page = metrics.page(STATE, reported(), ServiceTimes())
    shown = set(re.findall(r"# TYPE nitrosigner_(\w+)", page))
    text = (ROOT / "docs/operations/metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == shown


def test_an_absent_enclaves_numbers_do_not_stand_still() -> None:
    gone = msgspec.structs.replace(STATE, enclave=EnclaveState(state="ready"))
    found = read(metrics.page(gone, reported(), ServiceTimes()))
    assert found["nitrosigner_enclave_ready"] == 0
    assert not [name for name in found if "duties" in name]


def test_a_report_can_neither_forge_a_line_nor_name_a_secret() -> None:
    hostile = msgspec.structs.replace(
        REPORT,
        permitted={'x"} 1\nnitrosigner_enclave_ready 9\n': 1, "y" * 65: 2, "é": 4},
        latency=Histogram(counts=[1], sum=math.nan),
        watermark_age=math.inf,
    )
    found = read(metrics.page(STATE, reported(hostile), ServiceTimes()))
    assert found['nitrosigner_duties_permitted_total{kind="other"}'] == 7
    assert found["nitrosigner_enclave_ready"] == 1
    assert math.isinf(found["nitrosigner_watermark_age_seconds"])


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", b"200", b"a 1\n"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200", b"a 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"404", b""),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405", b""),
        (b"\r\n\r\n", b"405", b""),
    ],
)
def test_the_page_is_at_one_path(request_: bytes, status: bytes, body: bytes) -> None:
    async def main() -> bytes:
        listener = MetricsListener(lambda: "a 1\n")
        port = await listener.start("127.0.0.1", 0)
        try:
            return await _ask(port, request_)
        finally:
            await listener.stop()

    head, _, got = asyncio.run(main()).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert got == body


def test_a_head_without_end_is_cut_off() -> None:
    async def main() -> bytes:
        listener = MetricsListener(lambda: "a 1\n")
        port = await listener.start("127.0.0.1", 0)
        try:
            return await _ask(port, b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 100_000)
        finally:
            await listener.stop()

    assert asyncio.run(main()) == b""


def test_stopping_cuts_a_dawdler_off() -> None:
    async def main() -> bytes:
        listener = MetricsListener(lambda: "a 1\n")
        port = await listener.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /met")
        await writer.drain()
        assert await _ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
        await listener.stop()
        try:
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    assert asyncio.run(main()) == b""


def test_an_address_in_use_is_said() -> None:
    async def main() -> None:
        first, second = MetricsListener(str), MetricsListener(str)
        port = await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(Undecided):
                await second.start("127.0.0.1", port)
        finally:
            await first.stop()

    asyncio.run(main())
