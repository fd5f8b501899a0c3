"""A wrapped key opens for one enclave, one deployment, one name and one address."""

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.wire.import_wrapping import MAX_WRAPPED, import_info, unwrap, wrap

ENCLAVE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = ENCLAVE.public_key().public_bytes_raw()
SECRET = bytes(range(100, 132))
NAMES = {
    "deployment": "wallet",
    "name": "hot",
    "algorithm": "secp256k1",
    "identity": "0x" + "ab" * 20,
}
INFO = import_info(**NAMES)


def test_what_was_wrapped_opens_in_the_enclave_and_two_wraps_differ() -> None:
    first, second = wrap(SECRET, PUBLIC, INFO), wrap(bytearray(SECRET), PUBLIC, INFO)
    assert first != second
    assert unwrap(first, ENCLAVE, INFO) == unwrap(second, ENCLAVE, INFO) == SECRET
    assert SECRET not in first
    assert len(first) < MAX_WRAPPED


@pytest.mark.parametrize("changed", NAMES)
def test_it_opens_for_nothing_else(changed: str) -> None:
    wrapped = wrap(SECRET, PUBLIC, INFO)
    with pytest.raises(ValueError, match="not wrapped for"):
        unwrap(wrapped, ENCLAVE, import_info(**(NAMES | {changed: "other"})))


def test_another_enclave_cannot_open_it() -> None:
    other = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    with pytest.raises(ValueError, match="not wrapped for"):
        unwrap(wrap(SECRET, PUBLIC, INFO), other, INFO)


@given(st.integers(0, 1000), st.integers(1, 255))
def test_no_altered_byte_opens(position: int, flip: int) -> None:
    wrapped = bytearray(wrap(SECRET, PUBLIC, INFO))
    # The top bit of X25519's u is ignored by the curve and bound by the KEM context.
    wrapped[position % len(wrapped)] ^= flip
    with pytest.raises(ValueError):
        unwrap(bytes(wrapped), ENCLAVE, INFO)


@given(st.binary(max_size=MAX_WRAPPED + 10))
def test_any_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        unwrap(data, ENCLAVE, INFO)


@pytest.mark.parametrize(
    "key", [b"", bytes(31), bytes(33), bytes(32), (1).to_bytes(32, "little")]
)
def test_a_key_that_is_none_is_not_wrapped_to(key: bytes) -> None:
    """Zero and one are points of small order: everyone knows what they agree on."""
    with pytest.raises(ValueError):
        wrap(SECRET, key, INFO)


def test_a_separator_inside_a_name_is_refused() -> None:
    for changed in NAMES:
        with pytest.raises(ValueError, match="zero byte"):
            import_info(**(NAMES | {changed: "a\0b"}))


def test_it_is_the_hpke_of_rfc_9180() -> None:
    """Opened again with RFC 9180's own steps (§4, §5.1), from its primitives."""
    wrapped = wrap(SECRET, PUBLIC, INFO)
    encapsulated, ciphertext = wrapped[:32], wrapped[32:]

    def extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
        mac = hmac.HMAC(salt or bytes(32), hashes.SHA256())
        mac.update(b"HPKE-v1" + suite + label + ikm)
        return mac.finalize()

    def expand(prk: bytes, suite: bytes, label: bytes, info: bytes, size: int) -> bytes:
        block, out, count = b"", b"", 1
        labeled = size.to_bytes(2) + b"HPKE-v1" + suite + label + info
        while len(out) < size:
            mac = hmac.HMAC(prk, hashes.SHA256())
            mac.update(block + labeled + bytes([count]))
            block = mac.finalize()
            out, count = out + block, count + 1
        return out[:size]

    kem = b"KEM" + (0x0020).to_bytes(2)
    suite = b"HPKE" + (0x0020).to_bytes(2) + (1).to_bytes(2) + (2).to_bytes(2)
    agreed = ENCLAVE.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    prk = extract(b"", kem, b"eae_prk", agreed)
    shared = expand(prk, kem, b"shared_secret", encapsulated + PUBLIC, 32)
    context = (
        b"\0"
        + extract(b"", suite, b"psk_id_hash", b"")
        + extract(b"", suite, b"info_hash", INFO)
    )
    secret = extract(shared, suite, b"secret", b"")
    key = expand(secret, suite, b"key", context, 32)
    nonce = expand(secret, suite, b"base_nonce", context, 12)
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == SECRET
