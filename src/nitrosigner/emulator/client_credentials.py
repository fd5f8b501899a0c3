"""
Credentials for the clients of a local stack: a certificate with its key, and a token.

In production an administrator takes the client's certificate and the hash of its
token into the manifest; nobody hands private keys around as a local stack's folder
does.
"""

import datetime as dt
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nitrosigner.emulator.data_folder import new_folder
from nitrosigner.wire.manifest import new_token

LIFETIME: Final = dt.timedelta(days=3650)
"""A local stack is not renewed by anybody."""
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """Where one client's credentials lie."""

    cert: Path
    key: Path
    token_file: Path


def client_files(clients: Path, name: str) -> ClientFiles:
    """Return where the credentials of client *name* are, or will be."""
    folder = clients / name
    return ClientFiles(
        cert=folder / "cert.pem", key=folder / "key.pem", token_file=folder / "token"
    )


def ensure_client(clients: Path, name: str, now: dt.datetime) -> ClientFiles:
    """Make credentials for client *name* if there are none, all three or none."""
    files = client_files(clients, name)
    if not (clients / name).exists():
        certificate, key = _self_signed(name, now)
        token, _ = new_token(secrets.token_bytes(TOKEN_BYTES))
        contents = {
            files.cert.name: certificate,
            files.key.name: key,
            files.token_file.name: token.encode() + b"\n",
        }
        new_folder(clients / name, contents)
    return files


def _self_signed(name: str, now: dt.datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
