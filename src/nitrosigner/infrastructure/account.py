"""
The AWS account, as far as `nitrosigner deploy` looks at it and writes to it.

With the credentials of whoever runs the command. It reads policies, states and the
published manifest; never a secret's value except the manifest's, which is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True, slots=True)
class Instance:
    """One of the group's."""

    name: str
    lifecycle: str
    health: str


class Account(Protocol):
    """What is asked. Every call raises `Undecided` if it cannot be found out."""

    def identity(self) -> str:
        """Return the caller's ARN."""
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

    def manifest(self, outputs: Outputs) -> tuple[bytes, int] | None:
        """See `Account`."""
        store = self._store(outputs)
        try:
            record = store.get(COLLECTION, NAME)
        finally:
            store.close()
        return None if record is None else (record.data, record.version)

    def publish(self, outputs: Outputs, signed: bytes, expected: int) -> bool:
        """See `Account`."""
        store = self._store(outputs)
        try:
            return isinstance(store.put(COLLECTION, NAME, expected, signed), Stored)
        finally:
            store.close()

    def _store(self, outputs: Outputs) -> RecordStore:
        # The parent's own stores: the record must be one that it can read.
        if outputs.records_table is not None:
            from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore

            return DynamoDbStore(
                self._client("dynamodb"),
                table=outputs.records_table,
                deployment=outputs.deployment,
            )
        from nitrosigner.untrusted.parent.secrets_manager_store import (
            SecretsManagerStore,
        )

        return SecretsManagerStore(
            self._client("secretsmanager"), prefix=outputs.record_prefix or ""
        )

    def _ask(self, service: str, operation: str, **arguments: object) -> Any:  # noqa: ANN401  # boto3's
        try:
            return getattr(self._client(service), operation)(**arguments)
        except NoCredentialsError:
            raise Undecided(
                Code.CREDENTIALS_UNAVAILABLE,
                "there are no AWS credentials here",
                "log in, or say --offline to read the file only",
            ) from None
        except ClientError as error:
            raise _said_no(
                service, operation, error.response.get("Error", {}).get("Code")
            ) from None
        except BotoCoreError:
            raise _said_no(service, operation, None) from None


def _said_no(service: str, operation: str, code: object) -> Verdict:
    return Undecided(
        Code.SIGNER_UNREACHABLE,
        f"AWS did not answer {service}:{operation} ({code or 'no answer'})",
        "check the credentials' rights and the region",
    )
