"""
Looks for a request that a policy allows, and asks the evaluator whether it is.

A rule such as "nobody opens the vault without a document" is a statement about all
requests. It is decided by searching for one that breaks it. The caller is assumed to
be free in everything that the rule does not fix: whoever may ask KMS chooses his
encryption context, his network and his time. What he cannot choose, his own name, is
fixed.

A statement's conditions are a conjunction of predicates over one key each, so the
search narrows each key's values by themselves (`values` says which there are); only a
Deny over several keys needs a choice. What is found is confirmed by
`policy_evaluation.evaluate` on the whole policy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from nitrosigner.image.policy_document import (
    Condition,
    PolicyDocument,
    Statement,
)
from nitrosigner.image.policy_evaluation import (
    Caller,
    ContextValue,
    Question,
    conditions_hold,
    evaluate,
    is_about,
    names_caller,
)
from nitrosigner.image.policy_lint.actors import PRINCIPAL_KEY, Actor
from nitrosigner.image.policy_lint.kms_actions import PLAINTEXT
from nitrosigner.image.policy_lint.values import (
    ATTESTATION,
    TooComplicated,
    values_of,
)

RESOURCE: Final = "arn:aws:kms:us-east-1:111122223333:key/00000000"
"""Stands for the key. A key policy's Resource is `*`; the reader sees to it."""
IMAGE_KEYS: Final = (f"{ATTESTATION}imagesha384", f"{ATTESTATION}pcr0")
CONTEXT: Final = "kms:encryptioncontext:"
UNNAMED_MEASUREMENT: Final = "5a" * 48
_SHOWN: Final = 48
"""Characters of a value that an example shows."""
MAX_STEPS: Final = 20_000
"""Choices that a search tries before it gives up."""

Choice = ContextValue | None
"""A value of a context key, or None: the key is absent."""
Choices = Mapping[str, Sequence[Choice]]


@dataclass(frozen=True, slots=True)
class Witness:
    """A request that is allowed."""

    index: int
    """Of the Allow in the document."""
    actor: Actor
    action: str
    context: Mapping[str, ContextValue]
    """What of the request's context matters to the policy."""
    delegated: bool
    """The key policy leaves it to the account's IAM policies."""

    @property
    def text(self) -> str:
        """The request in a line."""
        shown = [
            f"{key}={_short(value)}"
            for key, value in sorted(self.context.items())
            if key.startswith("kms:")
        ]
        attested = any(key.startswith(ATTESTATION) for key in self.context)
        parts = [
            f"{self.actor.title} may {self.action}",
            "" if attested else "without an attestation document",
            f"with {', '.join(shown)}" if shown else "",
            "if its identity policy allows it" if self.delegated else "",
        ]
        return " ".join(part for part in parts if part)


