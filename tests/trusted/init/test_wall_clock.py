"""The clock is set by the hypervisor's, and by nothing else."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest

from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm
from nitrosigner.trusted.enclave.attested.clock_check import NoTime, hypervisor_time
from nitrosigner.trusted.enclave.attested.nsm import NsmClient
from nitrosigner.trusted.init.wall_clock import TOLERANCE, correction
from nitrosigner.verdicts import Undecided

NOW = datetime(2026, 11, 21, 3, 4, 5, 678_000, tzinfo=UTC)


def answering(document: object) -> NsmClient:
    return NsmClient(lambda _: cbor2.dumps({"Attestation": {"document": document}}))


def holding(payload: object) -> NsmClient:
    return answering(cbor2.dumps([b"", {}, cbor2.dumps(payload), b""]))


def test_the_time_of_a_real_document_is_read(tmp_path: Path) -> None:
    nsm = EmulatedNsm(NitroPki.open(tmp_path, NOW), {}, lambda: NOW)
    assert hypervisor_time(NsmClient(nsm.handle)) == NOW.timestamp()


@pytest.mark.parametrize(
    "nsm",
    [
        lambda: answering(b""),
        lambda: answering(b"\xff"),
        lambda: answering(cbor2.dumps([1, 2, 3])),
        lambda: answering(cbor2.dumps([b"", {}, 7, b""])),
        lambda: answering(cbor2.dumps(7)),
        lambda: holding([]),
        lambda: holding({}),
        lambda: holding({"timestamp": "now"}),
        lambda: holding({"timestamp": None}),
        lambda: holding({"timestamp": 0}),
        lambda: holding({"timestamp": int(NOW.timestamp())}),  # seconds
    ],
)
def test_without_a_believable_time_nothing_starts(nsm: Callable[[], NsmClient]) -> None:
    with pytest.raises(NoTime):
        hypervisor_time(nsm())


def test_a_device_that_does_not_answer_is_not_a_time() -> None:
    def gone(_: bytes) -> bytes:
        raise OSError

    with pytest.raises(Undecided):
        hypervisor_time(NsmClient(gone))


@pytest.mark.parametrize("off", [0, TOLERANCE, -TOLERANCE, 0.5])
def test_a_clock_that_is_right_is_left_alone(off: float) -> None:
    assert correction(NOW.timestamp() + off, NOW.timestamp()) is None


@pytest.mark.parametrize("off", [TOLERANCE + 0.1, -TOLERANCE - 0.1, -1e9, 1e9])
def test_a_clock_that_is_wrong_is_set_to_the_hypervisors(off: float) -> None:
    assert correction(NOW.timestamp() + off, NOW.timestamp()) == NOW.timestamp()
