"""Each rule of the chain, broken alone: the document is refused for that reason."""

import warnings
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from nitrosigner.attestation.errors import MalformedDocument, UntrustedDocument
from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.attestation.verify import FUTURE_SKEW, Attestation, verify
from nitrosigner.emulator.nitro_pki import key_usage

ROOT, REGION, ZONE, INSTANCE, LEAF = range(5)
AUTHORITY = {
    "constraints": x509.BasicConstraints(True, None),
    "usage": key_usage(key_cert_sign=True),
}


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _p521() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP521R1())


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _verify(forge: Any, forged: Any) -> Attestation:
    return verify(forged.blob, anchors=[forged.anchor], now=forge.now)


RULES = {
    "region expired": (
        REGION,
        lambda now: {"end": now - timedelta(seconds=1)},
        "certificate 1 of the chain is not valid",
    ),
    "instance expired": (
        INSTANCE,
        lambda now: {"end": now - timedelta(seconds=1)},
        "certificate 3 of the chain is not valid",
    ),
    "leaf expired": (
        LEAF,
        lambda now: {"end": now - timedelta(seconds=1)},
        "certificate 4 of the chain is not valid",
    ),
    "leaf not valid yet": (
        LEAF,
        lambda now: {"begin": now + timedelta(seconds=31)},
        "certificate 4 of the chain is not valid",
    ),
    "root expired": (
        ROOT,
        lambda now: {"end": now - timedelta(seconds=1)},
        "certificate 0 of the chain is not valid",
    ),
    "region is no authority": (
        REGION,
        lambda _: {"constraints": x509.BasicConstraints(False, None)},
        "certificate 1 is not a certificate authority's",
    ),
    "root is no authority": (
        ROOT,
        lambda _: {"constraints": x509.BasicConstraints(False, None)},
        "certificate 0 is not a certificate authority's",
    ),
    "region is an authority, but not critically": (
        REGION,
        lambda _: {"constraints_critical": False},
        "certificate 1 is not a certificate authority's",
    ),
    "region may not sign certificates": (
        REGION,
        lambda _: {"usage": key_usage(digital_signature=True)},
        r"certificate 1 may not sign certificates",
    ),
    "root may not sign certificates": (
        ROOT,
        lambda _: {"usage": key_usage(crl_sign=True)},
        r"certificate 0 may not sign certificates",
    ),
    "zone without key usage": (
        ZONE,
        lambda _: {"usage": None},
        "certificate 2 lacks",
    ),
    "zone without constraints": (
        ZONE,
        lambda _: {"constraints": None},
        "certificate 2 lacks",
    ),
    "leaf without key usage": (LEAF, lambda _: {"usage": None}, "certificate 4 lacks"),
    "leaf without constraints": (
        LEAF,
        lambda _: {"constraints": None},
        "certificate 4 lacks",
    ),
    "root allows too few below": (
        ROOT,
        lambda _: {"constraints": x509.BasicConstraints(True, 2)},
        r"certificate 0 allows 2 authorities below it, there are 3",
    ),
    "region allows too few below": (
        REGION,
        lambda _: {"constraints": x509.BasicConstraints(True, 1)},
        r"certificate 1 allows 1 authorities below it, there are 2",
    ),
    "leaf is an authority": (
        LEAF,
        lambda _: {
            "constraints": x509.BasicConstraints(True, None),
            "usage": key_usage(digital_signature=True),
        },
        "signed by a certificate authority",
    ),
    "leaf may sign certificates": (
        LEAF,
        lambda _: {"usage": key_usage(digital_signature=True, key_cert_sign=True)},
        "signed by a certificate authority",
    ),
    "leaf may not sign": (
        LEAF,
        lambda _: {"usage": key_usage(content_commitment=True)},
        "certificate 4 may not sign documents",
    ),
    "zone with a P-256 key": (
        ZONE,
        lambda _: {"key": _p256},
        "key of certificate 2 is not P-384",
    ),
    "zone with a P-521 key": (
        ZONE,
        lambda _: {"key": _p521},
        "key of certificate 2 is not P-384",
    ),
    "root with an RSA key": (
        ROOT,
        lambda _: {"key": _rsa},
        "key of certificate 0 is not P-384",
    ),
    "zone signed with SHA-256": (
        ZONE,
        lambda _: {"digest": hashes.SHA256()},
        "certificate 2 is not signed with ECDSA and SHA-384",
    ),
    "leaf signed with SHA-512": (
        LEAF,
        lambda _: {"digest": hashes.SHA512()},
        "certificate 4 is not signed with ECDSA and SHA-384",
    ),
    "unknown critical extension": (
        ZONE,
        lambda _: {
            "extension": (
                x509.UnrecognizedExtension(
                    x509.ObjectIdentifier("1.3.6.1.4.1.1.1"), b""
                ),
                True,
            )
        },
        r"critical extension that is not understood: 1\.3\.6\.1\.4\.1\.1\.1",
    ),
    "name constraints that nobody checks": (
        REGION,
        lambda _: {
            "extension": (x509.NameConstraints([x509.DNSName("aws")], None), True)
        },
        "critical extension that is not understood",
    ),
    "leaf with a critical extension": (
        LEAF,
        lambda _: {
            "extension": (
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
                True,
            )
        },
        "certificate 4 has a critical extension",
    ),
    "zone signed by a stranger": (
        ZONE,
        lambda _: {"signed_by_stranger": True},
        "certificate 2 was not issued by the one before",
    ),
    "leaf signed by a stranger": (
        LEAF,
        lambda _: {"signed_by_stranger": True},
        "certificate 4 was not issued by the one before",
    ),
    "leaf signed by itself, in the issuer's name": (
        LEAF,
        lambda _: {"signed_by_itself": True},
        "certificate 4 was not issued by the one before",
    ),
    "leaf self-signed": (
        LEAF,
        lambda _: {"signed_by_itself": True, "issuer_name": "leaf"},
        "certificate 4 was not issued by the one before",
    ),
    "zone names another issuer": (
        ZONE,
        lambda _: {"issuer_name": "somebody else"},
        "certificate 2 was not issued by the one before",
    ),
}


