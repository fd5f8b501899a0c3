"""
The AWS account, as far as `nitrosigner deploy` looks at it and writes to it.

With the credentials of whoever runs the command. It reads policies, states and the
published manifest; never a secret's value except the manifest's, which is none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from nitrosigner.infrastructure.outputs import Outputs
from nitrosigner.untrusted.parent.record_store import RecordStore
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.services import Stored

COLLECTION = "manifest"
NAME = "current"
"""As the enclave asks for it: `trusted.enclave.manifest_in_force`."""
_EXPIRED: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "AuthorizationError"}
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One of the group's."""

    name: str
    lifecycle: str
    health: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack, as CloudFormation tells of it."""

    status: str
    """`CREATE_COMPLETE`, `UPDATE_ROLLBACK_FAILED`, …"""
    outputs: dict[str, str]


class Account(Protocol):
    """What is asked. Every call raises `Undecided` if it cannot be found out."""

    def identity(self) -> str:
        """Return the caller's ARN."""
        ...

    def stack(self, name: str) -> Deployed | None:
        """Return what CloudFormation has of this name."""
        ...

    def key_state(self, arn: str) -> str:
        """Return KMS's word for the key's state, as `Enabled` or `PendingDeletion`."""
        ...

    def key_policy(self, arn: str) -> str:
        """Return the policy in force."""
        ...

    def initialised(self, name: str) -> bool:
        """Return whether the flag says `true`."""
        ...

    def instances(self, group: str) -> list[Instance]:
        """Return the group's instances."""
        ...

    def alarms(self, stack: str) -> list[str]:
        """Return the names of the stack's alarms that are in alarm."""
        ...

    def listeners(self, topic: str) -> int:
        """Return how many confirmed that they want to hear of alarms."""
        ...

    def manifest(self, outputs: Outputs) -> tuple[bytes, int] | None:
        """Return the published manifest and its record's version."""
        ...

    def publish(self, outputs: Outputs, signed: bytes, expected: int) -> bool:
        """Put a manifest over the record's version; False: somebody was faster."""
        ...


