"""The policy that a deployment really has, asked by the emulated KMS's evaluator."""

import itertools
import json
from typing import Any

import pytest

from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.image.policy_document import parse_policy
from nitrosigner.image.policy_evaluation import (
    Caller,
    ContextValue,
    Question,
    context_of,
    evaluate,
)
from nitrosigner.verdicts import Malformed, Refused

ACCOUNT = "123456789012"
IMAGE, OTHER_IMAGE, NEXT_IMAGE = "ab" * 48, "cd" * 48, "ef" * 48
ADMINISTRATOR, STRANGER = "11" * 32, "22" * 32
ROLES = {
    name: f"arn:aws:iam::{ACCOUNT}:role/{name}"
    for name in ("enclave", "gateway", "manager", "other")
}
REVEALING = [
    "Decrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPairWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "DeriveSharedSecret",
]
MANAGING = ["PutKeyPolicy", "GetKeyPolicy", "DescribeKey", "ScheduleKeyDeletion"]


def make(**changed: Any) -> KeyPolicy:
    return KeyPolicy(
        **{
            "measurements": [IMAGE],
            "administrator": ADMINISTRATOR,
            "deployment": "local",
            "enclave_role": ROLES["enclave"],
            "gateway_role": ROLES["gateway"],
            "key_administrator": ROLES["manager"],
            **changed,
        }
    )


def allowed(
    policy: KeyPolicy,
    role: str,
    action: str,
    *,
    pcrs: dict[int, str] | None = None,
    **context: str,
) -> bool:
    pairs: list[tuple[str, ContextValue]] = [("aws:PrincipalArn", ROLES[role])]
    pairs += [
        (f"kms:EncryptionContext:{name}", value) for name, value in context.items()
    ]
    for index, value in (pcrs or {}).items():
        pairs.append((f"kms:RecipientAttestation:PCR{index}", value))
        if index == 0:
            pairs.append(("kms:RecipientAttestation:ImageSha384", value))
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/one"
    question = Question(
        Caller(ROLES[role], session, ACCOUNT),
        f"kms:{action}",
        f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1",
        context_of(pairs),
    )
    ruling = evaluate(parse_policy(policy.text, of_key=True), question)
    # Nothing may ever be left to IAM.
    assert not ruling.delegated
    return ruling.allowed and not ruling.denied


def ours(purpose: str) -> dict[str, str]:
    return {
        "administrator": ADMINISTRATOR,
        "deployment": "local",
        "purpose": purpose,
    }


def test_the_enclave_makes_and_opens_the_vault_and_opens_imported_keys() -> None:
    measured = {0: IMAGE}
    for action, purpose, expected in (
        ("GenerateDataKey", "vault", True),
        ("Decrypt", "vault", True),
        ("Decrypt", "key", True),
        ("GenerateDataKey", "key", False),
        ("Decrypt", "other", False),
    ):
        given = allowed(make(), "enclave", action, pcrs=measured, **ours(purpose))
        assert given is expected, (action, purpose)


def test_only_one_point_of_the_whole_space_reveals_anything() -> None:
    """Every combination of role, action, image, administrator, deployment, purpose."""
    passed = {
        (role, action, image, administrator, deployment, purpose)
        for role, action, image, administrator, deployment, purpose in itertools.product(
            ROLES,
            REVEALING,
            (None, IMAGE, OTHER_IMAGE, "0" * 96),
            (ADMINISTRATOR, STRANGER, None),
            ("local", "other", None),
            ("vault", "key", None),
        )
        if allowed(
            make(),
            role,
            action,
            pcrs=None if image is None else {0: image},
            **{
                name: value
                for name, value in (
                    ("administrator", administrator),
                    ("deployment", deployment),
                    ("purpose", purpose),
                )
                if value is not None
            },
        )
    }
    ok = (IMAGE, ADMINISTRATOR, "local")
    assert passed == {
        ("enclave", "Decrypt", *ok, "vault"),
        ("enclave", "Decrypt", *ok, "key"),
        ("enclave", "GenerateDataKey", *ok, "vault"),
    }


def test_the_gateway_encrypts_imported_keys_for_this_deployment_only() -> None:
    assert allowed(make(), "gateway", "Encrypt", **ours("key"))
    assert not allowed(make(), "gateway", "Encrypt", **ours("vault"))
    stranger = {**ours("key"), "administrator": STRANGER}
    assert not allowed(make(), "gateway", "Encrypt", **stranger)
    for role in ("enclave", "manager", "other"):
        assert not allowed(make(), role, "Encrypt", **ours("key"))
    without = make(gateway_role=None)
    assert not allowed(without, "gateway", "Encrypt", **ours("key"))


