import hashlib
import hmac
from collections.abc import Callable
from random import Random

import coincurve
import pytest
from eth_keys import keys as eth_keys

from nitrosigner.trusted.signing import secp256k1 as module
from nitrosigner.trusted.signing.algorithms import Algorithm, PublicKey, Signature
from nitrosigner.trusted.signing.secp256k1 import ORDER, Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused

MakeSecret = Callable[[int], SecretBytes]

# (private key, message, r, s): the vectors that Bitcoin's libraries share for RFC 6979
# over secp256k1 with SHA-256.
RFC_6979 = (
    (
        1,
        "Satoshi Nakamoto",
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8",
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
    ),
    (
        1,
        "All those moments will be lost in time, like tears in rain. Time to die...",
        "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b",
        "547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
    ),
    (
        ORDER - 1,
        "Satoshi Nakamoto",
        "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d0",
        "6b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5",
    ),
    (
        0xF8B8AF8CE3C7CCA5E300D33939540C10D45CE001B8F252BFBC57BA0342904181,
        "Alan Turing",
        "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c",
        "58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea",
    ),
)


def rfc_6979_signature(key: int, digest: bytes) -> tuple[int, int, int]:
    """Sign by the book, in slow Python: RFC 6979 section 3.2, then low s."""
    x = key.to_bytes(32, "big")
    h = (int.from_bytes(digest, "big") % ORDER).to_bytes(32, "big")
    v, k = 32 * b"\x01", 32 * b"\x00"
    for separator in (b"\x00", b"\x01"):
        k = hmac.digest(k, v + separator + x + h, "sha256")
        v = hmac.digest(k, v, "sha256")
    v = hmac.digest(k, v, "sha256")
    nonce = int.from_bytes(v, "big")
    assert 0 < nonce < ORDER
    point = coincurve.PublicKey.from_secret(nonce.to_bytes(32, "big")).point()
    r = point[0] % ORDER
    s = pow(nonce, -1, ORDER) * (int.from_bytes(h, "big") + r * key) % ORDER
    parity = point[1] & 1
    return (r, s, parity) if s <= ORDER // 2 else (r, ORDER - s, 1 - parity)


def split(signature: bytes) -> tuple[int, int, int]:
    assert len(signature) == 65
    return (
        int.from_bytes(signature[:32], "big"),
        int.from_bytes(signature[32:64], "big"),
        signature[64],
    )


def test_it_stands_behind_the_algorithm_port(secp256k1: Secp256k1) -> None:
    algorithm: Algorithm = secp256k1
    assert algorithm.name == "secp256k1"
    assert (algorithm.secret_size, algorithm.message_size) == (32, 32)


@pytest.mark.parametrize("vector", RFC_6979, ids=lambda vector: vector[2][:8])
def test_the_shared_vectors_of_rfc_6979(
    secp256k1: Secp256k1, secret: MakeSecret, vector: tuple[int, str, str, str]
) -> None:
    key, message, r, s = vector
    digest = hashlib.sha256(message.encode()).digest()
    signature = secp256k1.sign(secret(key), digest)
    assert signature[:64].hex() == r + s


