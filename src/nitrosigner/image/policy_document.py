"""
Key policies and IAM policies, read into values.

What this reader does not know it refuses: a policy that is only partly understood must
not be stored, because the part that is not understood may be the one that says no.

Source: IAM User Guide, "IAM JSON policy reference".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from nitrosigner.verdicts import Code, Malformed

MAX_POLICY: Final = 32 * 1024
"""Characters of a key policy (service quota)."""
_STATEMENT_ELEMENTS: Final = {
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
}


@unique
class Quantifier(Enum):
    """How an operator reads a context key with several values."""

    SINGLE = ""
    ALL = "ForAllValues:"
    ANY = "ForAnyValue:"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator over one context key."""

    operator: str
    """Of `OPERATORS`, without quantifier and IfExists."""
    quantifier: Quantifier
    if_exists: bool
    key: str
    """Lower case: condition key names are not case-sensitive."""
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Principals:
    """The Principal or NotPrincipal of a statement."""

    aws: tuple[str, ...]
    """ARNs, account ids, `*`."""
    services: tuple[str, ...]
    excluded: bool
    """It was written as NotPrincipal."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy."""

    allow: bool
    principals: Principals | None
    """None in identity policies, which belong to their principal."""
    actions: tuple[str, ...]
    actions_excluded: bool
    resources: tuple[str, ...]
    resources_excluded: bool
    conditions: tuple[Condition, ...]
    sid: str = ""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A whole policy."""

    statements: tuple[Statement, ...]


OPERATORS: Final = frozenset(
    {
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
        "ArnEquals",
        "ArnLike",
        "ArnNotEquals",
        "ArnNotLike",
        "Bool",
        "Null",
    }
)


class UnreadablePolicy(Malformed):
    """A policy, or a part of one, that is not evaluated here."""

    def __init__(self, message: str) -> None:
        """Say in one sentence which part."""
        super().__init__(
            Code.MALFORMED_REQUEST,
            message,
            "see the IAM JSON policy reference; what is not understood is refused",
        )


def parse_policy(text: str, *, of_key: bool) -> PolicyDocument:
    """
    Read a policy: a key's if *of_key*, else an identity's.

    Raises:
        UnreadablePolicy: It is not one, or holds something that is not evaluated here.
    """
    return PolicyDocument(
        tuple(parse_statement(one, of_key=of_key) for one in statements_of(text))
    )


def statements_of(text: str) -> list[object]:
    """
    Return the statements of a policy, not read yet.

    Raises:
        UnreadablePolicy: It is no policy.
    """
    if len(text) > MAX_POLICY:
        raise UnreadablePolicy("Policy is larger than 32 KB.")
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise UnreadablePolicy("Policy is not valid JSON.") from None
    if not isinstance(document, dict) or set(document) - {"Version", "Id", "Statement"}:
        raise UnreadablePolicy("Policy has unknown elements.")
    if document.get("Version") not in ("2012-10-17", "2008-10-17", None):
        raise UnreadablePolicy("Policy version is unknown.")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise UnreadablePolicy("Policy has no statement.")
    return statements


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise UnreadablePolicy("Policy repeats an element.")
    return result


def parse_statement(value: object, *, of_key: bool) -> Statement:
    """
    Read one statement.

    Raises:
        UnreadablePolicy: It holds something that is not evaluated here.
    """
    if not isinstance(value, dict) or set(value) - _STATEMENT_ELEMENTS:
        raise UnreadablePolicy("Statement has unknown elements.")
    effect = value.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise UnreadablePolicy("Effect is Allow or Deny.")
    sid = value.get("Sid", "")
    if not isinstance(sid, str):
        raise UnreadablePolicy("Sid is a string.")
    actions, actions_excluded = _either(value, "Action")
    resources, resources_excluded = _either(value, "Resource")
    for action in actions:
        if action != "*" and not re.fullmatch(r"(?i)[a-z0-9-]+:[a-z0-9*?]+", action):
            raise UnreadablePolicy("Action is service:name.")
        if of_key and action != "*" and not action.lower().startswith("kms:"):
            raise UnreadablePolicy("A key policy is about actions of KMS.")
    return Statement(
        allow=effect == "Allow",
        principals=_principals(value, of_key=of_key, allow=effect == "Allow"),
        actions=actions,
        actions_excluded=actions_excluded,
        resources=resources,
        resources_excluded=resources_excluded,
        conditions=_conditions(value.get("Condition", {})),
        sid=sid,
    )


def _either(statement: Mapping[str, object], name: str) -> tuple[tuple[str, ...], bool]:
    positive, negative = name in statement, f"Not{name}" in statement
    if positive == negative:
        raise UnreadablePolicy(f"A statement has either {name} or Not{name}.")
    values = _strings(statement[f"Not{name}" if negative else name], name)
    return values, negative


def _strings(value: object, name: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UnreadablePolicy(f"{name} is empty.")
    result = []
    for item in items:
        if isinstance(item, bool):
            result.append("true" if item else "false")
        elif isinstance(item, str):
            if "${" in item:
                raise UnreadablePolicy("Policy variables are not evaluated here.")
            result.append(item)
        else:
            raise UnreadablePolicy(f"{name} holds something else than strings.")
    return tuple(result)


def _principals(
    statement: Mapping[str, object], *, of_key: bool, allow: bool
) -> Principals | None:
    positive, negative = "Principal" in statement, "NotPrincipal" in statement
    if not of_key:
        if positive or negative:
            raise UnreadablePolicy("An identity policy has no Principal.")
        return None
    if positive == negative:
        raise UnreadablePolicy("A statement has either Principal or NotPrincipal.")
    if negative and allow:
        raise UnreadablePolicy("NotPrincipal goes with Deny only.")
    value = statement["NotPrincipal" if negative else "Principal"]
    if value == "*":
        return Principals(aws=("*",), services=(), excluded=negative)
    if not isinstance(value, dict) or not value or set(value) - {"AWS", "Service"}:
        raise UnreadablePolicy("Principal is *, or AWS and Service.")
    aws = _strings(value["AWS"], "Principal") if "AWS" in value else ()
    services = _strings(value["Service"], "Principal") if "Service" in value else ()
    for name in aws:
        # A pattern is not a principal: `*` stands alone or not at all.
        if name != "*" and ("*" in name or "?" in name):
            raise UnreadablePolicy("Principal does not take patterns.")
    return Principals(aws=aws, services=services, excluded=negative)


def _conditions(value: object) -> tuple[Condition, ...]:
    if not isinstance(value, dict):
        raise UnreadablePolicy("Condition is a map.")
    result = []
    for operator, keys in value.items():
        if not isinstance(keys, dict) or not keys:
            raise UnreadablePolicy("A condition operator holds a map.")
        for key, values in keys.items():
            result.append(_condition(operator, key, _strings(values, key)))
    return tuple(result)


def _condition(operator: str, key: str, values: tuple[str, ...]) -> Condition:
    quantifier = Quantifier.SINGLE
    for candidate in (Quantifier.ALL, Quantifier.ANY):
        if operator.startswith(candidate.value):
            quantifier = candidate
    base = operator.removeprefix(quantifier.value)
    if_exists = base.endswith("IfExists")
    base = base.removesuffix("IfExists")
    if base not in OPERATORS:
        raise UnreadablePolicy(f"Condition operator {base[:64]} is not evaluated here.")
    if base == "Null" and (if_exists or quantifier is not Quantifier.SINGLE):
        raise UnreadablePolicy("Null takes neither IfExists nor a quantifier.")
    if base in ("Null", "Bool") and any(
        one.lower() not in ("true", "false") for one in values
    ):
        raise UnreadablePolicy(f"{base} takes true or false.")
    return Condition(base, quantifier, if_exists, key.lower(), values)
