"""
An emulated Nitro PKI: the certificates that AWS's hypervisors attest with, in AWS's
layout, under a root that is ours and says so in its name.

The private keys live in the hypervisor's process, never in the enclave's. The root's
is kept in a file, so that the trust anchor survives restarts; everything below it is
made anew. Whoever can read that file can forge any measurement: emulated attestation
proves that the machinery works, not that anybody is honest.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.emulator.data_folder import make_private, write_new

ROOT_NAME: Final = "emulated.nitro-enclaves"
"""Where AWS's root has `aws.nitro-enclaves`."""
ROOT_KEY_FILE: Final = "root-key.pem"
ROOT_FILE: Final = "root.pem"

# How long AWS's certificates live, read from real documents.
ROOT_LIFE: Final = timedelta(days=30 * 365)
REGION_LIFE: Final = timedelta(days=20)
ZONE_LIFE: Final = timedelta(days=6)
INSTANCE_LIFE: Final = timedelta(days=1)
LEAF_LIFE: Final = timedelta(hours=3)

_BACKDATED: Final = timedelta(minutes=10)
"""Certificates begin a little earlier, for verifiers whose clock is behind."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key of the PKI's only kind."""
    return ec.generate_private_key(ec.SECP384R1())


def key_usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    """Return a key usage with these bits."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def distinguished_name(common_name: str) -> x509.Name:
    """Return the name as AWS's root has it, with *common_name*."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nitrosigner emulator"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "NOT AWS"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that signs documents, its key, and the chain that it belongs to."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    """From the root to the issuer. The PKI itself may have moved on to another."""


def issue(
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: Authority | None,
    signing_key: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
    usage: x509.KeyUsage,
    usage_critical: bool,
    begin: datetime,
    end: datetime,
    with_identifiers: bool,
) -> x509.Certificate:
    """Return a certificate as AWS's PKI would have issued it. No *issuer*: a root."""
    subject = distinguished_name(common_name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=usage_critical)
    )
    if with_identifiers:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
        )
        if issuer is not None:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    issuer.key.public_key()
                ),
                critical=False,
            )
    return builder.sign(signing_key, hashes.SHA384())


