"""
What passes the endpoints: the calls that our programs make, on this account's things.

Roles say the same of each program. An endpoint says it of the network: credentials
brought from elsewhere, or a role that somebody widened, still reach nothing more from
here, and no key, secret or table of another account. A test holds both lists together.

What must not be got wrong: KMS refuses here too. Were an action left out that the
canary tries, its denial would come from the network, and tell nothing of the key.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from aws_cdk import Aws
from aws_cdk import aws_iam as iam

_HERE: Final = f"{Aws.REGION}:{Aws.ACCOUNT_ID}"
_ANYTHING: Final = "*"
Passing = Sequence[tuple[str, Sequence[str]]]
"""Pairs of a resource and the actions on it."""


def _of(service: str, what: str) -> str:
    return f"arn:{Aws.PARTITION}:{service}:{_HERE}:{what}"


_REPOSITORIES: Final[Passing] = (
    (
        _of("ecr", "repository/*"),
        (
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:GetDownloadUrlForLayer",
        ),
    ),
    (_ANYTHING, ("ecr:GetAuthorizationToken",)),
)
PASSING: Final[Mapping[str, Passing]] = {
    "Kms": (
        (
            _of("kms", "key/*"),
            (
                "kms:Decrypt",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GetKeyPolicy",
                "kms:ListGrants",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ),
        ),
    ),
    "SecretsManager": (
        (
            _of("secretsmanager", "secret:*"),
            (
                "secretsmanager:CreateSecret",
                "secretsmanager:DeleteSecret",
                "secretsmanager:DescribeSecret",
                "secretsmanager:GetSecretValue",
                "secretsmanager:PutSecretValue",
                "secretsmanager:RestoreSecret",
            ),
        ),
        (
            _ANYTHING,
            ("secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"),
        ),
    ),
    "Ssm": (
        (_of("ssm", "parameter/*"), ("ssm:GetParameter", "ssm:PutParameter")),
        (_ANYTHING, ("ssm:SendCommand", "ssm:UpdateInstanceInformation")),
    ),
    "SsmMessages": (
        (
            _ANYTHING,
            (
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ),
        ),
    ),
    "Ec2Messages": (
        (
            _ANYTHING,
            (
                "ec2messages:AcknowledgeMessage",
                "ec2messages:DeleteMessage",
                "ec2messages:FailMessage",
                "ec2messages:GetEndpoint",
                "ec2messages:GetMessages",
                "ec2messages:SendReply",
            ),
        ),
    ),
    "Logs": (
        (
            _of("logs", "log-group:*"),
            ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
        ),
    ),
    "AutoScaling": (
        (
            _of("autoscaling", "autoScalingGroup:*"),
            (
                "autoscaling:CompleteLifecycleAction",
                "autoscaling:RecordLifecycleActionHeartbeat",
            ),
        ),
    ),
    "Ecr": _REPOSITORIES,
    "EcrDocker": _REPOSITORIES,
    "DynamoDb": (
        (
            _of("dynamodb", "table/*"),
            (
                "dynamodb:BatchGetItem",
                "dynamodb:DeleteItem",
                "dynamodb:DescribeTable",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "dynamodb:Query",
                "dynamodb:Scan",
            ),
        ),
    ),
}


def statements(endpoint: str) -> list[iam.PolicyStatement]:
    """Return the policy of one of `PASSING`'s endpoints."""
    return [
        iam.PolicyStatement(
            sid="OurCallsOnly" if resource == _ANYTHING else "OurCallsOnOurThings",
            principals=[iam.AnyPrincipal()],
            actions=list(actions),
            resources=[resource],
            conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
        )
        for resource, actions in PASSING[endpoint]
    ]
