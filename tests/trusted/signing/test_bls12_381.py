"""blst through ctypes against py_ecc and the published EIP-2333 vectors."""

import random

import ckzg
import pytest
from py_ecc.bls import G2ProofOfPossession
from py_ecc.bls.g2_primitives import pubkey_to_G1

from nitrosigner.trusted.signing import bls12_381
from nitrosigner.trusted.signing.algorithms import PublicKey
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused

ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
# EIP-2333, test case 0: seed, master key, child 0.
SEED = (
    "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d182"
    "64c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04"
)
MASTER = 6083874454709270928345386274498605044986640685124978867557563392430687146096
CHILD_0 = 20397789859736650942317412262472558107875392172444076792671091975210932703118


@pytest.fixture(scope="module")
def bls() -> Bls12381:
    return Bls12381(ckzg.__file__)


def secret(number: int) -> SecretBytes:
    return SecretBytes(bytearray(number.to_bytes(32, "big")))


def test_the_known_answers_hold(bls: Bls12381) -> None:
    bls.known_answers()


def test_a_library_that_answers_otherwise_is_refused(
    bls: Bls12381, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bls12_381, "_ITS_SIGNATURE", "00" * 96)
    with pytest.raises(Refused):
        bls.known_answers()


def test_a_library_without_the_symbols_is_refused() -> None:
    with pytest.raises(Refused):
        Bls12381("libc.so.6")


def test_signatures_are_py_eccs_byte_for_byte(bls: Bls12381) -> None:
    source = random.Random(2335)
    for _ in range(4):
        number = source.randrange(1, ORDER)
        root = source.randbytes(32)
        signature = bls.sign(secret(number), root)
        public_key = bls.public_key(secret(number))
        assert public_key == G2ProofOfPossession.SkToPk(number)
        assert signature == G2ProofOfPossession.Sign(number, root)
        assert bls.verify(public_key, root, signature)
        assert not bls.verify(public_key, root, signature[:-1] + b"\0")


def test_a_cached_hash_gives_the_same_signature(bls: Bls12381) -> None:
    first = [bls.sign(secret(n), b"\x07" * 32) for n in (1, 2, 3)]
    assert [bls.sign(secret(n), b"\x07" * 32) for n in (1, 2, 3)] == first
    fresh = Bls12381(ckzg.__file__)
    assert [fresh.sign(secret(n), b"\x07" * 32) for n in (1, 2, 3)] == first


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bls12_381, "MAX_HASHED_ROOTS", 4)
    bls = Bls12381(ckzg.__file__)
    for n in range(10):
        bls.sign(secret(5), n.to_bytes(32, "big"))
    assert bls._hashed.cache_info().currsize == 4


@pytest.mark.parametrize("number", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_a_scalar_outside_the_group_order_is_no_key(bls: Bls12381, number: int) -> None:
    with pytest.raises(Malformed):
        bls.public_key(secret(number))
    with pytest.raises(Malformed):
        bls.sign(secret(number), bytes(32))


def test_only_a_signing_root_is_signed(bls: Bls12381) -> None:
    for size in (0, 31, 33, 64):
        with pytest.raises(Malformed):
            bls.sign(secret(1), bytes(size))
    with pytest.raises(Malformed):
        bls.sign(SecretBytes(bytearray(31)), bytes(32))


def test_the_point_at_infinity_is_no_public_key(bls: Bls12381) -> None:
    infinity = PublicKey(b"\xc0" + bytes(47))
    assert pubkey_to_G1(infinity) is not None  # it decodes, and is still refused
    for bad in (infinity, PublicKey(b"\xff" * 48), PublicKey(b"")):
        with pytest.raises(Malformed):
            bls.identity(bad)


def test_identity_is_the_public_key_in_hex(bls: Bls12381) -> None:
    public_key = bls.public_key(secret(1))
    assert bls.identity(public_key) == "0x" + public_key.hex()


def test_derivation_follows_eip_2333(bls: Bls12381) -> None:
    master = bls.derive_master(SecretBytes(bytearray.fromhex(SEED)))
    assert int.from_bytes(master.buffer, "big") == MASTER
    child = bls.derive_child(master, 0)
    assert int.from_bytes(child.buffer, "big") == CHILD_0
    with pytest.raises(Malformed):
        bls.derive_child(master, 1 << 32)
    with pytest.raises(Malformed):
        bls.derive_master(SecretBytes(bytearray(31)))


def test_a_hash_that_was_made_elsewhere_is_used_and_not_made_again() -> None:
    here, there = Bls12381(ckzg.__file__), Bls12381(ckzg.__file__)
    root, other = b"\x01" * 32, b"\x02" * 32
    with SecretBytes(bytearray(31) + b"\x07") as secret:
        there.remember(root, here.hashed(root))
        assert there.sign(secret, root) == here.sign(secret, root)
        # That it is believed shows that it is used.
        there.remember(other, here.hashed(root))
        assert there.sign(secret, other) == here.sign(secret, root)
        there.remember(root, here.hashed(b"\x03" * 32))
        assert there.sign(secret, root) == here.sign(secret, root)  # known already
        assert not there._told


@pytest.mark.parametrize("size", [0, 31, 33])
def test_what_is_no_signing_root_is_not_hashed(size: int) -> None:
    bls = Bls12381(ckzg.__file__)
    with pytest.raises(Malformed):
        bls.hashed(bytes(size))
    with pytest.raises(Malformed):
        bls.remember(bytes(size), bytes(288))


@pytest.mark.parametrize("size", [0, 96, 287, 289])
def test_what_is_no_point_is_not_remembered(size: int) -> None:
    with pytest.raises(Malformed):
        Bls12381(ckzg.__file__).remember(bytes(32), bytes(size))
