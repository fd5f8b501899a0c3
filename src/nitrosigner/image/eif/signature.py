"""
The signature of an image: a certificate and an ES384 signature over PCR0.

The signature is what makes a hypervisor fill in PCR8; what PCR8 then vouches for is the
certificate's bytes and nothing of what is in them: no name, no validity, no issuer is
looked at when an enclave starts. A key policy that names PCR8 admits every image that
this key ever signs.

The section is CBOR as Rust's serde writes it: byte strings are arrays of integers.

Source: aws-nitro-enclaves-image-format, `defs/mod.rs` (PcrSignature, PcrInfo) and
`utils/eif_signer.rs`; AWS Nitro Enclaves User Guide, "Using PCR8 with signed images".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from nitrosigner.attestation import cose, strict_cbor
from nitrosigner.attestation.errors import AttestationError
from nitrosigner.attestation.measurements import PCR_SIZE
from nitrosigner.image.eif.layout import MAX_SIGNATURE, malformed
from nitrosigner.image.eif.measure import certificate_register
from nitrosigner.verdicts import Code, Malformed, Refused

_HALF: Final = cose.SIGNATURE_SIZE // 2
_SIGNED_REGISTER: Final = 0
_FIELDS: Final = ["signing_certificate", "signature"]
_BEGIN: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """What a signature section holds. `check` says whether it is true."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    signed: cose.SignedPayload

    @property
    def certificate_der(self) -> bytes:
        """What PCR8 measures."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def register(self) -> bytes:
        """PCR8, provided that `check` passes."""
        return certificate_register(self.certificate_der)

    def check(self, pcr0: bytes) -> None:
        """
        Check that the certificate's key signed this PCR0.

        Raises:
            Refused: It did not: a hypervisor would not start this image.
        """
        try:
            cose.check_signature(self.signed, self.key)
        except AttestationError:
            raise _refused(
                "its signature is not that of the certificate in it",
                "sign it again: nitrosigner image sign",
            ) from None
        if self.signed.payload != _payload(pcr0):
            raise _refused(
                "its signature is for another PCR0 than the image measures",
                "the image was altered after it was signed; build and sign it again",
            )


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs images. Made by `signer`, so key and certificate belong together."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def section(self, pcr0: bytes) -> bytes:
        """Return the payload of a signature section for an image with this PCR0."""
        payload = _payload(pcr0)
        der = self.key.sign(
            cose.signed_bytes(payload),
            # The same image, key and certificate shall make the same file.
            ec.ECDSA(hashes.SHA384(), deterministic_signing=True),
        )
        r, s = decode_dss_signature(der)
        signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
        signed = cbor2.dumps([cose.PROTECTED, {}, payload, signature])
        pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        return cbor2.dumps(
            [{"signing_certificate": list(pem), "signature": list(signed)}]
        )


def signer(
    key_pem: bytes, certificate_pem: bytes, *, now: datetime, password: bytes | None
) -> Signer:
    """
    Return who signs with this private key and certificate.

    Raises:
        Malformed: They are not a P-384 key and a certificate in PEM.
        Refused: They do not belong together, or the certificate is not valid *now*.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password)
    except (ValueError, TypeError):
        raise Malformed(
            Code.MALFORMED_KEY,
            "the signing key cannot be read with what was given",
            "it is a PEM file of a P-384 private key; is it encrypted?",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key.curve):
        raise Malformed(
            Code.MALFORMED_KEY,
            "images are signed with a P-384 key, and this is another",
            "openssl ecparam -name secp384r1 -genkey makes one",
        )
    certificate = _certificate(certificate_pem)
    if key.public_key() != _key_of(certificate):
        raise _refused(
            "the certificate is for another key", "give the signing key's certificate"
        )
    if not (certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc):
        raise _refused(
            "the signing certificate is not valid today",
            "renew it; its PCR8 will be another, so the key policy needs both",
        )
    return Signer(key, certificate)


def read_signature(payload: bytes) -> ImageSignature:
    """
    Take a signature section apart without believing it.

    Raises:
        Malformed: It is none.
    """
    if len(payload) > MAX_SIGNATURE:
        raise malformed("its signature section is too long")
    try:
        entries = strict_cbor.decode(payload, "the section")
        if not (isinstance(entries, tuple) and len(entries) == 1):
            raise malformed("its signature section does not hold one signature")
        entry = entries[0]
        # The order matters to readers of fixed layout, QEMU's among them.
        if not isinstance(entry, Mapping) or list(entry) != _FIELDS:
            raise malformed("its signature section is not a certificate and signature")
        certificate = _certificate(_integers(entry["signing_certificate"]))
        signed = cose.read(_integers(entry["signature"]))
    except AttestationError:
        raise malformed(
            "its signature section is not the CBOR that AWS writes"
        ) from None
    return ImageSignature(certificate, _key_of(certificate), signed)


def _payload(pcr0: bytes) -> bytes:
    if len(pcr0) != PCR_SIZE:
        msg = "a register is 48 bytes"
        raise ValueError(msg)
    return cbor2.dumps(
        {"register_index": _SIGNED_REGISTER, "register_value": list(pcr0)}
    )


def _integers(value: strict_cbor.Value) -> bytes:
    if not isinstance(value, tuple):
        raise malformed("its signature section holds bytes in another form than AWS's")
    numbers = [one for one in value if isinstance(one, int) and 0 <= one < 256]
    if len(numbers) != len(value):
        raise malformed("its signature section holds something that is not a byte")
    return bytes(numbers)


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError):
        certificates = []
    # Text around it, or a second one, would be read differently by somebody.
    if len(certificates) != 1 or pem.count(_BEGIN) != 1:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "the signing certificate is not one certificate in PEM",
            "give the leaf alone: PCR8 measures one certificate, not a chain",
        )
    return certificates[0]


def _key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key.curve):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "the signing certificate is not for a P-384 key",
            "images are signed with ECDSA P-384 and SHA-384",
        )
    return key


def _is_p384(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP384R1)


def _refused(sentence: str, hint: str) -> Refused:
    return Refused(Code.CERTIFICATE_UNTRUSTED, sentence, hint)
