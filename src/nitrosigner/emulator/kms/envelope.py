"""
`CiphertextForRecipient`, in the very bytes that KMS sends.

CMS EnvelopedData (RFC 5652) version 2 in BER with indefinite lengths: one
KeyTransRecipientInfo version 2 with a SubjectKeyIdentifier, RSAES-OAEP with SHA-256
and MGF1-SHA-256, AES-256-CBC. KMS writes the encrypted content in two shapes; both
are written here, so that a reader meets both.

The envelope is not authenticated: whoever has the public key can make one.
"""

import hashlib
import secrets
from enum import Enum, unique
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nitrosigner.emulator.kms.errors import invalid

MIN_BITS: Final = 2048
MAX_BITS: Final = 4096
_FRAGMENT: Final = 1024
"""Bytes of content in one OCTET STRING of the scattered shape."""


@unique
class ContentShape(Enum):
    """How the encrypted content is written. KMS was seen to use the first two."""

    CONSTRUCTED = "constructed"
    """`a0 80`, one OCTET STRING, end of contents."""
    PRIMITIVE = "primitive"
    """`80`, length, bytes."""
    SCATTERED = "scattered"
    """`a0 80`, several OCTET STRINGs: what BER allows and long contents may get."""


def recipient_key(spki: bytes) -> rsa.RSAPublicKey:
    """
    Read the public key of an attestation document (DER SubjectPublicKeyInfo).

    Raises:
        KmsError: Not an RSA key of 2048 to 4096 bits.
    """
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if (
        not isinstance(key, rsa.RSAPublicKey)
        or not MIN_BITS <= key.key_size <= MAX_BITS
    ):
        raise invalid("The public key of the attestation document is not RSA-2048.")
    return key


def seal(plaintext: bytes, spki: bytes, shape: ContentShape | None = None) -> bytes:
    """Return *plaintext* for the holder of the private key of *spki*."""
    key = recipient_key(spki)
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    padder = block_padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    padded = padder.update(plaintext) + padder.finalize()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    oaep = padding.OAEP(
        mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None
    )
    # 32 bytes as in AWS's vectors. What AWS hashes is not known; nobody reads it.
    identifier = hashlib.sha256(spki).digest()
    recipient = _sequence(
        _VERSION_2,
        _tlv(0x80, identifier),
        _OAEP,
        _tlv(_OCTETS, key.encrypt(content_key, oaep)),
    )
    shape = shape or secrets.choice((ContentShape.CONSTRUCTED, ContentShape.PRIMITIVE))
    content = _indefinite(
        0x30,
        _DATA + _sequence(_AES256_CBC, _tlv(_OCTETS, iv)) + _content(ciphertext, shape),
    )
    enveloped = _indefinite(0x30, _VERSION_2 + _tlv(0x31, recipient) + content)
    return _indefinite(0x30, _ENVELOPED_DATA + _indefinite(0xA0, enveloped))


def _content(ciphertext: bytes, shape: ContentShape) -> bytes:
    if shape is ContentShape.PRIMITIVE:
        return _tlv(0x80, ciphertext)
    size = len(ciphertext)
    if shape is ContentShape.SCATTERED:
        size = min(_FRAGMENT, max(1, size // 2))
    pieces = [ciphertext[at : at + size] for at in range(0, len(ciphertext), size)]
    return _indefinite(0xA0, b"".join(_tlv(_OCTETS, piece) for piece in pieces))


def _tlv(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _indefinite(tag: int, body: bytes) -> bytes:
    return bytes([tag, 0x80]) + body + b"\x00\x00"


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


_OCTETS: Final = 0x04
_VERSION_2: Final = b"\x02\x01\x02"
_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_ENVELOPED_DATA: Final = bytes.fromhex("06092a864886f70d010703")
_AES256_CBC: Final = bytes.fromhex("060960864801650304012a")
_SHA256: Final = _sequence(bytes.fromhex("0609608648016503040201"), b"\x05\x00")
_MGF1: Final = _sequence(bytes.fromhex("06092a864886f70d010108"), _SHA256)
_OAEP: Final = _sequence(
    bytes.fromhex("06092a864886f70d010107"),
    _sequence(_tlv(0xA0, _SHA256), _tlv(0xA1, _MGF1)),
)
