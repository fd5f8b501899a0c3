"""What the templates say, property by property."""

import importlib
import io
import json
import os
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

SNAPSHOT = Path(__file__).with_name("resource_types.json")
WALLETS = ("devNitroWalletEth", "prodNitroWalletEth")
VALIDATORS = ("devNitroValidator", "prodNitroValidator")
MAX_TEMPLATE, MAX_RESOURCES, MAX_OUTPUTS = 1_000_000, 500, 200
MAX_PARAMETERS, MAX_MAPPINGS, MAX_DESCRIPTION, MAX_LOGICAL_ID = 200, 200, 1024, 255


def test_resource_types_are_as_they_were(synthesized: Any) -> None:
    found = {
        stack: dict(
            sorted(
                Counter(
                    resource["Type"]
                    for resource in synthesized.template(stack)["Resources"].values()
                ).items()
            )
        )
        for stack in (*WALLETS, *VALIDATORS)
    }
    text = json.dumps(found, indent=1) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text, "review, then run with UPDATE_SNAPSHOTS=1"


def test_templates_stay_under_cloudformations_limits(
    synthesized: Any, stack: str
) -> None:
    template = synthesized.template(stack)
    written = (synthesized.folder / f"{stack}.template.json").stat().st_size
    assert written < MAX_TEMPLATE / 2
    assert len(template["Resources"]) < MAX_RESOURCES / 2
    assert len(template["Outputs"]) < MAX_OUTPUTS / 2
    assert len(template["Parameters"]) < MAX_PARAMETERS / 2
    assert len(template.get("Mappings", {})) < MAX_MAPPINGS / 2
    assert len(template["Description"]) < MAX_DESCRIPTION
    assert max(map(len, template["Resources"])) <= MAX_LOGICAL_ID


# network


def test_no_subnet_leads_out_and_nothing_has_a_public_address(
    synthesized: Any, stack: str
) -> None:
    for kind in ("InternetGateway", "NatGateway", "EIP", "EgressOnlyInternetGateway"):
        assert not synthesized.resources(stack, f"AWS::EC2::{kind}")
    assert not synthesized.resources(stack, "AWS::EC2::Route")
    subnets = synthesized.resources(stack, "AWS::EC2::Subnet").values()
    zones = {json.dumps(one["Properties"]["AvailabilityZone"]) for one in subnets}
    assert len(zones) == 2
    assert not any(one["Properties"]["MapPublicIpOnLaunch"] for one in subnets)


def test_nothing_may_leave_but_to_endpoints_and_to_the_signer(
    synthesized: Any, stack: str
) -> None:
    for group in synthesized.resources(stack, "AWS::EC2::SecurityGroup").values():
        for rule in group["Properties"].get("SecurityGroupEgress", []):
            # How CDK says: nothing at all.
            assert rule["CidrIp"] == "255.255.255.255/32"
    found = set()
    for one in synthesized.resources(stack, "AWS::EC2::SecurityGroupEgress").values():
        rule = one["Properties"]
        assert rule["IpProtocol"] == "tcp"
        assert rule["FromPort"] == rule["ToPort"]
        assert not {"CidrIp", "CidrIpv6"} & rule.keys()
        to = rule.get("DestinationSecurityGroupId") or rule["DestinationPrefixListId"]
        found.add((short(rule["GroupId"]), short(to), rule["FromPort"]))
    assert found == {
        ("Clients", "Endpoints", 443),
        ("Clients", "Entrance", 443),
        ("Entrance", "Signers", 8443),
        ("Signers", "Endpoints", 443),
        ("Signers", "PrefixListss3", 443),
        ("Signers", "PrefixListsdynamodb", 443),
    }


