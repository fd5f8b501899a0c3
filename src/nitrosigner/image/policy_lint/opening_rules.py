"""Rules about who opens the vault, and with which proof."""

from collections.abc import Iterator
from typing import Final

from nitrosigner.image.policy_lint.actors import Kind
from nitrosigner.image.policy_lint.case import (
    SIGNER,
    ZERO,
    Case,
    Fixed,
    attested,
)
from nitrosigner.image.policy_lint.finding import Finding, Severity
from nitrosigner.image.policy_lint.kms_actions import PLAINTEXT
from nitrosigner.image.policy_lint.witness import (
    UNNAMED_MEASUREMENT,
    Witness,
    what_it_does,
)

_MEASURED: Final = (
    "allow it under StringEqualsIgnoreCase kms:RecipientAttestation:ImageSha384 only; "
    "nitrosigner image policy writes such a policy"
)
_WITHOUT: Final = "without an enclave's attestation document"


def opening_rules(case: Case) -> Iterator[Finding]:
    """Return what lets others than the attested enclave open the vault."""
    open_to_all: set[int] = set()
    for index in case.search.allows():
        found = _by_proof(case, index)
        if found is not None:
            open_to_all.add(index)
            yield found
    for index in case.search.allows():
        if index not in open_to_all:
            yield from _by_context(case, index)
    yield from _perimeter(case)
    yield from _lock_out(case, opened=bool(open_to_all))


def _by_proof(case: Case, index: int) -> Finding | None:
    """Return what is wrong with the proof that an Allow demands, the worst only."""
    witness = case.first(PLAINTEXT, [case.no_document()], index=index)
    if witness is not None:
        return _unattested(case, witness)
    other = case.document_of(UNNAMED_MEASUREMENT, signer=UNNAMED_MEASUREMENT)
    witness = case.first(PLAINTEXT, [other], index=index)
    if witness is not None:
        return case.finding(
            "any-image",
            Severity.ERROR,
            witness,
            "it opens the vault to every enclave, whatever runs in it",
            _MEASURED,
        )
    debug = case.document_of(ZERO, signer=ZERO)
    witness = case.first(PLAINTEXT, [debug], index=index)
    if witness is not None:
        return case.finding(
            "debug-enclave",
            Severity.ERROR,
            witness,
            "it opens the vault to a measurement of all zeros: every enclave in debug "
            "mode, whose memory its parent can read",
            "take PCR0 from a build (measurements.json), not from a debug enclave",
        )
    witness = case.first(
        PLAINTEXT, [case.document_of(UNNAMED_MEASUREMENT)], index=index
    )
    if witness is None:
        return None
    by_signer = SIGNER in {
        one.key for one in case.document.statements[index].conditions
    }
    return case.finding(
        "image-not-measured",
        Severity.WARNING,
        witness,
        "it opens the vault to images that it does not name"
        + (": to every image that the key of PCR8 ever signs" if by_signer else ""),
        f"name PCR0 too: {_MEASURED}",
    )


def _unattested(case: Case, witness: Witness) -> Finding:
    statement = case.document.statements[witness.index]
    caller = witness.actor.caller
    named = set(statement.principals.aws) if statement.principals else set()
    if witness.delegated or (
        witness.actor.kind is Kind.ROOT and named & caller.account_names
    ):
        return case.finding(
            "delegated-to-iam",
            Severity.ERROR,
            witness,
            f"it lets the account {what_it_does(witness)} {_WITHOUT}: its root user, "
            "and whoever IAM allows it",
            "name roles, not the account, and not kms:*; the condition of another "
            "statement does not limit this one",
        )
    if attested(statement):
        return case.finding(
            "attestation-optional",
            Severity.ERROR,
            witness,
            f"its attestation condition also holds {_WITHOUT}",
            f"no IfExists, no ForAllValues, no Not… operator in an Allow; {_MEASURED}",
        )
    return case.finding(
        "no-attestation",
        Severity.ERROR,
        witness,
        f"it lets somebody {what_it_does(witness)} {_WITHOUT}; the conditions of "
        "other statements do not limit it",
        _MEASURED,
    )


def _by_context(case: Case, index: int) -> Iterator[Finding]:
    contexts = case.of_any_image()
    for name, severity, sentence in (
        (
            "administrator",
            Severity.ERROR,
            "it opens the vault under any manifest, and the parent chooses it",
        ),
        (
            "deployment",
            Severity.WARNING,
            "it opens the vault for another deployment of the same administrator",
        ),
    ):
        fixed: list[Fixed] = [{**one, **case.stranger_to(name)} for one in contexts]
        witness = case.first(PLAINTEXT, fixed, index=index)
        if witness is not None:
            yield case.finding(
                f"any-{name}",
                severity,
                witness,
                sentence,
                f"demand kms:EncryptionContext:{name} under StringEquals",
            )
    outsiders = [actor for actor in case.actors if actor.is_outsider]
    witness = case.first(PLAINTEXT, contexts, index=index, actors=outsiders)
    if witness is not None:
        yield case.finding(
            "any-principal",
            Severity.WARNING,
            witness,
            "it lets principals that it does not name run the enclave",
            "name the parent's role in Principal, and deny other aws:PrincipalArn",
        )


def _perimeter(case: Case) -> Iterator[Finding]:
    """Ask what an Allow for everybody, added tomorrow, would open."""
    widened, added = case.widened()
    other = widened.document_of(UNNAMED_MEASUREMENT, signer=UNNAMED_MEASUREMENT)
    not_denied = []
    for what, fixed in (
        (_WITHOUT, [widened.no_document()]),
        ("with the document of another image", [other]),
        (
            "under another administrator",
            [
                {**widened.document_of(image), **widened.stranger_to("administrator")}
                for image in case.images
            ],
        ),
    ):
        if widened.first(PLAINTEXT, fixed, index=added) is not None:
            not_denied.append(what)
    if not_denied:
        yield Finding(
            "no-explicit-deny",
            Severity.WARNING,
            "",
            f"no Deny stops opening {', '.join(not_denied)}: an Allow added later, an "
            "identity policy or a grant would",
            "add Deny statements for everybody with Null "
            "kms:RecipientAttestation:ImageSha384 true, and with "
            "StringNotEqualsIgnoreCase and StringNotEquals of the same values",
        )


def _lock_out(case: Case, *, opened: bool) -> Iterator[Finding]:
    for image in case.images:
        contexts = [case.document_of(image)]
        if case.first(["kms:Decrypt"], contexts) is None:
            yield Finding(
                "image-locked-out",
                Severity.ERROR,
                "",
                f"the image {image[:12]}… is named and cannot open the vault",
                "another statement denies it, or the condition never holds: KMS gives "
                "measurements in lower case, and StringEquals minds it",
            )
        elif case.first(["kms:GenerateDataKey"], contexts) is None:
            yield Finding(
                "image-makes-no-vault",
                Severity.NOTE,
                "",
                f"the image {image[:12]}… opens a vault and cannot make one",
                "a first boot needs kms:GenerateDataKey; later ones don't",
            )
    if not case.images and not opened:
        yield Finding(
            "nobody-opens",
            Severity.ERROR,
            "",
            "no image is allowed to open the vault",
            _MEASURED,
        )
