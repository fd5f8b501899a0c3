"""
Opens `CiphertextForRecipient`: CMS EnvelopedData as KMS writes it, and nothing else.

KMS writes BER with indefinite lengths, one recipient named by a key identifier,
RSAES-OAEP with SHA-256 and AES-256-CBC. Anything that differs is refused rather than
understood. The envelope is not authenticated: whoever knows our public key can make
one. What makes it KMS's is the TLS connection that it came through, and only that.

Source: aws-nitro-enclaves-sdk-c `source/cms.c`; RFC 5652; X.690.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256

from nitrosigner.trusted.enclave.memory import take_bytes
from nitrosigner.trusted.signing.secret_bytes import SecretBytes

MAX_ENVELOPE: Final = 8 * 1024
"""Bytes. KMS plaintexts have at most 4,096."""
_MAX_ELEMENTS: Final = 256
_MAX_DEPTH: Final = 12
_BLOCK: Final = 16
_CONTENT_KEY: Final = 32


class EnvelopeError(ValueError):
    """Not an envelope of KMS, or not for our key."""


# --- BER ----------------------------------------------------------------------------

_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_NULL: Final = 0x05
_OID: Final = 0x06
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_CONSTRUCTED: Final = 0x20
_ZERO: Final = 0xA0
_ONE: Final = 0xA1
_ZERO_PRIMITIVE: Final = 0x80


@dataclass(frozen=True, slots=True)
class _Element:
    """One value: its tag, and either its bytes or its parts."""

    tag: int
    content: bytes = b""
    parts: tuple["_Element", ...] = ()


class _Reader:
    """Reads BER with small tags and lengths; bounded in elements and depth."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._elements = 0

    def whole(self) -> _Element:
        """Return the one element that the data consists of."""
        element = self._element(len(self._data), 0)
        if self._at != len(self._data):
            raise EnvelopeError("bytes follow the envelope")
        return element

    def _element(self, end: int, depth: int) -> _Element:
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or depth > _MAX_DEPTH:
            raise EnvelopeError("too many elements")
        tag = self._byte(end)
        if tag & 0x1F == 0x1F:
            raise EnvelopeError("tag number is too large")
        length = self._length(end)
        if length is None:
            if not tag & _CONSTRUCTED:
                raise EnvelopeError("indefinite length of a primitive")
            return _Element(tag, parts=self._until_end_marker(end, depth))
        if length > end - self._at:
            raise EnvelopeError("an element is longer than what holds it")
        stop = self._at + length
        if tag & _CONSTRUCTED:
            parts = []
            while self._at < stop:
                parts.append(self._element(stop, depth + 1))
            return _Element(tag, parts=tuple(parts))
        content = self._data[self._at : stop]
        self._at = stop
        return _Element(tag, content)

    def _until_end_marker(self, end: int, depth: int) -> tuple[_Element, ...]:
        parts = []
        while self._data[self._at : min(self._at + 2, end)] != b"\0\0":
            parts.append(self._element(end, depth + 1))
        self._at += 2
        return tuple(parts)

    def _byte(self, end: int) -> int:
        if self._at >= end:
            raise EnvelopeError("the envelope is cut off")
        value = self._data[self._at]
        self._at += 1
        return value

    def _length(self, end: int) -> int | None:
        first = self._byte(end)
        if first < 0x80:
            return first
        if first == 0x80:
            return None
        if first > 0x82:
            raise EnvelopeError("a length is too long")
        value = 0
        for _ in range(first & 0x7F):
            value = value << 8 | self._byte(end)
        if value < 0x80 or (first == 0x82 and value < 0x100):
            raise EnvelopeError("a length is written longer than it need be")
        return value


# --- the shape ------------------------------------------------------------------------


def _oid(hexadecimal: str) -> _Element:
    return _Element(_OID, bytes.fromhex(hexadecimal))


def _sequence(*parts: _Element) -> _Element:
    return _Element(_SEQUENCE, parts=parts)


_VERSION_2: Final = _Element(_INTEGER, b"\x02")
_ENVELOPED_DATA: Final = _oid("2a864886f70d010703")
_DATA: Final = _oid("2a864886f70d010701")
_AES_256_CBC: Final = _oid("60864801650304012a")
_SHA_256: Final = _sequence(_oid("608648016503040201"), _Element(_NULL))
_RSAES_OAEP_SHA_256: Final = _sequence(
    _oid("2a864886f70d010107"),
    _sequence(
        _Element(_ZERO, parts=(_SHA_256,)),
        _Element(_ONE, parts=(_sequence(_oid("2a864886f70d010108"), _SHA_256),)),
    ),
)
_OAEP: Final = OAEP(mgf=MGF1(SHA256()), algorithm=SHA256(), label=None)


