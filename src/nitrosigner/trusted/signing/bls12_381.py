"""
BLS signatures over BLS12-381 as Ethereum's consensus layer uses them, through blst.

Public keys in G1, proof-of-possession ciphersuite (draft-irtf-cfrg-bls-signature,
`BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_`). blst is reached by ctypes in the shared
library of the `ckzg` distribution, whose exported symbols are no promised API: the
version is pinned by hash, every symbol is resolved when the library is opened, and
`known_answers` must pass before the first key is used. A library that has changed
under us is refused, never worked around.

The one thing not to get wrong: the scalar lives in wipeable buffers only.
"""

import ctypes
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final, final

from nitrosigner.trusted.signing.algorithms import PublicKey, Signature
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused

CIPHERSUITE: Final = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
SECRET_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96
ROOT_SIZE: Final = 32
MAX_HASHED_ROOTS: Final = 4096
"""Points H(m) that are kept, 288 bytes each. They are public; a slot's attesters share
one."""

_G1: Final = 144
_G2: Final = 288
_G1_AFFINE: Final = 96
_G2_AFFINE: Final = 192

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "blst_scalar_from_bendian": (None, [_POINTER, _POINTER]),
    "blst_sk_check": (ctypes.c_bool, [_POINTER]),
    "blst_sk_to_pk_in_g1": (None, [_POINTER, _POINTER]),
    "blst_p1_compress": (None, [_POINTER, _POINTER]),
    "blst_p1_uncompress": (ctypes.c_int, [_POINTER, _POINTER]),
    "blst_p1_affine_in_g1": (ctypes.c_bool, [_POINTER]),
    "blst_p1_affine_is_inf": (ctypes.c_bool, [_POINTER]),
    "blst_hash_to_g2": (
        None,
        [_POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE],
    ),
    "blst_sign_pk_in_g1": (None, [_POINTER, _POINTER, _POINTER]),
    "blst_p2_compress": (None, [_POINTER, _POINTER]),
    "blst_p2_uncompress": (ctypes.c_int, [_POINTER, _POINTER]),
    "blst_p2_affine_in_g2": (ctypes.c_bool, [_POINTER]),
    "blst_core_verify_pk_in_g1": (
        ctypes.c_int,
        [_POINTER, _POINTER, ctypes.c_int, *([_POINTER, _SIZE] * 3)],
    ),
    "blst_derive_master_eip2333": (None, [_POINTER, _POINTER, _SIZE]),
    "blst_derive_child_eip2333": (None, [_POINTER, _POINTER, ctypes.c_uint32]),
    "blst_bendian_from_scalar": (None, [_POINTER, _POINTER]),
}

_SHORT: Final = frozenset(
    ("blst_scalar_from_bendian", "blst_sk_check", "blst_p2_compress")
)
"""Microseconds long: letting go of the GIL and waiting for it again costs more."""


