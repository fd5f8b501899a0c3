"""What a genuine document must say beside being genuine."""

from datetime import timedelta
from typing import Any

import pytest

from nitrosigner.attestation.errors import UntrustedDocument
from nitrosigner.attestation.measurements import extended, is_debug, measured
from nitrosigner.attestation.verify import Attestation, Expectations, verify
from nitrosigner.verdicts import Code, Malformed, Refused

PCR0, PCR1 = b"\x01" * 48, b"\x02" * 48


def _verify(forge: Any, forged: Any, **expected: Any) -> Attestation:
    return verify(
        forged.blob,
        anchors=[forged.anchor],
        now=forge.now,
        expectations=Expectations(**expected),
    )


def test_the_registers_that_were_expected_are_accepted(forge: Any) -> None:
    forged = forge()
    _verify(forge, forged, pcrs={0: PCR0, 1: PCR1})
    _verify(forge, forged, pcrs={0: {b"\xaa" * 48, PCR0}})


def test_another_register_is_refused_and_both_values_are_named(forge: Any) -> None:
    forged = forge()
    with pytest.raises(UntrustedDocument, match=r"PCR0 \(enclave image\)") as caught:
        _verify(forge, forged, pcrs={0: b"\xaa" * 48})
    assert PCR0.hex() in caught.value.hint
    assert "aa" * 48 in caught.value.hint


def test_each_register_that_is_named_counts(forge: Any) -> None:
    for index in range(16):
        expected = {n: bytes([n + 1]) * 48 for n in range(16)}
        expected[index] = b"\xaa" * 48
        with pytest.raises(UntrustedDocument, match=f"PCR{index} "):
            _verify(forge, forge(), pcrs=expected)


def test_no_value_at_all_accepts_nothing(forge: Any) -> None:
    with pytest.raises(UntrustedDocument, match="PCR0"):
        _verify(forge, forge(), pcrs={0: frozenset()})


def test_a_register_that_is_not_reported_is_refused(forge: Any) -> None:
    with pytest.raises(UntrustedDocument, match="does not report PCR16"):
        _verify(forge, forge(), pcrs={16: bytes(48)})


def test_the_nonce_must_be_ours(forge: Any) -> None:
    _verify(forge, forge(), nonce=b"nonce")
    for fields in ({"nonce": b"nonce2"}, {"nonce": b""}, {"nonce": None}):
        with pytest.raises(UntrustedDocument, match="nonce differs"):
            _verify(forge, forge(fields=fields), nonce=b"nonce")


def test_an_empty_nonce_is_an_expectation_too(forge: Any) -> None:
    with pytest.raises(UntrustedDocument, match="nonce differs"):
        _verify(forge, forge(fields={"nonce": None}), nonce=b"")


@pytest.mark.parametrize(
    "missing", [{0: bytes(48)}, {1: bytes(48)}, {2: bytes(48)}, {0: None}, {2: None}]
)
def test_any_register_of_the_image_that_is_zero_or_absent_is_debug_mode(
    forge: Any, missing: dict[int, bytes | None]
) -> None:
    pcrs = {0: PCR0, 1: PCR0, 2: PCR0, 3: PCR0} | missing
    present = {index: value for index, value in pcrs.items() if value is not None}
    forged = forge(fields={"pcrs": present})
    with pytest.raises(UntrustedDocument, match="debug mode"):
        _verify(forge, forged)
    assert _verify(forge, forged, allow_debug=True).debug


def test_a_measured_image_is_not_debug_mode(forge: Any) -> None:
    assert not _verify(forge, forge(), allow_debug=True).debug
    assert not is_debug({0: PCR0, 1: PCR0, 2: PCR0})


def test_age_is_counted_from_the_document_not_from_the_certificate(forge: Any) -> None:
    made = forge.now - timedelta(minutes=5, milliseconds=1)
    forged = forge(fields={"timestamp": int(made.timestamp() * 1000)})
    with pytest.raises(UntrustedDocument, match="300 seconds old"):
        _verify(forge, forged)


def test_registers_are_extended_as_the_hypervisor_does() -> None:
    assert measured(b"") == extended(
        bytes.fromhex(
            "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da"
            "274edebfe76f65fbd51ad2f14898b95b"
        )
    )


def test_what_was_verified_cannot_be_changed(forge: Any) -> None:
    attestation = _verify(forge, forge())
    with pytest.raises(AttributeError):
        attestation.nonce = b"other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        attestation.pcrs[0] = PCR1  # type: ignore[index]


def test_the_two_ways_to_disbelieve_are_the_two_verdicts(forge: Any) -> None:
    with pytest.raises(Refused) as refused:
        _verify(forge, forge(), nonce=b"x")
    with pytest.raises(Malformed) as malformed:
        verify(b"", anchors=[], now=forge.now)
    assert refused.value.code is malformed.value.code is Code.ATTESTATION_UNTRUSTED
    assert (refused.value.exit_code, malformed.value.exit_code) == (3, 2)
    assert (refused.value.status, malformed.value.status) == (403, 400)