def _short(value: ContextValue) -> str:
    text = value if isinstance(value, str) else ",".join(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def what_it_does(witness: Witness) -> str:
    """Return what is done to the vault by it, as a verb."""
    if witness.action.startswith("kms:GenerateDataKey"):
        return "make a vault whose key it knows"
    return "open the vault"


class Search:
    """Searches one policy."""

    def __init__(self, document: PolicyDocument) -> None:
        """Search *document*."""
        self.document = document

    @cached_property
    def pools(self) -> dict[str, tuple[Choice, ...]]:
        """
        For each context key of the policy, a choice of each kind.

        Raises:
            TooComplicated: There are too many.
        """
        conditions = [
            one for each in self.document.statements for one in each.conditions
        ]
        return {
            key: (None, *values_of(tuple(dict.fromkeys(about))))
            for key, about in _by_key(conditions).items()
        }

    def witness(
        self, index: int, actor: Actor, action: str, fixed: Choices
    ) -> Witness | None:
        """
        Return a request that the Allow number *index* lets through, if there is one.

        Args:
            index: Of the Allow in the document.
            actor: Who asks.
            action: With its prefix.
            fixed: What the rule says of the context, by key in lower case.

        Raises:
            TooComplicated: It was not found out.
        """
        statement = self.document.statements[index]
        personal, of_account = names_caller(statement, actor.caller)
        if not statement.allow or not (personal or of_account):
            return None
        if not is_about(statement, action, RESOURCE):
            return None
        choices = {**self.pools, **fixed, **_of_caller(actor.caller)}
        if action not in PLAINTEXT:
            # Only these take a document; in other requests there is none.
            choices |= dict.fromkeys(self.attestation_keys(), (None,))
        met = _narrowed(choices, statement, applies=True)
        if met is None:
            return None
        denies = [
            other
            for other in self.document.statements
            if not other.allow
            and names_caller(other, actor.caller)[0]
            | names_caller(other, actor.caller)[1]
            and is_about(other, action, RESOURCE)
        ]
        # What has one key leaves no choice, and narrows what the others may choose.
        denies.sort(key=lambda one: len({each.key for each in one.conditions}))
        solved = _avoiding(denies, met, [MAX_STEPS])
        if solved is None:
            return None
        context = {
            key: values[0] for key, values in solved.items() if values[0] is not None
        }
        shown = {
            key: value
            for key, value in context.items()
            if key in self.pools or key == IMAGE_KEYS[0]
        }
        ruling = evaluate(
            self.document, Question(actor.caller, action, RESOURCE, context)
        )
        if ruling.denied or not (ruling.allowed or ruling.delegated):
            # The search and the evaluator disagree: never guess which is right.
            raise TooComplicated
        return Witness(index, actor, action, shown, delegated=not personal)

    def allows(self) -> Iterator[int]:
        """Return the indexes of the statements that allow."""
        for index, statement in enumerate(self.document.statements):
            if statement.allow:
                yield index

    def attestation_keys(self) -> list[str]:
        """Return the condition keys about attestation that the policy uses."""
        return [key for key in self.pools if key.startswith(ATTESTATION)]


def _of_caller(caller: Caller) -> Choices:
    service = "false" if caller.account else "true"
    return {
        PRINCIPAL_KEY: (caller.principal_arn,),
        "aws:principalaccount": (caller.account or None,),
        "kms:calleraccount": (caller.account or None,),
        "aws:principalisawsservice": (service,),
    }


def _by_key(conditions: Sequence[Condition]) -> dict[str, list[Condition]]:
    found: dict[str, list[Condition]] = {}
    for condition in conditions:
        found.setdefault(condition.key, []).append(condition)
    return found


def _fitting(
    key: str,
    values: Sequence[Choice],
    conditions: Sequence[Condition],
    *,
    allow: bool,
    holds: bool,
) -> tuple[Choice, ...]:
    return tuple(
        value
        for value in values
        if conditions_hold(
            conditions, {} if value is None else {key: value}, allow=allow
        )
        is holds
    )


def _narrowed(
    choices: Choices, statement: Statement, *, applies: bool
) -> dict[str, Sequence[Choice]] | None:
    narrowed = dict(choices)
    for key, conditions in _by_key(statement.conditions).items():
        narrowed[key] = _fitting(
            key, choices[key], conditions, allow=statement.allow, holds=applies
        )
        if not narrowed[key]:
            return None
    return narrowed


def _avoiding(
    denies: Sequence[Statement],
    choices: dict[str, Sequence[Choice]],
    budget: list[int],
) -> dict[str, Sequence[Choice]] | None:
    """Return choices under which no Deny applies."""
    if not denies:
        return choices
    first, *others = denies
    for key, conditions in _by_key(first.conditions).items():
        budget[0] -= 1
        if budget[0] < 0:
            raise TooComplicated
        values = _fitting(key, choices[key], conditions, allow=False, holds=False)
        if values:
            solved = _avoiding(others, {**choices, key: values}, budget)
            if solved is not None:
                return solved
    return None
