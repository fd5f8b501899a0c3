"""AWS's own documents: accepted at their time, refused for every reason there is."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import cbor2
import pytest

from nitrosigner.attestation import trust_anchors
from nitrosigner.attestation.errors import (
    AttestationError,
    MalformedDocument,
    UntrustedDocument,
)
from nitrosigner.attestation.measurements import extended
from nitrosigner.attestation.trust_anchors import AWS_NITRO_ROOT_G1, EmulatedRoot
from nitrosigner.attestation.verify import (
    FUTURE_SKEW,
    MAX_AGE,
    Attestation,
    Expectations,
    unverified_document,
    verify,
)

ROOTS = (AWS_NITRO_ROOT_G1,)
ANY_MODE = Expectations(allow_debug=True)


def _verify(document: Any, blob: bytes | None = None, **change: Any) -> Attestation:
    arguments = {"anchors": ROOTS, "now": document.now, "expectations": ANY_MODE}
    return verify(document.blob if blob is None else blob, **(arguments | change))


def test_is_accepted_at_its_time(real_document: Any) -> None:
    attestation = _verify(real_document)
    assert attestation.anchor is AWS_NITRO_ROOT_G1
    assert not attestation.emulated
    assert attestation.debug is real_document.debug
    assert len(attestation.certificates) == 5
    assert set(attestation.pcrs) == set(range(16))
    assert attestation.module_id.startswith("i-0")


def test_says_the_same_before_and_after_it_was_verified(real_document: Any) -> None:
    before, after = unverified_document(real_document.blob), _verify(real_document)
    for name in ("module_id", "timestamp", "pcrs", "public_key", "user_data", "nonce"):
        assert getattr(before, name) == getattr(after, name)


def test_the_oldest_that_is_taken_is_taken(real_document: Any) -> None:
    made = unverified_document(real_document.blob).timestamp
    _verify(real_document, now=made + MAX_AGE)


def test_is_refused_stale(real_document: Any) -> None:
    made = unverified_document(real_document.blob).timestamp
    late = made + MAX_AGE + timedelta(milliseconds=1)
    with pytest.raises(UntrustedDocument, match="300 seconds old"):
        _verify(real_document, now=late)


def test_the_greatest_age_is_an_argument(real_document: Any) -> None:
    made = unverified_document(real_document.blob).timestamp
    _verify(real_document, now=made + timedelta(hours=1), max_age=timedelta(minutes=61))


def test_is_refused_from_the_future(production_document: Any) -> None:
    made = unverified_document(production_document.blob).timestamp
    _verify(production_document, now=made - FUTURE_SKEW)
    early = made - FUTURE_SKEW - timedelta(milliseconds=1)
    with pytest.raises(UntrustedDocument, match="in the future"):
        _verify(production_document, now=early)


def test_is_refused_when_its_certificates_have_expired(real_document: Any) -> None:
    made = unverified_document(real_document.blob).timestamp
    with pytest.raises(UntrustedDocument, match="not valid at"):
        _verify(
            real_document,
            now=made + timedelta(hours=4),
            max_age=timedelta(days=1),
        )


def test_is_refused_under_another_root(real_document: Any) -> None:
    for anchors in ((), (EmulatedRoot("other", bytes(32)),)):
        with pytest.raises(UntrustedDocument, match="root certificate is not one"):
            _verify(real_document, anchors=anchors)


def test_is_accepted_if_one_of_several_roots_fits(production_document: Any) -> None:
    other = EmulatedRoot("other", bytes(32))
    attestation = _verify(production_document, anchors=(other, *ROOTS))
    assert attestation.anchor is AWS_NITRO_ROOT_G1


def test_debug_mode_is_refused_unless_it_is_asked_for(debug_document: Any) -> None:
    with pytest.raises(UntrustedDocument, match="debug mode"):
        _verify(debug_document, expectations=Expectations())


def test_expecting_zeros_does_not_let_debug_mode_in(debug_document: Any) -> None:
    zeros = Expectations(pcrs={0: bytes(48), 1: bytes(48), 2: bytes(48)})
    with pytest.raises(UntrustedDocument, match="debug mode"):
        _verify(debug_document, expectations=zeros)


def test_every_bit_of_the_signature_counts(production_document: Any) -> None:
    blob = production_document.blob
    for bit in range(96 * 8):
        altered = bytearray(blob)
        altered[len(blob) - 96 + bit // 8] ^= 1 << bit % 8
        with pytest.raises(UntrustedDocument, match="signature is not that"):
            _verify(production_document, bytes(altered))


def test_bits_all_over_the_document_count(real_document: Any) -> None:
    # One bit in each 19 bits; 19 has no factor in common with 8, so every position in
    # a byte has its turn. fuzz/attestation_bits.py tries all of them (minutes).
    for bit in range(0, len(real_document.blob) * 8, 19):
        altered = bytearray(real_document.blob)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AttestationError):
            _verify(real_document, bytes(altered))


def test_every_bit_of_the_registers_counts(production_document: Any) -> None:
    pcr0 = unverified_document(production_document.blob).pcrs[0]
    start = production_document.blob.index(pcr0)
    for bit in range(48 * 8):
        altered = bytearray(production_document.blob)
        altered[start + bit // 8] ^= 1 << bit % 8
        with pytest.raises(UntrustedDocument, match="signature is not that"):
            _verify(production_document, bytes(altered))


def test_every_truncation_is_refused(production_document: Any) -> None:
    for length in range(len(production_document.blob)):
        with pytest.raises(MalformedDocument):
            _verify(production_document, production_document.blob[:length])


def test_bytes_after_the_end_are_refused(real_document: Any) -> None:
    for tail in (b"\x00", b"\xf6", real_document.blob):
        with pytest.raises(MalformedDocument, match="too many"):
            _verify(real_document, real_document.blob + tail)


def test_bytes_after_the_end_of_the_payload_are_refused(real_document: Any) -> None:
    parts = list(cbor2.loads(real_document.blob))
    parts[2] += b"\x00"
    with pytest.raises(MalformedDocument, match="too many"):
        _verify(real_document, cbor2.dumps(parts))


def test_the_tag_of_the_specification_is_accepted(real_document: Any) -> None:
    _verify(real_document, b"\xd2" + real_document.blob)


@pytest.mark.parametrize("head", ["d1", "d212", "d2d2", "d8d2", "d9d9f7", "d9d9f7d2"])
def test_no_other_tag_is_accepted(production_document: Any, head: str) -> None:
    with pytest.raises(MalformedDocument):
        _verify(production_document, bytes.fromhex(head) + production_document.blob)


def test_the_mirrored_signature_verifies_so_bytes_are_no_name(
    production_document: Any,
) -> None:
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
        "581a0db248b0a77aecec196accc52973",
        16,
    )
    blob = production_document.blob
    mirrored = order - int.from_bytes(blob[-48:], "big")
    _verify(production_document, blob[:-48] + mirrored.to_bytes(48, "big"))


def test_parts_of_two_documents_do_not_mix(
    production_document: Any, debug_document: Any
) -> None:
    ours, theirs = (
        cbor2.loads(document.blob) for document in (production_document, debug_document)
    )
    mixed = cbor2.dumps([*ours[:3], theirs[3]])
    with pytest.raises(UntrustedDocument, match="signature is not that"):
        _verify(production_document, mixed)
    chain_of_theirs = cbor2.loads(ours[2]) | {
        name: cbor2.loads(theirs[2])[name] for name in ("certificate", "cabundle")
    }
    mixed = cbor2.dumps([ours[0], ours[1], cbor2.dumps(chain_of_theirs), ours[3]])
    with pytest.raises(UntrustedDocument):
        _verify(replace(production_document, now=debug_document.now), mixed)


def test_registers_are_extended_as_the_hypervisor_does(real_document: Any) -> None:
    # PCR4 is the instance's id without an inner hash, in debug mode too.
    document = unverified_document(real_document.blob)
    instance = document.module_id.partition("-enc")[0]
    assert document.pcrs[4] == extended(instance.encode())


def test_the_root_is_the_one_that_aws_publishes() -> None:
    assert trust_anchors.AWS_NITRO_ROOT_G1.fingerprint.hex() == (
        "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    )
