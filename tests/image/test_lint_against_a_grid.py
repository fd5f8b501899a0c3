"""The linter's search against an oracle that simply asks every question of a grid."""

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.image.key_policy_lint import lint
from nitrosigner.image.policy_document import parse_policy
from nitrosigner.image.policy_evaluation import Caller, Question, evaluate

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

values = st.sampled_from([IMAGE, "one", "two", "*", "o?e"])
conditions = st.dictionaries(
    st.sampled_from(
        [
            "StringEquals",
            "StringEqualsIfExists",
            "StringNotEquals",
            "StringNotEqualsIfExists",
            "StringLike",
            "StringNotLike",
            "ForAllValues:StringEquals",
            "ForAnyValue:StringEquals",
            "ForAnyValue:StringNotEquals",
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


def opens_without_a_document(text: str) -> bool:
    """Every caller with every context of a grid, one by one."""
    document = parse_policy(text, of_key=True)
    single = ["", "*", "o?e", "oe", "oxe", "one", "two", IMAGE, "else"]
    some = [None, *single, *((one,) for one in single)]
    some += itertools.combinations(single, 2)
    callers = (ENCLAVE, OTHER, ROOT, FOREIGN)
    actions = ("kms:Decrypt", "kms:GenerateDataKey")
    for arn, action, context, via in itertools.product(
        callers, actions, some, (None, "one")
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


@settings(max_examples=300, deadline=None)
@given(st.lists(statements(), min_size=1, max_size=5))
def test_a_way_without_a_document_is_found_exactly_when_there_is_one(
    made: list[dict[str, Any]],
) -> None:
    text = json.dumps({"Version": "2012-10-17", "Statement": made})
    rules = {finding.rule for finding in lint(text)}
    assert "not-judged" not in rules
    assert bool(UNATTESTED & rules) == opens_without_a_document(text)
