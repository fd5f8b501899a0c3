"""The key policy of each template, asked by the emulated KMS's evaluator."""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.image.policy_document import parse_policy
from nitrosigner.image.policy_evaluation import (
    Caller,
    ContextValue,
    Question,
    Ruling,
    context_of,
    evaluate,
)

ACCOUNT = "123456789012"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1"
ROLES = {
    name: f"arn:aws:iam::{ACCOUNT}:role/{name}"
    for name in ("enclave", "gateway", "canary", "probe", "administrator", "stranger")
}
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
OTHER_IMAGE, ZERO = "ef" * 48, "0" * 96
CONSTRUCTS = {
    "enclave": "InstanceRole",
    "gateway": "GatewayRole",
    "canary": "CanaryRole",
}
REVEALING = (
    "Decrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "DeriveSharedSecret",
)


def resolved(synthesized: Any, stack: str) -> dict[str, Any]:
    """Return the policy as CloudFormation would hand it to KMS."""
    policy = synthesized.only(stack, "AWS::KMS::Key")["Properties"]["KeyPolicy"]

    def walk(value: Any) -> Any:
        if isinstance(value, dict) and "Fn::GetAtt" in value:
            logical, attribute = value["Fn::GetAtt"]
            assert attribute == "Arn"
            (role,) = (r for r, c in CONSTRUCTS.items() if logical.startswith(c))
            return ROLES[role]
        if isinstance(value, dict) and "Fn::Join" in value:
            # Two are put together: CloudFormation's own role, and the account.
            if "cfn-exec-role" in json.dumps(value):
                return ROLES["administrator"]
            assert value["Fn::Join"][1][-1] == ":root"
            return ROOT
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return value

    answer: dict[str, Any] = walk(copy.deepcopy(policy))
    return answer


def ask(
    policy: dict[str, Any],
    principal: str,
    action: str,
    *,
    image: str | None = None,
    context: dict[str, str] | None = None,
    registers: dict[int, str] | None = None,
) -> Ruling:
    pairs: list[tuple[str, ContextValue]] = [("aws:PrincipalArn", principal)]
    pairs += [
        (f"kms:EncryptionContext:{name}", value)
        for name, value in (context or {}).items()
    ]
    if image is not None:
        pairs.append(("kms:RecipientAttestation:ImageSha384", image))
        pairs.append(("kms:RecipientAttestation:PCR0", image))
    pairs += [
        (f"kms:RecipientAttestation:PCR{index}", value)
        for index, value in (registers or {}).items()
    ]
    session = principal.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/")
    caller = Caller(principal, f"{session}/one", ACCOUNT)
    question = Question(caller, f"kms:{action}", KEY, context_of(pairs))
    return evaluate(parse_policy(json.dumps(policy), of_key=True), question)


def ours(synthesized: Any, stack: str, purpose: str) -> dict[str, str]:
    outputs = synthesized.template(stack)["Outputs"]
    return {
        "administrator": outputs["Administrator"]["Value"],
        "deployment": outputs["Deployment"]["Value"],
        "purpose": purpose,
    }


def admitted(synthesized: Any, stack: str) -> list[str]:
    value: str = synthesized.template(stack)["Outputs"]["Measurements"]["Value"]
    return value.split(",")


def test_each_admitted_image_makes_and_opens_the_vault(
    synthesized: Any, stack: str
) -> None:
    policy = resolved(synthesized, stack)
    measurements = admitted(synthesized, stack)
    assert len(measurements) == (1 if stack.startswith("dev") else 2)
    for image in measurements:
        for action, purpose, expected in (
            ("GenerateDataKey", "vault", True),
            ("Decrypt", "vault", True),
            ("Decrypt", "key", True),
            ("GenerateDataKey", "key", False),
            ("Decrypt", "canary", False),
        ):
            ruling = ask(
                policy,
                ROLES["enclave"],
                action,
                image=image,
                context=ours(synthesized, stack, purpose),
            )
            assert (ruling.allowed and not ruling.denied) is expected, (action, purpose)


def test_only_the_measured_enclave_of_the_administrator_reveals_anything(
    synthesized: Any, stack: str
) -> None:
    policy = resolved(synthesized, stack)
    measurements = admitted(synthesized, stack)
    passed = set()
    for principal, action, image, purpose in itertools.product(
        [*ROLES.values(), ROOT],
        REVEALING,
        (None, *measurements, OTHER_IMAGE, ZERO),
        (None, "vault", "key", "canary"),
    ):
        context = None if purpose is None else ours(synthesized, stack, purpose)
        ruling = ask(policy, principal, action, image=image, context=context)
        # Were anything delegated, identity policies could allow it.
        assert not ruling.delegated
        if ruling.allowed and not ruling.denied:
            passed.add((principal, action, image, purpose))
    assert passed == {
        (ROLES["enclave"], action, image, purpose)
        for image in measurements
        for action, purpose in (
            ("GenerateDataKey", "vault"),
            ("Decrypt", "vault"),
            ("Decrypt", "key"),
        )
    }


