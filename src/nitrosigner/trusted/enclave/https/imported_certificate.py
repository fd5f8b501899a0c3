"""
A TLS certificate and key that were made elsewhere, and whether clients would take them.

Before one is served we are our own client: OpenSSL on both ends, in memory, trusting
the root that came along, once for each name of the manifest. What fails there would
lock callers out. What it cannot show is who else has the key: the statement says
that it was imported, because whoever has a copy can stand between (decision 0023).
"""

import datetime as dt
import ssl
from collections.abc import Sequence
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nitrosigner.trusted.enclave.https.server_certificate import (
    ServerKey,
    TlsIdentity,
    private_bytes,
    server_context,
)
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused

MAX_CERTIFICATES: Final = 6
"""From the server's to the root, both included."""
RSA_BITS: Final = range(2048, 4097)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_ROUNDS: Final = 8
"""Turns of a handshake; TLS 1.3 has two."""
_REASONS: Final = {
    10: "one of its certificates has ended",
    9: "one of its certificates is not valid yet",
    62: "it is not made out to every name in tls_names of the manifest",
    64: "it is not made out to every name in tls_names of the manifest",
}
"""By OpenSSL's X509_V_ERR_ numbers."""
_UNREADABLE: Final = (
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What pyca says of certificates, and no `ValueError`."""


class Unservable(Refused):
    """It cannot even be shown to anybody."""


def chain_of(pem: str) -> list[x509.Certificate]:
    """
    Return the certificates of an import, the server's first.

    Raises:
        Malformed: They are none, too few, or too many.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem.encode("ascii"))
        for each in chain:
            # Read once here what is read later: pyca parses when it is asked.
            _ = each.issuer, each.subject, each.not_valid_before_utc
            _ = each.not_valid_after_utc, _is_authority(each)
    except (ValueError, *_UNREADABLE):
        chain = []
    if not 2 <= len(chain) <= MAX_CERTIFICATES:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "the certificates are not a chain in PEM: the server's, then whoever "
            f"issued each one, up to the root, {MAX_CERTIFICATES} at most",
            "give the authority's certificates too: --chain FILE",
        )
    return chain


def identity_of(chain: Sequence[x509.Certificate], key: SecretBytes) -> TlsIdentity:
    """
    Return the identity that *chain* and *key* (PKCS #8, DER) are.

    Raises:
        Malformed: *key* is none that is served here.
        Refused: It is not the first certificate's, or that one is an authority's.
    """
    private = _private_key(key)
    leaf = chain[0]
    try:
        fits = _public(leaf.public_key()) == _public(private.public_key())
    except (ValueError, UnsupportedAlgorithm):
        fits = False
    if not fits:
        raise Refused(
            Code.KEY_MISMATCH,
            "the private key does not belong to the first certificate",
            "the server's certificate comes first, then its issuer's, then the root",
        )
    if _is_authority(leaf) or leaf.issuer == leaf.subject:
        # rustls, and so Lighthouse, refuses an authority as the end of a chain.
        raise Refused(
            Code.CERTIFICATE_UNTRUSTED,
            "the certificate is an authority's own, which strict clients refuse",
            "have the authority issue one for this server (CA:FALSE, serverAuth)",
        )
    ders = [each.public_bytes(serialization.Encoding.DER) for each in chain]
    ends = min(each.not_valid_after_utc.timestamp() for each in chain)
    return TlsIdentity(
        certificate=ders[0],
        authority=ders[-1],
        key=private_bytes(private, serialization.Encoding.PEM),
        not_after=int(ends),
        intermediates=tuple(ders[1:-1]),
        imported=True,
    )


def check(
    chain: Sequence[x509.Certificate],
    identity: TlsIdentity,
    names: Sequence[str],
    now: float,
) -> None:
    """
    Make sure that a client which trusts the root would take *identity*. Wipes its key.

    Blocks for milliseconds: run it in a thread.

    Raises:
        Refused: It would not (CERTIFICATE_UNTRUSTED).
        Unservable: Nor could it be served.
    """
    try:
        context = server_context(identity, [])
    except (ssl.SSLError, ValueError):
        raise Unservable(
            Code.CERTIFICATE_UNTRUSTED,
            "OpenSSL does not serve this certificate: a weak signature, or a damaged "
            "key",
            "have it issued with SHA-256 or better",
        ) from None
    time = dt.datetime.fromtimestamp(int(now), dt.UTC)
    if any(time > each.not_valid_after_utc for each in chain):
        raise _untrusted(_REASONS[10])
    if any(time < each.not_valid_before_utc for each in chain):
        raise _untrusted(_REASONS[9])
    if chain[-1].issuer != chain[-1].subject:
        raise _untrusted("its chain does not end in a self-signed root")
    root = ssl.DER_cert_to_PEM_cert(identity.authority)
    for name in names:
        _rehearse(context, root, name.replace("*", "any", 1))


def _rehearse(context: ssl.SSLContext, root: str, name: str) -> None:
    """Do a handshake of a client that calls us *name*."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.hostname_checks_common_name = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cadata=root)
        asks = client.wrap_bio(back, there, server_hostname=name)
        answers = context.wrap_bio(there, back, server_side=True)
        waiting = [asks, answers]
        for _ in range(_ROUNDS):
            waiting = [end for end in waiting if not _done(end)]
            if not waiting:
                return
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(
            _REASONS.get(
                error.verify_code,
                "a client that trusts its root refuses it: an issuer is missing, in "
                "the wrong place or no authority, or it is not for servers",
            )
        ) from None
    except (ssl.SSLError, ValueError):
        pass
    raise _untrusted("no TLS handshake comes about with it")


def _done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _private_key(key: SecretBytes) -> ServerKey:
    try:
        private = serialization.load_der_private_key(key.buffer, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        served = isinstance(private.curve, _CURVES)
    elif isinstance(private, rsa.RSAPrivateKey):
        served = private.key_size in RSA_BITS
    else:
        served = isinstance(private, ed25519.Ed25519PrivateKey)
    if served:
        return cast("ServerKey", private)
    raise Malformed(
        Code.MALFORMED_KEY,
        "the private key is not P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits",
        "wrap its PKCS #8 in DER; nitrosigner tls import does",
    )


def _public(key: object) -> bytes:
    if not isinstance(
        key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    ):
        return b""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _untrusted(why: str) -> Refused:
    return Refused(
        Code.CERTIFICATE_UNTRUSTED,
        f"clients would not accept this certificate: {why}",
        "have it issued for every name in tls_names, with serverAuth; or sign a "
        "manifest with the names that it has",
    )
