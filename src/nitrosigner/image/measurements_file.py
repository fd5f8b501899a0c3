"""
`measurements.json`: what a build measured to, for policies and for outsiders.

    {"format": "nitrosigner-measurements/1",
     "measurements": {"PCR0": "…", "PCR1": "…", "PCR2": "…"},
     …}

A build writes more into it (kernel, packages, wheels, source commit); that is for
people. What nitro-cli prints for an image (`{"Measurements": {"HashAlgorithm": …}}`)
is read too. The file is a claim, not evidence: it is as good as where it came from.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from nitrosigner.attestation.measurements import CODE_REGISTERS, PCR_SIZE
from nitrosigner.image.eif.measure import Measurements
from nitrosigner.verdicts import Code, Malformed, Refused

FORMAT: Final = "nitrosigner-measurements/1"
NAME: Final = "measurements.json"
MAX_FILE: Final = 1 << 20
_REGISTER: Final = re.compile(r"PCR(0|[1-9]|[12][0-9]|3[01])")
_HASH_ALGORITHM: Final = "HashAlgorithm"


class _File(msgspec.Struct, frozen=True):
    format: str
    measurements: dict[str, str]


class _NitroCli(msgspec.Struct, frozen=True, rename="pascal"):
    measurements: dict[str, str]


def encode(measured: Measurements, details: Mapping[str, Any]) -> bytes:
    """Return the file for a build, with *details* of it (JSON values) beside."""
    document = {
        "format": FORMAT,
        "measurements": dict(measured.named),
        **details,
    }
    if document["format"] != FORMAT or document["measurements"] != measured.named:
        msg = "a detail has the name of a field"
        raise ValueError(msg)
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def parse(data: bytes) -> Mapping[int, bytes]:
    """
    Return the registers that the file names: PCR0 to PCR2 at least.

    Raises:
        Malformed: It is no such file.
        Refused: A register of the image is all zeros.
    """
    if len(data) > MAX_FILE:
        raise _malformed("it is too long")
    named = _named(data)
    registers: dict[int, bytes] = {}
    for name, value in named.items():
        if name == _HASH_ALGORITHM:
            continue
        matched = _REGISTER.fullmatch(name)
        if matched is None or re.fullmatch(r"[0-9a-f]{96}", value) is None:
            raise _malformed(f"a register is PCR0 to PCR31 and {PCR_SIZE * 2} digits")
        registers[int(matched[1])] = bytes.fromhex(value)
    for index in CODE_REGISTERS:
        if index not in registers:
            raise _malformed(f"it has no PCR{index}")
        if not any(registers[index]):
            raise Refused(
                Code.ATTESTATION_UNTRUSTED,
                f"PCR{index} is all zeros: that is any enclave in debug mode",
                "take the measurements from a build, not from a debug enclave",
            )
    return registers


def _named(data: bytes) -> Mapping[str, str]:
    try:
        file = msgspec.json.decode(data, type=_File)
        if file.format == FORMAT:
            return file.measurements
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            return msgspec.json.decode(data, type=_NitroCli).measurements
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    raise _malformed(f"it is neither {FORMAT} nor what nitro-cli prints")


def _malformed(sentence: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_REQUEST,
        f"these are no measurements: {sentence}",
        "make image writes them; so does nitrosigner image measure FILE --json",
    )
