"""The linter's search against an oracle that simply asks every question of a grid."""

import itertools
import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nitrosigner.image.key_policy_lint import lint
from nitrosigner.image.policy_document import PolicyDocument, Quantifier, parse_policy
from nitrosigner.image.policy_evaluation import (
    Caller,
    ContextValue,
    Question,
    conditions_hold,
    evaluate,
)

ACCOUNT = "111111111111"
ENCLAVE, OTHER = (
    f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("enclave", "other")
)
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
FOREIGN_ACCOUNT = "222222222222"
FOREIGN = f"arn:aws:iam::{FOREIGN_ACCOUNT}:role/anybody"
IMAGE = "ab" * 48
KEY, CONTEXT = (
    "kms:RecipientAttestation:ImageSha384",
    "kms:EncryptionContext:administrator",
)
VIA = "kms:ViaService"
UNATTESTED = {"no-attestation", "attestation-optional", "delegated-to-iam"}

TEXTS = ["one", "two", "*", "o?e", "o*", "*e"]
values = st.sampled_from([IMAGE, "ONE", *TEXTS])
# What can fit some of those and not the others, in whichever case.
GRID = ["", "oe", "oxe", "ooe", "oxx", "xxe", "neither", IMAGE, IMAGE.upper()]
GRID += sorted(
    {
        "".join(one)
        for text in TEXTS
        for one in itertools.product(*((each, each.upper()) for each in text))
    }
)
conditions = st.dictionaries(
    st.sampled_from(
        [
            "StringEquals",
            "StringEqualsIfExists",
            "StringNotEquals",
            "StringNotEqualsIfExists",
            "StringEqualsIgnoreCase",
            "StringNotEqualsIgnoreCase",
            "StringLike",
            "StringNotLike",
            "ForAllValues:StringEquals",
            "ForAllValues:StringNotLike",
            "ForAnyValue:StringEquals",
            "ForAnyValue:StringNotEquals",
            "ForAnyValue:StringLike",
        ]
    ),
    st.dictionaries(
        st.sampled_from([KEY, CONTEXT]),
        st.lists(values, min_size=1, max_size=2),
        min_size=1,
        max_size=2,
    ),
    max_size=2,
)
nulls = st.dictionaries(
    st.sampled_from([KEY, CONTEXT, VIA]), st.sampled_from(["true", "false"]), min_size=1
)


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    condition: dict[str, Any] = dict(draw(conditions))
    if draw(st.booleans()):
        condition["Null"] = draw(nulls)
    return {
        "Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])),
        "Principal": draw(
            st.sampled_from(["*", {"AWS": ENCLAVE}, {"AWS": ROOT}, {"AWS": OTHER}])
        ),
        "Action": draw(st.sampled_from(["kms:Decrypt", "kms:*", "kms:PutKeyPolicy"])),
        "Resource": "*",
        "Condition": condition,
    }


def contexts(document: PolicyDocument) -> list[ContextValue | None]:
    """The grid, and where a condition asks for them, all sets of unlike values of it."""
    about = [
        one
        for statement in document.statements
        for one in statement.conditions
        if one.key == CONTEXT.lower()
    ]
    if all(one.quantifier is Quantifier.SINGLE for one in about):
        return [None, *GRID]
    unlike = {
        tuple(
            conditions_hold([one], {CONTEXT.lower(): value}, allow=True)
            for one in about
        ): value
        for value in GRID
    }
    return [
        None,
        *GRID,
        *itertools.chain.from_iterable(
            itertools.combinations(unlike.values(), size)
            for size in range(1, len(unlike) + 1)
        ),
    ]


def opens_without_a_document(text: str) -> bool:
    """Every caller with every context of a grid, one by one."""
    document = parse_policy(text, of_key=True)
    callers = (ENCLAVE, OTHER, ROOT, FOREIGN)
    actions = ("kms:Decrypt", "kms:GenerateDataKey")
    for arn, action, context, via in itertools.product(
        callers, actions, contexts(document), (None, "one")
    ):
        given_context = {
            name.lower(): value
            for name, value in ((CONTEXT, context), (VIA, via))
            if value is not None
        }
        question = Question(
            Caller(arn, arn, FOREIGN_ACCOUNT if arn == FOREIGN else ACCOUNT),
            action,
            "arn:aws:kms:::key/1",
            given_context,
        )
        ruling = evaluate(document, question)
        if not ruling.denied and (ruling.allowed or ruling.delegated):
            return True
    return False


def opening(**condition: dict[str, list[str]]) -> list[dict[str, Any]]:
    named = {name.replace("_", ":"): keys for name, keys in condition.items()}
    return [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": named,
        }
    ]


# Two values together fit what no single one does; one value fits two patterns.
@example(
    opening(
        ForAnyValue_StringEquals={CONTEXT: ["one"]},
        ForAnyValue_StringNotEquals={CONTEXT: ["one"]},
    )
)
@example(
    opening(
        StringLike={CONTEXT: ["o*"]},
        StringLikeIfExists={CONTEXT: ["*e"]},
        StringNotEquals={CONTEXT: ["one", "oe"]},
        Null={CONTEXT: ["false"]},
    )
)
@settings(max_examples=300, deadline=None)
@given(st.lists(statements(), min_size=1, max_size=5))
def test_a_way_without_a_document_is_found_exactly_when_there_is_one(
    made: list[dict[str, Any]],
) -> None:
    text = json.dumps({"Version": "2012-10-17", "Statement": made})
    rules = {finding.rule for finding in lint(text)}
    assert "not-judged" not in rules
    assert bool(UNATTESTED & rules) == opens_without_a_document(text)
