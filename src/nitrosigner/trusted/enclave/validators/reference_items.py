"""
Items that the AWS reference's loader wrote to its table: a keystore, its password and
the mnemonic of all keys, in one KMS ciphertext without an encryption context.

KMS opens it for this enclave by attestation. The mnemonic, which opens withdrawal keys,
is skipped: it is never decoded, and the buffer that it stood in is wiped.
"""

import base64
import binascii

import msgspec

from nitrosigner.trusted.enclave.attested.kms import Kms
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest import AcceptedManifest


class _Item(msgspec.Struct, frozen=True):
    # Fields that are not named are passed over: that is where the mnemonic stays.
    keystore_b64: str
    password_b64: str

    def __repr__(self) -> str:
        return "<_Item, not shown>"


async def opened_item(
    ciphertext: bytes, kms: Kms, accepted: AcceptedManifest
) -> tuple[bytes, str]:
    """
    Return the keystore's JSON and its password.

    Raises:
        Malformed: KMS opened it, and it is no such item.
        Refused: KMS does not open it for us.
        Undecided: KMS did not answer.
    """
    told = accepted.manifest.validators
    key = (told.reference_kms_key_arn if told else None) or ""
    with await kms.decrypt(ciphertext, {}, key) as plaintext:
        try:
            item = msgspec.json.decode(plaintext.buffer, type=_Item)
            keystore = base64.b64decode(item.keystore_b64, validate=True)
            # A text cannot be wiped. It opens a keystore that nobody else has by now.
            password = base64.b64decode(item.password_b64, validate=True).decode()
        except (ValueError, binascii.Error):
            raise _malformed() from None
    return keystore, password


def _malformed() -> Malformed:
    return Malformed(
        Code.MALFORMED_KEY,
        "this is no item of the AWS reference's table",
        "encrypted_key_password_mnemonic_b64 is wanted, decoded from base64 once",
    )
