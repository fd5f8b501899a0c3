"""A signature section holds one certificate and one ES384 signature, or is refused."""

import datetime as dt
import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from nitrosigner.image.eif.signature import read_signature, signer
from nitrosigner.verdicts import Malformed, Refused

PCR0 = b"\x07" * 48
NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def test_the_section_is_the_one_that_aws_s_tools_write(pair: Any) -> None:
    """Arrays of integers, keys in order, an untagged COSE_Sign1 that verifies."""
    section = pair.signer().section(PCR0)
    (entry,) = cbor2.loads(section)
    assert list(entry) == ["signing_certificate", "signature"]
    assert all(isinstance(values, list) for values in entry.values())
    pem = bytes(entry["signing_certificate"])
    assert pem == pair.certificate
    protected, unprotected, payload, raw = cbor2.loads(bytes(entry["signature"]))
    assert cbor2.loads(protected) == {1: -35}
    assert unprotected == {}
    assert cbor2.loads(payload) == {"register_index": 0, "register_value": [7] * 48}
    assert list(cbor2.loads(payload)) == ["register_index", "register_value"]
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(
        encode_dss_signature(
            int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big")
        ),
        cbor2.dumps(["Signature1", protected, b"", payload]),
        ec.ECDSA(SHA384()),
    )


def test_pcr8_measures_the_certificates_der(pair: Any) -> None:
    signature = read_signature(pair.signer().section(PCR0))
    signature.check(PCR0)
    der = x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)
    inner = hashlib.sha384(der).digest()
    assert signature.register == hashlib.sha384(bytes(48) + inner).digest()


def test_a_signature_is_for_one_pcr0(pair: Any) -> None:
    signature = read_signature(pair.signer().section(PCR0))
    with pytest.raises(Refused, match="another PCR0"):
        signature.check(b"\x08" * 48)


def test_the_certificate_of_somebody_else_is_noticed(
    pair: Any, pairs: Callable[..., Any]
) -> None:
    entry = cbor2.loads(pair.signer().section(PCR0))[0]
    entry["signing_certificate"] = list(pairs().certificate)
    with pytest.raises(Refused, match="not that of the certificate"):
        read_signature(cbor2.dumps([entry])).check(PCR0)


def sections(pair: Any, pairs: Callable[..., Any]) -> list[tuple[bytes, str]]:
    entry = cbor2.loads(pair.signer().section(PCR0))[0]
    pem, cose = entry["signing_certificate"], entry["signature"]

    def made(**changed: Any) -> bytes:
        return cbor2.dumps([{**entry, **changed}])

    backwards = {"signature": cose, "signing_certificate": pem}
    _, _, payload, raw = cbor2.loads(bytes(cose))
    es256 = cbor2.dumps([cbor2.dumps({1: -7}), {}, payload, raw])
    p256 = pairs(curve=ec.SECP256R1()).certificate
    return [
        (b"", "not the CBOR"),
        (cbor2.dumps([]), "one signature"),
        (cbor2.dumps([entry, entry]), "one signature"),
        (cbor2.dumps(entry), "one signature"),
        (cbor2.dumps([1]), "a certificate and signature"),
        (cbor2.dumps([backwards]), "a certificate and signature"),
        (made(more=1), "a certificate and signature"),
        (made(signature=bytes(cose)), "another form"),
        (made(signing_certificate=bytes(pem)), "another form"),
        (made(signature=[*cose, 256]), "not a byte"),
        (made(signature=[*cose[:-1], -1]), "not a byte"),
        (made(signature=cose[:-1]), "not the CBOR"),
        (made(signature=[*cose, 0]), "not the CBOR"),
        (made(signature=list(es256)), "not the CBOR"),
        (made(signing_certificate=pem[:40]), "one certificate in PEM"),
        (made(signing_certificate=pem + pem), "one certificate in PEM"),
        (made(signing_certificate=list(p256)), "not for a P-384 key"),
        (pair.signer().section(PCR0) + b"\0", "not the CBOR"),
        (bytes(70_000), "too long"),
    ]


def test_every_other_section_is_malformed(pair: Any, pairs: Callable[..., Any]) -> None:
    for section, sentence in sections(pair, pairs):
        with pytest.raises(Malformed, match=sentence):
            read_signature(section)


def test_a_signer_needs_a_p384_key_with_its_certificate(
    pair: Any, pairs: Callable[..., Any]
) -> None:
    other = pairs()
    small = pairs(curve=ec.SECP256R1())
    for key, certificate, sentence in (
        (b"", pair.certificate, "cannot be read"),
        (small.key, small.certificate, "P-384 key"),
        (pair.key, b"", "one certificate"),
        (pair.key, pair.certificate + other.certificate, "one certificate"),
        (pair.key, small.certificate, "not for a P-384 key"),
    ):
        with pytest.raises(Malformed, match=sentence):
            signer(key, certificate, now=NOW, password=None)
    with pytest.raises(Refused, match="another key"):
        signer(pair.key, other.certificate, now=NOW, password=None)


def test_an_encrypted_key_needs_its_password(pairs: Callable[..., Any]) -> None:
    locked = pairs(password=b"open")
    for password in (None, b"wrong"):
        with pytest.raises(Malformed, match="cannot be read"):
            signer(locked.key, locked.certificate, now=NOW, password=password)
    made = signer(locked.key, locked.certificate, now=NOW, password=b"open")
    read_signature(made.section(PCR0)).check(PCR0)


def test_a_certificate_signs_only_while_it_is_valid(pairs: Callable[..., Any]) -> None:
    day = dt.timedelta(days=1)
    for begins, ends in ((NOW - 2 * day, NOW - day), (NOW + day, NOW + 2 * day)):
        dated = pairs(begins=begins, ends=ends)
        with pytest.raises(Refused, match="not valid today"):
            signer(dated.key, dated.certificate, now=NOW, password=None)


def test_a_register_of_another_size_is_no_register(pair: Any) -> None:
    with pytest.raises(ValueError, match="48 bytes"):
        pair.signer().section(b"short")
