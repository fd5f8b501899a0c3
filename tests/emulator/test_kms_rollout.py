"""The KMS key of a local stack: made once, and opened for the source that runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nitrosigner.emulator import kms_rollout
from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.kms import RunningKms, start
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.verdicts import Undecided
from nitrosigner.wire.manifest import Aws

ADMINISTRATOR = "ad" * 32
FIRST, SECOND, THIRD = (bytes([number]) * 48 for number in (1, 2, 3))


@pytest.fixture
def kms(tmp_path: Path) -> Iterator[RunningKms]:
    folder = DataFolder(tmp_path)
    with start(folder.path) as running:
        NitroPki.open(folder.emulator, running.principals._now())
        yield running


@pytest.fixture
def places(tmp_path: Path, kms: RunningKms) -> Places:
    return Places(
        folder=DataFolder(tmp_path),
        run=tmp_path,
        source=tmp_path,
        port=0,
        kms_port=kms.port,
        metadata_port=kms.imds_port,
    )


@pytest.fixture
def warnings() -> list[str]:
    return []


def ensure(places: Places, pcr0: bytes, warnings: list[str]) -> Aws:
    return kms_rollout.ensure_key(
        places, administrator=ADMINISTRATOR, pcr0=pcr0, warn=warnings.append
    )


def admitted(places: Places, arn: str) -> set[str]:
    kms = kms_rollout.client(places, "administrator")
    policy = kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
    (statement,) = [
        one
        for one in json.loads(policy)["Statement"]
        if one["Sid"] == "NothingOpensForAnotherImage"
    ]
    (values,) = statement["Condition"]["StringNotEqualsIgnoreCase"].values()
    return set(values)


def test_a_second_start_of_the_same_source_changes_nothing(
    places: Places, warnings: list[str]
) -> None:
    first = ensure(places, FIRST, warnings)
    assert ensure(places, FIRST, warnings) == first
    assert admitted(places, first.kms_key_arn) == {FIRST.hex()}
    assert warnings == []


def test_a_changed_source_is_admitted_beside_the_last_one_and_loudly(
    places: Places, warnings: list[str]
) -> None:
    arn = ensure(places, FIRST, warnings).kms_key_arn
    assert ensure(places, SECOND, warnings).kms_key_arn == arn
    assert admitted(places, arn) == {FIRST.hex(), SECOND.hex()}
    assert len(warnings) == 1
    assert warnings[0].startswith("ROLLOUT")


def test_only_the_last_source_stays_admitted(
    places: Places, warnings: list[str]
) -> None:
    for pcr0 in (FIRST, SECOND, THIRD):
        arn = ensure(places, pcr0, warnings).kms_key_arn
    assert admitted(places, arn) == {SECOND.hex(), THIRD.hex()}


def test_a_kms_that_does_not_answer_is_said_in_words(
    places: Places, kms: RunningKms, warnings: list[str]
) -> None:
    ensure(places, FIRST, warnings)
    kms.stop()
    with pytest.raises(Undecided) as undecided:
        ensure(places, FIRST, warnings)
    assert "kms.log" in undecided.value.hint
