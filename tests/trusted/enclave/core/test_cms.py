"""CiphertextForRecipient: exactly what KMS writes opens, and nothing else."""

import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.emulator.kms import envelope as emulated
from nitrosigner.trusted.enclave.attested.cms import (
    MAX_ENVELOPE,
    EnvelopeError,
    open_envelope,
)

VECTORS = Path(__file__).parents[4] / "../shared/vectors/kms"
KEY = generate_private_key(65537, 2048)
SHA256 = hashes.SHA256()
OID = {
    "enveloped": "06092a864886f70d010703",
    "data": "06092a864886f70d010701",
    "oaep": "06092a864886f70d010107",
    "pkcs1": "06092a864886f70d010101",
    "mgf1": "06092a864886f70d010108",
    "sha256": "0609608648016503040201",
    "sha1": "06052b0e03021a",
    "aes256": "060960864801650304012a",
    "aes128": "0609608648016503040102",
}


def tlv(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(long)]) + long + body


def indefinite(tag: int, body: bytes) -> bytes:
    return bytes([tag, 0x80]) + body + b"\0\0"


def oid(name: str) -> bytes:
    return bytes.fromhex(OID[name])


def envelope(plaintext: bytes = b"s" * 32, **changes: Any) -> bytes:
    """An envelope as KMS writes it, with any part replaced."""
    get = changes.get
    content_key = get("content_key", secrets.token_bytes(32))
    iv = get("iv", secrets.token_bytes(16))
    padder = padding.PKCS7(128).padder()
    padded = get("padded", padder.update(plaintext) + padder.finalize())
    encryptor = Cipher(
        algorithms.AES(content_key), modes.CBC(iv[:16].ljust(16))
    ).encryptor()
    ciphertext = get("ciphertext", encryptor.update(padded) + encryptor.finalize())
    oaep = OAEP(MGF1(SHA256), SHA256, get("label"))
    encrypted_key = get(
        "encrypted_key", KEY.public_key().encrypt(content_key, get("scheme", oaep))
    )
    digest = tlv(0x30, oid(get("digest", "sha256")) + b"\x05\0")
    algorithm = get(
        "algorithm",
        tlv(
            0x30,
            oid("oaep")
            + tlv(0x30, tlv(0xA0, digest) + tlv(0xA1, tlv(0x30, oid("mgf1") + digest))),
        ),
    )
    recipient = get(
        "recipient",
        tlv(
            0x30,
            b"\x02\x01"
            + get("recipient_version", b"\x02")
            + get("identifier", tlv(0x80, secrets.token_bytes(32)))
            + algorithm
            + tlv(0x04, encrypted_key),
        ),
    )
    content = get("content", indefinite(0xA0, tlv(0x04, ciphertext)))
    encrypted = indefinite(
        0x30,
        oid(get("content_type", "data"))
        + tlv(0x30, oid(get("cipher", "aes256")) + tlv(0x04, iv))
        + content,
    )
    return indefinite(
        0x30,
        oid(get("type", "enveloped"))
        + indefinite(
            0xA0,
            indefinite(
                0x30,
                b"\x02\x01"
                + get("version", b"\x02")
                + tlv(0x31, recipient * get("recipients", 1))
                + encrypted,
            ),
        ),
    ) + get("trailing", b"")


@pytest.mark.skipif(not VECTORS.exists(), reason="../shared/vectors is not here")
@pytest.mark.parametrize(
    "name", ["envelope-constructed-content", "envelope-primitive-content"]
)
def test_real_envelopes_of_kms_are_read(name: str) -> None:
    """Their RSA keys are not published: reading must get as far as the RSA step."""
    data = (VECTORS / f"{name}.ber").read_bytes()
    expected = json.loads((VECTORS / f"{name}.json").read_text())
    from nitrosigner.trusted.enclave.attested import cms

    read = cms._read(data)
    shown = json.dumps(expected).lower()
    assert read.iv.hex() in shown
    assert read.ciphertext.hex() in shown
    assert read.encrypted_key.hex() in shown
    with pytest.raises(EnvelopeError, match="another key"):
        open_envelope(data, KEY)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 66, 4096])
def test_what_the_emulated_kms_seals_opens(size: int) -> None:
    plaintext = secrets.token_bytes(size)
    spki = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with open_envelope(emulated.seal(plaintext, spki), KEY) as opened:
        assert opened.buffer == plaintext