@final
class Bls12381:
    """The algorithm port over blst. Holds no keys; safe to share between threads."""

    def __init__(self, library: str) -> None:
        """
        Open the shared library at the path *library*.

        Raises:
            Refused: It does not export what we need.
        """
        functions: Any = SimpleNamespace()
        try:
            # CDLL lets go of the GIL round each call: signing scales over cores.
            # PyDLL keeps it.
            loose = ctypes.CDLL(library)
            held = ctypes.PyDLL(library)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(held if name in _SHORT else loose, name)
                function.restype, function.argtypes = result, arguments
                setattr(functions, name, function)
        except (OSError, AttributeError):
            raise Refused(
                Code.INTERNAL,
                "the ckzg library does not export the blst functions that we pinned",
                "install exactly the locked version of ckzg",
            ) from None
        self._blst = functions
        # Half of a signature's cost depends on the signing root alone, which is
        # public; validators that attest in one slot share it since EIP-7549.
        self._hashed = lru_cache(MAX_HASHED_ROOTS)(self._hash_to_g2)
        self._told: dict[bytes, ctypes.Array[ctypes.c_char]] = {}
        """On its way from `remember` into the cache."""

    @property
    def name(self) -> str:
        """The name in records and requests."""
        return "bls12-381"

    @property
    def secret_size(self) -> int:
        """Bytes in a private key: a big-endian scalar below the curve order."""
        return SECRET_SIZE

    @property
    def message_size(self) -> int:
        """Bytes in a signing root."""
        return ROOT_SIZE

    def public_key(self, secret: SecretBytes) -> PublicKey:
        """
        Return the compressed public key, 48 bytes.

        Raises:
            Malformed: *secret* is zero or not below the curve order.
        """
        point = ctypes.create_string_buffer(_G1)
        compressed = ctypes.create_string_buffer(PUBLIC_KEY_SIZE)
        scalar = self._scalar(secret)
        try:
            self._blst.blst_sk_to_pk_in_g1(point, scalar)
        finally:
            ctypes.memset(scalar, 0, SECRET_SIZE)
        self._blst.blst_p1_compress(compressed, point)
        return PublicKey(compressed.raw)

    def identity(self, public_key: PublicKey) -> str:
        """
        Return the public key as validators are called: `0x` and 96 hex digits.

        Raises:
            Malformed: No point of the group, or the point at infinity.
        """
        self._affine_public_key(public_key)
        return f"0x{public_key.hex()}"

    def sign(self, secret: SecretBytes, message: bytes) -> Signature:
        """
        Sign the signing root *message*; 96 bytes, deterministic.

        Raises:
            Malformed: *secret* or *message* has the wrong size or value.
        """
        _check_size(message)
        hashed = self._hashed(message)
        signature = ctypes.create_string_buffer(_G2)
        compressed = ctypes.create_string_buffer(SIGNATURE_SIZE)
        scalar = self._scalar(secret)
        try:
            self._blst.blst_sign_pk_in_g1(signature, hashed, scalar)
        finally:
            ctypes.memset(scalar, 0, SECRET_SIZE)
        self._blst.blst_p2_compress(compressed, signature)
        return Signature(compressed.raw)

    def hashed(self, message: bytes) -> bytes:
        """
        Return the point H(m) of the signing root *message*, 288 bytes as blst has it.

        Raises:
            Malformed: *message* has the wrong size.
        """
        _check_size(message)
        return self._hashed(message).raw

    def remember(self, message: bytes, hashed: bytes) -> None:
        """Take over H(m) from another process of ours. See `HashesFirst`."""
        _check_size(message)
        if len(hashed) != _G2:
            raise Malformed(Code.MALFORMED_MESSAGE, f"a point has {_G2} bytes")
        self._told[message] = ctypes.create_string_buffer(hashed, _G2)
        self._hashed(message)
        self._told.pop(message, None)  # it was known

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """
        Return whether *signature* is *public_key*'s over *message*.

        Raises:
            Malformed: *public_key* is no valid key.
        """
        key = self._affine_public_key(public_key)
        point = ctypes.create_string_buffer(_G2_AFFINE)
        if len(signature) != SIGNATURE_SIZE:
            return False
        if self._blst.blst_p2_uncompress(point, signature) != 0:
            return False
        if not self._blst.blst_p2_affine_in_g2(point):
            return False
        outcome: int = self._blst.blst_core_verify_pk_in_g1(
            key,
            point,
            1,
            message,
            len(message),
            CIPHERSUITE,
            len(CIPHERSUITE),
            None,
            0,
        )
        return outcome == 0

    def derive_master(self, seed: SecretBytes) -> SecretBytes:
        """
        Return the master key of *seed*, at least 32 bytes (EIP-2333).

        Raises:
            Malformed: The seed is too short.
        """
        if len(seed) < SECRET_SIZE:
            raise Malformed(
                Code.MALFORMED_KEY, "an EIP-2333 seed has at least 32 bytes"
            )
        scalar = ctypes.create_string_buffer(SECRET_SIZE)
        source = (ctypes.c_char * len(seed)).from_buffer(seed.buffer)
        self._blst.blst_derive_master_eip2333(scalar, source, len(seed))
        return self._secret(scalar)

    def derive_child(self, parent: SecretBytes, index: int) -> SecretBytes:
        """
        Return the child *index* of *parent* (EIP-2333).

        Raises:
            Malformed: *parent* is no key, or *index* is not below 2^32.
        """
        if not 0 <= index < 1 << 32:
            raise Malformed(Code.MALFORMED_KEY, "a child index is below 2^32")
        child = ctypes.create_string_buffer(SECRET_SIZE)
        scalar = self._scalar(parent)
        try:
            self._blst.blst_derive_child_eip2333(child, scalar, index)
        finally:
            ctypes.memset(scalar, 0, SECRET_SIZE)
        return self._secret(child)

    def known_answers(self) -> None:
        """
        Sign, verify and derive once against fixed vectors.

        Raises:
            Refused: blst does not compute what it must. Do not start.
        """
        key = SecretBytes(bytearray.fromhex(_PUBLISHED_TEST_KEY))
        public_key = self.public_key(key)
        signature = self.sign(key, bytes(ROOT_SIZE))
        other = bytes(31) + b"\x01"
        sound = (
            public_key.hex() == _ITS_PUBLIC_KEY
            and signature.hex() == _ITS_SIGNATURE
            and self.verify(public_key, bytes(ROOT_SIZE), signature)
            and not self.verify(public_key, other, signature)
            and self._derives()
        )
        if not sound:
            raise Refused(
                Code.INTERNAL,
                "blst fails its known-answer test",
                "install exactly the locked version of ckzg; do not use this image",
            )

    def _derives(self) -> bool:
        seed = SecretBytes(bytearray.fromhex(_PUBLISHED_SEED))
        master = self.derive_master(seed)
        child = self.derive_child(master, 0)
        return master.buffer.hex() == _ITS_MASTER and child.buffer.hex() == _ITS_CHILD

    def _scalar(self, secret: SecretBytes) -> "ctypes.Array[ctypes.c_char]":
        """Return blst's little-endian scalar of *secret*. The caller wipes it."""
        if len(secret) != SECRET_SIZE:
            raise Malformed(Code.MALFORMED_KEY, "a BLS private key has 32 bytes")
        scalar = ctypes.create_string_buffer(SECRET_SIZE)
        source = (ctypes.c_char * SECRET_SIZE).from_buffer(secret.buffer)
        self._blst.blst_scalar_from_bendian(scalar, source)
        if not self._blst.blst_sk_check(scalar):
            ctypes.memset(scalar, 0, SECRET_SIZE)
            raise Malformed(
                Code.MALFORMED_KEY, "a BLS private key is between 1 and the curve order"
            )
        return scalar

    def _secret(self, scalar: "ctypes.Array[ctypes.c_char]") -> SecretBytes:
        secret = SecretBytes.zeros(SECRET_SIZE)
        target = (ctypes.c_char * SECRET_SIZE).from_buffer(secret.buffer)
        self._blst.blst_bendian_from_scalar(target, scalar)
        ctypes.memset(scalar, 0, SECRET_SIZE)
        return secret

    def _hash_to_g2(self, message: bytes) -> "ctypes.Array[ctypes.c_char]":
        told = self._told.pop(message, None)
        if told is not None:
            return told
        point = ctypes.create_string_buffer(_G2)
        self._blst.blst_hash_to_g2(
            point, message, len(message), CIPHERSUITE, len(CIPHERSUITE), None, 0
        )
        return point

    def _affine_public_key(self, public_key: bytes) -> "ctypes.Array[ctypes.c_char]":
        point = ctypes.create_string_buffer(_G1_AFFINE)
        valid = (
            len(public_key) == PUBLIC_KEY_SIZE
            and self._blst.blst_p1_uncompress(point, public_key) == 0
            and not self._blst.blst_p1_affine_is_inf(point)
            and self._blst.blst_p1_affine_in_g1(point)
        )
        if not valid:
            raise Malformed(Code.MALFORMED_KEY, "this is no BLS public key")
        return point


