"""
Where sealed records lie: Secrets Manager for the wallet, DynamoDB for validators.

Everything in them is sealed by the enclave or signed by the administrator, so whoever
reads them learns names and counts. Whoever deletes or rolls them back can do harm:
hence deletion protection, point-in-time recovery, and production tables that stay when
a stack goes.
"""

from typing import Final

from aws_cdk import Aws, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from nitrosigner.infrastructure.statements import allow, deny

TOKEN_LENGTH: Final = 64
"""Letters and digits: above 256 bits."""


class WalletStores(Construct):
    """The prefix below which the parent keeps one secret for each record."""

    def __init__(self, scope: Construct, name: str, *, stack_name: str) -> None:
        """Name the prefix. Secrets are made by the parent as records come."""
        super().__init__(scope, name)
        self.prefix = f"nitrosigner/{stack_name}/"

    def statements(self) -> list[iam.PolicyStatement]:
        """Return what the instances may do with records."""
        arn = (
            f"arn:{Aws.PARTITION}:secretsmanager:{Aws.REGION}:{Aws.ACCOUNT_ID}:secret:"
            f"{self.prefix}"
        )
        return [
            allow(
                "RecordsBelowOnePrefix",
                [
                    "secretsmanager:CreateSecret",
                    "secretsmanager:DeleteSecret",
                    "secretsmanager:DescribeSecret",
                    "secretsmanager:GetSecretValue",
                    "secretsmanager:PutSecretValue",
                    "secretsmanager:RestoreSecret",
                ],
                [f"{arn}*"],
            ),
            # A parent in strange hands may hide records; it must not destroy them.
            deny(
                "NoRecordIsGoneForGood",
                ["secretsmanager:DeleteSecret"],
                [f"{arn}*"],
                {"Bool": {"secretsmanager:ForceDeleteWithoutRecovery": "true"}},
            ),
            # These two know no resources: names are seen, values are not.
            allow(
                "ListingKnowsNoResources",
                ["secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"],
                ["*"],
            ),
        ]


class ValidatorStores(Construct):
    """Tables for keys, TLS and watermarks, in the source documents' shape."""

    def __init__(self, scope: Construct, name: str, *, debug: bool) -> None:
        """Make the tables. *debug*: they go with the stack."""
        super().__init__(scope, name)
        self.keys = self._table(
            "ValidatorKeyTable", debug, partition="web3signer_uuid", sort="pubkey"
        )
        self.tls = self._table("TLSKeyTable", debug, number="key_id")
        # These two are as `untrusted.parent` expects them: it checks them at start.
        self.records = self._table(
            "RecordTable", debug, partition="deployment", sort="record"
        )
        self.watermarks = self._table("WatermarkTable", debug, partition="validator")

    def _table(
        self,
        name: str,
        debug: bool,
        *,
        partition: str = "",
        number: str = "",
        sort: str = "",
    ) -> dynamodb.Table:
        text = dynamodb.AttributeType.STRING
        return dynamodb.Table(
            self,
            name,
            partition_key=dynamodb.Attribute(
                name=number or partition,
                type=dynamodb.AttributeType.NUMBER if number else text,
            ),
            sort_key=dynamodb.Attribute(name=sort, type=text) if sort else None,
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            deletion_protection=not debug,
            removal_policy=RemovalPolicy.DESTROY if debug else RemovalPolicy.RETAIN,
        )

    def statements(self) -> list[iam.PolicyStatement]:
        """Return what the instances may do with records."""
        return [
            allow(
                "SealedRecords",
                [
                    "dynamodb:DeleteItem",
                    "dynamodb:DescribeTable",
                    "dynamodb:GetItem",
                    "dynamodb:PutItem",
                    "dynamodb:Query",
                ],
                [self.records.table_arn],
            ),
            # No DeleteItem: a watermark that is gone makes a key unusable, never free.
            allow(
                "Watermarks",
                [
                    "dynamodb:BatchGetItem",
                    "dynamodb:DescribeTable",
                    "dynamodb:PutItem",
                    "dynamodb:Scan",
                ],
                [self.watermarks.table_arn],
            ),
        ]


def client_token(scope: Construct, name: str, *, debug: bool) -> secretsmanager.Secret:
    """
    Return the bearer token of the gateway, made by Secrets Manager.

    Nobody needs to see it: the manifest holds its SHA-256 only.
    """
    return secretsmanager.Secret(
        scope,
        name,
        description="The gateway's bearer token; its SHA-256 stands in the manifest",
        generate_secret_string=secretsmanager.SecretStringGenerator(
            password_length=TOKEN_LENGTH,
            exclude_punctuation=True,
            require_each_included_type=False,
        ),
        removal_policy=RemovalPolicy.DESTROY if debug else RemovalPolicy.RETAIN,
    )