CONTENTS = {
    "one string": lambda c: indefinite(0xA0, tlv(0x04, c)),
    "two strings": lambda c: indefinite(0xA0, tlv(0x04, c[:7]) + tlv(0x04, c[7:])),
    "definite": lambda c: tlv(0xA0, tlv(0x04, c)),
    "primitive": lambda c: tlv(0x80, c),
    "with an empty string": lambda c: indefinite(0xA0, tlv(0x04, b"") + tlv(0x04, c)),
}


@pytest.mark.parametrize("shape", CONTENTS.values(), ids=CONTENTS)
def test_the_shapes_of_content_that_kms_has_used_open(shape: Any) -> None:
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(b"x" * 32 + b"\x10" * 16)
    data = envelope(content_key=content_key, iv=iv, content=shape(ciphertext))
    with open_envelope(data, KEY) as opened:
        assert opened.buffer == b"x" * 32


REFUSED: dict[str, dict[str, Any]] = {
    "signed data": {"type": "data"},
    "version 0": {"version": b"\x00"},
    "version 3": {"version": b"\x03"},
    "recipient version 0": {"recipient_version": b"\x00"},
    "no recipient": {"recipients": 0},
    "two recipients": {"recipients": 2},
    "issuer and serial": {"identifier": tlv(0x30, tlv(0x30, b"") + b"\x02\x01\x01")},
    "short identifier": {"identifier": tlv(0x80, b"x" * 20)},
    "PKCS #1 v1.5": {
        "algorithm": tlv(0x30, oid("pkcs1") + b"\x05\0"),
        "scheme": PKCS1v15(),
    },
    "PKCS #1 v1.5 under OAEP's name": {"scheme": PKCS1v15()},
    "OAEP with SHA-1": {
        "digest": "sha1",
        "scheme": OAEP(MGF1(hashes.SHA1()), hashes.SHA1(), None),
    },
    "OAEP with a label": {"label": b"label"},
    "OAEP without parameters": {"algorithm": tlv(0x30, oid("oaep"))},
    "AES-128": {"cipher": "aes128", "content_key": b"k" * 16},
    "AES-128's name over an AES-256 key": {"cipher": "aes128"},
    "AES-128 key": {"content_key": b"k" * 16},
    "other content": {"content_type": "enveloped"},
    "short IV": {"iv": b"i" * 15},
    "long IV": {"iv": b"i" * 17},
    "short wrapped key": {"encrypted_key": b"k" * 255},
    "no content": {"content": b""},
    "empty content": {"content": indefinite(0xA0, b"")},
    "half a block": {"ciphertext": b"c" * 24},
    "context 1": {"content": tlv(0x81, b"c" * 16)},
    "nested strings": {
        "content": indefinite(0xA0, indefinite(0x24, tlv(4, b"c" * 16)))
    },
    "padding 0": {"padded": b"x" * 31 + b"\0"},
    "padding 17": {"padded": b"x" * 31 + b"\x11"},
    "padding mixed": {"padded": b"x" * 30 + b"\x01\x02"},
    "trailing byte": {"trailing": b"\0"},
    "trailing envelope": {"trailing": envelope()},
    "too long": {"plaintext": b"x" * MAX_ENVELOPE},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(envelope(**changes), KEY)


def test_an_envelope_of_another_key_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="another key"):
        open_envelope(envelope(), generate_private_key(65537, 2048))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x80\0\0",
        b"\x30\x84\0\0\0\x01\0",
        b"\x30\x81\x05",
        b"\x30\x82\0\x81",
        b"\x1f\x81\x01\0",
        b"\x04\x80\0\0",
        b"\x30\x80" * 40,
        b"\x30\x80" + b"\x04\0" * 3000,
        b"\x30\xff" + b"\xff" * 200,
    ],
)
def test_broken_ber_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(data, KEY)


WHOLE = envelope()


def test_no_prefix_of_an_envelope_opens() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(EnvelopeError):
            open_envelope(WHOLE[:size], KEY)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_one_altered_byte_never_gives_anything_but_a_verdict(
    index: int, value: int
) -> None:
    """CBC does not authenticate: some alterations do open. None may do otherwise."""
    data = bytearray(WHOLE)
    data[index] = value
    with contextlib.suppress(EnvelopeError):
        open_envelope(bytes(data), KEY).wipe()


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_with_a_verdict(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(data, KEY)
