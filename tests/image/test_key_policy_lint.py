"""Good policies are clean, and each bad one is found out for what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.image.key_policy_lint import Severity, is_clean, lint
from nitrosigner.image.policy_lint import witness
from nitrosigner.verdicts import Malformed

ACCOUNT = "123456789012"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ENCLAVE, GATEWAY, MANAGER = (
    f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("enclave", "gateway", "manager")
)
IMAGE, NEXT, ZERO = "ab" * 48, "cd" * 48, "0" * 96
KEY = "kms:RecipientAttestation:ImageSha384"
PCR = "kms:RecipientAttestation:PCR"
CONTEXT = {
    "kms:EncryptionContext:administrator": "11" * 32,
    "kms:EncryptionContext:deployment": "prod",
}

Policy = dict[str, Any]


def ours(**changed: Any) -> KeyPolicy:
    return KeyPolicy(
        **{
            "measurements": [IMAGE],
            "administrator": "11" * 32,
            "deployment": "prod",
            "enclave_role": ENCLAVE,
            "gateway_role": GATEWAY,
            "key_administrator": MANAGER,
            **changed,
        }
    )


def policy() -> Policy:
    parsed: Policy = json.loads(ours().text)
    return parsed


def statement(parsed: Policy, sid: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in parsed["Statement"] if one["Sid"] == sid
    )
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"measurements": [IMAGE, NEXT]},
        {"gateway_role": None},
        {"pcr3": ["12" * 48]},
        {"pcr3": ["12" * 48, "34" * 48], "pcr8": ["56" * 48]},
        {"deployment": "local"},
        {"key_administrator": f"arn:aws:iam::{ACCOUNT}:user/path/manager"},
        {"enclave_role": "arn:aws:iam::210987654321:role/elsewhere"},
    ],
)
def test_the_policies_that_we_write_are_clean(changed: dict[str, Any]) -> None:
    assert lint(ours(**changed).text) == ()


def test_a_final_policy_is_clean_and_said_to_be_final() -> None:
    findings = lint(ours(changeable=False).text)
    assert [one.rule for one in findings] == ["final"]
    assert is_clean(findings)


def test_the_default_policy_of_kms_is_found_wanting() -> None:
    parsed = {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    rules = rules_of(parsed)
    assert rules >= {
        ("error", "delegated-to-iam"),
        ("error", "root-opens"),
        ("error", "re-encrypt"),
        ("error", "grants"),
        ("warning", "policy-changers"),
        ("warning", "no-explicit-deny"),
        ("warning", "open-ended-actions"),
    }


def reference_template() -> Policy:
    """What aws-nitro-enclave-blockchain-wallet tells its users to paste."""
    managing = [
        *("kms:Create*", "kms:Describe*", "kms:Enable*", "kms:List*", "kms:Put*"),
        *("kms:Update*", "kms:Revoke*", "kms:Disable*", "kms:Get*", "kms:Delete*"),
        *("kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion", "kms:GenerateDataKey"),
        *("kms:TagResource", "kms:UntagResource"),
    ]
    return {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable decrypt from enclave",
                "Effect": "Allow",
                "Principal": {"AWS": ENCLAVE},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": {KEY: IMAGE}},
            },
            {
                "Sid": "Enable encrypt from lambda",
                "Effect": "Allow",
                "Principal": {"AWS": GATEWAY},
                "Action": "kms:Encrypt",
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": managing,
                "Resource": "*",
            },
        ],
    }


def test_the_template_of_awss_wallet_is_found_wanting() -> None:
    findings = lint(json.dumps(reference_template()))
    assert not is_clean(findings)
    assert {(one.severity, one.rule, one.sid) for one in findings} == {
        ("error", "delegated-to-iam", "statement 3"),
        ("error", "any-administrator", "Enable decrypt from enclave"),
        ("error", "grants", "statement 3"),
        ("error", "root-opens", "statement 3"),
        ("warning", "any-deployment", "Enable decrypt from enclave"),
        ("warning", "no-explicit-deny", ""),
        ("warning", "policy-changers", "statement 3"),
    }
    for finding in findings:
        assert finding.remedy
        assert finding.example or not finding.sid


def test_the_debug_pcr0_of_awss_walkthrough_is_found() -> None:
    """The walkthrough tells developers to paste 96 zeros."""
    parsed = reference_template()
    parsed["Statement"][0]["Condition"]["StringEqualsIgnoreCase"][KEY] = ZERO
    assert {("error", "debug-enclave"), ("error", "zero-measurement")} <= rules_of(
        parsed
    )


def rules_of(parsed: Policy) -> set[tuple[str, str]]:
    return {(str(one.severity), one.rule) for one in lint(json.dumps(parsed))}


def allow(action: Any = "kms:Decrypt", **changed: Any) -> dict[str, Any]:
    made = {
        "Sid": "Added",
        "Effect": "Allow",
        "Principal": {"AWS": ENCLAVE},
        "Action": action,
        "Resource": "*",
        **changed,
    }
    return {name: value for name, value in made.items() if value is not None}


def attested(**operators: Any) -> dict[str, Any]:
    return {"StringEquals": CONTEXT, **operators}


WITHOUT_DENIES: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    # What an Allow added to ours does where no Deny stands against it.
    ("another Allow for the same role", allow(), ("error", "no-attestation")),
    ("for data keys", allow("kms:GenerateDataKey"), ("error", "no-attestation")),
    ("by a pattern", allow("kms:Dec*"), ("error", "no-attestation")),
    ("in another case", allow("KMS:decrypt"), ("error", "no-attestation")),
    ("for the pair", allow("kms:GenerateDataKeyPair"), ("error", "no-attestation")),
    ("by agreement", allow("kms:DeriveSharedSecret"), ("error", "no-attestation")),
    (
        "under a context alone",
        allow(Condition={"StringEquals": CONTEXT}),
        ("error", "no-attestation"),
    ),
    (
        "the root with everything",
        allow("kms:*", Principal={"AWS": ROOT}),
        ("error", "delegated-to-iam"),
    ),
    (
        "the account by its number",
        allow("kms:*", Principal={"AWS": ACCOUNT}),
        ("error", "delegated-to-iam"),
    ),
    (
        "everybody through a service",
        allow(
            Principal="*",
            Condition={
                "StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}
            },
        ),
        ("error", "no-attestation"),
    ),
    ("everybody", allow(Principal={"AWS": "*"}), ("error", "no-attestation")),
    (
        "everything but",
        allow(None, NotAction="kms:Encrypt"),
        ("error", "no-attestation"),
    ),
    (
        "everybody but",
        allow(Principal=None, NotPrincipal={"AWS": MANAGER}),
        ("error", "not-principal"),
    ),
    (
        "a service",
        allow(Principal={"Service": "logs.us-east-1.amazonaws.com"}),
        ("error", "no-attestation"),
    ),
    (
        "IfExists",
        allow(Condition=attested(StringEqualsIgnoreCaseIfExists={KEY: IMAGE})),
        ("error", "attestation-optional"),
    ),
    (
        "ForAllValues",
        allow(Condition=attested(**{"ForAllValues:StringEquals": {KEY: IMAGE}})),
        ("error", "attestation-optional"),
    ),
    (
        "not the bad one",
        allow(Condition=attested(StringNotEquals={KEY: ZERO})),
        ("error", "attestation-optional"),
    ),
    (
        "no document, in so many words",
        allow(Condition=attested(Null={KEY: "true"})),
        ("error", "attestation-optional"),
    ),
    (
        "any document",
        allow(Condition=attested(Null={KEY: "false"})),
        ("error", "any-image"),
    ),
    (
        "any measurement",
        allow(Condition=attested(StringLike={KEY: "*"})),
        ("error", "any-image"),
    ),
    (
        "any role's enclave",
        allow(Condition=attested(StringEquals={**CONTEXT, f"{PCR}3": "12" * 48})),
        ("error", "any-image"),
    ),
    (
        "any signed image",
        allow(Condition=attested(StringEquals={**CONTEXT, f"{PCR}8": "12" * 48})),
        ("warning", "image-not-measured"),
    ),
    (
        "zeros",
        allow(Condition=attested(StringEqualsIgnoreCase={KEY: [IMAGE, ZERO]})),
        ("error", "debug-enclave"),
    ),
    (
        "zeros as PCR0",
        allow(Condition=attested(StringEqualsIgnoreCase={f"{PCR}0": ZERO})),
        ("error", "zero-measurement"),
    ),
    (
        "an unsigned image's PCR8",
        allow(Condition=attested(StringEqualsIgnoreCase={KEY: IMAGE, f"{PCR}8": ZERO})),
        ("warning", "zero-measurement"),
    ),
    (
        "no context",
        allow(Condition={"StringEqualsIgnoreCase": {KEY: IMAGE}}),
        ("error", "any-administrator"),
    ),
    (
        "a context if there is one",
        allow(
            Condition={
                "StringEqualsIgnoreCase": {KEY: IMAGE},
                "StringEqualsIfExists": CONTEXT,
            }
        ),
        ("error", "any-administrator"),
    ),
    (
        "some administrator",
        allow(
            Condition={
                "StringEqualsIgnoreCase": {KEY: IMAGE},
                "Null": {"kms:EncryptionContext:administrator": "false"},
            }
        ),
        ("error", "any-administrator"),
    ),
    (
        "an instance with a TPM",
        allow(
            Condition=attested(
                StringEquals={
                    **CONTEXT,
                    "kms:RecipientAttestation:NitroTPMPCR4": "12" * 48,
                }
            )
        ),
        ("error", "attestation-optional"),
    ),
    (
        "an administrator, no deployment",
        allow(
            Condition={
                "StringEquals": {KEY: IMAGE, **dict(list(CONTEXT.items())[:1])},
            }
        ),
        ("warning", "any-deployment"),
    ),
    (
        "whoever runs the image",
        allow(Principal="*", Condition=attested(StringEqualsIgnoreCase={KEY: IMAGE})),
        ("warning", "any-principal"),
    ),
    (
        "the manager, with a document",
        allow(
            Principal={"AWS": MANAGER},
            Condition=attested(StringEqualsIgnoreCase={KEY: IMAGE}),
        ),
        ("error", "administrator-opens"),
    ),
    (
        "the manager, without",
        allow(Principal={"AWS": MANAGER}),
        ("error", "administrator-opens"),
    ),
    ("root's Decrypt", allow(Principal={"AWS": ROOT}), ("error", "delegated-to-iam")),
    (
        "the enclave's role deletes",
        allow("kms:ScheduleKeyDeletion"),
        ("warning", "opener-destroys"),
    ),
    (
        "the enclave's role changes the policy",
        allow("kms:PutKeyPolicy"),
        ("error", "administrator-opens"),
    ),
    ("re-encryption", allow("kms:ReEncrypt*"), ("error", "re-encrypt")),
    ("re-encryption to", allow("kms:ReEncryptTo"), ("warning", "re-encrypt-to")),
    ("grants", allow("kms:CreateGrant"), ("error", "grants")),
    (
        "grants for services of AWS",
        allow(
            "kms:CreateGrant", Condition={"Bool": {"kms:GrantIsForAWSResource": True}}
        ),
        ("error", "grants"),
    ),
    ("replicas", allow("kms:ReplicateKey"), ("warning", "replicas")),
    (
        "a policy for anybody to change",
        allow("kms:PutKeyPolicy", Principal="*"),
        ("error", "policy-changers"),
    ),
    (
        "a policy for IAM to change",
        allow("kms:Put*", Principal={"AWS": ROOT}),
        ("warning", "policy-changers"),
    ),
    (
        "a key for anybody to delete",
        allow("kms:ScheduleKeyDeletion", Principal="*"),
        ("error", "destroyers"),
    ),
    (
        "a key for anybody to encrypt under",
        allow("kms:Encrypt", Principal="*"),
        ("warning", "encrypt-open"),
    ),
    (
        "a misspelt key",
        allow(Condition=attested(StringEquals={"kms:RecipientAttestation:Image": "1"})),
        ("error", "unknown-condition-key"),
    ),
    (
        "a context without a name",
        allow(
            "kms:Encrypt", Condition={"StringEquals": {"kms:EncryptionContext": "x"}}
        ),
        ("error", "unknown-condition-key"),
    ),
    ("a misspelt action", allow("kms:Decypt"), ("warning", "unknown-action")),
    (
        "a placeholder",
        allow(Condition=attested(StringEquals={KEY: "PCR0_VALUE_FROM_EIF_BUILD"})),
        ("error", "not-a-measurement"),
    ),
    (
        "a measurement cut short",
        allow(Condition=attested(StringEqualsIgnoreCase={KEY: IMAGE[:-1]})),
        ("error", "not-a-measurement"),
    ),
    (
        "upper case",
        allow(Condition=attested(StringEquals={KEY: IMAGE.upper()})),
        ("error", "upper-case"),
    ),
    (
        "the beginning of a measurement",
        allow(Condition=attested(StringLike={KEY: "ab*"})),
        ("error", "pattern-of-measurement"),
    ),
    (
        "a deleted role",
        allow("kms:DescribeKey", Principal={"AWS": "AROAEXAMPLEEXAMPLE"}),
        ("warning", "dangling-principal"),
    ),
    (
        "a time",
        allow(Condition={"DateLessThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}}),
        ("error", "no-attestation"),
    ),
    (
        "a network",
        allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
        ("warning", "not-evaluated"),
    ),
    (
        "a variable",
        allow(Condition={"StringEquals": {"aws:PrincipalTag/a": "${aws:username}"}}),
        ("warning", "not-evaluated"),
    ),
    ("an unknown element", allow(Extra=1), ("error", "unreadable")),
    ("another service's action", allow("s3:GetObject"), ("error", "unreadable")),
    ("one key's ARN", allow(Resource="arn:aws:kms:::key/1"), ("warning", "resource")),
]


@pytest.mark.parametrize(
    ("added", "expected"),
    [row[1:] for row in WITHOUT_DENIES],
    ids=[row[0] for row in WITHOUT_DENIES],
)
def test_what_an_allow_adds_is_found_and_named(
    added: dict[str, Any], expected: tuple[str, str]
) -> None:
    parsed = policy()
    parsed["Statement"] = [
        *(one for one in parsed["Statement"] if one["Effect"] == "Allow"),
        added,
    ]
    findings = [
        one
        for one in lint(json.dumps(parsed))
        # Who opens and manages is named at the statement by which it opens.
        if one.sid == "Added" or one.rule in ("administrator-opens", "opener-destroys")
    ]
    assert expected in {(str(one.severity), one.rule) for one in findings}
    assert not is_clean(findings)


@pytest.mark.parametrize(
    "added",
    [
        row[1]
        for row in WITHOUT_DENIES
        if "NotAction" not in row[1]
        and row[2][1]
        in (
            "no-attestation",
            "attestation-optional",
            "any-image",
            "delegated-to-iam",
            "debug-enclave",
            "any-administrator",
            "re-encrypt",
            "grants",
        )
    ],
)
def test_our_denies_hold_against_what_is_added(added: dict[str, Any]) -> None:
    """The perimeter: an Allow added later opens nothing."""
    parsed = policy()
    parsed["Statement"].append(added)
    opened = {
        "no-attestation",
        "attestation-optional",
        "any-image",
        "delegated-to-iam",
        "debug-enclave",
        "any-administrator",
        "re-encrypt",
        "re-encrypt-to",
        "grants",
        "administrator-opens",
        "no-explicit-deny",
    }
    assert not opened & {rule for _, rule in rules_of(parsed)}


def without(sid: str) -> Callable[[Policy], None]:
    def change(parsed: Policy) -> None:
        parsed["Statement"].remove(statement(parsed, sid))

    return change


def with_condition(sid: str, condition: dict[str, Any]) -> Callable[[Policy], None]:
    def change(parsed: Policy) -> None:
        statement(parsed, sid)["Condition"] = condition

    return change


def no_denies(parsed: Policy) -> None:
    parsed["Statement"] = [
        one for one in parsed["Statement"] if one["Effect"] == "Allow"
    ]


def only_image_denied(parsed: Policy) -> None:
    kept = ("NothingOpensWithoutAttestation", "NothingOpensForAnotherImage")
    parsed["Statement"] = [
        one
        for one in parsed["Statement"]
        if one["Effect"] == "Allow" or one["Sid"] in kept
    ]


def no_manager(parsed: Policy) -> None:
    without("AdministratorManagesTheKey")(parsed)


def typo_in_deny(parsed: Policy) -> None:
    no_denies(parsed)
    parsed["Statement"].append(
        {
            "Sid": "Typo",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "kms:Decyrpt",
            "Resource": "*",
        }
    )


CHANGED: list[tuple[str, Callable[[Policy], None], tuple[str, str]]] = [
    ("no Deny at all", no_denies, ("warning", "no-explicit-deny")),
    ("a Deny of images only", only_image_denied, ("warning", "no-explicit-deny")),
    ("a Deny with a typo", typo_in_deny, ("warning", "unknown-action")),
    ("no manager", no_manager, ("error", "lock-out")),
    ("no manager to delete", no_manager, ("warning", "undeletable")),
    (
        "nobody makes a vault",
        without("EnclaveMakesVaultKey"),
        ("note", "image-makes-no-vault"),
    ),
    (
        "a Deny that forgets the image",
        with_condition(
            "NothingOpensForAnotherImage", {"StringNotEqualsIgnoreCase": {KEY: NEXT}}
        ),
        ("error", "image-locked-out"),
    ),
    (
        "a Deny of everything",
        with_condition("NothingOpensWithoutAttestation", {}),
        ("error", "image-locked-out"),
    ),
    (
        "a Deny that exempts zeros",
        with_condition(
            "NothingOpensForAnotherImage",
            {"StringNotEqualsIgnoreCase": {KEY: [IMAGE, ZERO]}},
        ),
        ("error", "zero-measurement"),
    ),
    (
        "a Deny for one caller",
        lambda parsed: statement(parsed, "NobodyGrants").update(
            Principal={"AWS": ENCLAVE}
        ),
        ("clean", ""),
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"),
    [row[1:] for row in CHANGED],
    ids=[row[0] for row in CHANGED],
)
def test_what_is_missing_from_ours_is_found(
    change: Callable[[Policy], None], expected: tuple[str, str]
) -> None:
    parsed = policy()
    change(parsed)
    rules = rules_of(parsed)
    assert expected in rules or (expected[0] == "clean" and not rules)


def test_only_the_enclaves_allow_missing_means_nobody_opens() -> None:
    parsed = policy()
    for sid in ("EnclaveMakesVaultKey", "EnclaveOpensVaultAndImportedKeys"):
        without(sid)(parsed)
    assert rules_of(parsed) == {("error", "nobody-opens")}


def test_a_denied_image_beside_a_good_one_is_named() -> None:
    """A rollout in which the Deny was forgotten."""
    parsed = policy()
    for sid in ("EnclaveMakesVaultKey", "EnclaveOpensVaultAndImportedKeys"):
        condition = statement(parsed, sid)["Condition"]
        condition["StringEqualsIgnoreCase"][KEY] = [IMAGE, NEXT]
    (finding,) = lint(json.dumps(parsed))
    assert finding.rule == "image-locked-out"
    assert NEXT[:12] in finding.sentence


def test_pcr0_and_image_sha384_are_one_register() -> None:
    """Allowed by the one key, denied by the other."""
    parsed = policy()
    for image, expected in ((IMAGE, set()), (NEXT, {("error", "image-locked-out")})):
        for sid in ("EnclaveMakesVaultKey", "EnclaveOpensVaultAndImportedKeys"):
            condition = statement(parsed, sid)["Condition"]
            condition["StringEqualsIgnoreCase"] = {f"{PCR}0": image}
        assert rules_of(parsed) == expected


def deny(condition: dict[str, Any]) -> dict[str, Any]:
    return allow("kms:*", Effect="Deny", Principal="*", Condition=condition)


def test_a_deny_of_zeros_names_zeros_and_is_no_fault() -> None:
    parsed = policy()
    parsed["Statement"].append(deny({"StringEquals": {KEY: ZERO}}))
    assert rules_of(parsed) == set()


def test_a_deny_that_is_not_understood_is_taken_never_to_apply() -> None:
    network = {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}
    parsed = policy()
    parsed["Statement"].append(deny(network))
    assert rules_of(parsed) == {("warning", "not-evaluated")}
    no_denies(parsed)
    parsed["Statement"] += [deny(network), allow()]
    assert ("error", "no-attestation") in rules_of(parsed)


def test_a_deny_over_several_keys_is_followed_through() -> None:
    """It denies only what lacks both; a context alone gets past it."""
    parsed = policy()
    no_denies(parsed)
    parsed["Statement"] += [
        {
            "Sid": "Both",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "kms:*",
            "Resource": "*",
            "Condition": {
                "Null": {KEY: "true", "kms:EncryptionContext:administrator": "true"}
            },
        },
        allow(),
    ]
    (finding,) = (
        one for one in lint(json.dumps(parsed)) if one.rule == "no-attestation"
    )
    assert "kms:encryptioncontext:administrator=" in finding.example


def test_a_policy_too_entangled_to_judge_is_not_called_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(witness, "MAX_STEPS", 1)
    findings = lint(ours().text)
    assert "not-judged" in {one.rule for one in findings}
    assert not is_clean(findings)


def test_two_names_that_differ_in_case_are_two_values_of_one_key() -> None:
    """KMS takes `Administrator` beside `administrator` into one encryption context."""
    name = "kms:EncryptionContext:administrator"
    parsed = policy()
    no_denies(parsed)
    for sid in ("EnclaveMakesVaultKey", "EnclaveOpensVaultAndImportedKeys"):
        condition = statement(parsed, sid)["Condition"]
        condition["ForAnyValue:StringEquals"] = {
            name: condition["StringEquals"].pop(name)
        }
    assert ("error", "any-administrator") in rules_of(parsed)


def test_a_value_that_fits_two_patterns_is_found_though_it_is_written_nowhere() -> None:
    found = {"StringLike": {"kms:ViaService": "a*"}}
    parsed = policy()
    no_denies(parsed)
    parsed["Statement"] += [
        allow(Condition=found),
        deny({"StringNotLike": {"kms:ViaService": "*b"}}),
        deny({"StringEquals": {"kms:ViaService": "ab"}}),
    ]
    assert ("error", "no-attestation") in rules_of(parsed)
    found["StringLike"] = {"kms:ViaService": "a"}
    assert ("error", "no-attestation") not in rules_of(parsed)


def test_a_role_whose_name_fits_two_patterns_is_asked_for() -> None:
    here = f"arn:aws:iam::{ACCOUNT}:role/"
    condition = {
        "ArnLike": {"aws:PrincipalArn": f"{here}ad*"},
        "StringLike": {"aws:PrincipalArn": "*min"},
    }
    parsed = policy()
    no_denies(parsed)
    parsed["Statement"].append(allow(Principal="*", Condition=condition))
    (finding,) = (
        one for one in lint(json.dumps(parsed)) if one.rule == "no-attestation"
    )
    assert f"{here}admin may" in finding.example


@pytest.mark.parametrize(
    "condition",
    [
        # As many kinds of values as there are sets of letters.
        {"ForAnyValue:StringLike": {f"kms:EncryptionContext:{'x' * 9}": ["*"]}}
        | {
            f"ForAllValues:{operator}": {
                f"kms:EncryptionContext:{'x' * 9}": [
                    f"*{letter}*" for letter in letters
                ]
            }
            for operator, letters in (
                ("StringLike", "ab"),
                ("StringNotLike", "bc"),
                ("StringLikeIfExists", "cd"),
                ("StringNotLikeIfExists", "de"),
                ("ArnLike", "ef"),
            )
        },
        {"StringLike": {"kms:ViaService": [f"*{one}*" * 3 for one in "abcdefghij"]}},
        {"StringLike": {"aws:PrincipalArn": [f"*{one}*" * 3 for one in "abcdefghij"]}},
    ],
    ids=["sets", "patterns", "principals"],
)
def test_what_is_too_entangled_to_be_searched_is_not_called_clean(
    condition: dict[str, Any],
) -> None:
    parsed = policy()
    parsed["Statement"].append(allow(Condition=condition))
    assert ("error", "not-judged") in rules_of(parsed)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"Statement":[]}', "x" * 40_000]
)
def test_what_is_no_policy_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        lint(text)


def test_findings_come_with_the_worst_first() -> None:
    severities = [one.severity for one in lint(json.dumps(reference_template()))]
    order = [Severity.ERROR, Severity.WARNING, Severity.NOTE]
    assert severities == sorted(severities, key=order.index)


def test_every_rule_is_explained_in_the_operations_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs/operations/key-policy.md").read_text()
    rules = {row[2][1] for row in (*WITHOUT_DENIES, *CHANGED)} - {""}
    rules |= {one.rule for one in lint(json.dumps(reference_template()))}
    rules |= {"nobody-opens", "final", "not-judged", "debug-enclave"}
    assert {rule for rule in rules if f"`{rule}`" not in guide} == set()
