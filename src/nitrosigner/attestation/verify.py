"""
Decides whether an attestation document proves what is asked of it.

The order of the checks is the order of trust: the bytes are one strict document, its
root is one we were told to trust, the chain leads from there to the key that signed
it, it is fresh, it answers our nonce, and it measures what we expect. An `Attestation`
exists only after all of them; what has passed none of them is a `Document`, which
`unverified_document` returns for showing and for nothing else.

A verified document proves which image runs behind the certificate authority that
was trusted. It proves nothing about the parent, and under an `EmulatedRoot` nothing
about hardware: look at `Attestation.emulated`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from cryptography import x509

from nitrosigner.attestation import (
    certificate_chain,
    cose,
    document,
    measurements,
)
from nitrosigner.attestation.document import Document
from nitrosigner.attestation.errors import UntrustedDocument
from nitrosigner.attestation.trust_anchors import TrustAnchor

MAX_AGE: Final = timedelta(minutes=5)
"""Ours, as others have it. AWS publishes no number; the leaf certificate lives 3 h."""
FUTURE_SKEW: Final = timedelta(seconds=30)
"""How far our clock may be behind the hypervisor's."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """
    What a document must say beside being genuine. The default asks for no image.

    A verifier that hands out secrets names at least PCR0.
    """

    pcrs: Mapping[int, measurements.Expected] = field(
        default_factory=lambda: MappingProxyType({})
    )
    nonce: bytes | None = None
    """None: the document's nonce, if it has one, is not looked at."""
    allow_debug: bool = False
    """Takes enclaves that measured nothing. Their parent can read their memory."""


NOTHING_MORE: Final = Expectations()


@dataclass(frozen=True, slots=True)
class Attestation:
    """A document that was verified, and the anchor that it was verified under."""

    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    """From the root to the one that signed the document."""
    anchor: TrustAnchor

    @property
    def debug(self) -> bool:
        """Whether the enclave's image was not measured."""
        return measurements.is_debug(self.pcrs)

    @property
    def emulated(self) -> bool:
        """Whether no Nitro hardware stands behind this document."""
        return self.anchor.emulated


def verify(
    blob: bytes,
    *,
    anchors: Sequence[TrustAnchor],
    now: datetime,
    expectations: Expectations = NOTHING_MORE,
    max_age: timedelta = MAX_AGE,
    future_skew: timedelta = FUTURE_SKEW,
) -> Attestation:
    """
    Return what *blob* proves.

    Args:
        blob: A COSE_Sign1 as the NSM made it.
        anchors: Roots to trust. Ask for `AwsRoot`s where no emulator may pass.
        now: The time that counts, with a time zone.
        expectations: What the document must say.
        max_age: The oldest document that is taken.
        future_skew: How far in the future it and its certificates may be dated.

    Raises:
        MalformedDocument: *blob* is no attestation document.
        UntrustedDocument: It is one, and a check failed. The message says which.
    """
    signed = cose.read(blob)
    claims = document.parse(signed.payload)
    chain = certificate_chain.load(claims.chain)
    anchor, key = certificate_chain.check(chain, anchors, now, future_skew)
    cose.check_signature(signed, key)
    _check_time(claims.timestamp, now, max_age, future_skew)
    if expectations.nonce is not None and claims.nonce != expectations.nonce:
        raise UntrustedDocument(
            "the document was not made for this question: its nonce differs",
            "someone may have replayed an older document",
        )
    measurements.check(
        claims.pcrs, expectations.pcrs, allow_debug=expectations.allow_debug
    )
    return Attestation(
        module_id=claims.module_id,
        timestamp=claims.timestamp,
        pcrs=claims.pcrs,
        public_key=claims.public_key,
        user_data=claims.user_data,
        nonce=claims.nonce,
        certificates=chain,
        anchor=anchor,
    )


def unverified_document(blob: bytes) -> Document:
    """
    Return what *blob* says, believing nothing. For showing it to a person.

    Raises:
        MalformedDocument: *blob* is no attestation document.
    """
    return document.parse(cose.read(blob).payload)


def _check_time(
    timestamp: datetime, now: datetime, max_age: timedelta, future_skew: timedelta
) -> None:
    age = now - timestamp
    if age > max_age:
        raise UntrustedDocument(
            f"the document is {_seconds(age)} old; {_seconds(max_age)} are allowed",
            "ask the enclave for a new one; if it is new, compare the clocks",
        )
    if age < -future_skew:
        raise UntrustedDocument(
            f"the document is dated {_seconds(-age)} in the future",
            "compare the clock of this machine with the enclave's",
        )


def _seconds(length: timedelta) -> str:
    return f"{int(length.total_seconds())} seconds"