@pytest.mark.parametrize("changed", ["administrator", "deployment"])
def test_a_manifest_of_somebody_or_something_else_opens_nothing(
    synthesized: Any, stack: str, changed: str
) -> None:
    policy = resolved(synthesized, stack)
    (image, *_) = admitted(synthesized, stack)
    for context in (
        {**ours(synthesized, stack, "vault"), changed: "ff" * 32},
        {
            name: value
            for name, value in ours(synthesized, stack, "vault").items()
            if name != changed
        },
    ):
        ruling = ask(policy, ROLES["enclave"], "Decrypt", image=image, context=context)
        assert ruling.denied


def test_a_debug_key_opens_nothing_for_a_production_manifest_nor_the_reverse(
    synthesized: Any,
) -> None:
    for here, there in itertools.permutations(
        ("devNitroWalletEth", "prodNitroWalletEth")
    ):
        policy = resolved(synthesized, here)
        for image in (*admitted(synthesized, here), *admitted(synthesized, there)):
            ruling = ask(
                policy,
                ROLES["enclave"],
                "Decrypt",
                image=image,
                context=ours(synthesized, there, "vault"),
            )
            assert ruling.denied


def test_only_production_keys_refuse_debug_enclaves(
    synthesized: Any, stack: str
) -> None:
    ruling = ask(
        resolved(synthesized, stack),
        ROLES["enclave"],
        "Decrypt",
        image=ZERO,
        context=ours(synthesized, stack, "vault"),
    )
    assert ruling.denied is not stack.startswith("dev")


def test_encrypting_is_for_gateway_and_canary_each_for_its_own_purpose(
    synthesized: Any, stack: str
) -> None:
    policy = resolved(synthesized, stack)
    passed = {
        (principal, purpose)
        for principal in [*ROLES.values(), ROOT]
        for purpose in ("vault", "key", "canary", None)
        if ask(
            policy,
            principal,
            "Encrypt",
            context=None if purpose is None else ours(synthesized, stack, purpose),
        ).allowed
    }
    assert passed == {(ROLES["gateway"], "key"), (ROLES["canary"], "canary")}


LOOKING = {"DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListResourceTags"}


def test_the_deployment_manages_the_key_and_the_account_only_looks(
    synthesized: Any, stack: str
) -> None:
    policy = resolved(synthesized, stack)
    # What CloudFormation calls to create, update and delete the key.
    for action in (
        "DescribeKey",
        "PutKeyPolicy",
        "GetKeyPolicy",
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "UpdateKeyDescription",
        "TagResource",
        "ListResourceTags",
        "ScheduleKeyDeletion",
        "CreateAlias",
        "DeleteAlias",
    ):
        assert ask(policy, ROLES["administrator"], action).allowed, action
        for principal in (ROOT, ROLES["enclave"], ROLES["gateway"], ROLES["canary"]):
            ruling = ask(policy, principal, action)
            looks = principal == ROOT and action in LOOKING
            assert ruling.allowed is looks, (principal, action)
            # IAM decides who may look, and nothing else.
            assert ruling.delegated is (action in LOOKING), (principal, action)


def test_nobody_grants(synthesized: Any, stack: str) -> None:
    policy = resolved(synthesized, stack)
    for principal in [*ROLES.values(), ROOT]:
        assert ask(policy, principal, "CreateGrant").denied


def test_the_policy_fits_into_what_kms_takes(synthesized: Any, stack: str) -> None:
    assert len(json.dumps(resolved(synthesized, stack))) < 32 * 1024


def test_the_key_rotates_and_in_production_stays(synthesized: Any, stack: str) -> None:
    key = synthesized.only(stack, "AWS::KMS::Key")
    assert key["Properties"]["EnableKeyRotation"] is True
    assert key["Properties"]["PendingWindowInDays"] == 30
    keep = "Delete" if stack.startswith("dev") else "Retain"
    assert key["DeletionPolicy"] == keep
    assert key["UpdateReplacePolicy"] == keep
    assert ("DEBUG" in key["Properties"]["Description"]) is stack.startswith("dev")


def test_our_own_linter_finds_nothing_in_production_and_the_zeros_in_debug(
    synthesized: Any, stack: str
) -> None:
    from nitrosigner.image.key_policy_lint import is_clean, lint

    findings = lint(json.dumps(resolved(synthesized, stack)))
    assert is_clean(findings) is not stack.startswith("dev"), findings


