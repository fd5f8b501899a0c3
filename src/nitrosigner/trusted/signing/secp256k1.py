"""
ECDSA over secp256k1, by libsecp256k1 out of the coincurve wheel.

The secret goes to C by pointer (`from_buffer`), so that it stays in the one buffer that
its owner wipes: measured, no copy is left after the wipe. Never pass `secret.buffer`
through anything that makes `bytes`, `str` or `int` of it.

The module used is private to coincurve; hence the pinned version, and the known answers
that every instance is checked against before it can be used.
"""

from typing import Any, Final, final

from coincurve._libsecp256k1 import ffi as _untyped_ffi
from coincurve._libsecp256k1 import lib as _untyped_lib

from nitrosigner.trusted.signing.addresses import Address, checksummed
from nitrosigner.trusted.signing.algorithms import Algorithm, PublicKey, Signature
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused

_FFI: Final[Any] = _untyped_ffi
_LIB: Final[Any] = _untyped_lib

SECRET_SIZE: Final = 32
DIGEST_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 33
SIGNATURE_SIZE: Final = 65
RANDOMNESS_SIZE: Final = 32

ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of the group (SEC 2, section 2.4.1). `r` and `s` are below it, `s` below its half."""


@final
class Secp256k1:
    """Deterministic (RFC 6979), low-s, recoverable signatures. Safe to share."""

    __slots__ = ("_context",)

    def __init__(self, randomness: bytes) -> None:
        """
        Make a context of our own, blinded against side channels.

        Args:
            randomness: 32 fresh random bytes. They change no signature.

        Raises:
            Refused: The library does not give the known answers.
        """
        if len(randomness) != RANDOMNESS_SIZE:
            msg = f"a context is blinded with {RANDOMNESS_SIZE} random bytes"
            raise ValueError(msg)
        self._context = _FFI.gc(
            _LIB.secp256k1_context_create(_LIB.SECP256K1_CONTEXT_NONE),
            _LIB.secp256k1_context_destroy,
        )
        # Not thread-safe, so done once, here; signing only reads the context.
        if not _LIB.secp256k1_context_randomize(self._context, randomness):
            raise _broken()
        _check(self)

    @property
    def name(self) -> str:
        """The name in records and requests."""
        return "secp256k1"

    @property
    def secret_size(self) -> int:
        """Bytes in a private key."""
        return SECRET_SIZE

    @property
    def message_size(self) -> int:
        """Bytes in a digest."""
        return DIGEST_SIZE

    def public_key(self, secret: SecretBytes) -> PublicKey:
        """
        Return the compressed public key of *secret*, 33 bytes.

        Raises:
            Malformed: *secret* is not 32 bytes, zero, or not below the group's order.
        """
        if len(secret) != SECRET_SIZE:
            raise _bad_secret()
        point = _FFI.new("secp256k1_pubkey *")
        pointer = _FFI.from_buffer("unsigned char[]", secret.buffer)
        if not _LIB.secp256k1_ec_pubkey_create(self._context, point, pointer):
            raise _bad_secret()
        return _compressed(point)

    def identity(self, public_key: PublicKey) -> str:
        """
        Return the checksummed Ethereum address of *public_key*.

        Raises:
            Malformed: *public_key* is not a compressed point of the curve.
        """
        return checksummed(address(public_key))

    def sign(self, secret: SecretBytes, message: bytes) -> Signature:
        """
        Sign *message*, a digest of 32 bytes.

        Raises:
            Malformed: *secret* is no private key, or *message* is not 32 bytes.
        """
        # The library reads 32 bytes behind both pointers, whatever is there.
        if len(message) != DIGEST_SIZE:
            raise Malformed(Code.MALFORMED_REQUEST, "a digest is 32 bytes")
        if len(secret) != SECRET_SIZE:
            raise _bad_secret()
        signature = _FFI.new("secp256k1_ecdsa_recoverable_signature *")
        pointer = _FFI.from_buffer("unsigned char[]", secret.buffer)
        if not _LIB.secp256k1_ecdsa_sign_recoverable(
            self._context, signature, message, pointer, _FFI.NULL, _FFI.NULL
        ):
            raise _bad_secret()
        compact = _FFI.new("unsigned char[65]")
        parity = _FFI.new("int *")
        _LIB.secp256k1_ecdsa_recoverable_signature_serialize_compact(
            self._context, compact, parity, signature
        )
        # 2 and 3 would say that r passed the order, which happens once in 2^128
        # signatures and which Ethereum has no way to write down.
        if parity[0] > 1:
            raise Malformed(Code.MALFORMED_REQUEST, "this digest cannot be signed")
        compact[64] = parity[0]
        return Signature(bytes(_FFI.buffer(compact)))


def uncompressed(public_key: PublicKey) -> bytes:
    """
    Return *public_key* (33 bytes, compressed) as 65 bytes, beginning with 0x04.

    Raises:
        Malformed: It is not a compressed point of the curve.
    """
    point = _FFI.new("secp256k1_pubkey *")
    if len(public_key) != PUBLIC_KEY_SIZE or not _LIB.secp256k1_ec_pubkey_parse(
        _LIB.secp256k1_context_static, point, bytes(public_key), PUBLIC_KEY_SIZE
    ):
        raise Malformed(
            Code.MALFORMED_KEY, "a public key is not a compressed point of secp256k1"
        )
    return _serialized(point, 65, _LIB.SECP256K1_EC_UNCOMPRESSED)


def address(public_key: PublicKey) -> Address:
    """
    Return the Ethereum address of *public_key* (33 bytes, compressed).

    Raises:
        Malformed: It is not a compressed point of the curve.
    """
    return Address(keccak_256(uncompressed(public_key)[1:])[12:])


def recover(message: bytes, signature: bytes) -> PublicKey:
    """
    Return the public key whose secret made *signature* over *message*.

    Args:
        message: The digest, 32 bytes.
        signature: r ‖ s ‖ y parity, 65 bytes.

    Raises:
        Malformed: No key made it.
    """
    if (
        len(message) == DIGEST_SIZE
        and len(signature) == SIGNATURE_SIZE
        and signature[64] <= 1
    ):
        static = _LIB.secp256k1_context_static
        parsed = _FFI.new("secp256k1_ecdsa_recoverable_signature *")
        point = _FFI.new("secp256k1_pubkey *")
        if _LIB.secp256k1_ecdsa_recoverable_signature_parse_compact(
            static, parsed, bytes(signature[:64]), signature[64]
        ) and _LIB.secp256k1_ecdsa_recover(static, point, parsed, bytes(message)):
            return _compressed(point)
    raise Malformed(Code.MALFORMED_REQUEST, "no key made this signature")


def known_answers() -> None:
    """
    Check the library against values that others computed. Boot calls this.

    Raises:
        Refused: It is not the library that we measured; nothing may be signed.
    """
    Secp256k1(bytes(RANDOMNESS_SIZE))


def _compressed(point: Any) -> PublicKey:  # noqa: ANN401 (cffi has no types)
    return PublicKey(_serialized(point, PUBLIC_KEY_SIZE, _LIB.SECP256K1_EC_COMPRESSED))


def _serialized(point: Any, size: int, form: int) -> bytes:  # noqa: ANN401 (as above)
    out = _FFI.new("unsigned char[]", size)
    length = _FFI.new("size_t *", size)
    _LIB.secp256k1_ec_pubkey_serialize(
        _LIB.secp256k1_context_static, out, length, point, form
    )
    return bytes(_FFI.buffer(out))


def _bad_secret() -> Malformed:
    return Malformed(
        Code.MALFORMED_KEY,
        "this is not a private key of secp256k1",
        "a private key is 32 bytes, not zero and below the order of the group",
    )


def _broken() -> Refused:
    return Refused(
        Code.INTERNAL,
        "the signature library gives wrong answers",
        "do not use this image: build it again from the locked dependencies",
    )


# From the example of EIP-155, whose key is 32 times 0x46.
_EIP_155_DIGEST: Final = bytes.fromhex(
    "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
)
_EIP_155_SIGNATURE: Final = bytes.fromhex(
    "28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276"
    "67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    "00"
)
_EIP_155_SENDER: Final = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"


def _check(algorithm: Algorithm) -> None:
    if keccak_256(b"").hex() != (
        "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    ):
        raise _broken()
    with SecretBytes(bytearray(b"\x46" * SECRET_SIZE)) as secret:
        public_key = algorithm.public_key(secret)
        signature = algorithm.sign(secret, _EIP_155_DIGEST)
    if (
        signature != _EIP_155_SIGNATURE
        or recover(_EIP_155_DIGEST, signature) != public_key
        or algorithm.identity(public_key) != _EIP_155_SENDER
    ):
        raise _broken()
    with SecretBytes.zeros(SECRET_SIZE) as zero:
        try:
            algorithm.public_key(zero)
        except Malformed:
            return
    raise _broken()
