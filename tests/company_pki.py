"""
A company's own certificate authority: root, one below it, and servers of all kinds.

Tests ask for it as the fixture `company_pki`.
"""

import base64
import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nitrosigner.wire import import_wrapping

DAY = dt.timedelta(days=1)
LOCAL = ("localhost", "127.0.0.1")
"""The names that a manifest has which says nothing of them."""


def new_key(kind: str = "p256") -> Any:
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "secp256k1":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


@dataclass(frozen=True)
class Pair:
    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def secret(self) -> bytes:
        """PKCS #8, DER."""
        made: bytes = self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return made


def make(
    name: str,
    issuer: Pair | None = None,
    *,
    names: Sequence[str] = (),
    kind: str = "p256",
    authority: bool = False,
    starts: float = -2,
    ends: float = 90,
    path_length: int | None = None,
    usage: Any = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Pair:
    """Make one. *starts* and *ends* are days from now."""
    key = new_key(kind)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts * DAY)
        .not_valid_after(now + ends * DAY)
        .add_extension(
            x509.BasicConstraints(ca=authority, path_length=path_length), critical=True
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )
    signer = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
        critical=False,
    )
    builder = builder.add_extension(
        x509.KeyUsage(
            digital_signature=not authority,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        ),
        critical=True,
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(one) for one in names]),
            critical=False,
        )
    ed = isinstance(signer, ed25519.Ed25519PrivateKey)
    return Pair(builder.sign(signer, None if ed else hashes.SHA256()), key)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Company:
    """A root, an authority below it, and what they issue."""

    def __init__(self, kind: str = "p256", ends: float = 900) -> None:
        self.root = make("Company Root", authority=True, kind=kind, ends=ends)
        self.below = make("Company TLS", self.root, authority=True, kind=kind)

    def server(self, names: Sequence[str] = LOCAL, **options: Any) -> Pair:
        return make("signer.company", self.below, names=names, **options)

    def chain(self, server: Pair) -> str:
        return server.pem + self.below.pem + self.root.pem

    def root_file(self, folder: Path) -> Path:
        file = folder / "company-root.pem"
        file.write_text(self.root.pem)
        return file

    def pkcs12(
        self, server: Pair, password: str, others: Sequence[Pair] | None = None
    ) -> bytes:
        """Return the file that a company hands out: without the root, by default."""
        given = (self.below,) if others is None else others
        return pkcs12.serialize_key_and_certificates(
            b"signer",
            server.key,
            server.certificate,
            [one.certificate for one in given] or None,
            serialization.BestAvailableEncryption(password.encode()),
        )


def wrapped(secret: bytes, certificate: str, key: bytes, deployment: str) -> str:
    """Wrap a key as `nitrosigner tls import` does."""
    info = import_wrapping.tls_info(deployment=deployment, certificate=certificate)
    return base64.b64encode(import_wrapping.wrap(secret, key, info)).decode()


def request(
    company: Company, server: Pair, key: bytes, deployment: str = "test"
) -> dict[str, str]:
    """Return the body of POST tls/import. *key* is the enclave's import key."""
    return {
        "certificates": company.chain(server),
        "wrapped_key": wrapped(server.secret, server.sha256, key, deployment),
    }
