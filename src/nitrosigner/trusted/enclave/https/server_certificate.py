"""
The TLS identity: a certificate authority for each deployment, a leaf for each boot.

The authority's key is made here once and sealed under the vault key, so clients can
keep one PEM file across reboots (decision 0003). The leaf's key is made in memory at
each boot, is never stored, and reaches OpenSSL through a memfd: a path that no disk and
no other process has. The attestation document names the *leaf*.

`imported_certificate` has the alternative: a leaf and a key that were made elsewhere.
"""

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nitrosigner.trusted.enclave.memory import take_bytes
from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.vault.sealed_singles import SealedSingles
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.manifest import AcceptedManifest

ServerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

AUTHORITY_DAYS: Final = 20 * 365
LEAF_DAYS: Final = 365
"""An enclave that runs for longer must be restarted; `/healthcheck` warns before."""
_PURPOSE: Final = "tls"
_WRITE_ATTEMPTS: Final = 3
_BACKDATED: Final = dt.timedelta(days=1)
"""Clients whose clock is behind ours must still accept what we made just now."""
# RSA for imported certificates; with a leaf of ours those are never chosen.
_TLS_1_2_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:"
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-CHACHA20-POLY1305"
)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What the listener presents. The key does not print."""

    certificate: bytes
    """DER of the leaf: what `Statement.tls` is the SHA-256 of."""
    authority: bytes
    """DER of the deployment's authority: what clients trust."""
    key: SecretBytes
    """PEM of the leaf's private key. Wiped once OpenSSL has it."""
    not_after: int
    """Unix seconds at which the leaf ends, or whoever issued it."""
    intermediates: tuple[bytes, ...] = ()
    """DER of whoever stands between the leaf and the authority, the leaf's issuer
    first."""
    imported: bool = False
    trouble: str = ""
    """What clients would object to in an imported one, in a sentence."""

    @property
    def authority_pem(self) -> bytes:
        """The authority's certificate as clients keep it, and the ones below it."""
        return b"".join(map(_pem, (self.authority, *reversed(self.intermediates))))


async def open_identity(
    *, singles: SealedSingles, accepted: AcceptedManifest, clock: Clock
) -> TlsIdentity:
    """
    Read the deployment's authority, or make it, and issue this boot's leaf.

    Raises:
        Refused: The sealed record is not ours.
        Undecided: The store did not answer, or somebody else kept winning the race.
    """
    manifest = accepted.manifest
    for _ in range(_WRITE_ATTEMPTS):
        single = await singles.read(_PURPOSE)
        if single is not None:
            with single.secret as secret:
                return issue(single.public, secret, manifest.tls_names, clock.now())
        certificate, secret = new_authority(manifest.deployment, clock.now())
        with secret:
            try:
                await singles.write(
                    _PURPOSE, expected=0, public=certificate, secret=secret
                )
            except Refused as refused:
                # Two enclaves of one deployment booted at once. The first one's
                # authority is what clients will know: read it.
                if refused.code != Code.VERSION_CONFLICT:
                    raise
            else:
                return issue(certificate, secret, manifest.tls_names, clock.now())
    raise Undecided(
        Code.STORAGE_UNAVAILABLE,
        "the TLS authority could not be stored",
        "look for several enclaves that start over and over",
    )


def new_authority(deployment: str, now: float) -> tuple[bytes, SecretBytes]:
    """Return a new authority: its DER certificate and its key (PKCS #8 DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nitrosigner"),
            x509.NameAttribute(NameOID.COMMON_NAME, deployment),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        # pathlen 0: it may sign servers, never another authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER), private_bytes(
        key, serialization.Encoding.DER
    )


def issue(
    authority: bytes, authority_key: SecretBytes, names: Sequence[str], now: float
) -> TlsIdentity:
    """
    Make a leaf key and have the authority sign a certificate for *names*.

    Raises:
        Refused: *authority* and *authority_key* are not one pair.
    """
    issuer = x509.load_der_x509_certificate(authority)
    # pyca takes only bytes-like and keeps its own copy in OpenSSL, freed with the key.
    signer = serialization.load_der_private_key(authority_key.buffer, password=None)
    if (
        not isinstance(signer, ec.EllipticCurvePrivateKey)
        or signer.public_key() != issuer.public_key()
    ):
        raise Refused(
            Code.RECORD_UNTRUSTED,
            "the TLS authority's key does not belong to its certificate",
            "restore the tls record, or remove it to start a new authority",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nitrosigner server")])
    public_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                public_key.value
            ),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return TlsIdentity(
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        authority=authority,
        key=private_bytes(key, serialization.Encoding.PEM),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
    )


def server_context(
    identity: TlsIdentity, client_certificates: Iterable[str]
) -> ssl.SSLContext:
    """
    Return the listener's TLS settings, and wipe the identity's key.

    Args:
        identity: What to present.
        client_certificates: PEM of every certificate that a client may prove to hold.
            Each is trusted as it is, without its issuer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    # No resumption: whoever has an identity proved it on this very connection, and no
    # ticket key outlives the forward secrecy of its sessions.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # Asked for, not demanded: a token is the other credential. A certificate that no
    # client has ends the handshake.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    anchors = "".join(client_certificates)
    if anchors:
        context.load_verify_locations(cadata=anchors)
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with identity.key as key:
            size = os.write(descriptor, key.buffer)
            for shown in (identity.certificate, *identity.intermediates):
                size += os.write(descriptor, _pem(shown))
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            os.pwrite(descriptor, bytes(size), 0)
    finally:
        os.close(descriptor)
    return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: float,
    days: int,
) -> x509.CertificateBuilder:
    start = dt.datetime.fromtimestamp(int(now), dt.UTC) - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def private_bytes(key: ServerKey, encoding: serialization.Encoding) -> SecretBytes:
    """Return *key* as PKCS #8. Whoever asked wipes it."""
    return SecretBytes(
        take_bytes(
            key.private_bytes(
                encoding,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    )


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()
