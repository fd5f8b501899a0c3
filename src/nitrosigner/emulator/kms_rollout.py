"""
The deployment's KMS key, and which measurements its policy admits.

What a deployment does on AWS with a change set and a second pair of eyes, a local
stack does by itself when its own source changed: the policy then admits the new
measurement beside the last one, and a person is told so. Nothing else may open the
vault, whatever it measures.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import boto3
import botocore.config
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.emulator.data_folder import DataFolder, replace
from nitrosigner.emulator.first_run import DEPLOYMENT, REGION
from nitrosigner.emulator.kms.principals import Principal, PrincipalsFile
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.manifest import Aws

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

ALIAS: Final = "alias/nitrosigner-local"
ADMITTED: Final = 2
"""Measurements that the policy admits: this source's, and the last one's."""


def ensure_key(
    places: Places,
    *,
    administrator: str,
    pcr0: bytes,
    warn: Callable[[str], None],
) -> Aws:
    """
    Make the KMS key if there is none, and let its policy admit *pcr0*.

    Args:
        places: Where the emulated KMS is.
        administrator: The fingerprint that every use of the key must name.
        pcr0: The measurement of the enclave that is about to start.
        warn: Tells a person that the policy was changed.

    Raises:
        Undecided: KMS did not do it.
    """
    try:
        return _ensure_key(places, administrator, pcr0, warn)
    except (BotoCoreError, ClientError) as error:
        code = "no answer"
        if isinstance(error, ClientError):
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
        raise Undecided(
            Code.KMS_UNAVAILABLE,
            f"the emulated KMS did not prepare the deployment's key ({code})",
            f"read {places.folder.logs / 'kms.log'}",
        ) from None


def _ensure_key(
    places: Places, administrator: str, pcr0: bytes, warn: Callable[[str], None]
) -> Aws:
    kms = client(places, "administrator")
    folder = places.folder
    arn = _existing(kms)
    if arn is None:
        policy = _policy(places, administrator, [pcr0.hex()])
        made = kms.create_key(Policy=policy, Description="nitrosigner local stack")
        arn = str(made["KeyMetadata"]["Arn"])
        kms.create_alias(AliasName=ALIAS, TargetKeyId=arn)
        _note(folder, [pcr0.hex()])
    else:
        policy = str(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
        if pcr0.hex() not in policy or administrator not in policy:
            admitted = [pcr0.hex(), *(p for p in noted(folder) if p != pcr0.hex())]
            admitted = admitted[:ADMITTED]
            policy = _policy(places, administrator, admitted)
            kms.put_key_policy(KeyId=arn, PolicyName="default", Policy=policy)
            _note(folder, admitted)
            warn(
                "ROLLOUT: the trusted source changed, so the KMS key policy now admits "
                + " and ".join(f"PCR0 {value[:12]}…" for value in admitted)
            )
    return Aws(
        region=REGION,
        kms_key_arn=arn,
        kms_certificate_authorities=[places.kms_ca.read_text(encoding="ascii")],
    )


def client(places: Places, role: str) -> "KMSClient":
    """Return boto3's KMS client with the credentials of *role*."""
    principal = _roles(places)[role]
    made: KMSClient = boto3.session.Session().client(
        "kms",
        region_name=REGION,
        endpoint_url=f"https://localhost:{places.kms_port}",
        verify=str(places.kms_ca),
        aws_access_key_id=principal.access_key_id,
        aws_secret_access_key=principal.secret_access_key,
        aws_session_token=principal.session_token,
        config=botocore.config.Config(
            connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3}
        ),
    )
    return made


def _roles(places: Places) -> dict[str, Principal]:
    data = places.principals.read_bytes()
    return msgspec.json.decode(data, type=PrincipalsFile).principals


def _policy(places: Places, administrator: str, measurements: list[str]) -> str:
    roles = _roles(places)
    return KeyPolicy(
        measurements=measurements,
        administrator=administrator,
        deployment=DEPLOYMENT,
        enclave_role=roles["parent"].arn,
        key_administrator=roles["administrator"].arn,
        gateway_role=roles["gateway"].arn,
    ).text


def _existing(kms: "KMSClient") -> str | None:
    with contextlib.suppress(kms.exceptions.NotFoundException):
        return str(kms.describe_key(KeyId=ALIAS)["KeyMetadata"]["Arn"])
    return None


def noted(folder: DataFolder) -> list[str]:
    """Return the measurements that the policy admits, newest first."""
    with contextlib.suppress(FileNotFoundError):
        return folder.measured.read_text(encoding="ascii").split()
    return []


def _note(folder: DataFolder, pcr0s: list[str]) -> None:
    replace(folder.measured, "\n".join(pcr0s).encode() + b"\n")
