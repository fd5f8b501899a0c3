"""
The `Recipient` of a request: an attestation document, checked.

The one place where this emulator touches the verifier. KMS takes debug documents, in
which PCR0 to PCR2 are zero: whether those open anything is for the key policy to say.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from nitrosigner.attestation.errors import AttestationError
from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.attestation.verify import Expectations, verify
from nitrosigner.emulator.kms.envelope import recipient_key
from nitrosigner.emulator.kms.errors import invalid

MAX_AGE: Final = dt.timedelta(minutes=5)
"""Of a document. Our number: AWS does not publish one."""
MAX_DOCUMENT: Final = 262_144
"""Bytes, as the service model has it."""


@dataclass(frozen=True, slots=True)
class RecipientDocument:
    """What KMS takes from an attestation document."""

    module_id: str
    pcrs: Mapping[int, bytes]
    public_key: bytes
    """DER SubjectPublicKeyInfo, RSA."""

    @property
    def image_digest(self) -> str:
        """PCR0 as condition keys write it: lower-case hex."""
        return self.pcrs.get(0, b"").hex()


DocumentReader = Callable[[bytes, dt.datetime], RecipientDocument]
"""Verifies a document at a time. Raises KmsError."""


def reader_under(root: Path) -> DocumentReader:
    """
    Return a reader that trusts the root certificate in the PEM file *root*.

    The file is read for each document: the emulated hypervisor may make it later.
    """

    def read(document: bytes, now: dt.datetime) -> RecipientDocument:
        if not 1 <= len(document) <= MAX_DOCUMENT:
            raise invalid("AttestationDocument has 1 to 262144 bytes.")
        try:
            proven = verify(
                document,
                anchors=[_anchor(root)],
                now=now,
                expectations=Expectations(allow_debug=True),
                max_age=MAX_AGE,
            )
        except AttestationError as error:
            raise invalid(f"AttestationDocument is invalid: {error.message}.") from None
        if proven.public_key is None:
            raise invalid("AttestationDocument carries no public key.")
        recipient_key(proven.public_key)
        return RecipientDocument(proven.module_id, proven.pcrs, proven.public_key)

    return read


def _anchor(root: Path) -> EmulatedRoot:
    try:
        certificate = x509.load_pem_x509_certificate(root.read_bytes())
    except (OSError, ValueError):
        raise invalid("There is no emulated Nitro root certificate yet.") from None
    return EmulatedRoot("emulated", certificate.fingerprint(hashes.SHA256()))
