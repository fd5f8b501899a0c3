"""
What an enclave says of itself in the `user_data` of its attestation document.

A verifier that has checked the document may rely on these lines: which certificate
the TLS connection must present, which manifest is in force, and who signed it.
"""

from typing import Final

import msgspec

from nitrosigner.wire.manifest import Digest

MAX_STATEMENT: Final = 512
"""Bytes of user_data that every version of the NSM's limits allows."""


class Statement(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="nitrosigner/1",
):
    """All digests are SHA-256 in lower-case hex."""

    deployment: str
    manifest: Digest
    """Of the manifest's signed payload."""
    manifest_version: int
    administrator: Digest
    """Of the administrator's raw Ed25519 public key: its fingerprint."""
    tls: Digest
    """Of the DER server certificate that the TLS listener presents."""
    tls_imported: bool = False
    """Its key was made outside, so others may have it too, and may stand in between.
    Left out where it is false: clients that are older refuse what they do not know."""


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Statement)


def encode(statement: Statement) -> bytes:
    """
    Return *statement* as user_data.

    Raises:
        ValueError: It is longer than `MAX_STATEMENT`; no verifier would read it.
    """
    user_data = _encoder.encode(statement)
    if len(user_data) > MAX_STATEMENT:
        msg = "the statement does not fit in user_data"
        raise ValueError(msg)
    return user_data


def decode(user_data: bytes) -> Statement:
    """
    Read a statement.

    Raises:
        ValueError: *user_data* is no statement of this version.
    """
    if len(user_data) > MAX_STATEMENT:
        msg = "user_data is too long for a statement"
        raise ValueError(msg)
    return _decoder.decode(user_data)
