from random import Random

import pytest
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_defunct

from nitrosigner.trusted.signing import authorizations, messages
from nitrosigner.trusted.signing.messages import personal_message_digest
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99, 100, 1000, 9999, 10000])
def test_eth_account_has_the_same_digest(size: int) -> None:
    message = Random(size).randbytes(size)
    expected = _hash_eip191_message(encode_defunct(primitive=message))
    assert personal_message_digest(message) == bytes(expected)


def test_eth_account_makes_the_same_signature(secp256k1: Secp256k1) -> None:
    key = 32 * b"\x07"
    expected = Account.sign_message(encode_defunct(text="I♥SF"), key).signature
    with SecretBytes(bytearray(key)) as secret:
        ours = secp256k1.sign(secret, personal_message_digest("I♥SF".encode()))
    assert ours[:64] == bytes(expected)[:64]
    assert ours[64] + 27 == expected[64]


def test_a_message_that_is_too_long_is_refused() -> None:
    personal_message_digest(bytes(messages.MAX_MESSAGE))
    with pytest.raises(Malformed) as caught:
        personal_message_digest(bytes(messages.MAX_MESSAGE + 1))
    assert caught.value.code is Code.TOO_LARGE


def test_no_message_begins_like_a_transaction_or_an_authorization() -> None:
    # Typed transactions begin with 1 to 4, legacy ones with a list of RLP.
    first = messages._PREFIX[0]
    assert first == 0x19
    assert first not in {1, 2, 3, 4, authorizations.MAGIC[0]}
    assert first < 0xC0