def _check_size(message: bytes) -> None:
    if len(message) != ROOT_SIZE:
        raise Malformed(Code.MALFORMED_MESSAGE, "a signing root has 32 bytes")


# A test key of ethereum/bls12-381-tests over the all-zero message; py_ecc says the same
# (tests/trusted/signing/test_bls12_381.py).
_PUBLISHED_TEST_KEY: Final = (
    "263dbd792f5b1be47ed85f8938c0f29586af0d3ac7b977f21c278fe1462040e3"
)
_ITS_PUBLIC_KEY: Final = (
    "a491d1b0ecd9bb917989f0e74f0dea0422eac4a873e5e2644f368dffb9a6e20f"
    "d6e10c1b77654d067c0618f6e5a7f79a"
)
_ITS_SIGNATURE: Final = (
    "b6ed936746e01f8ecf281f020953fbf1f01debd5657c4a383940b020b26507f6"
    "076334f91e2366c96e9ab279fb5158090352ea1c5b0c9274504f4f0e7053af24"
    "802e51e4568d164fe986834f41e55c8e850ce1f98458c0cfc9ab380b55285a55"
)
# Test case 0 of EIP-2333.
_PUBLISHED_SEED: Final = (
    "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
    "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04"
)
_ITS_MASTER: Final = "0d7359d57963ab8fbbde1852dcf553fedbc31f464d80ee7d40ae683122b45070"
_ITS_CHILD: Final = "2d18bd6c14e6d15bf8b5085c9b74f3daae3b03cc2014770a599d8c1539e50f8e"
