"""Every IAM statement of every template, one by one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

READABLE = frozenset({"Allow", "Deny"})
# What AWS defines no resources for. The name of the statement says so too.
WITHOUT_RESOURCES = {
    "SystemsManagerKnowsNoResources": {
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    },
    "ListingKnowsNoResources": {
        "secretsmanager:BatchGetSecretValue",
        "secretsmanager:ListSecrets",
    },
    "PrefixListsKnowNoResources": {"ec2:DescribeManagedPrefixLists"},
    "NetworkInterfacesKnowNoResources": {
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
    },
}
PARTLY_WILD = {
    # The id before the name is Auto Scaling's; records come and go below a prefix;
    # log streams are named by instances; instances are meant by their tag.
    "SayWhetherItCanSign": ":autoScalingGroup:*:autoScalingGroupName/{stack}-signers",
    "RecordsBelowOnePrefix": ":secret:nitrosigner/{stack}/*",
    "SendToTheSignersOnly": ":instance/*",
}


def statements(
    synthesized: Any, stack: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every statement: the logical name, the role's, and the statement."""
    for name, policy in synthesized.resources(stack, "AWS::IAM::Policy").items():
        (role,) = (one["Ref"] for one in policy["Properties"]["Roles"])
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            yield name, role, statement
    for name, role_ in synthesized.resources(stack, "AWS::IAM::Role").items():
        assert "Policies" not in role_["Properties"], name
        assert "ManagedPolicyArns" not in role_["Properties"], name


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_endpoints_pass_what_the_roles_may_and_no_more(synthesized: Any) -> None:
    """Both jobs together, since their endpoints are the same."""
    services = (
        *("autoscaling", "dynamodb", "ec2messages", "kms", "logs"),
        *("secretsmanager", "ssm", "ssmmessages"),
    )
    used, passed = set(), set()
    for stack in ("prodNitroWalletEth", "prodNitroValidator"):
        for _, _, statement in statements(synthesized, stack):
            used |= set(listed(statement["Action"]))
        # By the key's policy alone, without IAM.
        key = synthesized.only(stack, "AWS::KMS::Key")["Properties"]["KeyPolicy"]
        for statement in key["Statement"]:
            if statement["Sid"].startswith(("Enclave", "Gateway", "Canary")):
                used |= set(listed(statement["Action"]))
        for endpoint in synthesized.resources(stack, "AWS::EC2::VPCEndpoint").values():
            for statement in endpoint["Properties"]["PolicyDocument"]["Statement"]:
                passed |= set(listed(statement["Action"]))
    of_endpoints = {one for one in passed if one.split(":")[0] in services}
    assert of_endpoints == {one for one in used if one.split(":")[0] in services}


def test_no_action_is_wild(synthesized: Any, stack: str) -> None:
    for _, _, statement in statements(synthesized, stack):
        assert statement["Effect"] in READABLE
        assert "NotAction" not in statement
        assert "NotResource" not in statement
        for action in listed(statement["Action"]):
            assert "*" not in action, statement


def test_each_wild_resource_is_one_that_we_know(synthesized: Any, stack: str) -> None:
    for name, _, statement in statements(synthesized, stack):
        sid = statement.get("Sid", "")
        actions = set(listed(statement["Action"]))
        for resource in listed(statement["Resource"]):
            text = json.dumps(resource)
            if statement["Effect"] == "Deny":
                continue
            if resource == "*":
                assert actions <= WITHOUT_RESOURCES[sid], (name, statement)
            elif "*" in text:
                assert PARTLY_WILD[sid].format(stack=stack) in text, (name, statement)


def test_denies_take_from_a_role_what_its_allow_could_not_leave_out(
    synthesized: Any, stack: str
) -> None:
    denies = {
        statement["Sid"]: statement
        for _, _, statement in statements(synthesized, stack)
        if statement["Effect"] == "Deny"
    }
    # Functions reach EC2 through nothing, and their code may not even with a way.
    interfaces = denies.pop("ItsCodeTouchesNoInterfaces")
    assert interfaces["Condition"] == {"Null": {"lambda:SourceFunctionArn": "false"}}
    assert (
        set(interfaces["Action"])
        == WITHOUT_RESOURCES["NetworkInterfacesKnowNoResources"]
    )
    if "Wallet" in stack:
        gone = denies.pop("NoRecordIsGoneForGood")
        assert gone["Action"] == "secretsmanager:DeleteSecret"
        assert gone["Condition"] == {
            "Bool": {"secretsmanager:ForceDeleteWithoutRecovery": "true"}
        }
        assert f"secret:nitrosigner/{stack}/*" in json.dumps(gone["Resource"])
    assert denies == {}


def test_instances_are_commanded_only_by_their_tag(
    synthesized: Any, stack: str
) -> None:
    found = [
        statement
        for _, _, statement in statements(synthesized, stack)
        if statement.get("Sid") == "SendToTheSignersOnly"
    ]
    assert len(found) == (1 if "Validator" in stack else 0)
    for statement in found:
        assert statement["Condition"] == {
            "StringEquals": {"ssm:resourceTag/nitrosigner:stack": stack}
        }


def test_no_role_may_use_the_key_by_iam_but_the_canary_which_must_fail(
    synthesized: Any, stack: str
) -> None:
    of_kms = [
        (role, action)
        for _, role, statement in statements(synthesized, stack)
        for action in listed(statement["Action"])
        if action.startswith("kms:")
    ]
    users, used = {role for role, _ in of_kms}, {action for _, action in of_kms}
    assert len(users) == 1
    assert users.pop().startswith("CanaryRole")
    assert used == {
        # What must fail, and what shows whether it would.
        *("kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"),
        *("kms:GetKeyPolicy", "kms:ListGrants"),
    }


def test_the_gateway_reads_its_token_and_no_record(
    synthesized: Any, stack: str
) -> None:
    reads = [
        statement
        for _, role, statement in statements(synthesized, stack)
        if role.startswith("GatewayRole")
        and any("secretsmanager" in action for action in listed(statement["Action"]))
    ]
    (statement,) = reads
    assert listed(statement["Action"]) == ["secretsmanager:GetSecretValue"]
    assert statement["Resource"] == {
        "Ref": next(iter(synthesized.resources(stack, "AWS::SecretsManager::Secret")))
    }


@pytest.mark.parametrize("stack", ["devNitroValidator", "prodNitroValidator"])
def test_no_role_deletes_watermarks_or_tables(synthesized: Any, stack: str) -> None:
    for _, _, statement in statements(synthesized, stack):
        actions = listed(statement["Action"])
        assert not {"dynamodb:DeleteTable", "dynamodb:UpdateTable"} & set(actions)
        if "Watermark" in json.dumps(statement["Resource"]):
            assert "dynamodb:DeleteItem" not in actions


def test_instances_fetch_two_objects_by_their_whole_names(
    synthesized: Any, stack: str
) -> None:
    (statement,) = (
        statement
        for _, role, statement in statements(synthesized, stack)
        if "s3:GetObject" in listed(statement["Action"])
    )
    assert len(statement["Resource"]) == 2
    assert "*" not in json.dumps(statement)


def test_roles_are_assumed_by_one_service_each(synthesized: Any, stack: str) -> None:
    for name, role in synthesized.resources(stack, "AWS::IAM::Role").items():
        (statement,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"].keys() == {"Service"}, name
        assert "*" not in json.dumps(statement)
