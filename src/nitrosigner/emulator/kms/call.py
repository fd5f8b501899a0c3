"""
One authenticated call: who asks, may they, with which document, and what to record.

Every operation goes through `Call.authorize` before it touches key material; nothing
else in this package reads a policy.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from nitrosigner.emulator.kms.attested_recipient import (
    DocumentReader,
    RecipientDocument,
)
from nitrosigner.emulator.kms.errors import KmsError, invalid
from nitrosigner.emulator.kms.key_material import RootKey
from nitrosigner.emulator.kms.principals import Principal, Principals
from nitrosigner.emulator.kms.requests import Recipient
from nitrosigner.emulator.kms.store import KeyRow, KeyState, Store
from nitrosigner.emulator.kms.stored_policy import parse_policy
from nitrosigner.image.policy_document import PolicyDocument
from nitrosigner.image.policy_evaluation import (
    Caller,
    ContextValue,
    Question,
    Ruling,
    context_of,
    evaluate,
)

_UNKNOWN_BLOB: Final = (
    "The ciphertext refers to a customer master key that does not exist, does not "
    "exist in this region, or you are not allowed to access."
)


@dataclass(frozen=True, slots=True)
class Kms:
    """What all calls share."""

    store: Store
    root_key: RootKey
    principals: Principals
    read_document: DocumentReader
    now: Callable[[], dt.datetime]
    region: str
    account: str

    @property
    def arn_prefix(self) -> str:
        """What the ARNs of this account and region begin with."""
        return f"arn:aws:kms:{self.region}:{self.account}:"

    def arn(self, key_id: str) -> str:
        """Return the ARN of a key."""
        return f"{self.arn_prefix}key/{key_id}"


@dataclass(slots=True)
class Call:
    """One request of an authenticated caller."""

    kms: Kms
    principal: Principal
    operation: str
    key_arn: str = ""
    """For the trail, as soon as it is known."""
    encryption_context: Mapping[str, str] = field(default_factory=dict)
    document: RecipientDocument | None = None

    @property
    def caller(self) -> Caller:
        """The caller, by the names that policies use."""
        principal = self.principal
        return Caller(principal.arn, principal.caller_arn, principal.account)

    def key(self, reference: str) -> KeyRow:
        """
        Return the key that *reference* names: id, ARN, alias or alias ARN.

        Raises:
            KmsError: There is none.
        """
        # An ARN of another account or region keeps its prefix, and names nothing here.
        name = reference.removeprefix(self.kms.arn_prefix).removeprefix("key/")
        key_id = self.kms.store.alias(name) if name.startswith("alias/") else name
        if key_id is None:
            raise KmsError("NotFoundException", f"Alias {reference} is not found.")
        row = self.kms.store.key(key_id, self.kms.now())
        if row is None:
            raise _not_found(reference)
        self.key_arn = self.kms.arn(row.id)
        return row

    def key_of_ciphertext(self, key_id: str) -> KeyRow:
        """Return the key that a ciphertext names, without saying whether it exists."""
        row = self.kms.store.key(key_id, self.kms.now())
        if row is None:
            raise KmsError("AccessDeniedException", _UNKNOWN_BLOB)
        self.key_arn = self.kms.arn(row.id)
        return row

    def attested(self, recipient: Recipient | None) -> None:
        """
        Check the request's attestation document, if it has one.

        Raises:
            KmsError: The document does not prove what it should.
        """
        if recipient is None:
            return
        if recipient.key_encryption_algorithm != "RSAES_OAEP_SHA_256":
            raise invalid("KeyEncryptionAlgorithm is RSAES_OAEP_SHA_256.")
        if not recipient.attestation_document:
            raise invalid("Recipient has no AttestationDocument.")
        self.document = self.kms.read_document(
            recipient.attestation_document, self.kms.now()
        )

    def authorize(
        self,
        key: KeyRow | None,
        *,
        action: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """
        Ask the key's policy, and the caller's, whether this call may be.

        Args:
            key: None for operations on no key, which IAM alone decides.
            action: Without prefix, where it is not the operation's name.
            more: Further condition keys, by full name.

        Raises:
            KmsError: It may not.
        """
        action = f"kms:{action or self.operation}"
        resource = "*" if key is None else self.kms.arn(key.id)
        question = Question(self.caller, action, resource, self._context(more or {}))
        by_key = Ruling(delegated=True)
        if key is not None:
            by_key = evaluate(parse_policy(key.policy, of_key=True), question)
        reason = _refusal(by_key, self._by_identity(question))
        if reason:
            raise KmsError(
                "AccessDeniedException",
                f"User: {self.caller.session_arn} is not authorized to perform: "
                f"{action} on resource: {resource} {reason.format(action=action)}",
            )

    def could_still_put_policy(self, policy: PolicyDocument, key_arn: str) -> bool:
        """Return whether *policy* lets this caller change it again."""
        question = Question(self.caller, "kms:PutKeyPolicy", key_arn, self._context({}))
        return not _refusal(evaluate(policy, question), self._by_identity(question))

    def _by_identity(self, question: Question) -> Ruling:
        rulings = [
            evaluate(parse_policy(bytes(raw).decode(), of_key=False), question)
            for raw in self.principal.identity_policies
        ]
        return Ruling(
            denied=any(one.denied for one in rulings),
            allowed=any(one.allowed for one in rulings),
        )

    def _context(self, more: Mapping[str, str]) -> dict[str, ContextValue]:
        caller = self.caller
        pairs: list[tuple[str, ContextValue]] = [
            ("aws:PrincipalArn", caller.principal_arn),
            ("aws:PrincipalAccount", caller.account),
            ("aws:PrincipalType", "AssumedRole"),
            ("aws:PrincipalIsAWSService", "false"),
            ("aws:ViaAWSService", "false"),
            ("aws:SecureTransport", "true"),
            ("aws:RequestedRegion", self.kms.region),
            ("aws:ResourceAccount", self.kms.account),
            ("kms:CallerAccount", caller.account),
            *more.items(),
        ]
        for name, value in self.encryption_context.items():
            pairs.append((f"kms:EncryptionContext:{name}", value))
        if self.encryption_context:
            pairs.append(("kms:EncryptionContextKeys", tuple(self.encryption_context)))
        if self.document is not None:
            pairs.append(
                ("kms:RecipientAttestation:ImageSha384", self.document.image_digest)
            )
            pairs.extend(
                (f"kms:RecipientAttestation:PCR{index}", register.hex())
                for index, register in self.document.pcrs.items()
            )
        return context_of(pairs)


def _refusal(by_key: Ruling, by_identity: Ruling) -> str:
    """Return why not, in AWS's words; empty if the call is allowed."""
    if by_key.denied:
        return "with an explicit deny in a resource-based policy"
    if by_identity.denied:
        return "with an explicit deny in an identity-based policy"
    if by_key.allowed:
        return ""
    if not by_key.delegated:
        return "because no resource-based policy allows the {action} action"
    if not by_identity.allowed:
        return "because no identity-based policy allows the {action} action"
    return ""


def need_enabled(key: KeyRow, arn: str) -> None:
    """
    Refuse to use a key that is not enabled.

    Raises:
        KmsError: DisabledException or KMSInvalidStateException.
    """
    if key.state is KeyState.DISABLED:
        raise KmsError("DisabledException", f"{arn} is disabled.")
    need_not_pending(key, arn)


def need_not_pending(key: KeyRow, arn: str) -> None:
    """
    Refuse to touch a key that is pending deletion.

    Raises:
        KmsError: KMSInvalidStateException.
    """
    if key.state is KeyState.PENDING_DELETION:
        raise KmsError("KMSInvalidStateException", f"{arn} is pending deletion.")


def _not_found(reference: str) -> KmsError:
    shown = reference if len(reference) <= 256 else "given"
    return KmsError("NotFoundException", f"Key '{shown}' does not exist")


def new_key_id() -> str:
    """Return the id of a new key."""
    return str(uuid.uuid4())
