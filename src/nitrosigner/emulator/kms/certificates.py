"""
The emulated KMS's own certificate authority, and the certificate of its endpoint.

The authority is made once and outlives every restart: the administrator's manifest
names it, so a new one would be a KMS that no enclave trusts. The endpoint's
certificate is made anew before it expires.
"""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nitrosigner.emulator.data_folder import replace, write_new
from nitrosigner.emulator.nitro_pki import key_usage

_AUTHORITY_LIFE: Final = dt.timedelta(days=20 * 365)
_ENDPOINT_LIFE: Final = dt.timedelta(days=397)
_RENEW_BEFORE: Final = dt.timedelta(days=30)
_BACKDATED: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the parts lie, as PEM."""

    authority: Path
    certificate: Path
    """Certificate and key of the endpoint in one file, so that they always match."""


def ensure_certificates(folder: Path, *, region: str, now: dt.datetime) -> TlsFiles:
    """Return valid certificates in *folder*, making what is absent or near its end."""
    files = TlsFiles(folder / "kms-ca.pem", folder / "tls.pem")
    authority_key = folder / "kms-ca-key.pem"
    if not files.authority.exists():
        _make_authority(files.authority, authority_key, now)
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    names = [f"kms.{region}.amazonaws.com", "localhost", "127.0.0.1"]
    if not _still_good(files.certificate, authority, names, now):
        key = _load_key(authority_key)
        replace(files.certificate, _endpoint(authority, key, names, now))
    return files


def _make_authority(path: Path, key_path: Path, now: dt.datetime) -> None:
    # The key first: a crash between the two leaves a key without a certificate, which
    # the next run completes; the other order would leave a certificate without a key.
    write_new(key_path, _key_pem(ec.generate_private_key(ec.SECP256R1())))
    key = _load_key(key_path)
    name = _name("nitrosigner emulated KMS, proves nothing")
    usage = key_usage(key_cert_sign=True, crl_sign=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    write_new(path, certificate.public_bytes(serialization.Encoding.PEM))


def _endpoint(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: list[str],
    now: dt.datetime,
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_identifier = authority.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer_identifier
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    usage = key_usage(digital_signature=True)
    certificate = (
        _builder(
            _name(names[0]), authority.subject, key.public_key(), now, _ENDPOINT_LIFE
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(server, critical=False)
        .add_extension(_alternative_names(names), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + _key_pem(key)


def _still_good(
    path: Path,
    authority: x509.Certificate,
    names: list[str],
    now: dt.datetime,
) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return (
        certificate.not_valid_before_utc <= now
        and now + _RENEW_BEFORE < certificate.not_valid_after_utc
        and found.value == _alternative_names(names)
        and certificate.issuer == authority.subject
    )


def _alternative_names(names: list[str]) -> x509.SubjectAlternativeName:
    parts: list[x509.GeneralName] = []
    for name in names:
        try:
            parts.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            parts.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(parts)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        message = f"{path.name} is not the key of the emulated KMS's authority"
        raise TypeError(message)
    return key
