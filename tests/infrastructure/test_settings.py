"""What may be chosen, and what is refused before anything is synthesized."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.infrastructure import measured_image, settings
from nitrosigner.infrastructure.settings import Architecture, Plan, Settings
from nitrosigner.verdicts import Malformed, Refused

MEASURED = {
    "format": "nitrosigner-measurements/1",
    "measurements": {"PCR0": "aa" * 48, "PCR1": "bb" * 48, "PCR2": "cc" * 48},
}


def plans_of(measured: bool = True, **stacks: Any) -> list[Plan]:
    chosen = settings.parse(json.dumps({"stacks": stacks}).encode())
    return settings.plans(chosen, measured=measured)


def test_nothing_chosen_gives_four_stacks_that_must_not_be_deployed() -> None:
    plans = settings.plans(Settings(), measured=False)
    assert [plan.name for plan in plans] == [
        "devNitroWalletEth",
        "prodNitroWalletEth",
        "devNitroValidator",
        "prodNitroValidator",
    ]
    for plan in plans:
        reasons = " ".join(plan.not_deployable)
        assert "administrator" in reasons
        assert "image" in reasons
        assert plan.deployment.startswith("debug-") is plan.debug


def test_a_stack_with_administrator_and_image_may_be_deployed() -> None:
    plans = plans_of(prodNitroWalletEth={"administrator": "a1" * 32})
    by_name = {plan.name: plan for plan in plans}
    assert by_name["prodNitroWalletEth"].not_deployable == []
    assert by_name["prodNitroValidator"].not_deployable


@pytest.mark.parametrize(
    ("stacks", "sentence"),
    [
        ({"prodNitro": {}}, "no stack prodNitro"),
        ({"prodNitroWalletEth": {"deployment": "debug-x"}}, "begins with debug-"),
        ({"devNitroWalletEth": {"deployment": "wallet"}}, "begins with debug-"),
        (
            {
                "prodNitroWalletEth": {"deployment": "x"},
                "prodNitroValidator": {"deployment": "x"},
            },
            "same deployment",
        ),
        (
            {
                "devNitroWalletEth": {"administrator": "a1" * 32},
                "prodNitroValidator": {"administrator": "a1" * 32},
            },
            "debug stack and has a production stack's administrator",
        ),
        ({"prodNitroWalletEth": {"minimum": 5}}, "minimum is above maximum"),
        (
            {"prodNitroWalletEth": {"administrator": "0" * 63 + "1"}},
            "the administrator is the example's",
        ),
    ],
)
def test_contradictions_are_refused(stacks: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Malformed, match=sentence):
        plans_of(**stacks)


def test_an_instance_that_cannot_hold_the_enclave_is_refused_in_a_sentence() -> None:
    for chosen, sentence in (
        ({"instance_type": "c7g.xlarge"}, "is arm64, and architecture says otherwise"),
        (
            {"instance_type": "c6a.xlarge", "architecture": "arm64"},
            "is x86_64, and architecture says otherwise",
        ),
        ({"instance_type": "g5.xlarge", "architecture": "arm64"}, "is x86_64"),
        ({"instance_type": "m6i.large"}, "none is left to the parent"),
        ({"instance_type": "c7g.medium", "architecture": "arm64"}, "cannot"),
        ({"instance_type": "t3.xlarge"}, "burstable"),
        ({"instance_type": "c6a.metal"}, "bare metal"),
        ({"instance_type": "xlarge"}, "no instance type"),
        ({"enclave_processors": 3, "instance_type": "c6a.4xlarge"}, "whole cores"),
        ({"enclave_processors": 4}, "none is left to the parent"),
    ):
        with pytest.raises(Malformed, match=sentence):
            plans_of(prodNitroWalletEth=chosen)
    for chosen in (
        {
            "instance_type": "c7g.large",
            "architecture": "arm64",
            "enclave_processors": 1,
        },
        {"instance_type": "c7gn.4xlarge", "architecture": "arm64"},
        {"instance_type": "r7iz.2xlarge", "enclave_processors": 6},
    ):
        assert plans_of(prodNitroWalletEth=chosen)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("administrator", "A1" * 32),
        ("administrator", "a1"),
        ("deployment", "No"),
        ("key_administrator", "arn:aws:iam::123456789012:root"),
        ("key_administrator", "*"),
        ("pcr3", ["00"]),
        ("minimum", 1),
        ("client_networks", ["0.0.0.0/0"]),
        ("client_networks", ["::/0"]),
        ("network", "10.0.0.0/2"),
        ("network", "10.0.0.0/24"),
        ("architecture", "sparc"),
        ("log_days", 7),
        ("zones", 1),
        ("debug", True),
    ],
)
def test_values_that_make_no_sense_are_refused(field: str, value: Any) -> None:
    with pytest.raises(Malformed, match="settings"):
        plans_of(prodNitroWalletEth={field: value})


def test_unreadable_and_huge_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="cannot be read"):
        settings.read(tmp_path / "absent")
    with pytest.raises(Malformed, match="at most"):
        settings.parse(b" " * (settings.MAX_SETTINGS + 1))


# the image


def eif(folder: Path, *, aarch64: bool = False) -> dict[str, str]:
    from nitrosigner.image.eif.metadata import Build, Metadata
    from nitrosigner.image.eif.writer import ImageContents, write_eif

    build = Build(
        build_time="1970-01-01T00:00:00Z",
        build_tool="test",
        build_tool_version="1",
        operating_system="test",
        kernel_version="6.12",
    )
    metadata = Metadata(image_name="test", image_version="1", build_metadata=build)
    measured = write_eif(
        folder / "enclave.eif",
        ImageContents(
            kernel=b"kernel",
            command_line="quiet",
            ramdisks=[b"boot", b"application!"],
            metadata=metadata,
            aarch64=aarch64,
        ),
    )
    named = dict(measured.named)
    (folder / "measurements.json").write_text(
        json.dumps({**MEASURED, "measurements": named})
    )
    return named


def test_the_image_beside_the_claim_is_measured_again(tmp_path: Path) -> None:
    named = eif(tmp_path)
    image = measured_image.read(tmp_path)
    assert image.pcr0 == named["PCR0"]
    assert image.admitted == [named["PCR0"]]
    assert image.architecture is Architecture.X86_64


def test_an_image_that_is_not_what_is_claimed_stops_everything(tmp_path: Path) -> None:
    eif(tmp_path)
    (tmp_path / "measurements.json").write_text(json.dumps(MEASURED))
    with pytest.raises(Refused, match="does not measure to the PCR0"):
        measured_image.read(tmp_path)


def test_a_debug_measurement_is_no_measurement(tmp_path: Path) -> None:
    eif(tmp_path)
    zeros = dict.fromkeys(("PCR0", "PCR1", "PCR2"), "00" * 48)
    (tmp_path / "measurements.json").write_text(
        json.dumps({**MEASURED, "measurements": zeros})
    )
    with pytest.raises(Refused, match="zeros"):
        measured_image.read(tmp_path)


def test_during_a_rollout_two_images_are_admitted_the_new_one_first(
    tmp_path: Path,
) -> None:
    named = eif(tmp_path)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(MEASURED))
    image = measured_image.read(tmp_path, [old])
    assert image.admitted == [named["PCR0"], "aa" * 48]


def test_without_an_image_the_stand_in_is_no_debug_register() -> None:
    image = measured_image.read(None)
    assert image.eif is None
    assert image.pcr0.strip("0")


def test_an_unsigned_image_is_refused_where_signed_ones_are_asked_for(
    tmp_path: Path,
) -> None:
    eif(tmp_path)
    with pytest.raises(Refused, match="the image is not signed"):
        _ = measured_image.read(tmp_path).signers
    old, signed = tmp_path / "old.json", tmp_path / "signed.json"
    old.write_text(json.dumps(MEASURED))
    registers = {**MEASURED["measurements"], "PCR8": "88" * 48}  # type: ignore[dict-item]
    signed.write_text(json.dumps({**MEASURED, "measurements": registers}))
    image = measured_image.read(tmp_path, [signed, old])
    now_signed = dataclasses.replace(image, pcr8="99" * 48)
    with pytest.raises(Refused, match="a previous image is not signed"):
        _ = now_signed.signers
    # During a rollout to another certificate both sign.
    both = dataclasses.replace(now_signed, previous_pcr8=image.previous_pcr8[:1])
    assert both.signers == ["99" * 48, "88" * 48]
    assert measured_image.read(None).signers == []


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"measurements\.json cannot be read"):
        measured_image.read(tmp_path)
    eif(tmp_path)
    (tmp_path / "enclave.eif").unlink()
    with pytest.raises(Malformed, match=r"enclave\.eif cannot be read"):
        measured_image.read(tmp_path)


def test_instances_must_be_able_to_run_the_image(tmp_path: Path) -> None:
    from nitrosigner.infrastructure.app import image_of

    eif(tmp_path, aarch64=True)
    chosen = settings.parse(
        json.dumps(
            {"image": ".", "stacks": {"prodNitroWalletEth": {"minimum": 2}}}
        ).encode()
    )
    with pytest.raises(Refused, match="the image is for arm64"):
        image_of(chosen, tmp_path)
