"""
Turns what was imported into a private key: raw bytes, or the hex text of them.

The AWS wallet sample has KMS encrypt the ASCII hex text of a key, with or without
`0x`; everybody else the raw bytes. Both are taken; the lengths tell them apart. No
`bytes`, `str` or `int` is made of the secret on the way.
"""

from typing import Final

from nitrosigner.trusted.signing.algorithms import Algorithm, PublicKey
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused

_DIGITS: Final = {
    ord(digit): value
    for digits in ("0123456789abcdef", "0123456789ABCDEF")
    for value, digit in enumerate(digits)
}


def private_key(imported: SecretBytes, size: int) -> SecretBytes:
    """
    Return the private key of *size* bytes in *imported*. The caller wipes both.

    Raises:
        Malformed: It is neither *size* bytes nor their hex text.
    """
    text = imported.buffer
    if len(text) == size:
        raw = SecretBytes.zeros(size)
        raw.buffer[:] = text
        return raw
    start = 2 if text.startswith((b"0x", b"0X")) else 0
    if len(text) - start != 2 * size:
        raise _malformed()
    raw = SecretBytes.zeros(size)
    for index in range(size):
        high = _DIGITS.get(text[start + 2 * index])
        low = _DIGITS.get(text[start + 2 * index + 1])
        if high is None or low is None:
            raw.wipe()
            raise _malformed()
        raw.buffer[index] = high << 4 | low
    return raw


def matching_public_key(
    algorithm: Algorithm, secret: SecretBytes, identity: str
) -> PublicKey:
    """
    Return the public key of *secret*, which must have *identity* (in any case).

    Raises:
        Malformed: *secret* is no private key.
        Refused: It is another one's (KEY_MISMATCH).
    """
    public_key = algorithm.public_key(secret)
    if algorithm.identity(public_key).lower() != identity.lower():
        raise Refused(
            Code.KEY_MISMATCH,
            "the key that was given has another address than the one that was named",
            "check which key belongs to the address; nothing was stored",
        )
    return public_key


def _malformed() -> Malformed:
    return Malformed(
        Code.MALFORMED_KEY,
        "what was wrapped is neither a private key nor its hex text",
        "wrap 32 raw bytes, or 64 hex digits with or without 0x",
    )