def test_nothing_wears_the_default_security_group(synthesized: Any, stack: str) -> None:
    worn = []
    for kind, name in (
        ("AWS::EC2::VPCEndpoint", "Endpoints"),
        ("AWS::ElasticLoadBalancingV2::LoadBalancer", "Entrance"),
        ("AWS::Lambda::Function", "Clients"),
    ):
        for resource in synthesized.resources(stack, kind).values():
            properties = resource["Properties"]
            if properties.get("VpcEndpointType") == "Gateway" or (
                kind == "AWS::Lambda::Function" and "VpcConfig" not in properties
            ):
                continue
            properties = properties.get("VpcConfig", properties)
            (group,) = (
                properties.get("SecurityGroupIds") or properties["SecurityGroups"]
            )
            worn.append((short(group), name))
    template = synthesized.only(stack, "AWS::EC2::LaunchTemplate")["Properties"]
    (group,) = template["LaunchTemplateData"]["SecurityGroupIds"]
    worn.append((short(group), "Signers"))
    assert len(worn) == 9 + 1 + 3 + 1
    assert all(one == expected for one, expected in worn)


def short(reference: dict[str, Any]) -> str:
    name: str = reference["Fn::GetAtt"][0]
    name = name.removeprefix("Network").split("SecurityGroup")[0]
    return name[:-8] if name.startswith("PrefixLists") else name


def test_prefix_lists_are_asked_of_aws_by_their_names(
    synthesized: Any, stack: str
) -> None:
    asked = synthesized.resources(stack, "Custom::AWS").values()
    names = []
    for one in asked:
        text = json.dumps(one["Properties"]["Create"]).replace("\\", "")
        assert '"action":"DescribeManagedPrefixLists"' in text
        # Anybody may give a list of his own such a name.
        assert '"owner-id","Values":["AWS"]' in text
        names.append(re.findall(r"\.(s3|dynamodb)\"", text))
        assert one["Properties"]["InstallLatestAwsSdk"] is False
    assert sorted(names) == [["dynamodb"], ["s3"]]


def test_instances_start_after_what_they_need_to_install_themselves(
    synthesized: Any, stack: str
) -> None:
    group = synthesized.only(stack, "AWS::AutoScaling::AutoScalingGroup")
    needed = {
        name
        for kind in (
            "AWS::EC2::VPCEndpoint",
            "AWS::EC2::SecurityGroupEgress",
            "AWS::EC2::SecurityGroupIngress",
            "AWS::KMS::Key",
        )
        for name in synthesized.resources(stack, kind)
        if "fromprodNitro" not in name
    }
    assert needed <= set(group["DependsOn"])


