"""
From a mnemonic to validators' keys: BIP-39, EIP-2333 and EIP-2334.

A seed opens withdrawal keys too. It passes through here once, in buffers that the
caller wipes, and is never stored: what is kept are the signing keys alone.

English mnemonics only: their checksum is verified, so that a slip of the pen makes no
keys that nobody can find again. For other languages the 64 byte seed can be given.
"""

import hashlib
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from nitrosigner.trusted.signing.bip39_english import WORDS
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed

SEED_SIZE: Final = 64
MIN_SEED: Final = 32
ENTROPY_SIZE: Final = 32
"""Bytes behind a mnemonic of 24 words."""
MAX_PHRASE: Final = 24 * 9
"""Bytes: words of at most eight letters, and the spaces."""
_LENGTHS: Final = (12, 15, 18, 21, 24)
_ROUNDS: Final = 2048
_SALT: Final = b"mnemonic"
_PURPOSE: Final = 12381
_ETHEREUM: Final = 3600
_WORDS: Final = [word.encode() for word in WORDS]
"""In alphabetical order, as the standard has them."""


def new_mnemonic(entropy: SecretBytes) -> SecretBytes:
    """Return the 24 words of *entropy*, 32 bytes. The caller wipes both."""
    checksum = hashlib.sha256(entropy.buffer).digest()[0]
    phrase = bytearray(MAX_PHRASE)
    length = 0
    for at in range(24):
        word = _WORDS[_eleven_bits(entropy.buffer, checksum, at)]
        phrase[length : length + len(word)] = word
        length += len(word)
        phrase[length : length + 1] = b" "
        length += 1
    made = SecretBytes.zeros(length - 1)
    made.buffer[:] = memoryview(phrase)[: length - 1]
    phrase[:] = bytes(MAX_PHRASE)
    return made


def mnemonic_seed(entered: SecretBytes) -> SecretBytes:
    """
    Return the 64 byte seed of *entered*: the words, and after a line feed the
    passphrase, if there is one. The caller wipes both.

    Raises:
        Malformed: These are no 12, 15, 18, 21 or 24 English words, or mistyped ones.
    """
    text = entered.buffer
    end = text.find(b"\n")
    words = _words(text, len(text) if end < 0 else end)
    _require_checksum(text, words)
    with ExitStack() as wiped:
        # One space between words is the standard's; what was entered may have more.
        size = sum(stop - start for start, stop in words) + len(words) - 1
        phrase = wiped.enter_context(SecretBytes.zeros(size))
        at = 0
        for start, stop in words:
            phrase.buffer[at : at + stop - start] = memoryview(text)[start:stop]
            at += stop - start
            phrase.buffer[at : at + 1] = b" " if at < size else b""
            at += 1
        salt = wiped.enter_context(_salt(text, end))
        seed = SecretBytes.zeros(SEED_SIZE)
        # The standard's own number of rounds: an attacker has the phrase's 128 bits to
        # guess, not a password's.
        PBKDF2HMAC(
            algorithm=SHA512(),
            length=SEED_SIZE,
            salt=bytes(salt.buffer),
            iterations=_ROUNDS,
        ).derive_into(phrase.buffer, seed.buffer)
        return seed


def derived_keys(
    bls: Bls12381, seed: SecretBytes, indices: Sequence[int]
) -> Iterator[SecretBytes]:
    """
    Yield the signing keys m/12381/3600/i/0/0 of *indices*. The caller wipes each.

    Raises:
        Malformed: The seed is shorter than 32 bytes.
    """
    with _account_root(bls, seed) as root:
        for index in indices:
            with _child(bls, root, index, 0) as withdrawal:
                yield bls.derive_child(withdrawal, 0)


def withdrawal_key(bls: Bls12381, seed: SecretBytes, index: int) -> SecretBytes:
    """Return m/12381/3600/*index*/0. Its child 0 signs duties. Raises as above."""
    with _account_root(bls, seed) as root:
        return _child(bls, root, index, 0)


def _account_root(bls: Bls12381, seed: SecretBytes) -> SecretBytes:
    with bls.derive_master(seed) as master:
        return _child(bls, master, _PURPOSE, _ETHEREUM)


def _child(bls: Bls12381, parent: SecretBytes, first: int, second: int) -> SecretBytes:
    with bls.derive_child(parent, first) as between:
        return bls.derive_child(between, second)


def _words(text: bytearray, end: int) -> list[tuple[int, int]]:
    """Return where each word of *text* before *end* begins and stops."""
    words: list[tuple[int, int]] = []
    start = -1
    for at in range(end + 1):
        if at == end or text[at] in b" \t\r":
            if start >= 0:
                words.append((start, at))
                start = -1
        elif start < 0:
            start = at
    if len(words) not in _LENGTHS:
        raise _malformed()
    return words


def _require_checksum(text: bytearray, words: list[tuple[int, int]]) -> None:
    bits = 11 * len(words)
    entropy_bits = bits * 32 // 33
    with SecretBytes.zeros((bits + 7) // 8) as packed:
        for place, (start, stop) in enumerate(words):
            number = _number(text, start, stop)
            for bit in range(11):
                if number >> (10 - bit) & 1:
                    where = 11 * place + bit
                    packed.buffer[where // 8] |= 0x80 >> where % 8
        digest = hashlib.sha256(memoryview(packed.buffer)[: entropy_bits // 8]).digest()
        for bit in range(bits - entropy_bits):
            where = entropy_bits + bit
            given = packed.buffer[where // 8] >> (7 - where % 8) & 1
            if given != digest[bit // 8] >> (7 - bit % 8) & 1:
                raise _malformed()


def _number(text: bytearray, start: int, stop: int) -> int:
    """Return the place of a word in the list, letter by letter: no copy is made."""
    low, high = 0, len(_WORDS)
    for at in range(start, stop):

        def letter(word: bytes, place: int = at - start) -> int:
            return word[place] if place < len(word) else -1

        low = bisect_left(_WORDS, text[at], low, high, key=letter)
        high = bisect_right(_WORDS, text[at], low, high, key=letter)
    # Of all that begin with these letters the word itself is the first.
    if low == high or len(_WORDS[low]) != stop - start:
        raise _malformed()
    return low


def _salt(text: bytearray, end: int) -> SecretBytes:
    if end < 0:
        return SecretBytes(bytearray(_SALT))
    passphrase = SecretBytes.zeros(len(text) - end - 1)
    passphrase.buffer[:] = memoryview(text)[end + 1 :]
    with passphrase:
        try:
            # A text cannot be wiped. It is the passphrase, which opens nothing alone.
            normal = unicodedata.normalize("NFKD", passphrase.buffer.decode())
        except UnicodeDecodeError:
            raise _malformed() from None
    return SecretBytes(bytearray(_SALT + normal.encode()))


def _eleven_bits(entropy: bytearray, checksum: int, place: int) -> int:
    number = 0
    for where in range(11 * place, 11 * place + 11):
        byte = entropy[where // 8] if where // 8 < len(entropy) else checksum
        number = number << 1 | (byte >> (7 - where % 8) & 1)
    return number


def _malformed() -> Malformed:
    return Malformed(
        Code.MALFORMED_KEY,
        "this is no English BIP-39 mnemonic, or a word of it is mistyped",
        "give 12 to 24 words in lower case; for another language give the seed instead",
    )