def new_authority(
    common_name: str,
    issuer: Authority | None,
    *,
    now: datetime,
    life: timedelta,
    path_length: int | None,
    usage: x509.KeyUsage,
    with_identifiers: bool = True,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """Return a new certificate authority below *issuer*, or a root."""
    key = key or new_key()
    certificate = issue(
        common_name,
        key.public_key(),
        issuer=issuer,
        signing_key=issuer.key if issuer else key,
        constraints=x509.BasicConstraints(ca=True, path_length=path_length),
        usage=usage,
        usage_critical=True,
        begin=now - _BACKDATED,
        end=now + life,
        with_identifiers=with_identifiers,
    )
    return Authority(certificate, key)


_AUTHORITY_USAGE: Final = key_usage(
    digital_signature=True, key_cert_sign=True, crl_sign=True
)


@final
class NitroPki:
    """Root → region → zone → instance. The hypervisor asks it for leaves."""

    def __init__(self, root: Authority, region: str = "us-east-1") -> None:
        self._root = root
        self._region = region
        # From the root, so that PCR4 is as stable as a real instance's.
        digest = root.certificate.fingerprint(hashes.SHA256()).hex()
        self.instance_id: Final = f"i-0{digest[:16]}"
        self._below: tuple[Authority, ...] = ()
        self._renew_at: datetime | None = None

    @classmethod
    def new(cls, now: datetime, region: str = "us-east-1") -> Self:
        """Return a PKI that nobody trusts yet, in memory."""
        return cls(_new_root(new_key(), now), region)

    @classmethod
    def open(cls, folder: Path, now: datetime, region: str = "us-east-1") -> Self:
        """
        Return the PKI whose root lies in *folder*; make one if there is none.

        Two processes that do this at once end up with the same root.

        Raises:
            OSError: The folder cannot be read or written.
            ValueError: What lies there is not a key and its certificate.
        """
        make_private(folder)
        # The key is first. If we die before the certificate is written, the next one
        # makes another for the same key: nobody can have trusted the lost one.
        key_file, root_file = folder / ROOT_KEY_FILE, folder / ROOT_FILE
        if not key_file.exists():
            write_new(key_file, _private_pem(new_key()))
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            msg = "the emulated root key is of another kind"
            raise ValueError(msg)  # noqa: TRY004  # the file's content is at fault
        if not root_file.exists():
            root = _new_root(key, now).certificate
            write_new(root_file, root.public_bytes(serialization.Encoding.PEM))
        certificate = x509.load_pem_x509_certificate(root_file.read_bytes())
        if certificate.public_key() != key.public_key():
            msg = "the emulated root certificate belongs to another key"
            raise ValueError(msg)
        return cls(Authority(certificate, key), region)

    @property
    def root(self) -> x509.Certificate:
        """The root's certificate."""
        return self._root.certificate

    @property
    def trust_anchor(self) -> EmulatedRoot:
        """What a verifier must be told in order to believe this PKI."""
        return EmulatedRoot(ROOT_NAME, self.root.fingerprint(hashes.SHA256()))

    def chain(self, now: datetime) -> tuple[Authority, ...]:
        """Return root, region, zone and instance, all valid for hours after *now*."""
        if self._renew_at is None or now >= self._renew_at:
            self._below = self._issue_below(now)
            self._renew_at = now + INSTANCE_LIFE / 2
        return (self._root, *self._below)

    def leaf(self, module_id: str, now: datetime) -> "Leaf":
        """Return what signs an enclave's documents for 3 hours."""
        key = new_key()
        chain = self.chain(now)
        certificate = issue(
            f"{module_id}.{self._region}.emulated",
            key.public_key(),
            issuer=chain[-1],
            signing_key=chain[-1].key,
            constraints=x509.BasicConstraints(ca=False, path_length=None),
            usage=key_usage(digital_signature=True, content_commitment=True),
            # Not critical and without identifiers, as in AWS's leaves.
            usage_critical=False,
            begin=now - timedelta(seconds=3),
            end=now + LEAF_LIFE,
            with_identifiers=False,
        )
        return Leaf(certificate, key, tuple(above.certificate for above in chain))

    def _issue_below(self, now: datetime) -> tuple[Authority, ...]:
        suffix = f"{self._region}.{ROOT_NAME}"
        region = new_authority(
            f"{secrets.token_hex(8)}.{suffix}",
            self._root,
            now=now,
            life=REGION_LIFE,
            path_length=2,
            usage=_AUTHORITY_USAGE,
        )
        zone = new_authority(
            f"{secrets.token_hex(8)}.zonal.{suffix}",
            region,
            now=now,
            life=ZONE_LIFE,
            path_length=1,
            usage=_AUTHORITY_USAGE,
        )
        instance = new_authority(
            f"{self.instance_id}.{suffix}",
            zone,
            now=now,
            life=INSTANCE_LIFE,
            path_length=0,
            # Real instance certificates have this one bit and no identifiers.
            usage=key_usage(key_cert_sign=True),
            with_identifiers=False,
        )
        return region, zone, instance


def stored_trust_anchor(folder: Path) -> EmulatedRoot:
    """
    Return the anchor of the PKI in *folder*, from its public part alone.

    Raises:
        OSError: There is none.
        ValueError: It is not a certificate.
    """
    root = x509.load_pem_x509_certificate((folder / ROOT_FILE).read_bytes())
    return EmulatedRoot(ROOT_NAME, root.fingerprint(hashes.SHA256()))


def _new_root(key: ec.EllipticCurvePrivateKey, now: datetime) -> Authority:
    return new_authority(
        ROOT_NAME,
        None,
        now=now,
        life=ROOT_LIFE,
        path_length=None,
        usage=_AUTHORITY_USAGE,
        key=key,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
