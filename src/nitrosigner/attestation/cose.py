"""
COSE_Sign1 (RFC 9052 §4.2), restricted to what the Nitro Security Module signs.

Algorithm ES384 and nothing else, an empty unprotected header, raw r ‖ s signatures.
The NSM writes the array without a tag; AWS's own description of the document shows it
with tag 18 (nsm-api, docs/attestation_process.md §3.1), so one tag 18 in front is taken
too. The signature doesn't cover the tag, and ECDSA lets anyone turn (r, s) into
(r, n - s): the bytes of a document are therefore no name for it. Never compare, cache
or deny documents by their bytes.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from nitrosigner.attestation import strict_cbor
from nitrosigner.attestation.errors import MalformedDocument, UntrustedDocument

MAX_PAYLOAD: Final = 16_384
"""Bytes (attestation_process.md §3.1)."""
MAX_SIGNED: Final = MAX_PAYLOAD + 128
"""Bytes of a whole COSE_Sign1: its frame adds 109 to the largest payload."""
SIGNATURE_SIZE: Final = 96
"""Bytes: r (48) ‖ s (48)."""
PROTECTED: Final = bytes.fromhex("a1013822")
"""The protected header {1: -35}, algorithm ES384, in its only strict encoding."""

_TAG_18: Final = 0xD2
_CONTEXT: Final = b"\x84" + b"\x6aSignature1"
"""Sig_structure's head: an array of four that starts with this text."""


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """A payload and what is said to be its signature. Not checked yet."""

    payload: bytes
    signature: bytes


def read(blob: bytes) -> SignedPayload:
    """
    Take a COSE_Sign1 apart without believing it.

    Raises:
        MalformedDocument: It is none, or not one that an NSM would have made.
    """
    if len(blob) > MAX_SIGNED:
        raise MalformedDocument(
            f"an attestation document is at most {MAX_SIGNED} bytes"
        )
    untagged = blob[1:] if blob[:1] == bytes([_TAG_18]) else blob
    parts = strict_cbor.decode(untagged, "the COSE_Sign1")
    if not (isinstance(parts, tuple) and len(parts) == 4):
        raise MalformedDocument("a COSE_Sign1 is an array of four")
    protected, unprotected, payload, signature = parts
    if protected != PROTECTED:
        raise MalformedDocument("the COSE_Sign1's algorithm is not ES384 alone")
    # An empty array would be equal to nothing here, and is no map.
    if unprotected != {}:
        raise MalformedDocument("the COSE_Sign1 has unprotected headers")
    if not isinstance(payload, bytes) or not 1 <= len(payload) <= MAX_PAYLOAD:
        raise MalformedDocument(f"a COSE_Sign1's payload is 1 to {MAX_PAYLOAD} bytes")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_SIZE:
        raise MalformedDocument(f"an ES384 signature is {SIGNATURE_SIZE} bytes")
    return SignedPayload(payload, signature)


def signed_bytes(payload: bytes) -> bytes:
    """Return what the signature of *payload* covers: its Sig_structure."""
    return (
        _CONTEXT
        + strict_cbor.byte_string(PROTECTED)
        + strict_cbor.byte_string(b"")  # no external data
        + strict_cbor.byte_string(payload)
    )


def check_signature(signed: SignedPayload, key: ec.EllipticCurvePublicKey) -> None:
    """
    Check that the holder of *key* signed the payload.

    Raises:
        UntrustedDocument: Someone else did, or either was changed since.
    """
    half = SIGNATURE_SIZE // 2
    der = encode_dss_signature(
        int.from_bytes(signed.signature[:half], "big"),
        int.from_bytes(signed.signature[half:], "big"),
    )
    try:
        key.verify(der, signed_bytes(signed.payload), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise UntrustedDocument(
            "the signature is not that of the certificate in the document",
            "the document was altered after the Nitro hypervisor signed it",
        ) from None
