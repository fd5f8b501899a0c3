"""
The Lambda function in front of the signer, with the source documents' operations.

It may encrypt an imported key and never decrypt one; the key's policy says so again. It
verifies the enclave's attestation before it sends anything, so what it has to be told
is whom to expect.
"""

from collections.abc import Mapping
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from nitrosigner.infrastructure.network import Network
from nitrosigner.infrastructure.statements import allow, deny

RUNTIME: Final = lambda_.Runtime.PYTHON_3_13
TIMEOUT: Final = Duration.seconds(60)
MEMORY: Final = 512
_INTERFACES: Final = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)


class FunctionRole(Construct):
    """The role of a Lambda function in the network, and its log."""

    def __init__(
        self, scope: Construct, name: str, *, log_retention: logs.RetentionDays
    ) -> None:
        """Make them. Roles come before the key, whose policy names them."""
        super().__init__(scope, name)
        self.log = logs.LogGroup(self, "Log", retention=log_retention)
        self.role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com")
        )
        self.role.add_to_policy(
            allow(
                "WriteItsLog",
                ["logs:CreateLogStream", "logs:PutLogEvents"],
                [self.log.log_group_arn],
            )
        )
        # Lambda makes the network interfaces with the function's role, before there is
        # anything to name them by.
        self.role.add_to_policy(
            allow("NetworkInterfacesKnowNoResources", _INTERFACES, ["*"])
        )
        # Lambda says for which function's code it asks when it is the code that does.
        self.role.add_to_policy(
            deny(
                "ItsCodeTouchesNoInterfaces",
                _INTERFACES,
                ["*"],
                {"Null": {"lambda:SourceFunctionArn": "false"}},
            )
        )


def private_function(
    scope: Construct,
    name: str,
    *,
    role: FunctionRole,
    network: Network,
    description: str,
    handler: str,
    code: lambda_.Code,
    environment: Mapping[str, str],
    reserved: int,
) -> lambda_.Function:
    """
    Return a Lambda function inside the network.

    Args:
        scope: Where it belongs.
        name: In that scope.
        role: Its role. Nothing is added to it behind our back.
        network: Where it runs, as one of the signer's clients.
        description: For a person in the console.
        handler: Python's dotted path of the function.
        code: The gateway's archive.
        environment: Nothing secret.
        reserved: How many of it run at once, at most.
    """
    function = lambda_.Function(
        scope,
        name,
        description=description,
        runtime=RUNTIME,
        architecture=lambda_.Architecture.ARM_64,
        handler=handler,
        code=code,
        role=role.role.without_policy_updates(),
        environment=dict(environment),
        timeout=TIMEOUT,
        memory_size=MEMORY,
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        security_groups=[network.clients],
        log_group=role.log,
        reserved_concurrent_executions=reserved,
    )
    # The permission to make network interfaces must be there first.
    policy = role.role.node.try_find_child("DefaultPolicy")
    if policy is not None:
        function.node.add_dependency(policy)
    return function