def test_every_service_is_reached_through_an_endpoint_for_this_account(
    synthesized: Any, stack: str
) -> None:
    found = set()
    for resource in synthesized.resources(stack, "AWS::EC2::VPCEndpoint").values():
        properties = resource["Properties"]
        name = json.dumps(properties["ServiceName"])
        service = name.rstrip('"]} ').rsplit("}, ", 1)[-1].strip('". ')
        found.add((properties["VpcEndpointType"], service))
        for statement in properties["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            actions = statement["Action"]
            assert "*" not in json.dumps(actions)
            if statement["Sid"] == "PackagesAndLayersOfAws":
                assert actions == "s3:GetObject"
                continue
            assert statement["Condition"] == {
                "StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}
            }
            if statement["Sid"] != "OurCallsOnly":
                assert "AWS::AccountId" in json.dumps(statement["Resource"])
    assert found == {
        ("Interface", "kms"),
        ("Interface", "secretsmanager"),
        ("Interface", "ssm"),
        ("Interface", "ssmmessages"),
        ("Interface", "ec2messages"),
        ("Interface", "logs"),
        ("Interface", "autoscaling"),
        ("Interface", "ecr.api"),
        ("Interface", "ecr.dkr"),
        ("Gateway", "s3"),
        ("Gateway", "dynamodb"),
    }


def test_only_the_load_balancer_reaches_the_parents_and_only_clients_reach_it(
    synthesized: Any, stack: str
) -> None:
    groups = synthesized.resources(stack, "AWS::EC2::SecurityGroup")
    assert not any(
        "SecurityGroupIngress" in one["Properties"] for one in groups.values()
    )

    found = {
        (
            short(one["Properties"]["SourceSecurityGroupId"]),
            short(one["Properties"]["GroupId"]),
            one["Properties"]["FromPort"],
            one["Properties"]["ToPort"],
        )
        for one in synthesized.resources(
            stack, "AWS::EC2::SecurityGroupIngress"
        ).values()
    }
    assert found == {
        ("Clients", "Entrance", 443, 443),
        ("Entrance", "Signers", 8443, 8443),
        ("Signers", "Endpoints", 443, 443),
        ("Clients", "Endpoints", 443, 443),
    }


def test_flows_are_logged(synthesized: Any, stack: str) -> None:
    flow = synthesized.only(stack, "AWS::EC2::FlowLog")["Properties"]
    assert flow["TrafficType"] == "ALL"


# fleet


def test_instances_are_enclave_parents_locked_down(
    synthesized: Any, stack: str
) -> None:
    template = synthesized.only(stack, "AWS::EC2::LaunchTemplate")
    data = template["Properties"]["LaunchTemplateData"]
    assert data["EnclaveOptions"] == {"Enabled": True}
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert data["InstanceType"] == "c6a.xlarge"
    assert "KeyName" not in data
    for mapping in data["BlockDeviceMappings"]:
        assert mapping["Ebs"]["Encrypted"] is True
        assert mapping["Ebs"]["VolumeType"] == "gp3"
    parameters = synthesized.template(stack)["Parameters"]
    image = parameters[data["ImageId"]["Ref"]]
    assert image["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    assert image["Default"] == (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    )


def test_at_least_two_instances_replaced_one_by_one_when_they_cannot_sign(
    synthesized: Any, stack: str
) -> None:
    group = synthesized.only(stack, "AWS::AutoScaling::AutoScalingGroup")
    properties = group["Properties"]
    assert int(properties["MinSize"]) >= 2
    assert properties["HealthCheckType"] == "ELB"
    assert len(properties["VPCZoneIdentifier"]) == 2
    assert properties["TargetGroupARNs"]
    assert properties["NotificationConfigurations"]
    refresh = group["UpdatePolicy"]["AutoScalingInstanceRefresh"]
    assert refresh["Strategy"] == "Rolling"
    assert refresh["Preferences"]["MinHealthyPercentage"] == 100
    assert refresh["Preferences"]["MaxHealthyPercentage"] > 100


def test_an_unhealthy_instance_stays_until_its_substitute_can_sign(
    synthesized: Any, stack: str
) -> None:
    group = synthesized.only(stack, "AWS::AutoScaling::AutoScalingGroup")
    policy = group["Properties"]["InstanceMaintenancePolicy"]
    assert policy == {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 150}


def test_an_instance_is_held_back_until_it_can_sign_and_drained_before_it_goes(
    synthesized: Any, stack: str
) -> None:
    # Hooks that are resources of their own come after the first instances.
    assert not synthesized.resources(stack, "AWS::AutoScaling::LifecycleHook")
    group = synthesized.only(stack, "AWS::AutoScaling::AutoScalingGroup")["Properties"]
    hooks = {
        hook["LifecycleTransition"].rsplit(":", 1)[1]: hook
        for hook in group["LifecycleHookSpecificationList"]
    }
    assert len(hooks) == 2
    launching = hooks["EC2_INSTANCE_LAUNCHING"]
    assert launching["DefaultResult"] == "ABANDON"
    terminating = hooks["EC2_INSTANCE_TERMINATING"]
    assert terminating["DefaultResult"] == "CONTINUE"
    # Longer than the parent drains.
    assert terminating["HeartbeatTimeout"] > 90
    # The names that the instances speak to.
    data = synthesized.only(stack, "AWS::EC2::LaunchTemplate")["Properties"]
    told = json.dumps(data["LaunchTemplateData"]["UserData"])
    for hook in hooks.values():
        assert hook["LifecycleHookName"] in told


def test_the_fleet_grows_with_the_load(synthesized: Any, stack: str) -> None:
    policy = synthesized.only(stack, "AWS::AutoScaling::ScalingPolicy")["Properties"]
    assert policy["PolicyType"] == "TargetTrackingScaling"
    group = synthesized.only(stack, "AWS::AutoScaling::AutoScalingGroup")["Properties"]
    assert int(group["MaxSize"]) > int(group["MinSize"])


# entrance


def test_tls_passes_the_load_balancer_unopened(synthesized: Any, stack: str) -> None:
    kind = "AWS::ElasticLoadBalancingV2::"
    balancer = synthesized.only(stack, f"{kind}LoadBalancer")["Properties"]
    assert balancer["Type"] == "network"
    assert balancer["Scheme"] == "internal"
    assert balancer["SecurityGroups"]
    listener = synthesized.only(stack, f"{kind}Listener")["Properties"]
    assert (listener["Port"], listener["Protocol"]) == (443, "TCP")
    assert "Certificates" not in listener
    targets = synthesized.only(stack, f"{kind}TargetGroup")["Properties"]
    assert (targets["Port"], targets["Protocol"]) == (8443, "TCP")
    assert targets["HealthCheckProtocol"] == "HTTPS"
    assert targets["HealthCheckPath"] == "/healthcheck"
    assert targets["HealthCheckPort"] == "8443"
    assert targets["Matcher"] == {"HttpCode": "200"}
    attributes = {
        one["Key"]: one["Value"] for one in balancer["LoadBalancerAttributes"]
    }
    assert attributes["load_balancing.cross_zone.enabled"] == "true"
    assert balancer["EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"] == "on"
    drain = {one["Key"]: one["Value"] for one in targets["TargetGroupAttributes"]}
    # What leaves takes nothing new, finishes what is open, and then says so.
    assert drain["deregistration_delay.timeout_seconds"] == "60"
    assert drain["deregistration_delay.connection_termination.enabled"] == "true"
    assert targets["HealthCheckIntervalSeconds"] <= 10
    assert targets["UnhealthyThresholdCount"] == 2
    protected = attributes["deletion_protection.enabled"] == "true"
    assert protected is stack.startswith("prod")


def test_the_signer_has_a_name_that_only_the_network_knows(
    synthesized: Any, stack: str
) -> None:
    zone = synthesized.only(stack, "AWS::Route53::HostedZone")["Properties"]
    assert zone["Name"] == f"{stack.lower()}.private."
    assert zone["VPCs"]
    record = synthesized.only(stack, "AWS::Route53::RecordSet")["Properties"]
    assert record["Name"] == f"signer.{stack.lower()}.private."
    assert "AliasTarget" in record


# stores


@pytest.mark.parametrize("stack", VALIDATORS)
def test_tables_are_protected_encrypted_and_recoverable(
    synthesized: Any, stack: str
) -> None:
    tables = synthesized.resources(stack, "AWS::DynamoDB::Table").values()
    assert len(tables) == 4
    debug = stack.startswith("dev")
    for table in tables:
        properties = table["Properties"]
        recovery = properties["PointInTimeRecoverySpecification"]
        assert recovery["PointInTimeRecoveryEnabled"] is True
        assert properties["SSESpecification"] == {"SSEEnabled": True}
        assert properties["DeletionProtectionEnabled"] is not debug
        assert table["DeletionPolicy"] == ("Delete" if debug else "Retain")
        assert table["UpdateReplacePolicy"] == ("Delete" if debug else "Retain")


@pytest.mark.parametrize("stack", VALIDATORS)
def test_tables_have_the_keys_that_the_stores_ask_for(
    synthesized: Any, stack: str
) -> None:
    from nitrosigner.untrusted.parent import dynamodb_store, dynamodb_watermarks

    found = {}
    for name, table in synthesized.resources(stack, "AWS::DynamoDB::Table").items():
        types = {
            one["AttributeName"]: one["AttributeType"]
            for one in table["Properties"]["AttributeDefinitions"]
        }
        short = name.removeprefix("Stores")
        short = short[: short.index("Table")]
        found[short] = [
            (one["AttributeName"], types[one["AttributeName"]])
            for one in table["Properties"]["KeySchema"]
        ]
    assert found == {
        "ValidatorKey": [("web3signer_uuid", "S"), ("pubkey", "S")],
        "TLSKey": [("key_id", "N")],
        "Record": [
            (dynamodb_store.PARTITION_KEY, "S"),
            (dynamodb_store.SORT_KEY, "S"),
        ],
        "Watermark": [(dynamodb_watermarks.PARTITION_KEY, "S")],
    }


def test_the_gateways_token_is_made_by_secrets_manager_and_kept(
    synthesized: Any, stack: str
) -> None:
    secret = synthesized.only(stack, "AWS::SecretsManager::Secret")
    generated = secret["Properties"]["GenerateSecretString"]
    # 62 characters to choose from: log2(62) * 64 is 381 bits.
    assert generated["PasswordLength"] == 64
    assert "SecretString" not in secret["Properties"]
    kept = "Delete" if stack.startswith("dev") else "Retain"
    assert secret["DeletionPolicy"] == kept


@pytest.mark.parametrize("stack", ["prodNitroWalletEth", "prodNitroValidator"])
def test_production_keeps_everything_that_holds_something(
    synthesized: Any, stack: str
) -> None:
    for kind in (
        "AWS::KMS::Key",
        "AWS::DynamoDB::Table",
        "AWS::SecretsManager::Secret",
        "AWS::Logs::LogGroup",
    ):
        for resource in synthesized.resources(stack, kind).values():
            assert resource["DeletionPolicy"] == "Retain"
            assert resource["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("stack", ["devNitroWalletEth", "devNitroValidator"])
def test_debug_stacks_leave_nothing_behind(synthesized: Any, stack: str) -> None:
    for name, resource in synthesized.template(stack)["Resources"].items():
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            assert resource.get(policy, "Delete") == "Delete", name


# gateway


def test_functions_run_in_the_network_and_are_told_nothing_secret(
    synthesized: Any, stack: str
) -> None:
    functions = synthesized.resources(stack, "AWS::Lambda::Function")
    ours = [one for name, one in functions.items() if not name.startswith("AWS")]
    assert (len(ours), len(functions)) == (3, 4)
    for function in ours:
        properties = function["Properties"]
        assert len(properties["VpcConfig"]["SubnetIds"]) == 2
        assert properties["Runtime"] == "python3.13"
        assert properties["ReservedConcurrentExecutions"] >= 1
        assert "DEBUG" not in properties["Environment"]["Variables"].values()


def test_the_gateway_expects_what_kms_admits(synthesized: Any, stack: str) -> None:
    from nitrosigner.untrusted.gateway import configuration

    function = synthesized.named(stack, "AWS::Lambda::Function", "Gateway")
    variables = function["Properties"]["Environment"]["Variables"]
    plain = {
        name: value if isinstance(value, str) else "arn:aws:something"
        for name, value in variables.items()
    }
    read = configuration.from_environment(plain)
    outputs = synthesized.template(stack)["Outputs"]
    assert {one.hex() for one in read.pcr0} == set(
        outputs["Measurements"]["Value"].split(",")
    )
    assert read.administrator == outputs["Administrator"]["Value"]
    assert read.deployment == outputs["Deployment"]["Value"]
    assert read.signer_url == f"https://signer.{stack.lower()}.private"
    assert read.debug_expected is stack.startswith("dev")
    handler = function["Properties"]["Handler"]
    module, name = handler.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("stack", VALIDATORS)
def test_the_validators_gateway_is_told_how_to_start_and_stop(
    synthesized: Any, stack: str
) -> None:
    from nitrosigner.untrusted.gateway import instance_control

    function = synthesized.named(stack, "AWS::Lambda::Function", "Gateway")
    variables = {
        name: value if isinstance(value, str) else "a-reference"
        for name, value in function["Properties"]["Environment"]["Variables"].items()
    }
    names = instance_control.names_from(variables)
    assert names.auto_scaling_group == f"{stack}-signers"
    assert names.flag


# control


def test_instances_are_commanded_by_documents_without_parameters(
    synthesized: Any, stack: str
) -> None:
    documents = synthesized.resources(stack, "AWS::SSM::Document").values()
    names = {document["Properties"]["Name"] for document in documents}
    assert names == {
        f"nitrosigner-{stack}-{command}" for command in ("start", "stop", "status")
    }
    for document in documents:
        assert "parameters" not in document["Properties"]["Content"]
    flag = synthesized.only(stack, "AWS::SSM::Parameter")["Properties"]
    assert flag["Value"] == "false"
    assert flag["Name"] == f"/nitrosigner/{stack}/initialised"


# modes


def test_debug_stacks_say_so_wherever_somebody_may_look(
    synthesized: Any, stack: str
) -> None:
    debug = stack.startswith("dev")
    template = synthesized.template(stack)
    assert ("DEBUG" in template["Description"]) is debug
    assert (template["Outputs"]["Mode"]["Value"] == "DEBUG") is debug
    assert template["Outputs"]["Deployment"]["Value"].startswith("debug-") is debug
    key = synthesized.only(stack, "AWS::KMS::Key")["Properties"]
    assert (key["KeyPolicy"]["Id"].startswith("DEBUG")) is debug
    dashboard = synthesized.only(stack, "AWS::CloudWatch::Dashboard")["Properties"]
    assert ("DEBUG MODE" in json.dumps(dashboard)) is debug
    metadata = (synthesized.folder / f"{stack}.metadata.json").read_text()
    assert ("whoever runs the instances can read them" in metadata) is debug


def test_the_source_documents_outputs_are_there(synthesized: Any, stack: str) -> None:
    wanted = {
        "EC2InstanceRoleARN",
        "LambdaFunctionArn",
        "LambdaExecutionArn",
        "ASGGroupName",
        "KMSKeyARN",
    }
    if stack in VALIDATORS:
        wanted |= {
            "ValidatorKeysTableName",
            "TLSKeysTableName",
            "SignerELBFQDN",
            "Web3SignerInitFlagParamName",
        }
    assert wanted <= synthesized.template(stack)["Outputs"].keys()


# observability


def test_alarms_watch_what_must_not_happen_and_tell_somebody(
    synthesized: Any, stack: str
) -> None:
    alarms = {
        name.removeprefix("Observability")[:-8]: alarm["Properties"]
        for name, alarm in synthesized.resources(
            stack, "AWS::CloudWatch::Alarm"
        ).items()
        if name.startswith("Observability")
    }
    wanted = {
        "NoHealthySigner",
        "OneSignerLeft",
        "SignerNotReady",
        "UndecidedRate",
        "KmsDenied",
        "CertificateEnds",
        "UnattestedDecrypt",
        "CanarySilent",
    }
    if stack in VALIDATORS:
        wanted.add("SlashingRefused")
    assert alarms.keys() == wanted
    for alarm in alarms.values():
        assert alarm["AlarmActions"]
        assert alarm["AlarmDescription"]
    for silence in ("NoHealthySigner", "SignerNotReady", "CanarySilent"):
        assert alarms[silence]["TreatMissingData"] == "breaching"


def test_the_alarms_topic_lets_this_stacks_alarms_in_and_nobody_else(
    synthesized: Any, stack: str
) -> None:
    topic = synthesized.only(stack, "AWS::SNS::TopicPolicy")["Properties"]
    statements = topic["PolicyDocument"]["Statement"]
    denied, *allowed = sorted(statements, key=lambda one: one["Effect"] == "Allow")
    assert denied["Effect"] == "Deny"
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    services = {one["Principal"]["Service"]: one for one in allowed}
    # SNS' own policy is gone, so CloudWatch publishes by this statement or not at all.
    assert "cloudwatch.amazonaws.com" in services
    for statement in allowed:
        assert statement["Action"] == "sns:Publish"
        condition = statement["Condition"]
        assert condition["StringEquals"] == {
            "aws:SourceAccount": {"Ref": "AWS::AccountId"}
        }
        source = json.dumps(condition["ArnLike"]["aws:SourceArn"])
        assert f"alarm:{stack}-*" in source


def test_whoever_manages_the_key_is_told_of_at_once(
    synthesized: Any, stack: str
) -> None:
    rule = synthesized.named(stack, "AWS::Events::Rule", "NoticesKeyManaged")
    pattern = rule["Properties"]["EventPattern"]
    key = synthesized.template(stack)["Outputs"]["KMSKeyARN"]["Value"]
    assert pattern["detail"]["resources"] == {"ARN": [key]}
    assert {"PutKeyPolicy", "CreateGrant", "ScheduleKeyDeletion", "DisableKey"} <= set(
        pattern["detail"]["eventName"]
    )
    (target,) = rule["Properties"]["Targets"]
    assert (
        target["Arn"]
        == synthesized.template(stack)["Outputs"]["AlarmTopicArn"]["Value"]
    )
    # EventBridge publishes as a role, or not at all: the topic's policy has only alarms.
    assert target["RoleArn"]["Fn::GetAtt"][0].startswith("NoticesKeyManagedRole")


def counted(pattern: str, line: dict[str, Any]) -> bool:
    """What CloudWatch makes of a JSON filter, as far as ours go."""
    for clause in pattern.removeprefix("{ ").removesuffix(" }").split(" && "):
        field, operator, *wanted = clause.removeprefix("$.").split(" ", 2)
        value = line.get(field)
        if operator == "NOT":
            assert wanted == ["EXISTS"]
            holds = value is None
        elif operator == ">":
            holds = isinstance(value, int) and value > int(wanted[0])
        else:
            assert operator == "="
            holds = value == json.loads(wanted[0])
        if not holds:
            return False
    return True


def sums(synthesized: Any, stack: str, group: str, lines: list[Any]) -> dict[str, int]:
    """What each metric of the stack comes to, after *lines* in a log group."""
    found: dict[str, int] = {}
    for one in synthesized.resources(stack, "AWS::Logs::MetricFilter").values():
        properties = one["Properties"]
        if not properties["LogGroupName"]["Ref"].lower().startswith(group):
            continue
        (made,) = properties["MetricTransformations"]
        assert made["MetricNamespace"] == "nitrosigner"
        name = made["MetricName"].removeprefix(f"{stack}/")
        for line in lines:
            if counted(properties["FilterPattern"], line):
                value = made["MetricValue"]
                each = int(value) if value.isdigit() else line[value.removeprefix("$.")]
                found[name] = found.get(name, 0) + each
    return found


def test_the_logs_that_programs_write_become_the_metrics_that_alarms_watch(
    synthesized: Any, stack: str
) -> None:
    from nitrosigner.trusted.enclave.audit import AuditTrail, Facts
    from nitrosigner.untrusted.parent.event_log import Event as ParentEvent
    from nitrosigner.untrusted.parent.event_log import EventLog
    from nitrosigner.verdicts import Code

    clock: Any = SimpleNamespace(now=lambda: 1.0)
    trail = AuditTrail(cast("Any", None), clock, "b")

    def audited(**facts: Any) -> Any:
        return json.loads(trail._line("", Facts(operation="sign_duty", **facts)))

    many = {"keys": ("a", "b"), "count": 32}
    audit = [
        audited(outcome="signed"),
        audited(outcome="signed", **many),
        audited(outcome="refused", code=Code.SLASHABLE),
        audited(outcome="refused", code=Code.SLASHABLE, **many),
        audited(outcome="refused", code=Code.UNAUTHENTICATED),
        audited(outcome="undecided", code=Code.STORAGE_UNAVAILABLE, **many),
        audited(outcome="done"),
    ]
    assert sums(synthesized, stack, "audit", audit) == {
        "Signed": 33,
        "Refused": 34,
        "SlashingRefused": 33,
        "StrangersRefused": 1,
        "Undecided": 32,
    }
    stream = io.StringIO()
    log = EventLog(stream)
    log(ParentEvent.ENCLAVE_STATE, state="kms", code=Code.KMS_REFUSED)
    log(ParentEvent.ENCLAVE_STATE, state="ready", code="")
    log(ParentEvent.SERVICE_FAILED, kind="Get")
    parent = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sums(synthesized, stack, "parent", parent) == {
        "KmsDenied": 1,
        "StorageFailed": 1,
    }


def test_alarms_and_dashboard_show_metrics_that_somebody_makes(
    synthesized: Any, stack: str
) -> None:
    from nitrosigner.untrusted.gateway import attestation_canary, health_probe

    by_filters = {
        one["Properties"]["MetricTransformations"][0]["MetricName"]
        for one in synthesized.resources(stack, "AWS::Logs::MetricFilter").values()
    }
    looked = {
        *(attestation_canary.OPENED, attestation_canary.NOT_KNOWN),
        *(health_probe.READY, health_probe.DAYS_LEFT, health_probe.KEYS),
    }
    shown = set()
    for alarm in synthesized.resources(stack, "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        stats = [
            one["MetricStat"]["Metric"]
            for one in properties.get("Metrics", [])
            if "MetricStat" in one
        ]
        for one in stats or [properties]:
            dimensions = {
                each["Name"]: each["Value"] for each in one.get("Dimensions", [])
            }
            shown.add((one["Namespace"], one["MetricName"], dimensions.get("stack")))
    dashboard = synthesized.only(stack, "AWS::CloudWatch::Dashboard")["Properties"]
    body = "".join(
        one if isinstance(one, str) else "REFERENCE"
        for one in dashboard["DashboardBody"]["Fn::Join"][1]
    )
    for widget in json.loads(body)["widgets"]:
        for namespace, name, *more in widget["properties"].get("metrics", []):
            mine = more[1] if more[:1] == ["stack"] else None
            shown.add((namespace, name, mine))
    ours = {one for one in shown if one[0] == "nitrosigner"}
    expected = {("nitrosigner", name, None) for name in by_filters}
    expected |= {("nitrosigner", name, stack) for name in looked}
    assert ours <= expected
    # All but those are watched or shown somewhere.
    unseen = {name.removeprefix(f"{stack}/") for _, name, _ in expected - ours}
    assert unseen <= {"StrangersRefused", "StorageFailed"}


def test_metrics_are_made_from_what_the_programs_write(node: None) -> None:
    from nitrosigner.infrastructure import observability
    from nitrosigner.trusted.enclave.audit import Facts
    from nitrosigner.untrusted.parent.event_log import Event as ParentEvent
    from nitrosigner.verdicts import Code

    del node
    outcomes = Facts.__annotations__["outcome"].__args__
    for _, _, _, pattern, _ in observability.metric_filters():
        for field, value in re.findall(r'\$\.(\w+) = "(\w+)"', pattern):
            known: Any = {
                "outcome": outcomes,
                "code": {one.value for one in Code},
                "event": {one.value for one in ParentEvent},
            }[field]
            assert value in known, (field, value)


def test_the_canary_and_the_probe_run_by_themselves(
    synthesized: Any, stack: str
) -> None:
    rules = synthesized.resources(stack, "AWS::Events::Rule").values()
    schedules = {rule["Properties"].get("ScheduleExpression") for rule in rules}
    schedules.discard(None)
    assert schedules == {"rate(5 minutes)", "rate(1 minute)"}
    canary = synthesized.named(stack, "AWS::Lambda::Function", "Canary")
    variables = canary["Properties"]["Environment"]["Variables"]
    outputs = synthesized.template(stack)["Outputs"]
    assert variables == {
        "KMS_KEY_ARN": outputs["KMSKeyARN"]["Value"],
        "EXPECTED_PCR0": outputs["Measurements"]["Value"],
        "ADMINISTRATOR": outputs["Administrator"]["Value"],
        "DEPLOYMENT": outputs["Deployment"]["Value"],
        "STACK": stack,
    }
