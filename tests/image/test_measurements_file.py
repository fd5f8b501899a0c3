"""`measurements.json` is read strictly: a register that is not there admits anything."""

import json
from typing import Any

import pytest

from nitrosigner.image.eif.measure import Measurements
from nitrosigner.image.measurements_file import encode, parse
from nitrosigner.verdicts import Malformed, Refused

MEASURED = Measurements(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48, b"\x08" * 48)
NAMED = dict(MEASURED.named)
FORMAT = "nitrosigner-measurements/1"


def test_what_is_written_is_read() -> None:
    data = encode(MEASURED, {"source_commit": "abc", "kernel": {"sha256": "0"}})
    assert parse(data) == MEASURED.registers
    assert json.loads(data)["kernel"] == {"sha256": "0"}


def test_what_nitro_cli_prints_is_read() -> None:
    printed = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **NAMED}}
    assert parse(json.dumps(printed).encode()) == MEASURED.registers


def test_details_do_not_replace_what_was_measured() -> None:
    for name in ("measurements", "format"):
        with pytest.raises(ValueError, match="name of a field"):
            encode(MEASURED, {name: {}})


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"format": FORMAT},
        {"format": "other/1", "measurements": NAMED},
        {"format": FORMAT, "measurements": {}},
        {"format": FORMAT, "measurements": {**NAMED, "PCR32": "01" * 48}},
        {"format": FORMAT, "measurements": {**NAMED, "pcr3": "01" * 48}},
        {"format": FORMAT, "measurements": {**NAMED, "PCR03": "01" * 48}},
        {"format": FORMAT, "measurements": {**NAMED, "PCR0": "01" * 47}},
        {"format": FORMAT, "measurements": {**NAMED, "PCR0": "AB" * 48}},
        {"format": FORMAT, "measurements": {**NAMED, "PCR0": 1}},
        {"Measurements": {"PCR0": "01" * 48, "PCR1": "01" * 48}},
    ],
)
def test_everything_else_is_malformed(document: Any) -> None:
    with pytest.raises(Malformed, match="no measurements"):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"{}"]
)
def test_what_is_no_json_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="no measurements"):
        parse(data)


@pytest.mark.parametrize("name", ["PCR0", "PCR1", "PCR2"])
def test_a_debug_enclaves_zeros_are_refused(name: str) -> None:
    document = {"format": FORMAT, "measurements": {**NAMED, name: "0" * 96}}
    with pytest.raises(Refused, match="debug mode"):
        parse(json.dumps(document).encode())
