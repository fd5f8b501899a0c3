"""
Judges the policy of a deployment's KMS key: what is wrong with it, and what mends it.

Not a comparison with the policy that `key_policy` writes, but questions put to the
policy at hand, by the same evaluator that the emulated KMS enforces policies with: may
anybody open the vault without an attestation document, with a debug enclave's, under
another administrator? May anybody go around it, by re-encrypting or by a grant? May
anybody change the policy, and may the same one open the vault? Each finding about a
statement shows a request that it lets through.

What the linter cannot see: identity policies, grants that exist, service control
policies, what a role's trust policy says of who may assume it. A clean policy is a
policy without a hole of its own, no more.
"""

from collections.abc import Sequence
from typing import Final

from nitrosigner.image.policy_lint.case import Case
from nitrosigner.image.policy_lint.finding import Finding, Severity
from nitrosigner.image.policy_lint.managing_rules import managing_rules
from nitrosigner.image.policy_lint.opening_rules import opening_rules
from nitrosigner.image.policy_lint.reading import read_policy
from nitrosigner.image.policy_lint.values import TooComplicated
from nitrosigner.image.policy_lint.wording_rules import wording_rules

__all__ = ["Finding", "Severity", "is_clean", "lint"]

_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def lint(text: str) -> tuple[Finding, ...]:
    """
    Return what is wrong with the key policy *text*, the worst first.

    Raises:
        Malformed: It is no policy.
    """
    policy = read_policy(text)
    case = Case(policy)
    findings = [*policy.findings, *wording_rules(case)]
    for rules in (opening_rules, managing_rules):
        try:
            findings.extend(rules(case))
        except TooComplicated:
            findings.append(
                Finding(
                    "not-judged",
                    Severity.ERROR,
                    "",
                    "the policy has too many conditions that depend on each other",
                    "write one condition key for each Deny",
                )
            )
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda one: _ORDER[one.severity]))


def is_clean(findings: Sequence[Finding]) -> bool:
    """Return whether nothing has to be mended."""
    return all(finding.severity is Severity.NOTE for finding in findings)
