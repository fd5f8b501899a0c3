"""Health on a real stack that nobody asks for a signature: it finds out by itself."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import attestation
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.untrusted.parent import enclave_health
from nitrosigner.untrusted.parent.enclave_health import Health
from nitrosigner.verdicts import Undecided

BOUND = 10.0
"""Seconds: a look each second, an answer that is waited for for four, tried for one."""
BUSY_MACHINE = 20.0
"""Seconds more that a test gives a machine with other things to do."""

FreshKeys = Callable[[int], list[str]]


def health(stack: RunningStack) -> Health:
    port = int(stack.ready.url.rpartition(":")[2])
    return asyncio.run(enclave_health.probe("127.0.0.1", port, 10))


@pytest.fixture
def ready(chain: RunningStack) -> Iterator[RunningStack]:
    wait_until(lambda: health(chain).ready, "it is ready")
    yield chain
    wait_until(lambda: health(chain).ready, "it is ready again")


def test_a_store_that_went_away_is_noticed_with_no_traffic(ready: RunningStack) -> None:
    store = ready.folder.parent / "watermarks.db"
    away = store.with_name("watermarks.away")
    store.rename(away)
    began = time.monotonic()
    try:
        wait_until(lambda: not health(ready).ready, "it is not ready")
        assert time.monotonic() - began < BOUND + BUSY_MACHINE
        assert health(ready).state == "watermarks_unavailable"
        assert health(ready).checks["watermarks"] is False
    finally:
        away.rename(store)


def test_a_store_that_can_only_be_read_is_not_ready_until_it_can_be_written(
    ready: RunningStack, client: SignerClient, fresh_keys: FreshKeys
) -> None:
    (key,) = fresh_keys(1)
    client.sign_duty(key, attestation(3, 4))
    store = sqlite3.connect(ready.folder.parent / "watermarks.db", isolation_level=None)
    try:
        store.execute("BEGIN IMMEDIATE")
        with pytest.raises(Undecided):
            client.sign_duty(key, attestation(4, 5))
        # It reads well all the time, and nobody asks any more.
        wait_until(lambda: not health(ready).ready, "it is not ready")
        for _ in range(20):
            assert health(ready).state == "watermarks_unavailable"
    finally:
        store.execute("ROLLBACK")
        store.close()
    wait_until(lambda: health(ready).ready, "it is ready again by itself")
    assert client.sign_duty(key, attestation(4, 5))


def test_duties_that_waited_too_long_are_turned_away_counted_and_not_signed_later(
    ready: RunningStack, client: SignerClient, fresh_keys: FreshKeys
) -> None:
    """A bounded overload: for a while the store takes nothing, and duties pile up."""
    keys = fresh_keys(8)
    before = counted(ready)
    store = sqlite3.connect(ready.folder.parent / "watermarks.db", isolation_level=None)
    answers: list[tuple[str, float]] = []

    def ask(key: str) -> None:
        files = ready.ready.clients["validator"]
        began = time.monotonic()
        with SignerClient(
            ready.ready.url,
            ca=ready.ready.ca,
            certificate=files.cert,
            key=files.key,
            read_timeout=60,
        ) as patient:
            try:
                said = patient.sign_duty(key, attestation(3, 4))
            except Undecided as verdict:
                said = f"{verdict.status} {verdict.code}"
        answers.append((said, time.monotonic() - began))

    store.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(len(keys)) as askers:
            list(askers.map(ask, keys))
    finally:
        store.execute("ROLLBACK")
        store.close()
    assert {said for said, _ in answers} <= {
        "503 storage_unavailable",
        "503 overloaded",
    }
    assert max(took for _, took in answers) < BOUND + BUSY_MACHINE
    wait_until(
        lambda: undecided(counted(ready)) >= undecided(before) + len(keys),
        "they are counted",
    )
    assert counted(ready)["permitted"] == before["permitted"]
    # Whatever of it became durable meanwhile: the same message is signed again.
    wait_until(lambda: health(ready).ready, "it is ready again")
    for key in keys:
        assert client.sign_duty(key, attestation(3, 4))


def counted(stack: RunningStack) -> dict[str, Any]:
    with SignerClient.from_data(stack.folder.path, "validator") as client:
        answer = client.transport.request("GET", "/api/v1/metrics")
    return dict(json.loads(answer.body))


def undecided(metrics: dict[str, Any]) -> int:
    return sum(metrics["undecided"].values())
