"""The syntax of documents, field by field. All of these are correctly signed."""

from typing import Any

import cbor2
import pytest

from nitrosigner.attestation.errors import MalformedDocument
from nitrosigner.attestation.verify import unverified_document, verify

CERTIFICATE = b"c" * 600
MALFORMED = {
    "unknown field": ({"extra": 1}, "no such field"),
    "unknown field, null": ({"extra": None}, "no such field"),
    "numeric field": ({7: 1}, "no such field"),
    "digest of another kind": ({"digest": "SHA256"}, "digest"),
    "digest in lower case": ({"digest": "sha384"}, "digest"),
    "digest null": ({"digest": None}, "digest"),
    "module_id empty": ({"module_id": ""}, "module_id"),
    "module_id long": ({"module_id": "i" * 257}, "module_id"),
    "module_id bytes": ({"module_id": b"i-0"}, "module_id"),
    "module_id null": ({"module_id": None}, "module_id"),
    "module_id with a line break": ({"module_id": "i-0\nenc"}, "unprintable"),
    "module_id with an escape": ({"module_id": "\x1b[31m"}, "unprintable"),
    "module_id right to left": ({"module_id": "i\u202e0"}, "unprintable"),
    "module_id with an accent": ({"module_id": "i-ö"}, "unprintable"),
    "timestamp zero": ({"timestamp": 0}, "timestamp"),
    "timestamp negative": ({"timestamp": -1}, "timestamp"),
    "timestamp text": ({"timestamp": "now"}, "timestamp"),
    "timestamp null": ({"timestamp": None}, "timestamp"),
    "timestamp beyond time": ({"timestamp": (1 << 64) - 1}, "timestamp"),
    "timestamp a moment beyond time": ({"timestamp": 253402300800000}, "timestamp"),
    "pcrs empty": ({"pcrs": {}}, "pcrs"),
    "pcrs an array": ({"pcrs": [bytes(48)]}, "pcrs"),
    "pcrs null": ({"pcrs": None}, "pcrs"),
    "33 pcrs": ({"pcrs": {n: bytes(48) for n in range(33)}}, "pcrs"),
    "pcr 32": ({"pcrs": {32: bytes(48)}}, "index"),
    "pcr -1": ({"pcrs": {-1: bytes(48)}}, "index"),
    "pcr named by text": ({"pcrs": {"0": bytes(48)}}, "index"),
    "pcr of 32 bytes": ({"pcrs": {0: bytes(32)}}, "PCR0 is not 48"),
    "pcr of 49 bytes": ({"pcrs": {0: bytes(49)}}, "PCR0 is not 48"),
    "pcr text": ({"pcrs": {0: "0" * 48}}, "PCR0 is not 48"),
    "pcr null": ({"pcrs": {0: None}}, "PCR0 is not 48"),
    "certificate empty": ({"certificate": b""}, "certificate is not"),
    "certificate long": ({"certificate": bytes(1025)}, "certificate is not"),
    "certificate text": ({"certificate": "c"}, "certificate is not"),
    "certificate null": ({"certificate": None}, "certificate is not"),
    "cabundle empty": ({"cabundle": []}, "cabundle"),
    "cabundle long": ({"cabundle": [CERTIFICATE] * 9}, "cabundle"),
    "cabundle bytes": ({"cabundle": CERTIFICATE}, "cabundle"),
    "cabundle null": ({"cabundle": None}, "cabundle"),
    "cabundle of null": ({"cabundle": [None]}, "certificate is not"),
    "cabundle of empty": ({"cabundle": [b""]}, "certificate is not"),
    "public_key empty": ({"public_key": b""}, "public_key"),
    "public_key long": ({"public_key": bytes(1025)}, "public_key"),
    "public_key text": ({"public_key": "key"}, "public_key"),
    "user_data long": ({"user_data": bytes(1025)}, "user_data"),
    "user_data a map": ({"user_data": {}}, "user_data"),
    "nonce long": ({"nonce": bytes(1025)}, "nonce"),
    "nonce a number": ({"nonce": 1}, "nonce"),
    "a float somewhere": ({"timestamp": 1.5}, "strict CBOR"),
    "a boolean somewhere": ({"timestamp": True}, "strict CBOR"),
    "a tag somewhere": ({"nonce": cbor2.CBORTag(24, b"x")}, "strict CBOR"),
}


