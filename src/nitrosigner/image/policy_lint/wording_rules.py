"""Rules about words that do not mean what their writer thought."""

import re
from collections.abc import Iterator
from typing import Final

from nitrosigner.image.policy_document import Condition, Statement
from nitrosigner.image.policy_evaluation import like
from nitrosigner.image.policy_lint.actors import is_dangling
from nitrosigner.image.policy_lint.case import MEASUREMENT, ZERO, Case
from nitrosigner.image.policy_lint.finding import Finding, Severity
from nitrosigner.image.policy_lint.kms_actions import ACTIONS
from nitrosigner.image.policy_lint.values import ATTESTATION
from nitrosigner.image.policy_lint.witness import CONTEXT, IMAGE_KEYS

_KNOWN: Final = re.compile(
    re.escape(ATTESTATION) + r"(imagesha384|pcr([0-9]|[12][0-9]|3[01])|nitrotpmpcr\d+)"
)
_SHOWN: Final = 40
"""Characters of a policy's own words that a finding shows."""


def wording_rules(case: Case) -> Iterator[Finding]:
    """Return what is written in a way that cannot be meant."""
    for index, statement in enumerate(case.document.statements):
        sid = case.label(index)
        yield from _actions(sid, statement)
        for condition in statement.conditions:
            yield from _condition(sid, statement, condition)
        for name in statement.principals.aws if statement.principals else ():
            if is_dangling(name):
                yield Finding(
                    "dangling-principal",
                    Severity.WARNING,
                    sid,
                    f"{name[:_SHOWN]} is no principal: AWS leaves such an id behind "
                    "when a role is deleted",
                    "name the role again; one made anew under the old name is another",
                )


def _actions(sid: str, statement: Statement) -> Iterator[Finding]:
    if statement.allow and (
        statement.actions_excluded
        or any(one.lower() in ("*", "kms:*") for one in statement.actions)
    ):
        yield Finding(
            "open-ended-actions",
            Severity.WARNING,
            sid,
            "it allows actions that it does not name, those to come among them",
            "name every action; no NotAction, no kms:*",
        )
    for pattern in statement.actions:
        if not any(like(pattern.lower(), action.lower()) for action in ACTIONS):
            yield Finding(
                "unknown-action",
                Severity.WARNING,
                sid,
                f"{pattern[:_SHOWN]} is no action of KMS that is known here",
                "a misspelt action in a Deny denies nothing: compare it with the "
                "Service Authorization Reference",
            )


def _condition(
    sid: str, statement: Statement, condition: Condition
) -> Iterator[Finding]:
    key = condition.key
    if key == CONTEXT.rstrip(":") or key == CONTEXT:
        yield Finding(
            "unknown-condition-key",
            Severity.ERROR,
            sid,
            "kms:EncryptionContext without a name is no condition key",
            "write kms:EncryptionContext:administrator",
        )
    if not key.startswith(ATTESTATION):
        return
    if _KNOWN.fullmatch(key) is None:
        yield Finding(
            "unknown-condition-key",
            Severity.ERROR,
            sid,
            f"{key[:_SHOWN]} is no condition key, so it is never there",
            "it is kms:RecipientAttestation:ImageSha384, or :PCR0 to :PCR31",
        )
        return
    if condition.operator in ("Null", "Bool"):
        return
    for value in condition.values:
        yield from _measurement(sid, statement, condition, value)


def _measurement(
    sid: str, statement: Statement, condition: Condition, value: str
) -> Iterator[Finding]:
    admits = statement.allow != ("Not" in condition.operator)
    name = condition.key.removeprefix(ATTESTATION)
    if "Like" in condition.operator and ("*" in value or "?" in value):
        if admits:
            yield Finding(
                "pattern-of-measurement",
                Severity.ERROR,
                sid,
                f"{name} is compared with a pattern",
                "name whole measurements, one for each image",
            )
        return
    if MEASUREMENT.fullmatch(value) is None:
        yield Finding(
            "not-a-measurement",
            Severity.ERROR,
            sid,
            f"{name} is compared with what is no measurement, so never equal",
            "a measurement is 96 hexadecimal digits without 0x",
        )
        return
    if value != value.lower() and "IgnoreCase" not in condition.operator:
        yield Finding(
            "upper-case",
            Severity.ERROR,
            sid,
            f"{name} is compared in upper case with {condition.operator}; KMS gives "
            "lower case",
            "write it in lower case, and use StringEqualsIgnoreCase",
        )
    if value == ZERO and admits:
        debug = condition.key in IMAGE_KEYS
        yield Finding(
            "zero-measurement",
            Severity.ERROR if debug else Severity.WARNING,
            sid,
            f"{name} is compared with all zeros: "
            + (
                "that is every enclave in debug mode"
                if debug
                else "that is where nothing was measured"
            ),
            "take measurements from a build (measurements.json)",
        )