@pytest.mark.parametrize(
    "digest",
    [
        bytes(32),
        32 * b"\xff",
        ORDER.to_bytes(32, "big"),
        (ORDER - 1).to_bytes(32, "big"),
        (ORDER + 1).to_bytes(32, "big"),
        hashlib.sha256(b"").digest(),
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("key", [1, 2, ORDER // 2, ORDER - 1])
def test_signatures_are_those_of_rfc_6979_done_by_hand(
    secp256k1: Secp256k1, secret: MakeSecret, key: int, digest: bytes
) -> None:
    signature = secp256k1.sign(secret(key), digest)
    assert split(signature) == rfc_6979_signature(key, digest)


def test_other_libraries_give_the_same_keys_addresses_and_signatures(
    secp256k1: Secp256k1, secret: MakeSecret
) -> None:
    random = Random(1)
    for round_ in range(400):
        key = random.randrange(1, ORDER)
        digest = random.randbytes(32)
        with secret(key) as ours:
            public_key = secp256k1.public_key(ours)
            signature = secp256k1.sign(ours, digest)
        theirs = coincurve.PrivateKey(key.to_bytes(32, "big"))
        assert public_key == theirs.public_key.format(compressed=True)
        full = theirs.public_key.format(compressed=False)
        assert module.uncompressed(public_key) == full
        assert signature == theirs.sign_recoverable(digest, hasher=None)
        assert module.recover(digest, signature) == public_key
        if round_ < 40:
            other = eth_keys.PrivateKey(key.to_bytes(32, "big"))
            address = other.public_key.to_checksum_address()
            assert secp256k1.identity(public_key) == address
            assert other.sign_msg_hash(digest).to_bytes() == signature


def test_s_is_always_in_the_lower_half(
    secp256k1: Secp256k1, secret: MakeSecret
) -> None:
    random = Random(2)
    parities = set()
    with secret(random.randrange(1, ORDER)) as ours:
        for _ in range(2000):
            r, s, parity = split(secp256k1.sign(ours, random.randbytes(32)))
            assert 0 < r < ORDER
            assert 0 < s <= ORDER // 2
            parities.add(parity)
    assert parities == {0, 1}


def test_the_randomness_changes_no_signature(secret: MakeSecret) -> None:
    digest = hashlib.sha256(b"x").digest()
    signatures = {Secp256k1(bytes([n]) * 32).sign(secret(7), digest) for n in range(8)}
    assert len(signatures) == 1


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_context_is_made_with_32_random_bytes_only(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        Secp256k1(bytes(size))


@pytest.mark.parametrize("key", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_what_is_no_private_key_is_refused(
    secp256k1: Secp256k1, secret: MakeSecret, key: int
) -> None:
    with pytest.raises(Malformed, match="not a private key") as caught:
        secp256k1.public_key(secret(key))
    assert f"{key:x}" not in str(caught.value)
    with pytest.raises(Malformed, match="not a private key"):
        secp256k1.sign(secret(key), bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_nothing_is_read_past_a_buffer_of_the_wrong_size(
    secp256k1: Secp256k1, secret: MakeSecret, size: int
) -> None:
    with pytest.raises(Malformed):
        secp256k1.public_key(SecretBytes(bytearray(size * b"\x01")))
    with pytest.raises(Malformed):
        secp256k1.sign(SecretBytes(bytearray(size * b"\x01")), bytes(32))
    with pytest.raises(Malformed):
        secp256k1.sign(secret(1), bytes(size))
    with pytest.raises(Malformed):
        module.recover(bytes(size), bytes(65))
    with pytest.raises(Malformed):
        module.recover(bytes(32), bytes(size))


@pytest.mark.parametrize(
    "public_key",
    [b"", bytes(33), b"\x02" + 32 * b"\xff", b"\x04" + bytes(32), 32 * b"\x02"],
    ids=bytes.hex,
)
def test_what_is_no_public_key_has_no_address(
    secp256k1: Secp256k1, public_key: bytes
) -> None:
    with pytest.raises(Malformed, match="public key"):
        secp256k1.identity(PublicKey(public_key))
    with pytest.raises(Malformed, match="public key"):
        module.uncompressed(PublicKey(public_key))


@pytest.mark.parametrize(
    "signature",
    [
        bytes(65),
        65 * b"\xff",
        bytes(31) + b"\x01" + bytes(31) + b"\x01\x02",
        bytes(31) + b"\x05" + bytes(31) + b"\x01\x00",
    ],
    ids=["zeros", "ones", "parity 2", "r without a point"],
)
def test_a_signature_that_nobody_made_recovers_nobody(signature: bytes) -> None:
    with pytest.raises(Malformed, match="no key"):
        module.recover(bytes(32), signature)


@pytest.mark.parametrize("parity", [2, 3, 4, 27, 28, 255])
def test_a_parity_that_ethereum_cannot_write_recovers_nobody(parity: int) -> None:
    # The library itself takes 2 and 3, for an r that has passed the order.
    for r in range(1, 20):
        signature = r.to_bytes(32, "big") + (1).to_bytes(32, "big") + bytes([parity])
        with pytest.raises(Malformed, match="no key"):
            module.recover(bytes(32), signature)


def test_the_known_answers_are_known() -> None:
    module.known_answers()


class Wrong:
    """A library with one wrong answer."""

    name, secret_size, message_size = "secp256k1", 32, 32

    def __init__(self, right: Secp256k1, method: str) -> None:
        self._right = right
        self._method = method

    def public_key(self, secret: SecretBytes) -> PublicKey:
        key = self._right.public_key(secret)
        return PublicKey(b"\x01" + key[1:]) if self._method == "public_key" else key

    def identity(self, public_key: PublicKey) -> str:
        text = self._right.identity(public_key)
        return text.lower() if self._method == "identity" else text

    def sign(self, secret: SecretBytes, message: bytes) -> Signature:
        signature = self._right.sign(secret, message)
        if self._method == "sign":
            return Signature(signature[:64] + bytes([1 - signature[64]]))
        return signature


@pytest.mark.parametrize("method", ["public_key", "identity", "sign"])
def test_a_library_with_one_wrong_answer_is_refused(
    secp256k1: Secp256k1, method: str
) -> None:
    module._check(Wrong(secp256k1, "none"))
    with pytest.raises(Refused, match="wrong answers"):
        module._check(Wrong(secp256k1, method))


def test_a_library_that_takes_zero_for_a_key_is_refused(secp256k1: Secp256k1) -> None:
    class TakesZero(Wrong):
        def public_key(self, secret: SecretBytes) -> PublicKey:
            try:
                return super().public_key(secret)
            except Malformed:
                return PublicKey(33 * b"\x02")

    with pytest.raises(Refused, match="wrong answers"):
        module._check(TakesZero(secp256k1, "none"))
