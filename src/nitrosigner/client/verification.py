"""
Find out who answers, before anything is sent to them or believed from them.

A fresh nonce goes out; the attestation document that comes back must be genuine under
a trusted root, answer that nonce, measure what is expected, and vouch for the TLS
certificate of the very connection that it came over. That last comparison is what
keeps a relay from passing somebody else's document on. Afterwards the client's
connections accept no other certificate.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from nitrosigner.attestation import measurements, trust_anchors
from nitrosigner.attestation.verify import Attestation, Expectations
from nitrosigner.attestation.verify import verify as verify_document
from nitrosigner.client.signer_client import NONCE_SIZE, SignerClient
from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire import import_wrapping
from nitrosigner.wire import statement as statements
from nitrosigner.wire.statement import Statement

AWS_ONLY: Final = (trust_anchors.AWS_NITRO_ROOT_G1,)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was verified of a signer. Only `verify` makes one."""

    url: str
    attestation: Attestation
    statement: Statement
    import_key: bytes
    """The raw X25519 key to which private keys are wrapped; one per boot."""
    certificate_der: bytes
    expected_pcrs: tuple[int, ...]
    manifest_expected: bool
    administrator_expected: bool

    @property
    def certificate(self) -> str:
        """SHA-256 of the certificate that the signer's TLS shows, hex."""
        return hashlib.sha256(self.certificate_der).hexdigest()

    @property
    def emulated(self) -> bool:
        """Whether there is no Nitro hardware behind this proof."""
        return self.attestation.emulated

    def proved(self) -> list[str]:
        """Return, in sentences, what may be relied on."""
        genuine = (
            f"the document is signed under the root {self.attestation.anchor.name!r}"
        )
        if self.emulated:
            genuine += " (EMULATED: this machine's own, it proves no hardware)"
        vouched = "it vouches for this connection's TLS certificate"
        if not self.statement.tls_imported:
            vouched += ": TLS ends in the enclave"
        sentences = [
            genuine,
            "it is fresh: it answers a nonce that was made for this check",
            vouched,
        ]
        if self.expected_pcrs:
            names = ", ".join(f"PCR{index}" for index in self.expected_pcrs)
            sentences.append(f"the enclave measures what was expected: {names}")
        if self.manifest_expected:
            sentences.append("the manifest in force is the one that was expected")
        if self.administrator_expected:
            sentences.append("the manifest is signed by the administrator expected")
        return sentences

    def not_proved(self) -> list[str]:
        """Return, in sentences, what a reader might take for proved and is not."""
        sentences = []
        if self.emulated:
            sentences.append(
                "EMULATED: no Nitro hardware; whoever runs this machine can read "
                "everything"
            )
        if self.attestation.debug:
            sentences.append(
                "DEBUG MODE: the image is not measured, and the parent can read the "
                "enclave's console"
            )
        if self.statement.tls_imported:
            sentences.append(
                "IMPORTED TLS KEY: that only the enclave has it; whoever kept a copy "
                "can stand between and read along (nitrosigner tls reset)"
            )
        if 0 not in self.expected_pcrs:
            sentences.append(
                "which program runs: no PCR0 was given to compare with (--pcr0)"
            )
        if not self.manifest_expected:
            sentences.append(
                "which manifest is in force: none was given to compare with "
                "(--manifest)"
            )
        if not (self.administrator_expected or self.manifest_expected):
            sentences.append(
                "whose manifest it is: no administrator's fingerprint was given "
                "(--administrator)"
            )
        return sentences


