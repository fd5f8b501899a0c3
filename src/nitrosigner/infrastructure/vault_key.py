"""
The KMS key of a deployment, with its policy locked before the first key exists.

The policy comes from `image.key_policy`. The ARNs of roles are not known before
CloudFormation has made them, so it is written with stand-ins, checked, and then each
stand-in is replaced by a reference. What must not be got wrong: a stand-in that stays
would be a policy for nobody, and so `_referred` counts them.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import Aws, CfnDeletionPolicy, Tags
from aws_cdk import aws_kms as kms
from constructs import Construct

from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.infrastructure.measured_image import (
    DEBUG_REGISTER,
    NO_IMAGE,
    MeasuredImage,
)
from nitrosigner.infrastructure.settings import Plan

_NO_ACCOUNT: Final = "arn:aws:iam::000000000000:"
_STAND_IN: Final = f"{_NO_ACCOUNT}role/"
_ACCOUNT: Final = f"{_NO_ACCOUNT}root"
BAIT_PURPOSE: Final = "canary"
"""Of what the canary encrypts. Enclaves open `vault` and `key` only."""
PENDING_DAYS: Final = 30
"""Between asking for a key's deletion and its end. The longest that KMS offers."""


class VaultKey(Construct):
    """The key that opens the vault, for the measured enclaves of one administrator."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        plan: Plan,
        image: MeasuredImage,
        enclave_role: str,
        gateway_role: str,
        canary_role: str,
        key_administrator: str,
    ) -> None:
        """
        Make the key.

        Args:
            scope: Where it belongs.
            name: In that scope.
            plan: Whose deployment and administrator the policy demands.
            image: Whose measurements the policy demands, unless in debug mode.
            enclave_role: ARN of the instances' role.
            gateway_role: ARN of the Lambda function that encrypts imported keys.
            canary_role: ARN of the function that tries to open something.
            key_administrator: ARN of the role that CloudFormation acts as.
        """
        super().__init__(scope, name)
        self.policy = policy_document(plan, image)
        referred = _referred(
            self.policy,
            {
                f"{_STAND_IN}enclave": enclave_role,
                f"{_STAND_IN}gateway": gateway_role,
                f"{_STAND_IN}canary": canary_role,
                f"{_STAND_IN}administrator": key_administrator,
                _ACCOUNT: f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:root",
            },
        )
        purpose = f"The vault of nitrosigner deployment {plan.deployment}"
        if plan.debug:
            purpose = f"DEBUG, opens for any debug enclave, no real keys. {purpose}"
        self.key = kms.CfnKey(
            self,
            "Key",
            description=purpose,
            key_policy=referred,
            enable_key_rotation=True,
            pending_window_in_days=PENDING_DAYS,
            bypass_policy_lockout_safety_check=plan.chosen.final_key_policy,
        )
        keep = CfnDeletionPolicy.DELETE if plan.debug else CfnDeletionPolicy.RETAIN
        self.key.cfn_options.deletion_policy = keep
        self.key.cfn_options.update_replace_policy = keep
        if plan.debug:
            Tags.of(self.key).add("nitrosigner:mode", "DEBUG")
        self.arn = self.key.attr_arn
        self.alias = kms.CfnAlias(
            self,
            "Alias",
            alias_name=f"alias/nitrosigner/{plan.name}",
            target_key_id=self.key.ref,
        )


def policy_document(plan: Plan, image: MeasuredImage) -> dict[str, Any]:
    """
    Return the key policy, with stand-ins for the roles.

    A debug stack's enclaves report zeros. `KeyPolicy` refuses those, as it must, so its
    policy is written for an image that nobody has, and the register replaced after:
    this is the one place that admits debug enclaves, for `debug-` deployments only.

    Raises:
        Malformed: A part is not what its name says.
        Refused: A measurement is all zeros, or an image is not signed that should be.
    """
    chosen = plan.chosen
    written = KeyPolicy(
        measurements=[NO_IMAGE] if plan.debug else image.admitted,
        administrator=plan.administrator,
        deployment=plan.deployment,
        enclave_role=f"{_STAND_IN}enclave",
        gateway_role=f"{_STAND_IN}gateway",
        key_administrator=f"{_STAND_IN}administrator",
        # A debug enclave's document names its parent's role too, but no signer.
        pcr3=chosen.pcr3,
        pcr8=image.signers if chosen.signed_image and not plan.debug else (),
        changeable=not chosen.final_key_policy,
    ).text
    if plan.debug:
        written = written.replace(NO_IMAGE, DEBUG_REGISTER)
    document: dict[str, Any] = json.loads(written)
    if plan.debug:
        document["Id"] = f"DEBUG-{document['Id']}"
    if chosen.key_policy_revision:
        document["Id"] += f"-revision-{chosen.key_policy_revision}"
    document["Statement"] += [_canary(plan), _rotation(), _reading()]
    return document


def _canary(plan: Plan) -> dict[str, Any]:
    context = {
        "administrator": plan.administrator,
        "deployment": plan.deployment,
        "purpose": BAIT_PURPOSE,
    }
    return {
        "Sid": "CanaryEncryptsItsBait",
        "Effect": "Allow",
        "Principal": {"AWS": f"{_STAND_IN}canary"},
        "Action": ["kms:Encrypt"],
        "Resource": "*",
        "Condition": {
            "StringEquals": {
                f"kms:EncryptionContext:{name}": value
                for name, value in context.items()
            }
        },
    }


def _rotation() -> dict[str, Any]:
    # CloudFormation switches the yearly rotation on. It changes what encrypts, never
    # what decrypts, and shows nothing.
    return {
        "Sid": "DeploymentRotatesTheKey",
        "Effect": "Allow",
        "Principal": {"AWS": f"{_STAND_IN}administrator"},
        "Action": [
            "kms:EnableKeyRotation",
            "kms:DisableKeyRotation",
            "kms:ListKeyRotations",
            "kms:RotateKeyOnDemand",
        ],
        "Resource": "*",
    }


def _reading() -> dict[str, Any]:
    # Without it only CloudFormation could look at the policy in force. Whom IAM allows
    # may read it, and nothing else: `nitrosigner deploy doctor` does.
    return {
        "Sid": "AccountLooksAtTheKey",
        "Effect": "Allow",
        "Principal": {"AWS": _ACCOUNT},
        "Action": [
            "kms:DescribeKey",
            "kms:GetKeyPolicy",
            "kms:GetKeyRotationStatus",
            "kms:ListGrants",
            "kms:ListKeyPolicies",
            "kms:ListResourceTags",
        ],
        "Resource": "*",
    }


def _referred(document: Any, references: Mapping[str, str]) -> Any:  # noqa: ANN401  # JSON
    used: set[str] = set()

    def walk(value: Any) -> Any:  # noqa: ANN401  # JSON
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, str) and value.startswith(_NO_ACCOUNT):
            used.add(value)
            return references[value]
        return value

    result = walk(document)
    if used != references.keys():
        msg = "the key policy does not name every role"
        raise AssertionError(msg)
    return result
