"""What `cdk deploy --outputs-file FILE` wrote, read into values."""

from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.infrastructure.settings import Job
from nitrosigner.verdicts import Code, Malformed

MAX_OUTPUTS: Final = 1 << 20
DEBUG: Final = "DEBUG"


class Outputs(msgspec.Struct, frozen=True, kw_only=True):
    """One stack's outputs, as far as we act on them; the stack may have more."""

    mode: str = msgspec.field(name="Mode")
    job: Job = msgspec.field(name="Job")
    region: str = msgspec.field(name="Region")
    deployment: str = msgspec.field(name="Deployment")
    administrator: str = msgspec.field(name="Administrator")
    measurements: str = msgspec.field(name="Measurements")
    key_arn: str = msgspec.field(name="KMSKeyARN")
    enclave_role: str = msgspec.field(name="EC2InstanceRoleARN")
    group: str = msgspec.field(name="ASGGroupName")
    host: str = msgspec.field(name="SignerELBFQDN")
    init_flag: str = msgspec.field(name="InitFlagParamName")
    token: str = msgspec.field(name="GatewayTokenArn")
    start_document: str = msgspec.field(name="StartDocument")
    status_document: str = msgspec.field(name="StatusDocument", default="")
    alarm_topic: str | None = msgspec.field(name="AlarmTopicArn", default=None)
    record_prefix: str | None = msgspec.field(name="RecordPrefix", default=None)
    records_table: str | None = msgspec.field(name="RecordsTableName", default=None)

    @property
    def debug(self) -> bool:
        """Whether its enclaves run in debug mode."""
        return self.mode == DEBUG

    @property
    def admitted(self) -> list[str]:
        """PCR0 of every image that KMS opens for."""
        return self.measurements.split(",")


def read(path: Path, stack: str | None) -> tuple[str, Outputs]:
    """
    Return the name and the outputs of *stack*, or of the only one in the file.

    Raises:
        Malformed: The file is none, or it does not say which stack is meant.
    """
    hint = "write it with: cdk deploy STACK --outputs-file FILE"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"{path} cannot be read: {error.strerror}", hint
        ) from error
    try:
        found = msgspec.json.decode(data[:MAX_OUTPUTS], type=dict[str, msgspec.Raw])
    except ValueError as error:
        raise Malformed(Code.USAGE, f"{path} holds no stack's outputs", hint) from error
    names = ", ".join(sorted(found))
    if stack is None and len(found) == 1:
        (stack,) = found
    if stack is None or stack not in found:
        raise Malformed(
            Code.USAGE,
            f"{path} has the outputs of: {names or 'no stack'}",
            "name one with: --stack NAME",
        )
    return stack, decode(stack, bytes(found[stack]))


def decode(stack: str, data: bytes) -> Outputs:
    """
    Return what the JSON object in *data* says of *stack*.

    Raises:
        Malformed: It lacks an output that we act on.
    """
    try:
        return msgspec.json.decode(data, type=Outputs)
    except ValueError as error:
        # msgspec names the field; outputs are nothing secret.
        raise Malformed(
            Code.USAGE,
            f"the outputs of {stack} are not this version's: {error}",
            "deploy the stack again with this version",
        ) from error
