"""
Who might ask KMS: everybody whom a policy names, and those whom it forgot.

A policy is judged by asking it on behalf of each of these. Besides the named ones there
are always the account's root user, some other role of each account, and a role of an
account that the policy doesn't know.
"""

import re
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final

from nitrosigner.image.policy_document import Condition, PolicyDocument, Quantifier
from nitrosigner.image.policy_evaluation import Caller, like
from nitrosigner.image.policy_lint.reading import principal_names
from nitrosigner.image.policy_lint.values import values_of

_ANYWHERE: Final = "111122223333"
"""Where the key is if the policy names no account; from AWS's documentation."""
_ELSEWHERE: Final = "999999999999"
_UNNAMED: Final = "nitrosigner-lint-somebody"
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_ARN: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::([0-9]{12}):(.+)")
_SERVICE: Final = re.compile(r"[a-z0-9.-]+\.(amazonaws\.com(\.cn)?|amazon\.com)")
PRINCIPAL_KEY: Final = "aws:principalarn"


@unique
class Kind(Enum):
    """What an actor stands for."""

    NAMED = "named"
    SERVICE = "service"
    ROOT = "root"
    COLLEAGUE = "colleague"
    """Another role of an account that is named."""
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who might ask."""

    kind: Kind
    caller: Caller

    @property
    def title(self) -> str:
        """The name in sentences."""
        match self.kind:
            case Kind.ROOT:
                return f"the root user of account {self.caller.account}"
            case Kind.COLLEAGUE:
                return f"any other role of account {self.caller.account}"
            case Kind.STRANGER:
                return "a role of any account of AWS"
            case Kind.NAMED | Kind.SERVICE:
                return self.caller.principal_arn

    @property
    def is_outsider(self) -> bool:
        """Whether the policy never meant it."""
        return self.kind in (Kind.COLLEAGUE, Kind.STRANGER)


def actors_of(document: PolicyDocument) -> tuple[Actor, ...]:
    """
    Return who might ask under *document*, each once.

    Raises:
        TooComplicated: Its conditions about principals' names are.
    """
    accounts: dict[str, None] = {}
    found: dict[Actor, None] = {}

    def note(name: str) -> None:
        if _ACCOUNT.fullmatch(name):
            accounts[name] = None
        elif matched := _ARN.fullmatch(name):
            accounts[matched[2]] = None
            if matched[3] != "root":
                found[Actor(Kind.NAMED, _caller(name, matched[2], matched[3]))] = None
        elif _SERVICE.fullmatch(name):
            found[Actor(Kind.SERVICE, Caller(name, name, ""))] = None

    for name in principal_names(document):
        note(name)
    for name in _described(document, [*accounts, _ELSEWHERE]):
        note(name)
    for account in accounts or (_ANYWHERE,):
        root = f"arn:aws:iam::{account}:root"
        found[Actor(Kind.ROOT, Caller(root, root, account))] = None
        found[Actor(Kind.COLLEAGUE, _somebody(account))] = None
    found[Actor(Kind.STRANGER, _somebody(_ELSEWHERE))] = None
    return tuple(found)


def is_dangling(name: str) -> bool:
    """Return whether a name is no principal: AWS leaves an id of what was deleted."""
    return not (
        name == "*"
        or _ACCOUNT.fullmatch(name)
        or _ARN.fullmatch(name)
        or _SERVICE.fullmatch(name)
    )


def _described(document: PolicyDocument, accounts: list[str]) -> list[str]:
    """Return a role of each kind that conditions about principals tell apart."""
    about = [
        condition
        for statement in document.statements
        for condition in statement.conditions
        if condition.key == PRINCIPAL_KEY and condition.operator != "Null"
    ]
    if not about:
        return []
    roles = tuple(f"arn:aws:iam::{account}:role/?*" for account in accounts)
    shape = Condition(
        operator="ArnLike",
        quantifier=Quantifier.SINGLE,
        if_exists=False,
        key=PRINCIPAL_KEY,
        values=roles,
    )
    patterns = {text for condition in about for text in condition.values}
    return [
        value
        for value in values_of((*about, shape))
        if isinstance(value, str)
        and _ARN.fullmatch(value)
        # The others are the colleagues and the stranger.
        and any(like(one, value) for one in patterns)
    ]


def _somebody(account: str) -> Caller:
    return _caller(
        f"arn:aws:iam::{account}:role/{_UNNAMED}", account, f"role/{_UNNAMED}"
    )


def _caller(arn: str, account: str, what: str) -> Caller:
    kind, _, rest = what.partition("/")
    name = rest.rsplit("/", 1)[-1]
    if kind == "role":
        return Caller(arn, f"arn:aws:sts::{account}:assumed-role/{name}/lint", account)
    if kind == "assumed-role":
        role = rest.split("/", 1)[0]
        return Caller(f"arn:aws:iam::{account}:role/{role}", arn, account)
    return Caller(arn, arn, account)
