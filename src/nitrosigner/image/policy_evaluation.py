"""
Whether a policy allows a call.

Default is no, and an explicit Deny wins over everything. Where the answer depends on
something that cannot be compared (one value expected, several given), the condition
counts against the caller: a Deny's is met, an Allow's is not.

An Allow for `arn:aws:iam::ACCOUNT:root` is not permission. It hands the decision to
IAM: whatever the identity policies of any role of the account allow then opens the
key. That is the hole of the default key policy, so it is modelled.

Source: IAM User Guide, "Policy evaluation logic"; KMS Developer Guide, "Default key
policy" and "Condition keys".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nitrosigner.image.policy_document import (
    Condition,
    PolicyDocument,
    Principals,
    Quantifier,
    Statement,
)

ContextValue = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, by every name that a policy may use."""

    principal_arn: str
    """Of the role, as `aws:PrincipalArn` has it."""
    session_arn: str
    account: str

    @property
    def names(self) -> frozenset[str]:
        """The names of this one principal."""
        return frozenset((self.principal_arn, self.session_arn))

    @property
    def account_names(self) -> frozenset[str]:
        """The names of its whole account."""
        return frozenset((self.account, f"arn:aws:iam::{self.account}:root"))


@dataclass(frozen=True, slots=True)
class Question:
    """One action on one resource, with the context of the request."""

    caller: Caller
    action: str
    resource: str
    context: Mapping[str, ContextValue]
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one policy says."""

    denied: bool = False
    allowed: bool = False
    """This principal itself, by name or by `*`."""
    delegated: bool = False
    """Its account: IAM decides."""


class _NotComparableError(Exception):
    pass


def context_of(pairs: Sequence[tuple[str, ContextValue]]) -> dict[str, ContextValue]:
    """
    Return the condition context of *pairs*.

    Two keys that differ only in case become one key with two values: what they say
    together cannot be compared, and so counts against the caller.
    """
    result: dict[str, ContextValue] = {}
    for name, value in pairs:
        key = name.lower()
        if key in result:
            before = result[key]
            result[key] = (
                *((before,) if isinstance(before, str) else before),
                *((value,) if isinstance(value, str) else value),
            )
        else:
            result[key] = value
    return result


def evaluate(document: PolicyDocument, question: Question) -> Ruling:
    """Return what *document* says to *question*."""
    allowed = delegated = False
    for statement in document.statements:
        personal, of_account = names_caller(statement, question.caller)
        if not (personal or of_account) or not _applies(statement, question):
            continue
        if not statement.allow:
            return Ruling(denied=True)
        allowed |= personal
        delegated |= of_account
    return Ruling(allowed=allowed, delegated=delegated)


def names_caller(statement: Statement, caller: Caller) -> tuple[bool, bool]:
    """Return whether *statement* is about this principal, and about its account."""
    principals = statement.principals
    if principals is None:
        return True, False
    if principals.excluded:
        return not _exempt(principals, caller), False
    named = set(principals.aws)
    personal = "*" in named or bool(named & caller.names)
    return personal, bool(named & caller.account_names)


def _exempt(principals: Principals, caller: Caller) -> bool:
    # A session is exempt from a NotPrincipal only if the account, the role and the
    # session are all named: each of the three is a principal of the request.
    named = set(principals.aws)
    return "*" in named or (
        caller.names <= named and bool(named & caller.account_names)
    )


def is_about(statement: Statement, action: str, resource: str) -> bool:
    """Return whether *statement* is about this action on this resource."""
    action = action.lower()
    hit = any(like(pattern.lower(), action) for pattern in statement.actions)
    if hit == statement.actions_excluded:
        return False
    hit = any(like(pattern, resource) for pattern in statement.resources)
    return hit != statement.resources_excluded


def conditions_hold(
    conditions: Sequence[Condition],
    context: Mapping[str, ContextValue],
    *,
    allow: bool,
) -> bool:
    """Return whether *conditions* of a statement let it apply: an Allow, or a Deny."""
    # Each by itself: were one that cannot be compared to decide the whole statement,
    # the order in which they are written would matter.
    return all(_counts(one, context, allow=allow) for one in conditions)


def _applies(statement: Statement, question: Question) -> bool:
    return is_about(statement, question.action, question.resource) and conditions_hold(
        statement.conditions, question.context, allow=statement.allow
    )


def _counts(
    condition: Condition, context: Mapping[str, ContextValue], *, allow: bool
) -> bool:
    try:
        return _holds(condition, context)
    except _NotComparableError:
        return not allow


def _holds(condition: Condition, context: Mapping[str, ContextValue]) -> bool:
    given = context.get(condition.key)
    if condition.operator == "Null":
        return (given is None) == (condition.values[0].lower() == "true")
    if given is None:
        return _absent(condition)
    if condition.quantifier is Quantifier.SINGLE:
        if not isinstance(given, str):
            raise _NotComparableError
        return _compare(condition, given)
    values = (given,) if isinstance(given, str) else given
    hits = (_compare(condition, value) for value in values)
    return all(hits) if condition.quantifier is Quantifier.ALL else any(hits)


def _absent(condition: Condition) -> bool:
    if condition.if_exists or condition.quantifier is Quantifier.ALL:
        return True
    # "Not equal" holds for what is not there. AWS does it so, and it is why a Deny
    # perimeter with a negated operator also catches requests without a document.
    return _negated(condition.operator) and condition.quantifier is Quantifier.SINGLE


def _negated(operator: str) -> bool:
    return "Not" in operator


def _compare(condition: Condition, given: str) -> bool:
    operator = condition.operator
    hit = any(_matches(operator, wanted, given) for wanted in condition.values)
    return hit != _negated(operator)


def _matches(operator: str, wanted: str, given: str) -> bool:
    match operator.replace("Not", ""):
        case "StringEquals":
            return wanted == given
        case "StringEqualsIgnoreCase" | "Bool":
            return wanted.lower() == given.lower()
        case "StringLike":
            return like(wanted, given)
        case "ArnEquals" | "ArnLike":
            return _arn_like(wanted, given)
        case _:
            raise _NotComparableError


def _arn_like(wanted: str, given: str) -> bool:
    patterns, parts = wanted.split(":", 5), given.split(":", 5)
    if len(patterns) != _ARN_PARTS or len(parts) != _ARN_PARTS:
        return False
    return all(like(one, other) for one, other in zip(patterns, parts, strict=True))


_ARN_PARTS: Final = 6


def like(pattern: str, text: str) -> bool:
    """Return whether *text* fits *pattern*, in which `*` and `?` are wild."""
    # Not a regular expression: with many stars that one takes exponential time. Here
    # only the last star is ever tried again, so time is at most one length by the
    # other.
    at = in_pattern = 0
    star, resume = -1, 0
    while at < len(text):
        if in_pattern < len(pattern) and pattern[in_pattern] == "*":
            star, resume = in_pattern, at
            in_pattern += 1
        elif in_pattern < len(pattern) and pattern[in_pattern] in ("?", text[at]):
            at += 1
            in_pattern += 1
        elif star >= 0:
            resume += 1
            at, in_pattern = resume, star + 1
        else:
            return False
    return not pattern[in_pattern:].strip("*")
