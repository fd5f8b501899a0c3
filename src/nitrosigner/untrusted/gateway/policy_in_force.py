"""
Whether the key's policy, as KMS has it now, opens for the expected enclaves only.

An attempt from outside shows only whether the one who tries gets in. A policy may stop
him and no longer stop the parent, or stop the parent and let in another image: so the
text is judged too, by the linter that judged it before it was deployed. Whoever may
change the policy knows this file; what he cannot do is change it and stay unseen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nitrosigner.image.key_policy_lint import Severity, lint
from nitrosigner.image.policy_document import PolicyDocument
from nitrosigner.image.policy_lint.case import ZERO, named_images
from nitrosigner.image.policy_lint.reading import read_policy
from nitrosigner.verdicts import Malformed

CONTEXT: Final = "kms:encryptioncontext:"
_OF_DEBUG: Final = frozenset({"debug-enclave", "zero-measurement"})
"""What the linter rightly finds in the policy of a debug stack."""


@dataclass(frozen=True, slots=True)
class Expected:
    """For whom the key shall open."""

    images: frozenset[str]
    """PCR0, lower-case hex; of a debug stack the zeros."""
    administrator: str
    deployment: str


def holes(text: str, expected: Expected) -> list[str]:
    """
    Return what is wrong with the policy *text*, by the linter's names and our own.

    `unreadable` if it is no policy: what cannot be judged is not safe.
    """
    try:
        findings = lint(text)
        document = read_policy(text).document
    except Malformed:
        return ["unreadable"]
    found = {one.rule for one in findings if one.severity is not Severity.NOTE}
    if expected.images == {ZERO}:
        found -= _OF_DEBUG
    return sorted({*found, *_strangers(document, expected)})


def _strangers(document: PolicyDocument, expected: Expected) -> Iterator[str]:
    if not expected.images.issuperset(named_images(document)):
        yield "another-image"
    for name, wanted in (
        ("administrator", expected.administrator),
        ("deployment", expected.deployment),
    ):
        named = {
            value
            for statement in document.statements
            if statement.allow
            for condition in statement.conditions
            if condition.key == f"{CONTEXT}{name}"
            for value in condition.values
        }
        if named - {wanted}:
            yield f"another-{name}"