def test_a_good_chain_is_accepted(forge: Any) -> None:
    forged = forge()
    attestation = _verify(forge, forged)
    assert attestation.anchor is forged.anchor
    assert attestation.emulated
    ders = [
        c.public_bytes(serialization.Encoding.DER) for c in attestation.certificates
    ]
    assert tuple(ders) == forged.chain


@pytest.mark.parametrize(("position", "change", "reason"), RULES.values(), ids=RULES)
def test_refused(forge: Any, position: int, change: Any, reason: str) -> None:
    forged = forge(*forge.changed(position, **change(forge.now)))
    with pytest.raises(UntrustedDocument, match=reason):
        _verify(forge, forged)


def test_an_extension_that_is_not_critical_may_be_there(forge: Any) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"")
    _verify(forge, forge(*forge.changed(ZONE, extension=(unknown, False))))


def test_validity_includes_its_ends(forge: Any) -> None:
    _verify(forge, forge(*forge.changed(LEAF, begin=forge.now + FUTURE_SKEW)))
    _verify(forge, forge(*forge.changed(LEAF, end=forge.now)))


def test_a_chain_out_of_order_is_refused(forge: Any) -> None:
    good = forge()
    root, region, zone, instance, _ = good.chain
    shuffled = forge(fields={"cabundle": [root, zone, region, instance]})
    with pytest.raises(UntrustedDocument, match="not issued by the one before"):
        verify(shuffled.blob, anchors=[good.anchor], now=forge.now)


def test_the_root_must_be_first(forge: Any) -> None:
    good = forge()
    backwards = forge(fields={"cabundle": list(good.chain[-2::-1])})
    with pytest.raises(UntrustedDocument, match="root certificate is not one"):
        verify(backwards.blob, anchors=[good.anchor], now=forge.now)


def test_a_trusted_root_further_down_lends_no_trust(forge: Any) -> None:
    trusted = forge()
    foreign = forge(*forge.changed(ROOT, name="foreign"))
    mixed = list(foreign.chain[:-1])
    mixed.insert(1, trusted.chain[0])
    forged = forge(fields={"cabundle": mixed, "certificate": foreign.chain[-1]})
    with pytest.raises(UntrustedDocument, match="root certificate is not one"):
        verify(forged.blob, anchors=[trusted.anchor], now=forge.now)


def test_a_root_of_the_same_name_and_key_is_still_another_root(forge: Any) -> None:
    first, second = forge(), forge()
    assert first.chain[0] != second.chain[0]
    with pytest.raises(UntrustedDocument, match="root certificate is not one"):
        verify(second.blob, anchors=[first.anchor], now=forge.now)


def test_a_missing_link_is_refused(forge: Any) -> None:
    good = forge()
    root, region, _, instance, _ = good.chain
    forged = forge(fields={"cabundle": [root, region, instance]})
    with pytest.raises(UntrustedDocument, match="certificate 2 was not issued"):
        verify(forged.blob, anchors=[anchor_from(root)], now=forge.now)


def test_a_leaf_directly_below_the_root_is_a_chain_too(forge: Any) -> None:
    forged = forge(forge.links[ROOT], forge.links[LEAF])
    assert len(_verify(forge, forged).certificates) == 2