def test_the_key_administrator_manages_and_nobody_else_does() -> None:
    for action in MANAGING:
        assert allowed(make(), "manager", action)
        for role in ("enclave", "gateway", "other"):
            assert not allowed(make(), role, action)


def test_nobody_grants() -> None:
    for role in ROLES:
        assert not allowed(make(), role, "CreateGrant", **ours("key"))


@pytest.mark.parametrize("action", REVEALING)
def test_the_denies_alone_hold_whatever_else_is_allowed(action: str) -> None:
    """An Allow for everybody, added by mistake, opens nothing."""
    document = json.loads(make().text)
    document["Statement"].append(
        {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    )

    class Widened(KeyPolicy):
        text = json.dumps(document)  # type: ignore[assignment]  # the one thing that differs

    widened = Widened(
        measurements=[IMAGE],
        administrator=ADMINISTRATOR,
        deployment="local",
        enclave_role=ROLES["enclave"],
        key_administrator=ROLES["manager"],
    )
    right = {"pcrs": {0: IMAGE}, **ours("vault")}
    for role, changed in (
        ("other", {}),
        ("manager", {}),
        ("enclave", {"pcrs": None}),
        ("enclave", {"pcrs": {0: OTHER_IMAGE}}),
        ("enclave", {"administrator": STRANGER}),
        ("enclave", {"deployment": "other"}),
    ):
        assert not allowed(widened, role, action, **{**right, **changed})
    assert allowed(widened, "enclave", action, **right)
    assert not allowed(widened, "manager", "CreateGrant")


def test_two_images_may_run_side_by_side_during_a_rollout() -> None:
    policy = make(measurements=[NEXT_IMAGE, IMAGE])
    for image, expected in ((IMAGE, True), (NEXT_IMAGE, True), (OTHER_IMAGE, False)):
        given = allowed(policy, "enclave", "Decrypt", pcrs={0: image}, **ours("vault"))
        assert given is expected


@pytest.mark.parametrize("index", [3, 8])
def test_further_registers_are_demanded_when_they_are_named(index: int) -> None:
    policy = make(**{f"pcr{index}": ["77" * 48]})
    for value, expected in (("77" * 48, True), ("78" * 48, False), (None, False)):
        pcrs = {0: IMAGE} | ({} if value is None else {index: value})
        given = allowed(policy, "enclave", "Decrypt", pcrs=pcrs, **ours("vault"))
        assert given is expected


def test_a_policy_that_shall_never_change_is_changed_by_nobody() -> None:
    final = make(changeable=False)
    assert final.needs_bypass
    assert not make().needs_bypass
    for role in ROLES:
        assert not allowed(final, role, "PutKeyPolicy")
    assert allowed(final, "manager", "ScheduleKeyDeletion")


def test_no_statement_names_the_account_root() -> None:
    assert ":root" not in make().text


def test_the_same_parts_make_the_same_text() -> None:
    assert make().text == make().text


@pytest.mark.parametrize(
    "changed",
    [
        {"measurements": []},
        {"measurements": ["ab"]},
        {"measurements": ["AB" * 48]},
        {"measurements": [IMAGE + "\n"]},
        {"pcr3": ["x" * 96]},
        {"administrator": "11"},
        {"deployment": "Not A Slug"},
        {"deployment": "a*"},
        {"enclave_role": "*"},
        {"enclave_role": "arn:aws:iam::123456789012:root"},
        {"enclave_role": "arn:aws:iam::123456789012:role/*"},
        {"key_administrator": ROLES["enclave"]},
        {"gateway_role": ROLES["manager"]},
    ],
)
def test_parts_that_are_not_what_they_should_be_are_refused(
    changed: dict[str, Any],
) -> None:
    with pytest.raises(Malformed):
        make(**changed)


def test_the_all_zero_measurement_is_never_admitted() -> None:
    for name in ("measurements", "pcr3", "pcr8"):
        with pytest.raises(Refused, match="debug mode"):
            make(**{name: ["0" * 96]})


def test_more_measurements_than_fit_are_refused() -> None:
    many = [f"{index:096x}" for index in range(1, 200)]
    with pytest.raises(Malformed, match="too many"):
        _ = make(measurements=many).text