@dataclass(frozen=True, slots=True)
class _Envelope:
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes


def _read(data: bytes) -> _Envelope:
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeError("the envelope is too long")
    kind, wrapped = _parts(_Reader(data).whole(), _SEQUENCE, 2)
    _same(kind, _ENVELOPED_DATA)
    (enveloped,) = _parts(wrapped, _ZERO, 1)
    version, recipients, encrypted = _parts(enveloped, _SEQUENCE, 3)
    _same(version, _VERSION_2)

    (recipient,) = _parts(recipients, _SET, 1)
    version, identifier, algorithm, encrypted_key = _parts(recipient, _SEQUENCE, 4)
    _same(version, _VERSION_2)
    # Nobody interprets the identifier: there is one recipient, and we are it.
    if identifier.tag != _ZERO_PRIMITIVE or len(identifier.content) != 32:
        raise EnvelopeError("the recipient is not named by a key identifier")
    _same(algorithm, _RSAES_OAEP_SHA_256)

    kind, algorithm, content = _parts(encrypted, _SEQUENCE, 3)
    _same(kind, _DATA)
    cipher, iv = _parts(algorithm, _SEQUENCE, 2)
    _same(cipher, _AES_256_CBC)
    return _Envelope(
        encrypted_key=_octets(encrypted_key, 256),
        iv=_octets(iv, _BLOCK),
        ciphertext=_content(content),
    )


def _content(element: _Element) -> bytes:
    if element.tag == _ZERO_PRIMITIVE:
        ciphertext = element.content
    elif element.tag == _ZERO:
        ciphertext = b"".join(_octets(part) for part in element.parts)
    else:
        raise EnvelopeError("the content is not there")
    if not ciphertext or len(ciphertext) % _BLOCK:
        raise EnvelopeError("the content is not whole blocks")
    return ciphertext


def _parts(element: _Element, tag: int, count: int) -> tuple[_Element, ...]:
    if element.tag != tag or len(element.parts) != count:
        raise EnvelopeError("an element is not the one that KMS writes here")
    return element.parts


def _octets(element: _Element, size: int | None = None) -> bytes:
    if element.tag != _OCTETS or size not in (None, len(element.content)):
        raise EnvelopeError("an octet string is not what KMS writes here")
    return element.content


def _same(element: _Element, expected: _Element) -> None:
    if element != expected:
        raise EnvelopeError("a type or algorithm is not the one that KMS uses")


# --- opening --------------------------------------------------------------------------


def open_envelope(data: bytes, key: RSAPrivateKey) -> SecretBytes:
    """
    Return the plaintext of a `CiphertextForRecipient` for *key* (RSA-2048).

    Raises:
        EnvelopeError: It is not exactly what KMS writes, or not for *key*.
    """
    envelope = _read(data)
    try:
        fresh = key.decrypt(envelope.encrypted_key, _OAEP)
    except ValueError:
        raise EnvelopeError("the envelope is for another key") from None
    content_key = take_bytes(fresh)
    # update_into asks for one block more than it writes.
    padded = bytearray(len(envelope.ciphertext) + _BLOCK)
    try:
        if len(content_key) != _CONTENT_KEY:
            raise EnvelopeError("the content key is not an AES-256 key")
        cipher = Cipher(algorithms.AES(content_key), modes.CBC(envelope.iv))
        decryptor = cipher.decryptor()
        written = decryptor.update_into(envelope.ciphertext, padded)
        decryptor.finalize()
        return _without_padding(padded, written)
    finally:
        content_key[:] = bytes(len(content_key))
        padded[:] = bytes(len(padded))


def _without_padding(padded: bytearray, written: int) -> SecretBytes:
    count = padded[written - 1]
    if not 1 <= count <= _BLOCK or any(
        padded[written - i] != count for i in range(1, count + 1)
    ):
        raise EnvelopeError("the padding is wrong")
    plaintext = SecretBytes.zeros(written - count)
    # Between two memoryviews nothing is copied on the way.
    memoryview(plaintext.buffer)[:] = memoryview(padded)[: written - count]
    return plaintext