@pytest.mark.parametrize(("fields", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(forge: Any, fields: Any, reason: str) -> None:
    forged = forge(fields=fields)
    with pytest.raises(MalformedDocument, match=reason):
        verify(forged.blob, anchors=[forged.anchor], now=forge.now)
    with pytest.raises(MalformedDocument, match=reason):
        unverified_document(forged.blob)


@pytest.mark.parametrize(
    "name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"]
)
def test_mandatory_fields_are_missed(forge: Any, name: str) -> None:
    with pytest.raises(MalformedDocument, match=f"{name} is missing"):
        unverified_document(forge(without=name).blob)


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_absent_or_null(forge: Any, name: str) -> None:
    for forged in (forge(without=name), forge(fields={name: None})):
        attestation = verify(forged.blob, anchors=[forged.anchor], now=forge.now)
        assert getattr(attestation, name) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"user_data": b"", "nonce": b""},
        {"user_data": bytes(1024), "nonce": bytes(1024), "public_key": bytes(1024)},
        {"pcrs": dict.fromkeys(range(32), b"\x01" * 48)},
        {"module_id": "i" * 256},
        {"module_id": "i"},
        {"timestamp": 1},
        {"timestamp": 253402300799999},
        {"certificate": bytes(1024), "cabundle": [bytes(1024)] * 8},
        {"certificate": b"c", "cabundle": [b"c"]},
    ],
)
def test_the_limits_themselves_are_within_them(forge: Any, fields: Any) -> None:
    unverified_document(forge(fields=fields).blob)


def _with_pair(encoded: bytes, key: bytes, value: bytes) -> bytes:
    """One more pair in the payload's own map."""
    return bytes([encoded[0] + 1]) + encoded[1:] + key + value


def test_a_second_field_of_the_same_name_is_refused(forge: Any) -> None:
    payload = unverified_payload(forge().blob)
    for name, value in (("nonce", b"other"), ("nonce", None), ("module_id", "i-1")):
        twice = _with_pair(payload, cbor2.dumps(name), cbor2.dumps(value))
        with pytest.raises(MalformedDocument, match="same key twice"):
            unverified_document(forge(payload=twice).blob)


def test_a_second_register_of_the_same_index_is_refused(forge: Any) -> None:
    payload = unverified_payload(forge().blob)
    start = payload.index(cbor2.dumps("pcrs")) + 5
    assert payload[start] == 0xB0
    twice = (
        payload[:start]
        + b"\xb1"
        + cbor2.dumps(0)
        + cbor2.dumps(b"\xee" * 48)
        + payload[start + 1 :]
    )
    with pytest.raises(MalformedDocument, match="same key twice"):
        unverified_document(forge(payload=twice).blob)


def test_another_encoding_of_the_same_document_is_refused(forge: Any) -> None:
    payload = unverified_payload(forge().blob)
    for other in (
        b"\xbf" + payload[1:] + b"\xff",  # indefinite
        b"\xb8\x09" + payload[1:],  # a longer count than needed
        payload + b"\xf6",
        b"\xd9\xd9\xf7" + payload,  # "this is CBOR"
    ):
        with pytest.raises(MalformedDocument):
            unverified_document(forge(payload=other).blob)


@pytest.mark.parametrize("payload", [b"\x80", b"\xf6", b"\x00", b"\x60", b"\x40"])
def test_what_is_not_a_map_is_no_document(forge: Any, payload: bytes) -> None:
    with pytest.raises(MalformedDocument, match="is a map"):
        unverified_document(forge(payload=payload).blob)


def unverified_payload(blob: bytes) -> bytes:
    payload = cbor2.loads(blob)[2]
    assert isinstance(payload, bytes)
    return payload
