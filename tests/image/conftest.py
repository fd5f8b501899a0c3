"""Images to read, certificates to sign them with, archives to put into them."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.signature import Signer, signer
from nitrosigner.image.eif.writer import ImageContents, write_eif

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Pair:
    """A signing key and its certificate, in PEM."""

    key: bytes
    certificate: bytes

    def signer(self) -> Signer:
        return signer(self.key, self.certificate, now=NOW, password=None)


def make_pair(
    *,
    curve: ec.EllipticCurve | None = None,
    password: bytes | None = None,
    begins: dt.datetime = NOW - dt.timedelta(days=1),
    ends: dt.datetime = NOW + dt.timedelta(days=365),
) -> Pair:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "image signer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA384())
    )
    encryption: Any = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return Pair(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


@pytest.fixture(scope="session")
def pair() -> Pair:
    return make_pair()


@pytest.fixture(scope="session")
def pairs() -> Callable[..., Pair]:
    return make_pair


def contents(**changed: Any) -> ImageContents:
    return ImageContents(
        **{
            "kernel": b"kernel" * 100,
            "command_line": "reboot=k panic=30 console=ttyS0",
            "ramdisks": [b"boot" * 128, b"application!" * 64],
            "metadata": Metadata(image_name="nitrosigner", image_version="1"),
            **changed,
        }
    )


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Write an image with some contents changed, and return its path."""
    made = iter(range(100))

    def make(signer: Signer | None = None, **changed: Any) -> Path:
        path = tmp_path / f"image-{next(made)}.eif"
        write_eif(path, contents(**changed), signer=signer)
        return path

    return make


def archive(files: Mapping[str, bytes | tuple[int, bytes]], **fields: int) -> bytes:
    """Return a newc archive, padded to 512 bytes. A value is content, or mode too."""
    out = bytearray()

    def entry(name: str, mode: int, data: bytes, number: int) -> None:
        values = (
            *(number, mode, fields.get("owner", 0), fields.get("group", 0), 1),
            *(fields.get("modified", 0), len(data), 0, 0, 0, 0),
            *(len(name.encode()) + 1, 0),
        )
        out.extend(b"070701" + b"".join(b"%08x" % value for value in values))
        out.extend(name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for number, (name, what) in enumerate(files.items(), start=1):
        mode, data = what if isinstance(what, tuple) else (0o100644, what)
        entry(name, mode, data, number)
    entry("TRAILER!!!", 0, b"", 0)
    out.extend(bytes(-len(out) % 512))
    return bytes(out)


@pytest.fixture(scope="session")
def pack() -> Callable[..., bytes]:
    return archive
