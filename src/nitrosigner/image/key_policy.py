"""
The policy of a deployment's KMS key: what decides which enclave opens the vault.

A pure function writes it, for AWS and for the emulated KMS alike. The one thing not
to get wrong: a condition on an Allow is void as soon as any other Allow matches. So
nothing is delegated to IAM (there is no statement for the account's root), and the
conditions stand a second time as Denies, which no Allow undoes: not one added here
later, not an identity policy, not a grant.

Lock-out. Only the key administrator may change this policy. Without that role nobody
in the account can, not even its root user; AWS Support must then be asked. With
`changeable=False` nobody can from the start: the measurements are final, KMS has to
be told `BypassPolicyLockoutSafetyCheck`, and a new image means a new key. Whoever may
change the policy may admit an enclave of his own, so this role belongs to few people.

Source: KMS Developer Guide, "Condition keys for AWS Nitro Enclaves" and "Key policies";
AWS Nitro Enclaves User Guide, "Using cryptographic attestation with AWS KMS".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nitrosigner.verdicts import Code, Malformed, Refused

MAX_POLICY: Final = 32 * 1024
"""Bytes of a key policy that KMS takes."""
PCR_HEX: Final = 96
_ATTESTATION: Final = "kms:RecipientAttestation:"
_IMAGE: Final = f"{_ATTESTATION}ImageSha384"
_CONTEXT: Final = "kms:EncryptionContext:"
_ROLE: Final = re.compile(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[\w+=,.@/-]{1,512}"
)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_REGISTER: Final = re.compile(r"[0-9a-f]{96}")
_DEPLOYMENT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

REVEALING: Final = (
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
)
"""Every operation on a symmetric key that can bring plaintext, or move a ciphertext
to a key under which it does. ReEncrypt takes no document, so nobody may use it."""

_MANAGING: Final = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListAliases",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
_CHANGING: Final = "kms:PutKeyPolicy"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """What a key policy is made from."""

    measurements: Sequence[str]
    """PCR0 of each image that may open the vault, lower-case hex. At least one."""
    administrator: str
    """SHA-256 of the administrator's public key: `wire.manifest.fingerprint`."""
    deployment: str
    """The manifest's deployment."""
    enclave_role: str
    """ARN of the parent instance's role, whose credentials the enclave uses."""
    key_administrator: str
    """ARN of the role that manages the key. It opens nothing."""
    gateway_role: str | None = None
    """ARN of the Lambda that encrypts imported keys (`set_key`). It opens nothing."""
    pcr3: Sequence[str] = ()
    """Of the parent's role, if the enclaves shall also run under that role only."""
    pcr8: Sequence[str] = ()
    """Of the certificate that signed the image, if images are signed."""
    changeable: bool = True
    """False: nobody may ever change this policy. See the module's lock-out note."""

    def __post_init__(self) -> None:
        """
        Check every part.

        Raises:
            Malformed: A part is not what its name says.
            Refused: A measurement is all zeros: a debug enclave, or nothing measured.
        """
        _need(bool(self.measurements), "a key policy names at least one measurement")
        for name, values in (
            ("PCR0", self.measurements),
            ("PCR3", self.pcr3),
            ("PCR8", self.pcr8),
        ):
            for value in values:
                _check_register(name, value)
        _need(
            _FINGERPRINT.fullmatch(self.administrator) is not None,
            "the administrator's fingerprint is 64 lower-case hex digits",
        )
        _need(
            _DEPLOYMENT.fullmatch(self.deployment) is not None,
            "the deployment is not a name that a manifest may have",
        )
        roles = [self.enclave_role, self.key_administrator]
        if self.gateway_role is not None:
            roles.append(self.gateway_role)
        for role in roles:
            _need(
                _ROLE.fullmatch(role) is not None,
                "a role is an ARN like arn:aws:iam::123456789012:role/name",
            )
        # One role for two of these would give one party both halves.
        _need(len(set(roles)) == len(roles), "two of the roles are the same")

    @property
    def text(self) -> str:
        """
        The policy as JSON, for CreateKey or PutKeyPolicy.

        Raises:
            Malformed: So many measurements do not fit into a key policy.
        """
        document = {
            "Version": "2012-10-17",
            "Id": "nitrosigner-vault-1",
            "Statement": [*self._allows(), *self._denies()],
        }
        text = json.dumps(document, indent=1)
        _need(len(text) <= MAX_POLICY, "too many measurements for one key policy")
        return text

    @property
    def needs_bypass(self) -> bool:
        """Whether KMS takes it with BypassPolicyLockoutSafetyCheck only."""
        return not self.changeable

    def _allows(self) -> list[dict[str, object]]:
        statements = [
            _allow(
                "EnclaveMakesVaultKey",
                self.enclave_role,
                ["kms:GenerateDataKey"],
                {
                    "StringEqualsIgnoreCase": self._measured(),
                    "StringEquals": self._context(purpose="vault"),
                },
            ),
            _allow(
                "EnclaveOpensVaultAndImportedKeys",
                self.enclave_role,
                ["kms:Decrypt"],
                {
                    "StringEqualsIgnoreCase": self._measured(),
                    "StringEquals": {
                        **self._context(),
                        f"{_CONTEXT}purpose": ["vault", "key"],
                    },
                },
            ),
        ]
        if self.gateway_role is not None:
            statements.append(
                _allow(
                    "GatewayEncryptsImportedKeys",
                    self.gateway_role,
                    ["kms:Encrypt"],
                    {"StringEquals": self._context(purpose="key")},
                )
            )
        managing = [*_MANAGING, _CHANGING] if self.changeable else [*_MANAGING]
        statements.append(
            _allow("AdministratorManagesTheKey", self.key_administrator, managing)
        )
        return statements

    def _denies(self) -> list[dict[str, object]]:
        revealing = list(REVEALING)
        statements = [
            _deny(
                "NothingOpensWithoutAttestation",
                revealing,
                {"Null": {_IMAGE: "true"}},
            ),
            # "Not equal" also holds where the key is absent, so each of these stops
            # requests without a document or without a context too.
            _deny(
                "NothingOpensForAnotherImage",
                revealing,
                {"StringNotEqualsIgnoreCase": {_IMAGE: list(self.measurements)}},
            ),
            _deny(
                "NothingOpensForAnotherAdministrator",
                revealing,
                {
                    "StringNotEquals": {
                        f"{_CONTEXT}administrator": self.administrator,
                    }
                },
            ),
            _deny(
                "NothingOpensForAnotherDeployment",
                revealing,
                {"StringNotEquals": {f"{_CONTEXT}deployment": self.deployment}},
            ),
            _deny(
                "NothingOpensForAnotherRole",
                revealing,
                {"ArnNotEquals": {"aws:PrincipalArn": self.enclave_role}},
            ),
            # A grant would allow without any of the conditions above, and cannot
            # itself be conditioned on an attestation document.
            _deny("NobodyGrants", ["kms:CreateGrant"]),
        ]
        for index, values in ((3, self.pcr3), (8, self.pcr8)):
            if values:
                name = f"{_ATTESTATION}PCR{index}"
                statements.append(
                    _deny(
                        f"NothingOpensForAnotherPcr{index}",
                        revealing,
                        {"StringNotEqualsIgnoreCase": {name: list(values)}},
                    )
                )
        if not self.changeable:
            statements.append(_deny("NobodyChangesThisPolicy", [_CHANGING]))
        return statements

    def _measured(self) -> dict[str, object]:
        wanted: dict[str, object] = {_IMAGE: list(self.measurements)}
        for index, values in ((3, self.pcr3), (8, self.pcr8)):
            if values:
                wanted[f"{_ATTESTATION}PCR{index}"] = list(values)
        return wanted

    def _context(self, **more: str) -> dict[str, object]:
        wanted = {
            "administrator": self.administrator,
            "deployment": self.deployment,
            **more,
        }
        return {f"{_CONTEXT}{name}": value for name, value in wanted.items()}


def _allow(
    sid: str,
    principal: str,
    actions: list[str],
    condition: dict[str, dict[str, object]] | None = None,
) -> dict[str, object]:
    statement: dict[str, object] = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": actions,
        "Resource": "*",
    }
    if condition is not None:
        statement["Condition"] = condition
    return statement


def _deny(
    sid: str,
    actions: list[str],
    condition: dict[str, dict[str, object]] | None = None,
) -> dict[str, object]:
    statement: dict[str, object] = {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": {"AWS": "*"},
        "Action": actions,
        "Resource": "*",
    }
    if condition is not None:
        statement["Condition"] = condition
    return statement


def _check_register(name: str, value: str) -> None:
    _need(
        _REGISTER.fullmatch(value) is not None,
        f"{name} is {PCR_HEX} lower-case hex digits",
    )
    if not value.strip("0"):
        raise Refused(
            Code.ATTESTATION_UNTRUSTED,
            f"{name} is all zeros: that admits every enclave in debug mode",
            "take the measurement from a build, not from a debug enclave",
        )


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            sentence,
            "mend it where the deployment's settings are",
        )