class AwsAccount:
    """The `Account` that boto3's usual credentials open."""

    def __init__(self, region: str, client: Callable[[str], Any] | None = None) -> None:
        """Use *region*; *client* makes clients, by default boto3's."""
        self._region = region
        settings = botocore.config.Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        self._client = client or (
            lambda service: boto3.client(service, region_name=region, config=settings)
        )

    def identity(self) -> str:
        """See `Account`."""
        answer = self._ask("sts", "get_caller_identity")
        return str(answer["Arn"])

    def stack(self, name: str) -> Deployed | None:
        """See `Account`."""
        try:
            answer = self._call("cloudformation", "describe_stacks", StackName=name)
        except ClientError as error:
            # What CloudFormation says of a stack that is not there, and of nothing
            # else that can be wrong with a name of ours.
            if _code(error) == "ValidationError":
                return None
            raise _said_no("cloudformation", "describe_stacks", _code(error)) from None
        (found,) = answer["Stacks"]
        return Deployed(
            found["StackStatus"],
            {
                one["OutputKey"]: one["OutputValue"]
                for one in found.get("Outputs", ())
                if "OutputValue" in one
            },
        )

    def key_state(self, arn: str) -> str:
        """See `Account`."""
        answer = self._ask("kms", "describe_key", KeyId=arn)
        return str(answer["KeyMetadata"]["KeyState"])

    def key_policy(self, arn: str) -> str:
        """See `Account`."""
        answer = self._ask("kms", "get_key_policy", KeyId=arn, PolicyName="default")
        return str(answer["Policy"])

    def initialised(self, name: str) -> bool:
        """See `Account`."""
        answer = self._ask("ssm", "get_parameter", Name=name)
        return bool(answer["Parameter"]["Value"] == "true")

    def instances(self, group: str) -> list[Instance]:
        """See `Account`."""
        answer = self._ask(
            "autoscaling",
            "describe_auto_scaling_groups",
            AutoScalingGroupNames=[group],
        )
        return [
            Instance(one["InstanceId"], one["LifecycleState"], one["HealthStatus"])
            for found in answer["AutoScalingGroups"]
            for one in found["Instances"]
        ]

    def alarms(self, stack: str) -> list[str]:
        """See `Account`."""
        names: list[str] = []
        more: dict[str, str] = {}
        while True:
            answer = self._ask(
                "cloudwatch",
                "describe_alarms",
                AlarmNamePrefix=f"{stack}-",
                StateValue="ALARM",
                **more,
            )
            names += [str(one["AlarmName"]) for one in answer["MetricAlarms"]]
            if "NextToken" not in answer:
                return names
            more = {"NextToken": answer["NextToken"]}

    def listeners(self, topic: str) -> int:
        """See `Account`."""
        confirmed = 0
        more: dict[str, str] = {}
        while True:
            answer = self._ask(
                "sns", "list_subscriptions_by_topic", TopicArn=topic, **more
            )
            # One that is not confirmed has words in the place of its ARN.
            arns = [str(one["SubscriptionArn"]) for one in answer["Subscriptions"]]
            confirmed += sum(arn.startswith("arn:") for arn in arns)
            if not answer.get("NextToken"):
                return confirmed
            more = {"NextToken": answer["NextToken"]}

    def manifest(self, outputs: Outputs) -> tuple[bytes, int] | None:
        """See `Account`."""
        with self._store(outputs) as store:
            record = store.get(COLLECTION, NAME)
        return None if record is None else (record.data, record.version)

    def publish(self, outputs: Outputs, signed: bytes, expected: int) -> bool:
        """See `Account`."""
        with self._store(outputs) as store:
            return isinstance(store.put(COLLECTION, NAME, expected, signed), Stored)

    @contextmanager
    def _store(self, outputs: Outputs) -> Iterator[RecordStore]:
        # The parent's own stores: the record must be one that it can read.
        store: RecordStore
        if outputs.records_table is not None:
            from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore

            store = DynamoDbStore(
                self._client("dynamodb"),
                table=outputs.records_table,
                deployment=outputs.deployment,
            )
            needed = (
                "dynamodb:DescribeTable, GetItem and PutItem on the table "
                f"{outputs.records_table}, and its KMS key"
            )
        else:
            from nitrosigner.untrusted.parent.secrets_manager_store import (
                SecretsManagerStore,
            )

            store = SecretsManagerStore(
                self._client("secretsmanager"), prefix=outputs.record_prefix or ""
            )
            needed = (
                "secretsmanager:GetSecretValue, DescribeSecret, CreateSecret and "
                f"PutSecretValue on {outputs.record_prefix}manifest/*"
            )
        try:
            yield store
        except Undecided as undecided:
            # What a store says is meant for the parent; here somebody else asks.
            raise Undecided(
                undecided.code,
                f"the published manifest cannot be reached: {undecided.message}",
                f"these credentials need {needed}",
            ) from None
        finally:
            store.close()

    def _ask(self, service: str, operation: str, **arguments: object) -> Any:  # noqa: ANN401  # boto3's
        try:
            return self._call(service, operation, **arguments)
        except ClientError as error:
            raise _said_no(service, operation, _code(error)) from None

    def _call(self, service: str, operation: str, **arguments: object) -> Any:  # noqa: ANN401  # boto3's
        try:
            return getattr(self._client(service), operation)(**arguments)
        except NoCredentialsError:
            raise Undecided(
                Code.CREDENTIALS_UNAVAILABLE,
                "there are no AWS credentials here",
                "log in; nitrosigner deploy status --offline reads the file only",
            ) from None
        except BotoCoreError:
            raise _said_no(service, operation, None) from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _said_no(service: str, operation: str, code: str | None) -> Verdict:
    what = f"AWS did not answer {service}:{operation}"
    if code in _EXPIRED:
        return Undecided(
            Code.CREDENTIALS_UNAVAILABLE,
            f"{what}: the AWS credentials are over or wrong ({code})",
            "log in again, and compare with: aws sts get-caller-identity",
        )
    if code in _DENIED:
        return Undecided(
            Code.SIGNER_UNREACHABLE,
            f"{what}: these credentials may not ({code})",
            f"allow {service}:{operation.title().replace('_', '')} to whoever "
            "operates, or use the operator's role",
        )
    return Undecided(
        Code.SIGNER_UNREACHABLE,
        f"{what} ({code or 'no answer'})",
        "check the network and the region, and ask again",
    )
