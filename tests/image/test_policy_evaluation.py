"""The evaluator as a table: each row is a rule of the IAM reference."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.image.policy_document import UnreadablePolicy, parse_policy
from nitrosigner.image.policy_evaluation import (
    Caller,
    Question,
    context_of,
    evaluate,
    like,
)

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/parent"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/parent/i-1"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
OTHER = f"arn:aws:iam::{ACCOUNT}:role/other"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1"
IMAGE = "kms:RecipientAttestation:ImageSha384"


def statement(**changed: Any) -> dict[str, Any]:
    result = {
        "Effect": "Allow",
        "Principal": {"AWS": ROLE},
        "Action": "kms:Decrypt",
        "Resource": "*",
        **changed,
    }
    return {name: value for name, value in result.items() if value is not None}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def ask(
    *statements: dict[str, Any],
    action: str = "kms:Decrypt",
    context: list[tuple[str, Any]] | None = None,
) -> str:
    ruling = evaluate(
        parse_policy(policy(*statements), of_key=True),
        Question(
            Caller(ROLE, SESSION, ACCOUNT), action, KEY, context_of(context or [])
        ),
    )
    if ruling.denied:
        return "denied"
    if ruling.allowed:
        return "allowed"
    return "delegated" if ruling.delegated else "nothing"


PRINCIPALS = [
    (ROLE, "allowed"),
    (SESSION, "allowed"),
    ("*", "allowed"),
    (OTHER, "nothing"),
    (ROOT, "delegated"),
    (ACCOUNT, "delegated"),
    ([OTHER, ROLE], "allowed"),
    ("arn:aws:iam::999999999999:root", "nothing"),
]


@pytest.mark.parametrize(("principal", "expected"), PRINCIPALS)
def test_principals(principal: Any, expected: str) -> None:
    assert ask(statement(Principal={"AWS": principal})) == expected


def test_a_star_without_aws_is_everybody() -> None:
    assert ask(statement(Principal="*")) == "allowed"


def test_a_service_is_not_a_role() -> None:
    service = {"Service": "ec2.amazonaws.com"}
    assert ask(statement(Principal=service)) == "nothing"


@pytest.mark.parametrize(
    ("spared", "expected"),
    [
        ([ROLE], "denied"),
        ([ROLE, SESSION], "denied"),
        ([ROOT], "denied"),
        ([ROLE, ROOT], "denied"),
        ([SESSION, ROOT], "denied"),
        ([ROLE, SESSION, ROOT], "allowed"),
        ([ROLE, SESSION, ACCOUNT], "allowed"),
    ],
)
def test_not_principal_spares_a_session_only_if_all_its_names_are_there(
    spared: list[str], expected: str
) -> None:
    deny = statement(Effect="Deny", Principal=None, NotPrincipal={"AWS": spared})
    assert ask(statement(), deny) == expected


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ({"Action": "kms:Decrypt"}, "allowed"),
        ({"Action": "KMS:decrypt"}, "allowed"),
        ({"Action": "kms:De*"}, "allowed"),
        ({"Action": "kms:?ecrypt"}, "allowed"),
        ({"Action": "*"}, "allowed"),
        ({"Action": "kms:DecryptX"}, "nothing"),
        ({"Action": "kms:Encrypt"}, "nothing"),
        ({"Action": None, "NotAction": "kms:Encrypt"}, "allowed"),
        ({"Action": None, "NotAction": ["kms:D*"]}, "nothing"),
    ],
)
def test_actions(actions: dict[str, Any], expected: str) -> None:
    assert ask(statement(**actions)) == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"Resource": KEY}, "allowed"),
        ({"Resource": "arn:aws:kms:*:*:key/*"}, "allowed"),
        ({"Resource": KEY + "2"}, "nothing"),
        ({"Resource": None, "NotResource": KEY}, "nothing"),
        ({"Resource": None, "NotResource": KEY + "2"}, "allowed"),
    ],
)
def test_resources(resources: dict[str, Any], expected: str) -> None:
    assert ask(statement(**resources)) == expected


# operator, wanted, given (None: the key is absent), does it hold?
CONDITIONS: list[tuple[str, Any, Any, bool]] = [
    ("StringEquals", "a", "a", True),
    ("StringEquals", "a", "A", False),
    ("StringEquals", ["a", "b"], "b", True),
    ("StringEquals", "a*", "ab", False),
    ("StringEquals", "a", None, False),
    ("StringEqualsIfExists", "a", None, True),
    ("StringEqualsIfExists", "a", "b", False),
    ("StringNotEquals", "a", "b", True),
    ("StringNotEquals", ["a", "b"], "b", False),
    ("StringNotEquals", "a", None, True),
    ("StringEqualsIgnoreCase", "Ab", "aB", True),
    ("StringNotEqualsIgnoreCase", "Ab", "aB", False),
    ("StringNotEqualsIgnoreCase", "Ab", None, True),
    ("StringLike", "a*c", "abbc", True),
    ("StringLike", "a?c", "abbc", False),
    ("StringLike", "a.c", "abc", False),
    ("StringNotLike", "a*", "abc", False),
    ("StringNotLike", "a*", None, True),
    ("StringNotLikeIfExists", "a*", None, True),
    ("Bool", "true", "TRUE", True),
    ("Bool", True, "true", True),
    ("Bool", "true", "false", False),
    ("Bool", "true", None, False),
    ("Null", "true", None, True),
    ("Null", "true", "a", False),
    ("Null", "false", "a", True),
    ("Null", "false", None, False),
    ("ArnEquals", ROLE, ROLE, True),
    ("ArnLike", f"arn:aws:iam::{ACCOUNT}:role/p*", ROLE, True),
    ("ArnLike", "arn:*", ROLE, False),
    ("ArnLike", "arn:aws:iam:*:role/parent", ROLE, False),
    ("ArnNotEquals", ROLE, ROLE, False),
    ("ArnNotEquals", ROLE, None, True),
    ("ArnNotLike", "arn:aws:iam::*:role/o*", ROLE, True),
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "b"), True),
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "c"), False),
    ("ForAllValues:StringEquals", ["a"], None, True),
    ("ForAnyValue:StringEquals", ["a"], ("a", "c"), True),
    ("ForAnyValue:StringEquals", ["a"], ("b", "c"), False),
    ("ForAnyValue:StringEquals", ["a"], None, False),
    ("ForAnyValue:StringEquals", ["a"], "a", True),
    ("ForAllValues:StringNotEquals", ["a"], ("b", "c"), True),
    ("ForAnyValue:StringNotEquals", ["a"], ("a", "a"), False),
]


@pytest.mark.parametrize(("operator", "wanted", "value", "holds"), CONDITIONS)
def test_conditions(operator: str, wanted: Any, value: Any, holds: bool) -> None:
    condition = {operator: {"kms:Some": wanted}}
    context = [] if value is None else [("kms:some", value)]
    allow = statement(Condition=condition)
    assert ask(allow, context=context) == ("allowed" if holds else "nothing")
    deny = statement(Effect="Deny", Condition=condition)
    expected = "denied" if holds else "allowed"
    assert ask(statement(), deny, context=context) == expected


def test_several_values_where_one_is_expected_count_against_the_caller() -> None:
    condition = {"StringEquals": {"kms:Some": "a"}}
    context = [("kms:Some", ("a", "b"))]
    assert ask(statement(Condition=condition), context=context) == "nothing"
    deny = statement(Effect="Deny", Condition=condition)
    assert ask(statement(), deny, context=context) == "denied"


def test_keys_that_differ_in_case_only_count_against_the_caller() -> None:
    condition = {"StringEquals": {"kms:EncryptionContext:administrator": "ours"}}
    context = [
        ("kms:EncryptionContext:administrator", "theirs"),
        ("kms:EncryptionContext:Administrator", "ours"),
    ]
    for order in (context, context[::-1]):
        assert ask(statement(Condition=condition), context=order) == "nothing"


def test_every_condition_of_a_statement_must_hold() -> None:
    condition = {"StringEquals": {IMAGE: "aa", "kms:CallerAccount": ACCOUNT}}
    both = [(IMAGE, "aa"), ("kms:CallerAccount", ACCOUNT)]
    assert ask(statement(Condition=condition), context=both) == "allowed"
    assert ask(statement(Condition=condition), context=both[:1]) == "nothing"


def test_a_deny_wins_in_any_order() -> None:
    deny = statement(Effect="Deny", Principal="*")
    assert ask(statement(), deny) == "denied"
    assert ask(deny, statement()) == "denied"


def test_nothing_is_the_default() -> None:
    assert ask(statement(Action="kms:Encrypt")) == "nothing"


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        '{"Statement":[]}',
        '{"Version":"2011","Statement":[]}',
        '{"Statement":[],"Statement":[]}',
        "[" * 30_000,
        policy(statement(Effect="allow")),
        policy(statement(Extra=1)),
        policy(statement(Principal=None)),
        policy(statement(Principal={"AWS": "arn:aws:iam::1:role/*"})),
        policy(statement(Principal={"Federated": "x"})),
        policy(statement(NotPrincipal={"AWS": ROLE})),
        policy(statement(Principal=None, NotPrincipal={"AWS": ROLE})),
        policy(statement(NotAction="kms:Encrypt")),
        policy(statement(Action="decrypt")),
        policy(statement(Action="s3:GetObject")),
        policy(statement(Action=[])),
        policy(statement(Action=[1])),
        policy(statement(Resource=None)),
        policy(statement(Condition=[])),
        policy(statement(Condition={"StringEquals": {}})),
        policy(statement(Condition={"NumericEquals": {"a": "1"}})),
        policy(statement(Condition={"NullIfExists": {"a": "true"}})),
        policy(statement(Condition={"Null": {"a": "yes"}})),
        policy(statement(Condition={"ForAllValues:Null": {"a": "true"}})),
        policy(statement(Condition={"StringEquals": {"a": "${aws:userid}"}})),
        policy(statement(Condition={"StringEquals": {"a": {"b": "c"}}})),
    ],
)
def test_what_is_not_understood_is_not_stored(broken: str) -> None:
    with pytest.raises(UnreadablePolicy):
        parse_policy(broken, of_key=True)


def test_an_identity_policy_has_no_principal() -> None:
    with pytest.raises(UnreadablePolicy):
        parse_policy(policy(statement()), of_key=False)
    parse_policy(policy(statement(Principal=None)), of_key=False)


def test_a_policy_larger_than_aws_takes_is_refused() -> None:
    with pytest.raises(UnreadablePolicy, match="32 KB"):
        parse_policy(policy(statement(Sid="x" * 32768)), of_key=True)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_pattern_without_wildcards_matches_itself_only(one: str, two: str) -> None:
    plain = one.replace("*", "").replace("?", "")
    assert like(plain, plain)
    assert like(plain, two) == (plain == two)
    assert like(plain + "*", plain + two)


def test_hostile_patterns_match_quickly() -> None:
    assert not like("*" * 2000 + "b", "a" * 2000)
    assert not like("*a" * 200 + "b", "a" * 2000)


@given(st.text("ab*?", max_size=8), st.text("ab*", max_size=10))
def test_patterns_match_as_a_regular_expression_would(pattern: str, text: str) -> None:
    wild = {"*": ".*", "?": "."}
    expression = "".join(wild.get(char) or re.escape(char) for char in pattern)
    expected = re.fullmatch(expression, text, re.DOTALL) is not None
    assert like(pattern, text) == expected