def test_a_root_that_is_its_own_leaf_is_refused(forge: Any, link: Any) -> None:
    root = link("root", usage=key_usage(key_cert_sign=True, digital_signature=True))
    forged = forge(root, link("root", **AUTHORITY))
    with pytest.raises(UntrustedDocument, match="signed by a certificate authority"):
        _verify(forge, forged)


def test_a_document_signed_by_another_key_is_refused(forge: Any) -> None:
    good = forge()
    other = forge(*forge.changed(LEAF, name="another leaf"))
    blob = good.blob[:-96] + other.blob[-96:]
    with pytest.raises(UntrustedDocument, match="signature is not that"):
        verify(blob, anchors=[good.anchor], now=forge.now)


def test_an_intermediate_cannot_sign_documents(forge: Any) -> None:
    # The instance authority's key signs, and its certificate stands as the leaf.
    forged = forge(*forge.links[:LEAF])
    with pytest.raises(UntrustedDocument, match="signed by a certificate authority"):
        _verify(forge, forged)


@pytest.mark.parametrize(
    "change",
    [
        lambda der: b"\x30",
        lambda der: der[:-1],
        lambda der: der + b"\x00",
        lambda der: b"\x00" * len(der),
        lambda der: b"not a certificate",
    ],
)
def test_what_is_not_a_certificate_is_malformed(forge: Any, change: Any) -> None:
    good = forge()
    for fields in (
        {"certificate": change(good.chain[-1])},
        {"cabundle": [*good.chain[:3], change(good.chain[3])]},
    ):
        forged = forge(fields=fields)
        with pytest.raises(MalformedDocument, match="cannot be read"):
            verify(forged.blob, anchors=[good.anchor], now=forge.now)


def test_a_serial_number_that_is_not_positive_is_malformed(forge: Any) -> None:
    good = forge()
    der = bytearray(good.chain[-1])
    start = der.index(bytes.fromhex("a00302010202")) + 7
    der[start] |= 0x80
    forged = forge(fields={"certificate": bytes(der)})
    with pytest.raises(MalformedDocument):
        verify(forged.blob, anchors=[good.anchor], now=forge.now)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MalformedDocument, match="serial number of certificate 4"):
            verify(forged.blob, anchors=[good.anchor], now=forge.now)


def _element(tag: int, content: bytes) -> bytes:
    size = 1 if len(content) < 256 else 2
    assert len(content) > 127
    return bytes([tag, 0x80 | size]) + len(content).to_bytes(size, "big") + content


def _signed_again(tbs: bytes, issuer_key: Any) -> bytes:
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")
    signature = issuer_key.sign(tbs, ec.ECDSA(hashes.SHA384()))
    bits = bytes([0x03, len(signature) + 1, 0]) + signature
    return _element(0x30, tbs + algorithm + bits)


def test_a_serial_number_of_zero_is_malformed(forge: Any) -> None:
    issuer, leaf = forge(*forge.links[:LEAF]), forge()
    tbs = x509.load_der_x509_certificate(leaf.chain[-1]).tbs_certificate_bytes
    _, field, rest = tbs.partition(bytes.fromhex("a003020102"))
    zero = field + b"\x02\x01\x00" + rest[2 + rest[1] :]
    certificate = _signed_again(_element(0x30, zero), issuer.leaf_key)
    fields = {"cabundle": list(issuer.chain), "certificate": certificate}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MalformedDocument, match="serial number of certificate 4"):
            verify(forge(fields=fields).blob, anchors=[issuer.anchor], now=forge.now)


@pytest.mark.parametrize("version", [3, 1])
def test_a_certificate_is_of_version_3(forge: Any, version: int) -> None:
    # Version 1 has no extensions, so whoever reads one might not look at them. The
    # library makes none: the field is left out and the certificate signed again.
    issuer, leaf = forge(*forge.links[:LEAF]), forge()
    certificate = x509.load_der_x509_certificate(leaf.chain[-1])
    tbs = certificate.tbs_certificate_bytes
    if version == 1:
        _, field, rest = tbs.partition(bytes.fromhex("a003020102"))
        assert field
        tbs = _element(0x30, rest)
    forged = forge(
        fields={
            "cabundle": list(issuer.chain),
            "certificate": _signed_again(tbs, issuer.leaf_key),
        }
    )
    if version == 3:
        verify(forged.blob, anchors=[issuer.anchor], now=forge.now)
        return
    with pytest.raises(UntrustedDocument, match="certificate 4 is not of version 3"):
        verify(forged.blob, anchors=[issuer.anchor], now=forge.now)


def anchor_from(der: bytes) -> EmulatedRoot:
    certificate = x509.load_der_x509_certificate(der)
    return EmulatedRoot("forged", certificate.fingerprint(hashes.SHA256()))
