"""
The chain of certificates from a Nitro root to the key that signed a document.

`cryptography.x509.verification` checks the profile of the web's PKI, which Nitro's
certificates do not have (no names, no extended key usage, leaf key usage not
critical). So the chain is walked here: each certificate is issued by the one before
it, all are P-384 signed with ECDSA-SHA384, valid now, and used as their extensions
say. The root is trusted because of its fingerprint and nothing else. Revocation is not
checked: AWS says so (attestation_process.md §3.2.4), the certificates are short-lived.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from nitrosigner.attestation.errors import MalformedDocument, UntrustedDocument
from nitrosigner.attestation.trust_anchors import TrustAnchor

_UNDERSTOOD: Final = (x509.BasicConstraints, x509.KeyUsage)
"""The only extensions that may be critical: those that are checked here."""

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,  # where warnings are errors
)
"""What `cryptography` raises at odd certificates, most of it only on access."""


def load(chain: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """
    Read DER certificates, so that everything that is looked at later can be read.

    Raises:
        MalformedDocument: One is not a certificate.
    """
    return tuple(_load(der, position) for position, der in enumerate(chain))


def _load(der: bytes, position: int) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # These are parsed lazily and raise when they are touched for the first time.
        _ = (certificate.version, certificate.subject, certificate.issuer)
        _ = (certificate.extensions, certificate.signature_algorithm_oid)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        certificate.public_key()
        positive = certificate.serial_number > 0
    except _UNREADABLE as error:
        raise MalformedDocument(
            f"certificate {position} of the chain cannot be read"
        ) from error
    # RFC 5280 §4.1.2.2. `cryptography` only warns.
    if not positive:
        raise MalformedDocument(
            f"the serial number of certificate {position} is not positive"
        )
    return certificate


def check(
    chain: Sequence[x509.Certificate],
    anchors: Sequence[TrustAnchor],
    now: datetime,
    future_skew: timedelta,
) -> tuple[TrustAnchor, ec.EllipticCurvePublicKey]:
    """
    Walk *chain*, root first. Return the anchor it hangs on and the leaf's key.

    Certificates may begin *future_skew* after *now*: an enclave's is a second old when
    its first document is made, and our clock may be behind the hypervisor's.

    Raises:
        UntrustedDocument: Says which certificate fails which rule.
    """
    anchor = _anchor(chain[0], anchors)
    key = _key(chain[0], 0)
    for position, certificate in enumerate(chain):
        # The root vouches for itself only through its fingerprint.
        if position:
            _check_issued_by(certificate, chain[position - 1], position)
        key = _key(certificate, position)
        _check_validity(certificate, position, now, future_skew)
        _check_extensions(certificate, position)
        if position < len(chain) - 1:
            # Certificate authorities that follow this one; the leaf is none.
            _check_authority(certificate, position, below=len(chain) - 2 - position)
        else:
            _check_leaf(certificate, position)
    return anchor, key


def _anchor(root: x509.Certificate, anchors: Sequence[TrustAnchor]) -> TrustAnchor:
    fingerprint = root.fingerprint(hashes.SHA256())
    for anchor in anchors:
        if anchor.fingerprint == fingerprint:
            return anchor
    raise UntrustedDocument(
        "the document's root certificate is not one that is trusted here",
        f"its SHA-256 fingerprint is {fingerprint.hex()}, trusted are: "
        + (", ".join(f"{a.fingerprint.hex()} ({a.name})" for a in anchors) or "none"),
    )


def _check_issued_by(
    certificate: x509.Certificate, issuer: x509.Certificate, position: int
) -> None:
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise UntrustedDocument(
            f"certificate {position} is not signed with ECDSA and SHA-384"
        )
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_UNREADABLE, InvalidSignature) as error:
        raise UntrustedDocument(
            f"certificate {position} was not issued by the one before it"
        ) from error


def _key(certificate: x509.Certificate, position: int) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP384R1
    ):
        raise UntrustedDocument(f"the key of certificate {position} is not P-384")
    return key


def _check_validity(
    certificate: x509.Certificate,
    position: int,
    now: datetime,
    future_skew: timedelta,
) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin - future_skew <= now <= end:
        raise UntrustedDocument(
            f"certificate {position} of the chain is not valid at {now:%FT%TZ}",
            f"it is valid from {begin:%FT%TZ} to {end:%FT%TZ}",
        )


def _check_extensions(certificate: x509.Certificate, position: int) -> None:
    if certificate.version is not x509.Version.v3:
        raise UntrustedDocument(f"certificate {position} is not of version 3")
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise UntrustedDocument(
                f"certificate {position} has a critical extension that is not"
                f" understood: {extension.oid.dotted_string}"
            )


def _check_authority(
    certificate: x509.Certificate, position: int, *, below: int
) -> None:
    constraints, usage = _constraints(certificate, position)
    # RFC 5280 §4.2.1.9: an authority must say so, and critically.
    if not (constraints.critical and constraints.value.ca):
        raise UntrustedDocument(
            f"certificate {position} is not a certificate authority's"
        )
    if not usage.key_cert_sign:
        raise UntrustedDocument(
            f"certificate {position} may not sign certificates (key usage)"
        )
    limit = constraints.value.path_length
    if limit is not None and limit < below:
        raise UntrustedDocument(
            f"certificate {position} allows {limit} authorities below it,"
            f" there are {below} (path length)"
        )


def _check_leaf(certificate: x509.Certificate, position: int) -> None:
    constraints, usage = _constraints(certificate, position)
    if constraints.value.ca or usage.key_cert_sign:
        raise UntrustedDocument(
            "the document is signed by a certificate authority, not by an enclave's"
            " certificate"
        )
    if not usage.digital_signature:
        raise UntrustedDocument(
            f"certificate {position} may not sign documents (key usage)"
        )


def _constraints(
    certificate: x509.Certificate, position: int
) -> tuple[x509.Extension[x509.BasicConstraints], x509.KeyUsage]:
    extensions = certificate.extensions
    try:
        return (
            extensions.get_extension_for_class(x509.BasicConstraints),
            extensions.get_extension_for_class(x509.KeyUsage).value,
        )
    except x509.ExtensionNotFound:
        raise UntrustedDocument(
            f"certificate {position} lacks basic constraints or key usage"
        ) from None
