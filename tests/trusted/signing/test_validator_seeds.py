"""Mnemonics and seeds, against EIP-2333's vectors, eth-account and py_ecc."""

import hashlib
import hmac
import os
import unicodedata
from typing import Any

import ckzg
import pytest
from eth_account.hdaccount.mnemonic import Language, Mnemonic
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.trusted.signing import validator_seeds
from nitrosigner.trusted.signing.bip39_english import WORDS
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed

ENGLISH = Mnemonic(Language.ENGLISH)
BLS = Bls12381(ckzg.__file__)
TEST_PHRASE = (
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon"
    " abandon about"
)
ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


def secret(data: bytes | str) -> SecretBytes:
    return SecretBytes(bytearray(data.encode() if isinstance(data, str) else data))


def oracle_seed(phrase: str, passphrase: str = "") -> bytes:
    salt = "mnemonic" + unicodedata.normalize("NFKD", passphrase)
    return hashlib.pbkdf2_hmac("sha512", phrase.encode(), salt.encode(), 2048)


# EIP-2333 once more, in integers, from the text of the EIP.


def _hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk = hmac.digest(salt, ikm, "sha256")
    out, block = b"", b""
    counter = 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]


def _mod_r(ikm: bytes) -> int:
    salt, key = b"BLS-SIG-KEYGEN-SALT-", 0
    while key == 0:
        salt = hashlib.sha256(salt).digest()
        key = int.from_bytes(_hkdf(ikm + b"\0", salt, b"\0\x30", 48), "big") % ORDER
    return key


def _lamport(ikm: bytes, salt: bytes) -> bytes:
    okm = _hkdf(ikm, salt, b"", 32 * 255)
    return b"".join(
        hashlib.sha256(okm[at : at + 32]).digest() for at in range(0, len(okm), 32)
    )


def _child(parent: int, index: int) -> int:
    salt, ikm = index.to_bytes(4, "big"), parent.to_bytes(32, "big")
    flipped = bytes(byte ^ 0xFF for byte in ikm)
    both = _lamport(ikm, salt) + _lamport(flipped, salt)
    return _mod_r(hashlib.sha256(both).digest())


def oracle_key(seed: bytes, *path: int) -> bytes:
    key = _mod_r(seed)
    for index in path:
        key = _child(key, index)
    return key.to_bytes(32, "big")


# EIP-2333, test case 0.
EIP_SEED = oracle_seed(TEST_PHRASE, "TREZOR")
EIP_MASTER = (
    6083874454709270928345386274498605044986640685124978867557563392430687146096
)
EIP_CHILD_0 = (
    20397789859736650942317412262472558107875392172444076792671091975210932703118
)


def test_the_oracle_itself_agrees_with_the_eip() -> None:
    assert int.from_bytes(oracle_key(EIP_SEED), "big") == EIP_MASTER
    assert int.from_bytes(oracle_key(EIP_SEED, 0), "big") == EIP_CHILD_0


def test_the_words_are_the_standards() -> None:
    assert list(WORDS) == list(ENGLISH.wordlist)


@pytest.mark.parametrize("words", [12, 15, 18, 21, 24])
def test_seeds_are_eth_accounts(words: int) -> None:
    phrase = ENGLISH.generate(words)
    with validator_seeds.mnemonic_seed(secret(phrase)) as seed:
        assert bytes(seed.buffer) == ENGLISH.to_seed(phrase) == oracle_seed(phrase)


@given(passphrase=st.text(max_size=20).filter(lambda text: text.isprintable()))
@settings(max_examples=25, deadline=None)
def test_passphrases_are_normalized(passphrase: str) -> None:
    with validator_seeds.mnemonic_seed(secret(f"{TEST_PHRASE}\n{passphrase}")) as seed:
        assert bytes(seed.buffer) == oracle_seed(TEST_PHRASE, passphrase)


@pytest.mark.parametrize(
    "entered",
    [f"  {TEST_PHRASE} ", TEST_PHRASE.replace(" ", "\t  "), TEST_PHRASE + "\n"],
)
def test_white_space_between_words_is_no_part_of_them(entered: str) -> None:
    with validator_seeds.mnemonic_seed(secret(entered)) as seed:
        assert bytes(seed.buffer) == oracle_seed(TEST_PHRASE)


@pytest.mark.parametrize(
    "entered",
    [
        "",
        "\n",
        "\npassphrase",
        TEST_PHRASE + " about",
        TEST_PHRASE.replace("about", "abandon"),
        TEST_PHRASE.replace("about", "above"),
        TEST_PHRASE.replace("about", "abouts"),
        TEST_PHRASE.upper(),
        TEST_PHRASE.replace(" ", "\u3000"),
        " ".join(["abandon"] * 11),
        b"\xff" * 40,
        TEST_PHRASE.encode() + b"\n\xff",
    ],
)
def test_what_is_no_mnemonic_is_malformed(entered: Any) -> None:
    with pytest.raises(Malformed) as caught:
        validator_seeds.mnemonic_seed(secret(entered))
    assert caught.value.code is Code.MALFORMED_KEY


def test_one_mistyped_word_is_noticed_most_of_the_time() -> None:
    words = ENGLISH.generate(24).split()
    noticed = 0
    for place in range(24):
        other = [*words]
        other[place] = WORDS[(WORDS.index(words[place]) + 1) % 2048]
        try:
            validator_seeds.mnemonic_seed(secret(" ".join(other))).wipe()
        except Malformed:
            noticed += 1
    assert noticed >= 22


@given(entropy=st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_new_mnemonics_are_the_entropys(entropy: bytes) -> None:
    with validator_seeds.new_mnemonic(secret(entropy)) as phrase:
        text = phrase.buffer.decode()
        assert text == ENGLISH.to_mnemonic(entropy)
        validator_seeds.mnemonic_seed(phrase).wipe()


@pytest.mark.parametrize("seed", [EIP_SEED, bytes(range(32)), os.urandom(64)])
def test_keys_are_at_the_path_of_eip_2334(seed: bytes) -> None:
    keys = [
        bytes(key.buffer)
        for key in validator_seeds.derived_keys(
            BLS, secret(seed), [0, 1, (1 << 32) - 1]
        )
    ]
    assert keys == [
        oracle_key(seed, 12381, 3600, index, 0, 0) for index in (0, 1, (1 << 32) - 1)
    ]
    with validator_seeds.withdrawal_key(BLS, secret(seed), 1) as withdrawal:
        assert bytes(withdrawal.buffer) == oracle_key(seed, 12381, 3600, 1, 0)


def test_a_short_seed_makes_no_keys() -> None:
    with pytest.raises(Malformed):
        list(validator_seeds.derived_keys(BLS, secret(bytes(31)), [0]))
