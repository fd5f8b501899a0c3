"""
The canary: tries to open something without an enclave, and says whether it could.

Its role is allowed all of this by IAM. So what stops it is the key's policy alone. What
it tries to open is bait that it encrypted itself: never a record of ours.

Every attempt must end in AccessDenied. Any other refusal shows only that the attempt
was not understood, and counts as "not known": silence must not look like safety.

That it cannot get in does not show that the parent's role cannot: the policy names that
role, and only the parent has it. So the policy in force is read and judged as well, and
that no grant goes around it is looked up.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, Final

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.untrusted.gateway.policy_in_force import Expected, holes

NAMESPACE: Final = "nitrosigner"
OPENED: Final = "UnattestedOpened"
"""Attempts that succeeded, and ways that stand open. Above 0 is an incident."""
NOT_KNOWN: Final = "UnattestedNotKnown"
"""Of how many nothing can be said."""
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
    expected: Expected
    """For whom it opens. Not for the canary."""

    def context(self, purpose: str) -> dict[str, str]:
        """Return the encryption context that the key policy demands."""
        return {
            "administrator": self.expected.administrator,
            "deployment": self.expected.deployment,
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


def judged(kms: Any, target: Target) -> tuple[dict[str, Outcome], list[str]]:  # noqa: ANN401  # boto3's
    """Look at the policy in force and at grants; return outcomes, and what is wrong."""
    found: list[str] = []

    def policy() -> Outcome:
        answer = kms.get_key_policy(KeyId=target.key_arn, PolicyName="default")
        found.extend(holes(answer["Policy"], target.expected))
        return Outcome.OPENED if found else Outcome.DENIED

    def grants() -> Outcome:
        there = kms.list_grants(KeyId=target.key_arn, Limit=1)["Grants"]
        return Outcome.OPENED if there else Outcome.DENIED

    outcomes = {}
    for name, look in (("Policy", policy), ("Grants", grants)):
        try:
            outcomes[name] = look()
        except (ClientError, BotoCoreError):
            outcomes[name] = Outcome.NOT_KNOWN
    return outcomes, found


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
    outcomes: Mapping[str, Outcome],
    *,
    stack: str,
    milliseconds: int,
    wrong: Sequence[str] = (),
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
        "wrong": list(wrong),
    }


def run(kms: Any, environment: Mapping[str, str]) -> dict[str, Any]:  # noqa: ANN401  # boto3's
    """Try everything and return the line to print."""
    target = Target(
        environment["KMS_KEY_ARN"],
        Expected(
            frozenset(environment["EXPECTED_PCR0"].split(",")),
            environment["ADMINISTRATOR"],
            environment["DEPLOYMENT"],
        ),
    )
    try:
        outcomes = attempts(kms, target)
    except (ClientError, BotoCoreError):
        outcomes = {"Encrypt": Outcome.NOT_KNOWN}
    looked, wrong = judged(kms, target)
    return report(
        {**outcomes, **looked},
        wrong=wrong,
        stack=environment["STACK"],
        milliseconds=time.time_ns() // 1_000_000,
    )


def handler(event: object, context: object) -> None:
    """Answer the schedule. This is the function's entry point."""
    del event, context
    print(json.dumps(run(boto3.client("kms", config=_AWS), os.environ)))  # noqa: T201  # Lambda's log
