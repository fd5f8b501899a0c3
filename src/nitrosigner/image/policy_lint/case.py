"""
A policy and the questions that all rules put to it.

The contexts that rules fix are made here: no document, a document of some image, a
document of a debug enclave. KMS fills `ImageSha384` and `PCR0` from the same register,
so they are always fixed together.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from nitrosigner.image.policy_document import (
    Condition,
    PolicyDocument,
    Principals,
    Statement,
)
from nitrosigner.image.policy_lint.actors import Actor, actors_of
from nitrosigner.image.policy_lint.finding import Finding, Severity
from nitrosigner.image.policy_lint.reading import ReadPolicy
from nitrosigner.image.policy_lint.values import ATTESTATION, UNNAMED
from nitrosigner.image.policy_lint.witness import (
    CONTEXT,
    IMAGE_KEYS,
    UNNAMED_MEASUREMENT,
    Choice,
    Search,
    Witness,
)

ZERO: Final = "0" * 96
MEASUREMENT: Final = re.compile(r"[0-9a-fA-F]{96}")
_OF_CODE: Final = tuple(f"{ATTESTATION}pcr{index}" for index in (1, 2))
SIGNER: Final = f"{ATTESTATION}pcr8"
_TPM: Final = f"{ATTESTATION}nitrotpm"
_NAMING: Final = ("StringEquals", "StringEqualsIgnoreCase", "StringLike")

Fixed = dict[str, Sequence[Choice]]


class Case:
    """One policy under judgement."""

    def __init__(self, policy: ReadPolicy) -> None:
        """Prepare the search."""
        self.document = policy.document
        self.labels = policy.labels
        self.search = Search(policy.document)
        self.images = named_images(policy.document)

    @cached_property
    def actors(self) -> tuple[Actor, ...]:
        """
        Who might ask.

        Raises:
            TooComplicated: It was not found out.
        """
        return actors_of(self.document)

    def label(self, index: int) -> str:
        """Return what a statement is called."""
        return self.labels[index] if index < len(self.labels) else ""

    def widened(self, action: str = "*") -> tuple["Case", int]:
        """
        Return this policy with an Allow of *action* for everybody, and its index.

        What it still refuses, a Deny refuses: whatever is allowed later.
        """
        added = Statement(
            allow=True,
            principals=Principals(("*",), (), excluded=False),
            actions=(action,),
            actions_excluded=False,
            resources=("*",),
            resources_excluded=False,
            conditions=(),
        )
        statements = (*self.document.statements, added)
        wider = Case(ReadPolicy(PolicyDocument(statements), self.labels, ()))
        return wider, len(self.document.statements)

    def finding(
        self,
        rule: str,
        severity: Severity,
        witness: Witness | None,
        sentence: str,
        remedy: str,
    ) -> Finding:
        """Return a finding about the statement that *witness* passes by."""
        if witness is None:
            return Finding(rule, severity, "", sentence, remedy)
        sid = self.label(witness.index)
        return Finding(rule, severity, sid, sentence, remedy, witness.text)

    def no_document(self) -> Fixed:
        """Fix a request without an enclave's document; it may be a TPM's."""
        keys = self.search.attestation_keys()
        return dict.fromkeys((one for one in keys if not one.startswith(_TPM)), (None,))

    def document_of(self, image: str, *, signer: str | None = None) -> Fixed:
        """
        Fix a request with the document of an enclave.

        Args:
            image: Its PCR0.
            signer: Its PCR1, PCR2 and PCR8; None if they may be what the policy likes.
        """
        fixed: Fixed = {}
        for key in self.search.attestation_keys():
            pool = [one for one in self.search.pools[key] if one is not None]
            fixed[key] = (*pool, UNNAMED_MEASUREMENT)
            if key.startswith(_TPM):
                fixed[key] = (None,)
            elif signer is not None and (key in _OF_CODE or key == SIGNER):
                fixed[key] = (signer,)
        return {**fixed, **dict.fromkeys(IMAGE_KEYS, (image,))}

    def stranger_to(self, name: str) -> Fixed:
        """Fix an encryption context in which *name* is missing, or another's."""
        key = f"{CONTEXT}{name}"
        several = [
            (UNNAMED, *one)
            for one in self.search.pools.get(key, ())
            if isinstance(one, tuple)
        ]
        return {key: (None, UNNAMED, *several)}

    def of_any_image(self) -> list[Fixed]:
        """Fix requests with a document that the policy admits by its image."""
        return [self.document_of(image) for image in self.images]

    def first(
        self,
        actions: Iterable[str],
        fixed: Iterable[Fixed],
        *,
        index: int | None = None,
        actors: Iterable[Actor] | None = None,
    ) -> Witness | None:
        """Return a request that is allowed, of those described."""
        indexes = list(self.search.allows()) if index is None else [index]
        contexts = list(fixed)
        names = list(actions)
        for actor in self.actors if actors is None else actors:
            for one in indexes:
                for context in contexts:
                    for action in names:
                        found = self.search.witness(one, actor, action, context)
                        if found is not None:
                            return found
        return None


def named_images(document: PolicyDocument) -> tuple[str, ...]:
    """Return the measurements of images that some Allow names, in lower case."""
    found: dict[str, None] = {}
    for statement in document.statements:
        for condition in statement.conditions:
            if (
                statement.allow
                and condition.key in IMAGE_KEYS
                and condition.operator in _NAMING
            ):
                found.update(
                    (value.lower(), None)
                    for value in condition.values
                    if MEASUREMENT.fullmatch(value) and value.strip("0")
                )
    return tuple(found)


def attested(statement: Statement) -> list[Condition]:
    """Return the conditions of *statement* that are about attestation."""
    return [one for one in statement.conditions if one.key.startswith(ATTESTATION)]
