"""
What the Lambda function is told by its environment.

None of it is a secret: the token lies in Secrets Manager and only its ARN is here.
What the enclave has to prove is not optional.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from nitrosigner.verdicts import Code, Malformed

DEFAULT_KEY: Final = "default"
DEBUG_PREFIX: Final = "debug-"
"""Deployments whose enclaves run in debug mode are called so, and no others."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The environment, read."""

    signer_url: str
    pcr0: frozenset[bytes]
    """Any of these; two during a change of the image."""
    administrator: str
    """Fingerprint of whom the enclave's manifest must be signed by."""
    deployment: str | None = None
    trust_root: bytes | None = None
    """SHA-256 of another root than AWS's. Emulation only."""
    ca: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    token_secret_arn: str | None = None
    kms_key_arn: str | None = None
    """Needed by `set_key` alone."""
    default_key: str = DEFAULT_KEY

    @property
    def debug_expected(self) -> bool:
        """
        Whether the enclave may be in debug mode: it measures to zeros then.

        Both must be said, the measurement and a deployment called so: neither a slip in
        one of them nor an empty value makes a production function take such an enclave.
        """
        named = (self.deployment or "").startswith(DEBUG_PREFIX)
        return named and self.pcr0 == frozenset({bytes(48)})


def from_environment(environment: Mapping[str, str]) -> Configuration:
    """
    Read SIGNER_URL, EXPECTED_PCR0 (one or more, by comma) and ADMINISTRATOR; and,
    where they are set, DEPLOYMENT, TRUST_ROOT, SIGNER_CA, CLIENT_CERTIFICATE,
    CLIENT_KEY (files), SIGNER_TOKEN_SECRET_ARN, KMS_KEY_ARN, KEY_NAME.

    Raises:
        Malformed: One is missing or unreadable.
    """  # a list of names, not a signature

    def optional(name: str) -> str | None:
        return environment.get(name, "").strip() or None

    def needed(name: str) -> str:
        value = optional(name)
        if value is None:
            _wrong(f"the environment variable {name} is not set")
        return value

    def digest(name: str, value: str, size: int) -> str:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{size * 2}}}", value):
            _wrong(f"{name} is not {size * 2} hexadecimal digits")
        return value.lower()

    def path(name: str) -> Path | None:
        value = optional(name)
        return None if value is None else Path(value)

    root = optional("TRUST_ROOT")
    if not (optional("SIGNER_TOKEN_SECRET_ARN") or optional("CLIENT_CERTIFICATE")):
        _wrong("neither SIGNER_TOKEN_SECRET_ARN nor CLIENT_CERTIFICATE is set")
    return Configuration(
        signer_url=needed("SIGNER_URL"),
        pcr0=frozenset(
            bytes.fromhex(digest("EXPECTED_PCR0", value.strip(), 48))
            for value in needed("EXPECTED_PCR0").split(",")
        ),
        administrator=digest("ADMINISTRATOR", needed("ADMINISTRATOR"), 32),
        deployment=optional("DEPLOYMENT"),
        trust_root=None
        if root is None
        else bytes.fromhex(digest("TRUST_ROOT", root, 32)),
        ca=path("SIGNER_CA"),
        certificate=path("CLIENT_CERTIFICATE"),
        certificate_key=path("CLIENT_KEY"),
        token_secret_arn=optional("SIGNER_TOKEN_SECRET_ARN"),
        kms_key_arn=optional("KMS_KEY_ARN"),
        default_key=optional("KEY_NAME") or DEFAULT_KEY,
    )


def _wrong(sentence: str) -> NoReturn:
    raise Malformed(
        Code.USAGE, sentence, "the gateway's deployment sets it; see docs/operations"
    )
