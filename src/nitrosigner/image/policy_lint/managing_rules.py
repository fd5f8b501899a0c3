"""Rules about who rules over the key: changes its policy, goes around it, ends it."""

from collections.abc import Iterator, Sequence
from typing import Final

from nitrosigner.image.policy_lint.actors import Actor, Kind
from nitrosigner.image.policy_lint.case import Case, Fixed
from nitrosigner.image.policy_lint.finding import Finding, Severity
from nitrosigner.image.policy_lint.kms_actions import PLAINTEXT
from nitrosigner.image.policy_lint.witness import Witness, what_it_does

_CHANGE: Final = "kms:PutKeyPolicy"
_DESTROY: Final = ("kms:ScheduleKeyDeletion", "kms:DisableKey")


def managing_rules(case: Case) -> Iterator[Finding]:
    """Return what lets the wrong ones manage the key, or nobody."""
    yield from _around(case)
    yield from _both_halves(case)
    yield from _policy_changes(case)
    yield from _destroying(case)


def _around(case: Case) -> Iterator[Finding]:
    """Return the operations that bring plaintext elsewhere, without a document."""
    protected = _denies_unattested(case)
    for action, rule, severity, sentence, remedy in (
        (
            "kms:ReEncryptFrom",
            "re-encrypt",
            Severity.ERROR,
            "it moves ciphertexts to another key, and asks for no document",
            "do not allow kms:ReEncrypt*; deny it to everybody",
        ),
        (
            "kms:ReEncryptTo",
            "re-encrypt-to",
            Severity.WARNING,
            "it brings ciphertexts of other keys under this one",
            "do not allow kms:ReEncrypt*; deny it to everybody",
        ),
        (
            "kms:CreateGrant",
            "grants",
            Severity.WARNING if protected else Severity.ERROR,
            "it lets somebody grant the key's use; a grant knows no attestation "
            "condition" + ("; only the policy's Denies stop it" if protected else ""),
            "do not allow kms:CreateGrant (kms:Create* holds it); deny it to everybody",
        ),
        (
            "kms:ReplicateKey",
            "replicas",
            Severity.WARNING,
            "it makes replicas of a multi-Region key, and each has a policy of its own",
            "do not allow kms:ReplicateKey",
        ),
    ):
        for index in case.search.allows():
            witness = case.first([action], [{}], index=index)
            if witness is not None:
                yield case.finding(rule, severity, witness, sentence, remedy)
    outsiders = [actor for actor in case.actors if actor.is_outsider]
    for index in case.search.allows():
        witness = case.first(["kms:Encrypt"], [{}], index=index, actors=outsiders)
        if witness is not None:
            yield case.finding(
                "encrypt-open",
                Severity.WARNING,
                witness,
                "it lets principals that it does not name make ciphertexts under the "
                "key, in place of imported keys",
                "name the gateway's role, and demand its encryption context",
            )


def _both_halves(case: Case) -> Iterator[Finding]:
    """Return who may open the vault and rule over the key."""
    contexts = [*case.of_any_image(), case.no_document()]
    for actor in case.actors:
        if actor.is_outsider:
            continue
        opens = _itself(case, actor, PLAINTEXT, contexts)
        if opens is None:
            continue
        if _itself(case, actor, [_CHANGE], [{}]) is not None:
            who = "root" if actor.kind is Kind.ROOT else "administrator"
            yield case.finding(
                f"{who}-opens",
                Severity.ERROR,
                opens,
                f"{actor.title} may change this policy, and {what_it_does(opens)} too",
                "let one role manage the key and another run the enclave",
            )
        elif _itself(case, actor, _DESTROY, [{}]) is not None:
            yield case.finding(
                "opener-destroys",
                Severity.WARNING,
                opens,
                f"{actor.title} runs the enclave, and may disable or delete the key",
                "let another role manage the key",
            )


def _itself(
    case: Case, actor: Actor, actions: Sequence[str], contexts: Sequence[Fixed]
) -> Witness | None:
    """Return what an actor may by name; what IAM may add is said of the root."""
    for index in case.search.allows():
        found = case.first(actions, contexts, index=index, actors=[actor])
        if found is not None and not found.delegated:
            return found
    return None


def _policy_changes(case: Case) -> Iterator[Finding]:
    found = False
    for index in case.search.allows():
        witness = case.first([_CHANGE], [{}], index=index)
        if witness is None:
            continue
        found = True
        outsiders = [actor for actor in case.actors if actor.is_outsider]
        other = case.first([_CHANGE], [{}], index=index, actors=outsiders)
        if other is not None and not other.delegated:
            yield _changers(
                case, other, Severity.ERROR, "anybody may change this policy"
            )
        elif other is not None or witness.actor.kind is Kind.ROOT:
            yield _changers(
                case,
                other or witness,
                Severity.WARNING,
                "the account's root user may change this policy, and whoever IAM "
                "allows it: each can admit an enclave of his own",
            )
    if found:
        return
    wider, added = case.widened(_CHANGE)
    if wider.first([_CHANGE], [{}], index=added) is None:
        yield Finding(
            "final",
            Severity.NOTE,
            "",
            "nobody may ever change this policy, and a Deny says so",
            "a new image means a new key; see docs/operations/key-policy.md",
        )
        return
    yield Finding(
        "lock-out",
        Severity.ERROR,
        "",
        "nobody may change this policy, not even the account's root user",
        "allow kms:PutKeyPolicy to the key administrator's role, or deny it to "
        "everybody if it is meant",
    )


def _changers(
    case: Case, witness: Witness, severity: Severity, sentence: str
) -> Finding:
    return case.finding(
        "policy-changers",
        severity,
        witness,
        sentence,
        "allow kms:PutKeyPolicy (kms:Put* holds it) to one role that few may assume",
    )


def _destroying(case: Case) -> Iterator[Finding]:
    outsiders = [actor for actor in case.actors if actor.is_outsider]
    for index in case.search.allows():
        witness = case.first(_DESTROY, [{}], index=index, actors=outsiders)
        if witness is not None and not witness.delegated:
            yield case.finding(
                "destroyers",
                Severity.ERROR,
                witness,
                "anybody may disable or delete the key, and with it every vault",
                "name the key administrator's role in Principal",
            )
    if case.first(["kms:ScheduleKeyDeletion"], [{}]) is None:
        yield Finding(
            "undeletable",
            Severity.WARNING,
            "",
            "nobody may delete the key, ever",
            "allow kms:ScheduleKeyDeletion to the key administrator's role",
        )


def _denies_unattested(case: Case) -> bool:
    wider, added = case.widened()
    return wider.first(PLAINTEXT, [wider.no_document()], index=added) is None
