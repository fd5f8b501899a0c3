"""
EIP-2335 keystores: from a password to a key in a wipeable buffer.

Deriving takes a second and, with scrypt, a quarter of a gigabyte, by design. The
parameters come from the file, so they are bounded before anything is allocated; and a
key that was read once is sealed, so that no boot ever derives again.
"""

import hashlib
import hmac
import unicodedata
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.ssz import read_bytes
from nitrosigner.verdicts import Code, Malformed, Refused

MAX_KEYSTORE: Final = 16 * 1024
"""Bytes of JSON."""
MAX_SCRYPT_MEMORY: Final = 300 << 20
"""Bytes. n=262144, r=8 (what deposit tools write) takes 256 MiB."""
MAX_PBKDF2_ROUNDS: Final = 4_000_000
"""What deposit tools write is 262,144."""
MIN_SALT: Final = 16
_DERIVED: Final = 32
_CONTROL: Final = {*range(0x20), 0x7F, *range(0x80, 0xA0)}
"""C0, C1 and Delete are stripped from passwords (EIP-2335)."""

_Hex = Annotated[str, msgspec.Meta(max_length=2048)]


class _Strict(msgspec.Struct, frozen=True):
    pass


class _ScryptParameters(_Strict, frozen=True):
    dklen: int
    n: int
    r: int
    p: int
    salt: _Hex


class _Pbkdf2Parameters(_Strict, frozen=True):
    dklen: int
    c: int
    prf: str
    salt: _Hex


class _Scrypt(_Strict, frozen=True, tag="scrypt", tag_field="function"):
    params: _ScryptParameters
    message: Literal[""] = ""


class _Pbkdf2(_Strict, frozen=True, tag="pbkdf2", tag_field="function"):
    params: _Pbkdf2Parameters
    message: Literal[""] = ""


class _Checksum(_Strict, frozen=True):
    function: Literal["sha256"]
    message: _Hex
    params: dict[str, Any] = {}


class _CipherParameters(_Strict, frozen=True):
    iv: _Hex


class _CipherModule(_Strict, frozen=True):
    function: Literal["aes-128-ctr"]
    params: _CipherParameters
    message: _Hex


class _Crypto(_Strict, frozen=True):
    kdf: _Scrypt | _Pbkdf2
    checksum: _Checksum
    cipher: _CipherModule


class Keystore(_Strict, frozen=True):
    """A keystore whose form was checked. Nothing is derived yet."""

    crypto: _Crypto
    version: Literal[4]
    pubkey: str = ""
    """Hex without 0x, as the file claims it; compared after opening."""
    path: str = ""
    uuid: str = ""
    description: str | None = None


def parse(data: bytes) -> Keystore:
    """
    Read a keystore's JSON and check that opening it is affordable.

    Raises:
        Malformed: It is no EIP-2335 keystore, or asks for too much work.
    """
    if len(data) > MAX_KEYSTORE:
        raise Malformed(Code.TOO_LARGE, f"a keystore has at most {MAX_KEYSTORE} bytes")
    try:
        keystore = msgspec.json.decode(data, type=Keystore)
    except ValueError as error:
        raise _malformed("this is not an EIP-2335 keystore of version 4") from error
    _check_work(keystore.crypto.kdf)
    return keystore


def open_keystore(keystore: Keystore, password: str) -> SecretBytes:
    """
    Return the private key, 32 bytes. Blocks for about a second.

    Raises:
        Refused: The password is not the keystore's.
        Malformed: The keystore holds something else than a key.
    """
    crypto = keystore.crypto
    derived = bytearray(_derive(crypto.kdf, _normalized(password)))
    try:
        message = _hex(crypto.cipher.message, "crypto.cipher.message")
        checksum = hashlib.sha256(bytes(derived[16:32]) + message).digest()
        expected = _hex(crypto.checksum.message, "crypto.checksum.message")
        if not hmac.compare_digest(checksum, expected):
            raise Refused(
                Code.WRONG_PASSWORD, "the password does not open this keystore"
            )
        iv = _hex(crypto.cipher.params.iv, "crypto.cipher.params.iv")
        if len(message) != _DERIVED or len(iv) != 16:
            raise _malformed("the keystore does not hold a key of 32 bytes")
        secret = SecretBytes.zeros(_DERIVED)
        decryptor = Cipher(algorithms.AES128(derived[:16]), modes.CTR(iv)).decryptor()
        decryptor.update_into(message, secret.buffer)
        decryptor.finalize()
    finally:
        derived[:] = bytes(len(derived))
    return secret


def _check_work(kdf: _Scrypt | _Pbkdf2) -> None:
    salt = _hex(kdf.params.salt, "crypto.kdf.params.salt")
    if len(salt) < MIN_SALT or kdf.params.dklen != _DERIVED:
        raise _malformed("the keystore's salt is too short or its key length not 32")
    if isinstance(kdf, _Scrypt):
        n, r, p = kdf.params.n, kdf.params.r, kdf.params.p
        power_of_two = n > 1 and n & (n - 1) == 0
        if not (power_of_two and 1 <= r <= 64 and 1 <= p <= 16):
            raise _malformed("the keystore's scrypt parameters make no sense")
        if 128 * n * r > MAX_SCRYPT_MEMORY or n * r * p > 1 << 23:
            raise _malformed("the keystore's scrypt parameters ask for too much")
    elif kdf.params.prf != "hmac-sha256" or not 1 <= kdf.params.c <= MAX_PBKDF2_ROUNDS:
        raise _malformed("the keystore's pbkdf2 parameters are not usable")


def _derive(kdf: _Scrypt | _Pbkdf2, password: bytes) -> bytes:
    salt = _hex(kdf.params.salt, "crypto.kdf.params.salt")
    if isinstance(kdf, _Scrypt):
        return hashlib.scrypt(
            password,
            salt=salt,
            n=kdf.params.n,
            r=kdf.params.r,
            p=kdf.params.p,
            dklen=_DERIVED,
            maxmem=MAX_SCRYPT_MEMORY + (64 << 20),
        )
    return hashlib.pbkdf2_hmac("sha256", password, salt, kdf.params.c, _DERIVED)


def _normalized(password: str) -> bytes:
    text = unicodedata.normalize("NFKD", password)
    return "".join(c for c in text if ord(c) not in _CONTROL).encode()


def _hex(value: str, path: str) -> bytes:
    return read_bytes("0x" + value.removeprefix("0x"), path)


def _malformed(sentence: str) -> Malformed:
    return Malformed(Code.MALFORMED_KEYSTORE, sentence)
