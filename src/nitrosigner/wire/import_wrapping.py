"""
How a private key travels into the enclave: HPKE to a key that the enclave attests.

RFC 9180 base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. The
attestation document vouches for the recipient key; the `info` string binds the
wrapped key to the deployment, the name and the address it is meant for, so that a
wrap made for one cannot be presented as another.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL: Final = "nitrosigner/import/1"
_SEED_LABEL: Final = "nitrosigner/seed/1"
_BACKUP_LABEL: Final = "nitrosigner/backup/1"
_TLS_LABEL: Final = "nitrosigner/tls/1"

PUBLIC_KEY_SIZE: Final = 32
"""Bytes of the raw X25519 key in the attestation document's `public_key`."""
MAX_WRAPPED: Final = 512
"""Bytes of a wrapped key: 32 of the encapsulated one, 16 of the tag, and the secret."""
MAX_WRAPPED_TLS: Final = 3072
"""The same for the private key of a TLS certificate: RSA-4096 has about 2,400 bytes."""


def import_info(*, deployment: str, name: str, algorithm: str, identity: str) -> bytes:
    """
    Return the HPKE `info` for one import. *identity* is the expected address.

    Raises:
        ValueError: A part holds the separator: two imports could share one `info`.
    """
    return _joined(_LABEL, deployment, name, algorithm, identity)


def seed_info(*, deployment: str, form: str) -> bytes:
    """
    Return the HPKE `info` for a seed that keys are derived from, on its way in.

    Raises:
        ValueError: As `import_info`.
    """
    return _joined(_SEED_LABEL, deployment, form)


def backup_info(*, deployment: str) -> bytes:
    """
    Return the HPKE `info` for the same seed on its way out, to an offline recipient.

    Raises:
        ValueError: As `import_info`.
    """
    return _joined(_BACKUP_LABEL, deployment)


def tls_info(*, deployment: str, certificate: str) -> bytes:
    """
    Return the HPKE `info` for the private key of a TLS certificate.

    *certificate* is the SHA-256 of its DER, in lower-case hex.

    Raises:
        ValueError: As `import_info`.
    """
    return _joined(_TLS_LABEL, deployment, certificate)


def _joined(*parts: str) -> bytes:
    if any("\0" in part for part in parts):
        msg = "a name holds a zero byte"
        raise ValueError(msg)
    return "\0".join(parts).encode()


def wrap(secret: bytes | bytearray, public_key: bytes, info: bytes) -> bytes:
    """
    Encrypt *secret* to the enclave's raw X25519 *public_key*.

    Raises:
        ValueError: *public_key* is not 32 bytes of an X25519 key.
    """
    recipient = X25519PublicKey.from_public_bytes(public_key)
    return _SUITE.encrypt(secret, recipient, info)


def unwrap(
    wrapped: bytes,
    private_key: X25519PrivateKey,
    info: bytes,
    limit: int = MAX_WRAPPED,
) -> bytes:
    """
    Decrypt what `wrap` made with the same *info*, at most *limit* bytes.

    HPKE gives the secret as `bytes`. The caller moves it into a buffer at once and
    wipes both, as far as the interpreter lets it.

    Raises:
        ValueError: It was not made for this key, or not with this *info*.
    """
    if len(wrapped) > limit:
        msg = "wrapped key is too long"
        raise ValueError(msg)
    try:
        return _SUITE.decrypt(wrapped, private_key, info)
    except (InvalidTag, ValueError) as error:
        msg = "not wrapped for this enclave, deployment, name and address"
        raise ValueError(msg) from error
