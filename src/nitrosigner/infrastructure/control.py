"""
How an operator starts, stops and asks instances: by Systems Manager, never by SSH.

The documents have no parameters, so whoever may send one can do these three things and
no others; what they run as root is written here and not typed by anybody.
"""

from typing import Final

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from nitrosigner.infrastructure.fleet import TAG
from nitrosigner.infrastructure.statements import allow

NOT_YET: Final = "false"
_UNITS: Final = (
    "nitro-enclaves-allocator.service",
    "nitrosigner-parent.service",
    "nitrosigner-watchdog.service",
    "nitrosigner-lifecycle.service",
)
_WATCHDOG: Final = (
    "PYTHONPATH=/opt/nitrosigner/parent PYTHONDONTWRITEBYTECODE=1"
    " /usr/bin/python3.11 -P -s -m nitrosigner.untrusted.parent.watchdog"
    " --config /etc/nitrosigner/watchdog.json"
)
COMMANDS: Final = {
    "Start": [
        "set -eu",
        "systemctl start nitrosigner-parent.service nitrosigner-watchdog.service",
        "systemctl is-active nitrosigner-parent.service nitrosigner-watchdog.service",
    ],
    "Stop": [
        "set -eu",
        # The watchdog first, or it would start the enclave again.
        "systemctl stop nitrosigner-watchdog.service nitrosigner-parent.service",
    ],
    "Status": [
        f"systemctl is-active {' '.join(_UNITS)} || true",
        "nitro-cli describe-enclaves",
        "cat /var/lib/nitrosigner/state.json || true",
        # As root, whom its socket lets in too: why was the enclave started again?
        f"{_WATCHDOG} status || true",
    ],
}


class Control(Construct):
    """Run Command documents, and the flag that says that keys are there."""

    def __init__(self, scope: Construct, name: str, *, stack_name: str) -> None:
        """Make them."""
        super().__init__(scope, name)
        # CloudFormation writes the value once; the operator's `true` stays through
        # updates, because the template's value does not change.
        self.initialised = ssm.StringParameter(
            self,
            "InitFlag",
            parameter_name=f"/nitrosigner/{stack_name}/initialised",
            string_value=NOT_YET,
            allowed_pattern="^(true|false)$",
            description="true: manifest and keys are there, instances start signing",
        )
        self.documents = {
            command: ssm.CfnDocument(
                self,
                command,
                name=f"nitrosigner-{stack_name}-{command.lower()}",
                document_type="Command",
                document_format="JSON",
                target_type="/AWS::EC2::Instance",
                update_method="NewVersion",
                content={
                    "schemaVersion": "2.2",
                    "description": f"{command} nitrosigner on an instance",
                    "mainSteps": [
                        {
                            "action": "aws:runShellScript",
                            "name": command.lower(),
                            "inputs": {"runCommand": lines, "timeoutSeconds": "120"},
                        }
                    ],
                },
            )
            for command, lines in COMMANDS.items()
        }

    def statements(self, stack_name: str) -> list[iam.PolicyStatement]:
        """Return what the gateway needs to start and stop, and nothing beyond."""
        arn = f"arn:{Aws.PARTITION}:"
        here = f"{Aws.REGION}:{Aws.ACCOUNT_ID}:"
        return [
            allow(
                "SendTwoDocuments",
                ["ssm:SendCommand"],
                [
                    f"{arn}ssm:{here}document/{self.documents[command].ref}"
                    for command in ("Start", "Stop")
                ],
            ),
            allow(
                "SendToTheSignersOnly",
                ["ssm:SendCommand"],
                [f"{arn}ec2:{here}instance/*"],
                {"StringEquals": {f"ssm:resourceTag/{TAG}": stack_name}},
            ),
            allow(
                "SetTheFlag",
                ["ssm:PutParameter"],
                [self.initialised.parameter_arn],
            ),
        ]