def verify(
    client: SignerClient,
    *,
    now: datetime,
    anchors: Sequence[trust_anchors.TrustAnchor] = AWS_ONLY,
    pcrs: Mapping[int, measurements.Expected] | None = None,
    manifest_digest: str | None = None,
    administrator: str | None = None,
    deployment: str | None = None,
    allow_debug: bool = False,
) -> Proof:
    """
    Verify the signer behind *client* and pin its certificate.

    Needs no CA file, and no credential is sent before it has succeeded.

    Args:
        client: Afterwards it talks to the verified enclave only.
        now: The time, with a time zone.
        anchors: Root certificates to trust. The default is AWS's alone.
        pcrs: Measurements to demand. Without PCR0 any program passes.
        manifest_digest: SHA-256 of the manifest's payload to demand, hex.
        administrator: The administrator's fingerprint to demand, hex.
        deployment: The deployment's name to demand.
        allow_debug: Take an enclave that measured nothing.

    Raises:
        Refused: The document does not prove what is asked. Nothing is pinned.
        Malformed: What came is no attestation document.
        Undecided: No answer.
    """
    nonce = secrets.token_bytes(NONCE_SIZE)
    document, certificate_der = client.unverified_attestation(nonce)
    attestation = verify_document(
        document,
        anchors=anchors,
        now=now,
        expectations=Expectations(
            pcrs=pcrs or {}, nonce=nonce, allow_debug=allow_debug
        ),
    )
    statement = _statement(attestation)
    certificate = hashlib.sha256(certificate_der).hexdigest()
    _equal(
        statement.tls,
        certificate,
        "the document vouches for another TLS certificate than this connection's",
        "something between you and the enclave ends TLS: do not send it anything",
    )
    if manifest_digest is not None:
        _equal(
            statement.manifest,
            manifest_digest.lower(),
            "the enclave has another manifest in force",
            f"it reports {statement.manifest}, version {statement.manifest_version}",
        )
    if administrator is not None:
        _equal(
            statement.administrator,
            administrator.lower(),
            "the enclave's manifest is signed by another administrator",
            f"it reports {statement.administrator}",
        )
    if deployment is not None:
        _equal(
            statement.deployment,
            deployment,
            "the enclave serves another deployment",
            f"it reports {statement.deployment}",
        )
    import_key = attestation.public_key or b""
    if len(import_key) != import_wrapping.PUBLIC_KEY_SIZE:
        raise Refused(
            Code.ATTESTATION_UNTRUSTED,
            "the document vouches for no import key",
            "the enclave runs another program than nitrosigner",
        )
    client.transport.pin(certificate)
    return Proof(
        url=client.url,
        attestation=attestation,
        statement=statement,
        import_key=import_key,
        certificate_der=certificate_der,
        expected_pcrs=tuple(sorted(pcrs or {})),
        manifest_expected=manifest_digest is not None,
        administrator_expected=administrator is not None,
    )


def attested_authority(client: SignerClient, proof: Proof) -> bytes:
    """
    Return the PEM of the authority behind the attested certificate.

    A later client that is given it needs no pin: the authority's key is made in the
    enclave and lies sealed in the deployment's store. With an imported certificate it
    is the root that was imported with it, and whoever runs that one is trusted too.

    Raises:
        Refused: What the signer named did not issue its certificate.
    """
    pem = client.authority()
    try:
        # The root, which issued itself, then downwards.
        authority, *between = x509.load_pem_x509_certificates(pem)
        issued = x509.load_der_x509_certificate(proof.certificate_der)
        for issuer in (*reversed(between), authority, authority):
            issued.verify_directly_issued_by(issuer)
            issued = issuer
    except (ValueError, TypeError, InvalidSignature):
        raise Refused(
            Code.CERTIFICATE_UNTRUSTED,
            "the authority that the signer names did not issue its certificate",
            "do not trust it; verify again",
        ) from None
    return authority.public_bytes(serialization.Encoding.PEM)


def _statement(attestation: Attestation) -> Statement:
    try:
        return statements.decode(attestation.user_data or b"")
    except ValueError:
        raise Refused(
            Code.ATTESTATION_UNTRUSTED,
            "the document holds no statement of nitrosigner",
            "the enclave runs another program, or a version that this client is too "
            "old for",
        ) from None


def _equal(found: str, expected: str, message: str, hint: str) -> None:
    if found != expected:
        raise Refused(Code.ATTESTATION_UNTRUSTED, message, hint)
