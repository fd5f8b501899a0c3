"""
The canary: tries to open something without an enclave, and says whether it could.

Its role is allowed all of this by IAM. So what stops it is the key's policy alone, and
the day that somebody weakens that policy, in whatever way, this function notices. What
it tries to open is bait that it encrypted itself: never a record of ours.

Every attempt must end in AccessDenied. Any other refusal shows only that the attempt
was not understood, and counts as "not known": silence must not look like safety.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError

NAMESPACE: Final = "nitrosigner"
OPENED: Final = "UnattestedOpened"
"""Attempts that succeeded. Anything above 0 is an incident."""
NOT_KNOWN: Final = "UnattestedNotKnown"
"""Attempts of which nothing can be said."""
BAIT: Final = b"nitrosigner canary: this is not a key"
_DENIED: Final = frozenset({"AccessDeniedException", "AccessDenied"})
_WOULD_HAVE: Final = "DryRunOperationException"
"""What a dry run that was allowed ends in."""
_AWS: Final = botocore.config.Config(
    connect_timeout=5,
    read_timeout=10,
    retries={"mode": "standard", "total_max_attempts": 3},
)


@unique
class Outcome(StrEnum):
    """Of one attempt."""

    DENIED = "denied"
    OPENED = "opened"
    NOT_KNOWN = "not_known"


@dataclass(frozen=True, slots=True)
class Target:
    """What the canary tries to open."""

    key_arn: str
    administrator: str
    deployment: str

    def context(self, purpose: str) -> dict[str, str]:
        """Return the encryption context that the key policy demands."""
        return {
            "administrator": self.administrator,
            "deployment": self.deployment,
            "purpose": purpose,
        }


def attempts(kms: Any, target: Target) -> dict[str, Outcome]:  # noqa: ANN401  # boto3's
    """
    Try every way to plaintext that needs no document; return what came of each.

    Raises:
        ClientError, BotoCoreError: Not even the bait could be encrypted.
    """
    bait = kms.encrypt(
        KeyId=target.key_arn,
        Plaintext=BAIT,
        EncryptionContext=target.context("canary"),
    )["CiphertextBlob"]
    ways: dict[str, Callable[[], object]] = {
        "Decrypt": lambda: kms.decrypt(
            KeyId=target.key_arn,
            CiphertextBlob=bait,
            EncryptionContext=target.context("canary"),
        ),
        "GenerateDataKey": lambda: kms.generate_data_key(
            KeyId=target.key_arn,
            KeySpec="AES_256",
            EncryptionContext=target.context("vault"),
            DryRun=True,
        ),
        "ReEncrypt": lambda: kms.re_encrypt(
            SourceKeyId=target.key_arn,
            DestinationKeyId=target.key_arn,
            CiphertextBlob=bait,
            SourceEncryptionContext=target.context("canary"),
            DestinationEncryptionContext=target.context("canary"),
            DryRun=True,
        ),
    }
    return {name: _outcome(way) for name, way in ways.items()}


def _outcome(way: Callable[[], object]) -> Outcome:
    try:
        way()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in _DENIED:
            return Outcome.DENIED
        return Outcome.OPENED if code == _WOULD_HAVE else Outcome.NOT_KNOWN
    except BotoCoreError:
        return Outcome.NOT_KNOWN
    return Outcome.OPENED


def report(
    outcomes: Mapping[str, Outcome], *, stack: str, milliseconds: int
) -> dict[str, Any]:
    """Return one line in CloudWatch's embedded metric format."""
    found = list(outcomes.values())
    return {
        "_aws": {
            "Timestamp": milliseconds,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["stack"]],
                    "Metrics": [
                        {"Name": name, "Unit": "Count"} for name in (OPENED, NOT_KNOWN)
                    ],
                }
            ],
        },
        "stack": stack,
        OPENED: found.count(Outcome.OPENED),
        NOT_KNOWN: found.count(Outcome.NOT_KNOWN),
        "attempts": dict(outcomes),
    }


def run(kms: Any, environment: Mapping[str, str]) -> dict[str, Any]:  # noqa: ANN401  # boto3's
    """Try everything and return the line to print."""
    target = Target(
        environment["KMS_KEY_ARN"],
        environment["ADMINISTRATOR"],
        environment["DEPLOYMENT"],
    )
    try:
        outcomes = attempts(kms, target)
    except (ClientError, BotoCoreError):
        outcomes = {"Encrypt": Outcome.NOT_KNOWN}
    return report(
        outcomes,
        stack=environment["STACK"],
        milliseconds=time.time_ns() // 1_000_000,
    )


def handler(event: object, context: object) -> None:
    """Answer the schedule. This is the function's entry point."""
    del event, context
    print(json.dumps(run(boto3.client("kms", config=_AWS), os.environ)))  # noqa: T201  # Lambda's log
