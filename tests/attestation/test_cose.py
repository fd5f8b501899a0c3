"""The envelope: what an NSM signs, and nothing that only resembles it."""

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nitrosigner.attestation import cose
from nitrosigner.attestation.errors import MalformedDocument, UntrustedDocument
from nitrosigner.attestation.verify import verify

PROTECTED = bytes.fromhex("a1013822")
MALFORMED = {
    "three parts": ([PROTECTED, {}, b"x"], "array of four"),
    "five parts": ([PROTECTED, {}, b"x", bytes(96), None], "array of four"),
    "a map": ({}, "array of four"),
    "a map of four": ({1: 1, 2: 2, 3: 3, 4: 4}, "array of four"),
    "bytes": (b"x", "array of four"),
    "four letters": ("text", "array of four"),
    "another algorithm": ([b"\xa1\x01\x26", {}, b"x", bytes(96)], "not ES384"),
    "two headers": (
        [cbor2.dumps({1: -35, 4: b"k"}), {}, b"x", bytes(96)],
        "not ES384 alone",
    ),
    "an empty header": ([b"", {}, b"x", bytes(96)], "not ES384"),
    "a header that is a map": ([{1: -35}, {}, b"x", bytes(96)], "not ES384"),
    "the algorithm in another encoding": (
        [b"\xa1\x01\x39\x00\x22", {}, b"x", bytes(96)],
        "not ES384",
    ),
    "unprotected headers": ([PROTECTED, {1: -35}, b"x", bytes(96)], "unprotected"),
    "unprotected array": ([PROTECTED, [], b"x", bytes(96)], "unprotected"),
    "unprotected null": ([PROTECTED, None, b"x", bytes(96)], "unprotected"),
    "no payload": ([PROTECTED, {}, None, bytes(96)], "payload"),
    "an empty payload": ([PROTECTED, {}, b"", bytes(96)], "payload"),
    "a payload of text": ([PROTECTED, {}, "x", bytes(96)], "payload"),
    "a long payload": ([PROTECTED, {}, bytes(16_385), bytes(96)], "payload"),
    "a short signature": ([PROTECTED, {}, b"x", bytes(95)], "signature is 96"),
    "a long signature": ([PROTECTED, {}, b"x", bytes(97)], "signature is 96"),
    "a signature of text": ([PROTECTED, {}, b"x", "s" * 96], "signature is 96"),
    "no signature": ([PROTECTED, {}, b"x", None], "signature is 96"),
}


@pytest.mark.parametrize(("parts", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(parts: Any, reason: str) -> None:
    with pytest.raises(MalformedDocument, match=reason):
        cose.read(cbor2.dumps(parts))


@pytest.mark.parametrize("blob", [b"", b"\xd2", b"{}", b"\x84", b"\x9f\xff"])
def test_scraps_are_malformed(blob: bytes) -> None:
    with pytest.raises(MalformedDocument):
        cose.read(blob)


def test_the_largest_payload_fits_and_the_limit_is_checked_first() -> None:
    largest = cbor2.dumps([PROTECTED, {}, bytes(16_384), bytes(96)])
    assert len(cose.read(b"\xd2" + largest).payload) == 16_384
    assert len(largest) + 1 <= cose.MAX_SIGNED
    with pytest.raises(MalformedDocument, match="at most"):
        cose.read(bytes(cose.MAX_SIGNED + 1))


def test_signs_over_what_another_library_encodes() -> None:
    for size in (1, 23, 24, 255, 256, 16_384):
        payload = bytes(size)
        expected = cbor2.dumps(["Signature1", PROTECTED, b"", payload])
        assert cose.signed_bytes(payload) == expected


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96])
def test_signatures_out_of_range_are_refused(forge: Any, signature: bytes) -> None:
    forged = forge()
    with pytest.raises(UntrustedDocument, match="signature is not that"):
        verify(forged.blob[:-96] + signature, anchors=[forged.anchor], now=forge.now)


def test_a_signature_over_the_bare_payload_is_no_signature(forge: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    forged = forge()
    payload = cbor2.loads(forged.blob)[2]
    r, s = decode_dss_signature(
        forged.leaf_key.sign(payload, ec.ECDSA(hashes.SHA384()))
    )
    bare = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    with pytest.raises(UntrustedDocument, match="signature is not that"):
        verify(forged.blob[:-96] + bare, anchors=[forged.anchor], now=forge.now)
