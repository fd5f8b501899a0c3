"""
Starting and stopping the signer's instances, by Systems Manager and nothing else.

The documents belong to the stack and have no parameters, so whoever holds this role can
do these two things and no others. The stack's flag is changed first: an instance that
takes another's place while the command is under way obeys it as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.untrusted.gateway.signer import AWS
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict

GROUP_TAG: Final = "tag:aws:autoscaling:groupName"
TIMEOUT: Final = 60
"""Seconds within which an instance must take the command up."""
_REFUSALS: Final = frozenset(
    {"AccessDeniedException", "InvalidDocument", "ParameterNotFound"}
)

Wanted = Literal["start", "stop"]


class InstanceControl(Protocol):
    """Whoever can start and stop the signer."""

    def order(self, wanted: Wanted) -> dict[str, Any]:
        """
        Order it and return, as JSON values, what can be said now. Does not wait.

        Raises:
            Verdict: It was not ordered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Names:
    """What the stack calls its parts."""

    start_document: str
    stop_document: str
    auto_scaling_group: str
    flag: str | None = None
    """The parameter that new instances ask whether they shall sign."""


def names_from(environment: Mapping[str, str]) -> Names:
    """
    Read START_DOCUMENT, STOP_DOCUMENT, AUTO_SCALING_GROUP and, if set, INIT_FLAG.

    Raises:
        Malformed: One is missing or no name of AWS's.
    """

    def named(variable: str) -> str:
        value = environment.get(variable, "").strip()
        if not re.fullmatch(r"[A-Za-z0-9_.:/-]{1,512}", value):
            raise Malformed(
                Code.USAGE,
                f"the environment variable {variable} is not set, or is no name",
                "the gateway's deployment sets it; see docs/operations",
            )
        return value

    return Names(
        start_document=named("START_DOCUMENT"),
        stop_document=named("STOP_DOCUMENT"),
        auto_scaling_group=named("AUTO_SCALING_GROUP"),
        flag=named("INIT_FLAG") if environment.get("INIT_FLAG", "").strip() else None,
    )


class Ssm(Protocol):
    """The calls of Systems Manager that are made."""

    def put_parameter(
        self,
        *,
        Name: str,  # noqa: N803  # AWS's name
        Value: str,  # noqa: N803  # AWS's name
        Overwrite: bool,  # noqa: N803  # AWS's name
    ) -> Mapping[str, Any]:
        """Set a parameter; raises botocore's errors."""
        ...

    def send_command(
        self,
        *,
        DocumentName: str,  # noqa: N803  # AWS's name
        Targets: list[dict[str, Any]],  # noqa: N803  # AWS's name
        TimeoutSeconds: int,  # noqa: N803  # AWS's name
        MaxConcurrency: str,  # noqa: N803  # AWS's name
        MaxErrors: str,  # noqa: N803  # AWS's name
        Comment: str,  # noqa: N803  # AWS's name
    ) -> Mapping[str, Any]:
        """Run a document; raises botocore's errors."""
        ...


class RunCommand:
    """Orders by Run Command documents."""

    def __init__(self, names: Names, ssm: Ssm | None = None) -> None:
        self._names = names
        self._ssm = ssm

    def order(self, wanted: Wanted) -> dict[str, Any]:
        """See `InstanceControl`."""
        names = self._names
        if self._ssm is None:
            made: Ssm = boto3.client("ssm", config=AWS)
            self._ssm = made
        start = wanted == "start"
        try:
            if names.flag is not None:
                self._ssm.put_parameter(
                    Name=names.flag, Value="true" if start else "false", Overwrite=True
                )
            answer = self._ssm.send_command(
                DocumentName=names.start_document if start else names.stop_document,
                Targets=[{"Key": GROUP_TAG, "Values": [names.auto_scaling_group]}],
                TimeoutSeconds=TIMEOUT,
                MaxConcurrency="100%",
                # One instance that fails must not spare the others.
                MaxErrors="100%",
                Comment=f"nitrosigner {wanted}",
            )
            command = answer["Command"]
            return {
                "operation": wanted,
                "command_id": command["CommandId"],
                "status": command["Status"],
                "document": command["DocumentName"],
            }
        except ClientError as error:
            raise _said_no(error.response.get("Error", {}).get("Code")) from None
        except (BotoCoreError, KeyError):
            raise _said_no(None) from None


def _said_no(code: object) -> Verdict:
    if code in _REFUSALS:
        return Refused(
            Code.NOT_ALLOWED,
            f"Systems Manager refuses this function's command ({code})",
            "its role needs ssm:SendCommand for the stack's documents and instances, "
            "and ssm:PutParameter for its flag",
        )
    return Undecided(
        Code.INTERNAL,
        "Systems Manager did not take the command",
        "ask again later; the instances are as they were",
    )
