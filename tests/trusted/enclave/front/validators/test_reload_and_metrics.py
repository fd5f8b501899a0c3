"""Reloads, one at a time; counters, for clients and for the parent."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nitrosigner.trusted.enclave.validators.validator_keys_port import Reloaded
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.manifest_validators import Validators
from nitrosigner.wire.validator_api import LATENCY_BUCKETS

METRICS = "/api/v1/metrics"
SIGN = "/api/v1/eth2/sign/"


def status_of(front: Any) -> Any:
    return front.ask("GET", "/reload")[1]


def test_a_reload_is_begun_once_and_its_end_is_told(duty_front: Any) -> None:
    assert status_of(duty_front)["status"] == "idle"

    async def hold() -> None:
        duty_front.validators.reloading = asyncio.Event()

    async def release() -> None:
        duty_front.validators.reloading.set()

    duty_front.loop.run(hold())
    status, answer = duty_front.ask("POST", "/reload")
    assert (status, answer["status"]) == (202, "running")
    status, answer = duty_front.ask("POST", "/reload")
    assert (status, answer["status"]) == (409, "running")
    duty_front.loop.run(release())
    duty_front.wait(lambda: status_of(duty_front)["status"] == "completed")
    assert status_of(duty_front)["lastOperationTime"].endswith("Z")
    assert status_of(duty_front)["lastError"] is None
    assert [one[0] for one in duty_front.validators.asked] == ["reload"]


@pytest.mark.parametrize(
    ("failure", "rejected", "state", "error"),
    [
        (None, 2, "completed_with_errors", "2 stored records cannot be used"),
        (Undecided(Code.STORAGE_UNAVAILABLE, "it is down"), 0, "failed", "it is down"),
        (RuntimeError("a secret"), 0, "failed", "the signer failed"),
    ],
)
def test_what_went_wrong_is_told(
    duty_front: Any, failure: Any, rejected: Any, state: Any, error: Any
) -> None:
    duty_front.validators.failure = failure
    duty_front.validators.reloaded = Reloaded(
        added=0, changed=0, removed=0, rejected=rejected
    )
    assert duty_front.ask("POST", "/reload")[0] == 202
    duty_front.wait(lambda: status_of(duty_front)["status"] == state)
    assert status_of(duty_front)["lastError"] == error


def test_a_reload_needs_manage_key(duty_front: Any) -> None:
    token = duty_front.tokens["duties-only"]
    assert duty_front.ask("POST", "/reload", token=token)[0] == 403
    assert not duty_front.validators.asked


def test_the_high_watermark_is_the_manifests(
    duty_front: Any, prepare: Any, start: Any
) -> None:
    path = "/api/v1/eth2/highWatermark"
    assert duty_front.ask("GET", path) == (200, {})


def test_a_ceiling_is_shown_as_web3signer_shows_it(
    prepare: Callable[[Any], None], start: Any
) -> None:
    def with_ceiling(running: Any) -> None:
        prepare(running)
        told: Validators = running.told_of_validators
        running.told_of_validators = Validators(
            network=told.network,
            custom=told.custom,
            ceiling_slot=800,
            ceiling_epoch=100,
        )

    front = start(with_ceiling)
    assert front.ask("GET", "/api/v1/eth2/highWatermark") == (
        200,
        {"epoch": "100", "slot": "800"},
    )


def test_every_verdict_is_counted_by_kind_or_reason(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    assert duty_front.ask("GET", METRICS)[1]["watermark_age"] == -1.0
    good, slashable = attestation(), attestation(block="99")
    duty_front.ask("POST", SIGN + names[0], good)
    duty_front.ask("POST", SIGN + names[0], slashable)
    duty_front.ask("POST", SIGN + names[4], good)
    duty_front.ask("POST", SIGN + names[0], b"{}")
    body = {"identifiers": names[:5], "signing_request": slashable}
    duty_front.ask("POST", "/api/v1/eth2/sign", body)
    duty_front.validators.store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    duty_front.ask("POST", SIGN + names[1], attestation(2, 3))
    status, metrics = duty_front.ask("GET", METRICS)
    assert status == 200
    assert metrics["permitted"] == {"ATTESTATION": 1 + 3}
    assert metrics["prevented"] == {"double_vote": 2, "unknown_key": 2}
    assert metrics["malformed"] == 1
    assert metrics["undecided"] == {"storage_unavailable": 1}
    assert metrics["in_flight"] == 0
    assert sum(metrics["latency"]["counts"]) == 4
    assert len(metrics["latency"]["counts"]) == len(LATENCY_BUCKETS) + 1
    assert metrics["latency"]["sum"] > 0
    assert (metrics["keys_loaded"], metrics["keys_enabled"]) == (4, 4)
    assert 0 <= metrics["watermark_age"] < 60
    assert metrics["kms_calls"] == 1
    assert metrics["certificate_not_after"] == duty_front.front.around.tls.not_after
    assert metrics["clock_offset"] == 0.25


def test_metrics_need_a_client(duty_front: Any) -> None:
    assert duty_front.ask("GET", METRICS, certificate=None)[0] == 401


def test_the_parent_is_told_the_same(duty_front: Any) -> None:
    duty_front.wait(lambda: duty_front.services.metrics)
    assert duty_front.services.metrics[0].keys_enabled == 4


def test_a_parent_that_takes_no_metrics_stops_nothing(
    prepare: Callable[[Any], None], start: Any
) -> None:
    def deaf(running: Any) -> None:
        prepare(running)
        running.services.failure = Undecided(Code.STORAGE_UNAVAILABLE, "deaf")

    assert start(deaf).ask("GET", METRICS)[0] == 200
