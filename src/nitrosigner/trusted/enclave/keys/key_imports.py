"""
The two ways in for a key that was made elsewhere.

Both end with the private key in a wipeable buffer, and with proof that it is the key of
the address that the caller named.
"""

import base64
import binascii
from typing import Final

from nitrosigner.trusted.enclave.attested.kms import MAX_CIPHERTEXT, Kms
from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.keys.key_material import private_key
from nitrosigner.trusted.enclave.memory import take_bytes
from nitrosigner.trusted.signing.algorithms import Algorithm
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import import_wrapping, manifest

MAX_BASE64: Final = 4 * (MAX_CIPHERTEXT // 3 + 1)


def unwrapped(
    wrapped_key: str,
    *,
    recipient: Recipient,
    deployment: str,
    name: str,
    algorithm: Algorithm,
    identity: str,
) -> SecretBytes:
    """
    Return the private key that a client wrapped to this boot's import key.

    Raises:
        Malformed: It was not wrapped for this enclave, name and address.
    """
    info = import_wrapping.import_info(
        deployment=deployment, name=name, algorithm=algorithm.name, identity=identity
    )
    with opened_wrap(wrapped_key, recipient, info) as imported:
        return private_key(imported, algorithm.secret_size)


def opened_wrap(
    wrapped: str,
    recipient: Recipient,
    info: bytes,
    limit: int = import_wrapping.MAX_WRAPPED,
) -> SecretBytes:
    """
    Return what a client wrapped to this boot's import key under *info*.

    Raises:
        Malformed: It was not wrapped so.
    """
    try:
        imported = SecretBytes(
            take_bytes(
                import_wrapping.unwrap(
                    from_base64(wrapped), recipient.import_key, info, limit
                )
            )
        )
    except ValueError as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(
            Code.MALFORMED_KEY,
            "the key was not wrapped for this enclave, deployment and purpose",
            "the import key changes when the enclave restarts: fetch the attestation "
            "document again and wrap anew",
        ) from error
    _rinse(recipient)
    return imported


def _rinse(recipient: Recipient) -> None:
    # As in `VaultKey.open_into`: opening zeros overwrites what OpenSSL left on the
    # stack of the key's last bytes.
    zeros = import_wrapping.wrap(bytes(32), recipient.import_public_key, b"")
    import_wrapping.unwrap(zeros, recipient.import_key, b"")


async def opened_from_kms(
    ciphertext: bytes,
    *,
    kms: Kms,
    accepted: manifest.AcceptedManifest,
    name: str,
    algorithm: Algorithm,
    identity: str,
) -> SecretBytes:
    """
    Return the private key in a KMS ciphertext that was made for this key.

    Raises:
        Malformed: KMS opened it, and there is no private key in it.
        Refused: KMS does not open it for us.
        Undecided: KMS did not answer.
    """
    context = manifest.kms_key_context(
        accepted, name=name, algorithm=algorithm.name, identity=identity
    )
    with await kms.decrypt(ciphertext, context) as plaintext:
        return private_key(plaintext, algorithm.secret_size)


def from_base64(text: str) -> bytes:
    """
    Return the bytes that *text* stands for.

    Raises:
        Malformed: It is no base64, or too long.
    """
    malformed = Malformed(
        Code.MALFORMED_KEY, "what was given for the key is no base64, or too long"
    )
    if len(text) > MAX_BASE64:
        raise malformed
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed from None