def test_a_final_policy_can_be_changed_by_nobody(node: None) -> None:
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.settings import parse, plans
    from nitrosigner.infrastructure.vault_key import policy_document

    del node
    chosen = {"administrator": "a1" * 32, "final_key_policy": True}
    settings = parse(json.dumps({"stacks": {"prodNitroWalletEth": chosen}}).encode())
    plan = next(one for one in plans(settings, measured=True) if not one.debug)
    text = json.dumps(policy_document(plan, MeasuredImage(None, "ab" * 48, [])))
    stand_in = "arn:aws:iam::000000000000:role/administrator"
    ruling = ask(json.loads(text), stand_in, "PutKeyPolicy")
    assert ruling.denied


def test_another_revision_is_another_policy_that_says_the_same(node: None) -> None:
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.settings import parse, plans
    from nitrosigner.infrastructure.vault_key import policy_document

    del node
    written = []
    for revision in (0, 1, 2):
        chosen = {"administrator": "a1" * 32, "key_policy_revision": revision}
        text = json.dumps({"stacks": {"prodNitroWalletEth": chosen}}).encode()
        plan = next(one for one in plans(parse(text), measured=True) if not one.debug)
        written.append(policy_document(plan, MeasuredImage(None, "ab" * 48, [])))
    assert len({one["Id"] for one in written}) == 3
    assert written[0]["Statement"] == written[1]["Statement"] == written[2]["Statement"]


def test_pcr3_and_pcr8_are_asked_for_where_configured(node: None) -> None:
    from nitrosigner.infrastructure.measured_image import MeasuredImage
    from nitrosigner.infrastructure.settings import parse, plans
    from nitrosigner.infrastructure.vault_key import policy_document

    del node
    chosen = {
        "administrator": "a1" * 32,
        "pcr3": ["33" * 48],
        "signed_image": True,
    }
    settings = parse(json.dumps({"stacks": {"prodNitroWalletEth": chosen}}).encode())
    plan = next(one for one in plans(settings, measured=True) if not one.debug)
    eif = Path(__file__)  # Anything: it says that there is an image.
    image = MeasuredImage(eif, "ab" * 48, [], pcr8="88" * 48)
    policy = policy_document(plan, image)
    stand_in = "arn:aws:iam::000000000000:role/enclave"
    context = {
        "administrator": "a1" * 32,
        "deployment": "prod-nitro-wallet-eth",
        "purpose": "vault",
    }
    right = {3: "33" * 48, 8: "88" * 48}
    for action in ("Decrypt", "GenerateDataKey"):
        for registers, opened in (
            (right, True),
            ({**right, 3: "34" * 48}, False),
            ({**right, 8: "89" * 48}, False),
            ({**right, 8: ZERO}, False),
            ({3: right[3]}, False),
            ({8: right[8]}, False),
            ({}, False),
        ):
            for changed in (policy, open_to_everybody(policy)):
                ruling = ask(
                    changed,
                    stand_in,
                    action,
                    image="ab" * 48,
                    context=context,
                    registers=registers,
                )
                assert (ruling.allowed and not ruling.denied) is opened, registers


def open_to_everybody(policy: dict[str, Any]) -> dict[str, Any]:
    """Return *policy* with an Allow that somebody adds: only Denies stand against it."""
    wide = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    return {**policy, "Statement": [*policy["Statement"], wide]}


def test_whatever_is_allowed_later_only_the_measured_enclave_opens(
    synthesized: Any, stack: str
) -> None:
    policy = open_to_everybody(resolved(synthesized, stack))
    measurements = admitted(synthesized, stack)
    for principal, action, image, purpose in itertools.product(
        [*ROLES.values(), ROOT], REVEALING, (None, OTHER_IMAGE, ZERO), ("vault", "key")
    ):
        if image in measurements:
            continue
        context = ours(synthesized, stack, purpose)
        assert ask(policy, principal, action, image=image, context=context).denied
    for principal in [*ROLES.values(), ROOT]:
        if principal != ROLES["enclave"]:
            ruling = ask(
                policy,
                principal,
                "Decrypt",
                image=measurements[0],
                context=ours(synthesized, stack, "vault"),
            )
            assert ruling.denied


def test_no_other_statement_even_mentions_opening_among_what_it_allows(
    synthesized: Any, stack: str
) -> None:
    # The denies would stop it; an Allow that is there by mistake is still a mistake.
    opening = {
        statement["Sid"]
        for statement in resolved(synthesized, stack)["Statement"]
        if statement["Effect"] == "Allow"
        and any(
            action.startswith(("kms:Decrypt", "kms:Generate", "kms:ReEncrypt", "kms:*"))
            for action in statement["Action"]
        )
    }
    assert opening == {"EnclaveMakesVaultKey", "EnclaveOpensVaultAndImportedKeys"}
