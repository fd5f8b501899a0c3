"""
Reads a policy for judging it, whatever is in it: what is not understood is a finding.

The reader of the emulated KMS refuses a policy that it does not understand wholly.
Here as much as possible is judged, and what is not understood counts as what is worst:
an Allow's condition as met by whoever asks, a Deny as never applying.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from nitrosigner.image.policy_document import (
    PolicyDocument,
    Principals,
    Statement,
    UnreadablePolicy,
    parse_statement,
    statements_of,
)
from nitrosigner.image.policy_lint.finding import Finding, Severity

_EVERYBODY: Final = "*"
_SHOWN: Final = 64
"""Characters of a policy's own words that a finding shows."""


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """A policy as it is judged."""

    document: PolicyDocument
    labels: tuple[str, ...]
    """What each statement is called in findings."""
    findings: tuple[Finding, ...]
    """What was wrong with reading it."""


def read_policy(text: str) -> ReadPolicy:
    """
    Read a key policy.

    Raises:
        Malformed: It is no policy at all.
    """
    read: list[tuple[str, Statement]] = []
    findings: list[Finding] = []
    for number, raw in enumerate(statements_of(text), start=1):
        label = _label(raw, number)
        try:
            statement = parse_statement(raw, of_key=True)
        except UnreadablePolicy as error:
            found = _in_part(raw, label, error.message, findings)
            if found is None:
                continue
            statement = found
        if statement.resources != ("*",) or statement.resources_excluded:
            findings.append(_resource(label))
            if not statement.allow:
                continue
            statement = replace(statement, resources=("*",), resources_excluded=False)
        read.append((label, _with_services(statement)))
    return ReadPolicy(
        PolicyDocument(tuple(statement for _, statement in read)),
        tuple(label for label, _ in read),
        tuple(findings),
    )


def _label(raw: object, number: int) -> str:
    sid = raw.get("Sid") if isinstance(raw, Mapping) else None
    if isinstance(sid, str) and sid:
        return sid[:_SHOWN]
    return f"statement {number}"


def _in_part(
    raw: object, label: str, message: str, findings: list[Finding]
) -> Statement | None:
    """Return what of a statement can be judged, and say what can't."""
    if not isinstance(raw, dict):
        findings.append(_unreadable(label, message))
        return None
    part = dict(raw)
    if "NotPrincipal" in part and part.get("Effect") == "Allow":
        findings.append(
            Finding(
                "not-principal",
                Severity.ERROR,
                label,
                "it allows everybody except some: every account of AWS but those",
                "name in Principal who may; NotPrincipal is for Deny only",
            )
        )
        part.pop("NotPrincipal")
        part["Principal"] = _EVERYBODY
    conditions = part.get("Condition", {})
    unknown = []
    if isinstance(conditions, dict):
        unknown = [one for one in conditions if not _is_known(part, one)]
        part["Condition"] = {
            operator: keys
            for operator, keys in conditions.items()
            if operator not in unknown
        }
    try:
        statement = parse_statement(part, of_key=True)
    except UnreadablePolicy as error:
        findings.append(_unreadable(label, error.message))
        return None
    if unknown:
        findings.append(
            Finding(
                "not-evaluated",
                Severity.WARNING,
                label,
                "its condition is not evaluated here: "
                + ", ".join(operator[:_SHOWN] for operator in unknown),
                "say it with String…, Arn…, Bool or Null and without variables; "
                "it is judged as if "
                + ("anybody met it" if statement.allow else "it never applied"),
            )
        )
        if not statement.allow:
            return None
    return statement


def _is_known(part: Mapping[str, object], operator: str) -> bool:
    conditions = part["Condition"]
    only = {operator: conditions[operator]} if isinstance(conditions, dict) else {}
    try:
        parse_statement({**part, "Condition": only}, of_key=True)
    except UnreadablePolicy:
        pass
    else:
        return True
    # Something else may be what cannot be read: then the condition is not to blame.
    try:
        parse_statement({**part, "Condition": {}}, of_key=True)
    except UnreadablePolicy:
        return True
    return False


def _unreadable(label: str, message: str) -> Finding:
    return Finding(
        "unreadable",
        Severity.ERROR,
        label,
        f"it cannot be judged: {message.rstrip('.')}",
        "write it as the IAM JSON policy reference describes it",
    )


def _resource(label: str) -> Finding:
    return Finding(
        "resource",
        Severity.WARNING,
        label,
        "its Resource is not *: in a key policy that means this key, whatever it is",
        'write "Resource": "*"; until then an Allow is judged as if it matched, a Deny '
        "as if it did not",
    )


def _with_services(statement: Statement) -> Statement:
    # A service is one more principal here; the evaluator knows them by `aws` only.
    principals = statement.principals
    if principals is None or not principals.services:
        return statement
    return replace(
        statement,
        principals=Principals(
            (*principals.aws, *principals.services), (), principals.excluded
        ),
    )


def principal_names(document: PolicyDocument) -> Iterator[str]:
    """Return every name in a Principal or NotPrincipal."""
    for statement in document.statements:
        if statement.principals is not None:
            yield from statement.principals.aws
