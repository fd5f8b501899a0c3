"""Real documents, and a forge that makes documents wrong in exactly one way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.attestation.verify import unverified_document
from nitrosigner.emulator import nsm
from nitrosigner.emulator.nitro_pki import key_usage

VECTORS = Path(__file__).parents[2] / "../shared/vectors/attestation"
REAL = ("production-2021", "signed-image-2022", "debug-mode-2022")
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class RealDocument:
    blob: bytes
    now: datetime
    """Three seconds after it was made."""
    debug: bool


def _real(name: str) -> RealDocument:
    path = VECTORS / f"{name}.bin"
    if not path.exists():
        pytest.skip("the real documents (../shared/vectors) are not on this machine")
    blob = path.read_bytes()
    made = unverified_document(blob).timestamp
    return RealDocument(blob, made + timedelta(seconds=3), "debug" in name)


@pytest.fixture(params=REAL)
def real_document(request: pytest.FixtureRequest) -> RealDocument:
    return _real(request.param)


@pytest.fixture
def production_document() -> RealDocument:
    return _real("production-2021")


@pytest.fixture
def debug_document() -> RealDocument:
    return _real("debug-mode-2022")


AUTHORITY = x509.BasicConstraints(True, None)
SIGNS_CERTIFICATES = key_usage(key_cert_sign=True)
SHA384 = hashes.SHA384()


@dataclass(frozen=True)
class Link:
    """One certificate of a forged chain. The defaults make an authority."""

    name: str
    constraints: x509.BasicConstraints | None = AUTHORITY
    constraints_critical: bool = True
    usage: x509.KeyUsage | None = SIGNS_CERTIFICATES
    key: Callable[[], Any] = lambda: ec.generate_private_key(ec.SECP384R1())
    digest: hashes.HashAlgorithm = field(default_factory=lambda: SHA384)
    begin: datetime = NOW - timedelta(hours=1)
    end: datetime = NOW + timedelta(hours=1)
    extension: tuple[x509.ExtensionType, bool] | None = None
    issuer_name: str | None = None
    """Instead of the name of the link before."""
    signed_by_stranger: bool = False
    signed_by_itself: bool = False


GOOD_CHAIN = (
    Link("root"),
    Link("region", x509.BasicConstraints(True, 2)),
    Link("zone", x509.BasicConstraints(True, 1)),
    Link("instance", x509.BasicConstraints(True, 0)),
    Link(
        "leaf",
        x509.BasicConstraints(False, None),
        usage=key_usage(digital_signature=True),
    ),
)
# Keys are slow to make and say nothing here: one for each position is enough.
_KEYS: dict[tuple[str, Any], Any] = {}


@dataclass(frozen=True)
class Forged:
    blob: bytes
    anchor: EmulatedRoot
    chain: tuple[bytes, ...]
    leaf_key: Any


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key(link: Link) -> Any:
    identity = (link.name, link.key)
    if identity not in _KEYS:
        _KEYS[identity] = link.key()
    return _KEYS[identity]


def build_chain(links: tuple[Link, ...]) -> tuple[tuple[bytes, ...], Any]:
    certificates: list[bytes] = []
    issuer_name, issuer_key = links[0].name, _key(links[0])
    for link in links:
        key = _key(link)
        named = issuer_name if link.issuer_name is None else link.issuer_name
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(link.name))
            .issuer_name(_name(named))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(link.begin)
            .not_valid_after(link.end)
        )
        if link.constraints is not None:
            builder = builder.add_extension(link.constraints, link.constraints_critical)
        if link.usage is not None:
            builder = builder.add_extension(link.usage, critical=False)
        if link.extension is not None:
            builder = builder.add_extension(link.extension[0], link.extension[1])
        if link.signed_by_stranger:
            issuer_key = ec.generate_private_key(ec.SECP384R1())
        if link.signed_by_itself:
            issuer_key = key
        signed = builder.sign(issuer_key, link.digest)
        certificates.append(signed.public_bytes(serialization.Encoding.DER))
        issuer_name, issuer_key = link.name, key
    return tuple(certificates), issuer_key


def good_fields(chain: tuple[bytes, ...]) -> dict[Any, Any]:
    return {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": int(NOW.timestamp() * 1000),
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)},
        "certificate": chain[-1],
        "cabundle": list(chain[:-1]),
        "public_key": b"key",
        "user_data": b"data",
        "nonce": b"nonce",
    }


@dataclass
class Forge:
    """Makes documents that are right but for what a test changes."""

    links: tuple[Link, ...] = GOOD_CHAIN
    now: datetime = NOW

    def __call__(
        self,
        *links: Link,
        fields: Mapping[Any, Any] | None = None,
        without: str | None = None,
        payload: bytes | None = None,
    ) -> Forged:
        chain, leaf_key = build_chain(links or self.links)
        content = good_fields(chain) | dict(fields or {})
        content.pop(without, None)
        encoded = cbor2.dumps(content) if payload is None else payload
        return Forged(
            blob=nsm.sign(encoded, leaf_key),
            anchor=anchor_of(chain[0]),
            chain=chain,
            leaf_key=leaf_key,
        )

    def changed(self, position: int, **change: Any) -> tuple[Link, ...]:
        """The good chain with one link changed."""
        links = list(self.links)
        links[position] = replace(links[position], **change)
        return tuple(links)


def anchor_of(der: bytes) -> EmulatedRoot:
    certificate = x509.load_der_x509_certificate(der)
    return EmulatedRoot("forged", certificate.fingerprint(hashes.SHA256()))


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture
def link() -> type[Link]:
    return Link
