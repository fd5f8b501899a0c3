"""
What a person chooses about the stacks, in one JSON file, read once into frozen values.

    {"image": "build/image",
     "previous_measurements": ["release-1/measurements.json"],
     "stacks": {"prodNitroWalletEth": {"deployment": "wallet-1",
                                       "administrator": "3f9c…", …}}}

What must not be got wrong: a stack without an administrator or without a measured image
is still synthesized, so that it can be read and tested, but it carries a reason in
`StackSettings.not_deployable`, and its template refuses to be deployed.
"""

import re
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from nitrosigner.infrastructure.instance_types import why_not
from nitrosigner.untrusted.gateway.configuration import DEBUG_PREFIX
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest import Digest, Slug

MAX_SETTINGS: Final = 256 * 1024
_EXAMPLE_ADMINISTRATOR: Final = "0" * 63 + "1"
"""Nobody has the key for this fingerprint."""

Pcr = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{96}\Z")]
RoleArn = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,512}\Z"
    ),
]
Cidr = Annotated[
    str, msgspec.Meta(pattern=r"^([0-9]{1,3}\.){3}[0-9]{1,3}/([89]|[12][0-9]|3[0-2])\Z")
]
VpcCidr = Annotated[
    str, msgspec.Meta(pattern=r"^([0-9]{1,3}\.){3}[0-9]{1,3}/(1[6-9]|20)\Z")
]
"""What a VPC may have, and what holds the subnets of six zones."""
TopicArn = Annotated[str, msgspec.Meta(pattern=r"^arn:aws[a-z-]*:sns:[^\s]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=2, le=60)]
Gibibytes = Annotated[int, msgspec.Meta(ge=8, le=1024)]
Mebibytes = Annotated[int, msgspec.Meta(ge=256, le=262_144)]
Processors = Annotated[int, msgspec.Meta(ge=1, le=128)]


@unique
class Job(StrEnum):
    """What a stack's enclaves do."""

    WALLET = "wallet"
    VALIDATOR = "validator"


@unique
class Architecture(StrEnum):
    """Of the instances; it must be the image's."""

    X86_64 = "x86_64"
    ARM64 = "arm64"


@unique
class ParentKind(StrEnum):
    """How the parent program comes to the instance."""

    SERVICE = "service"
    """Unpacked from an asset, run by systemd. Needs no Docker anywhere."""
    CONTAINER = "container"
    """Pulled from ECR, run by Docker. `cdk deploy` needs Docker to build it."""


DEFAULT_INSTANCE_TYPES: Final = {
    # The smallest that leave the parent two processors when the enclave has two:
    # enclaves take whole cores, which are two hardware threads on x86.
    Architecture.X86_64: "c6a.xlarge",
    Architecture.ARM64: "c7g.xlarge",
}


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class StackSettings(_Part, frozen=True, kw_only=True):
    """One stack. Everything has a default except who may sign its manifests."""

    deployment: Slug | None = None
    """The manifest's; by default derived from the stack's name."""
    administrator: Digest | None = None
    """`nitrosigner administrator show` prints it."""
    key_administrator: RoleArn | None = None
    """Who may change the KMS key's policy: it must be the role that CloudFormation
    acts as. Absent: the role that `cdk bootstrap` made for it."""
    final_key_policy: bool = False
    """Nobody may ever change the key's policy: one image for the key's whole life."""
    key_policy_revision: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """CloudFormation writes a policy only when it changed in the template. Another
    number makes it write ours over whatever somebody put there."""
    pcr3: list[Pcr] = []
    """Of the parent's role, if KMS shall ask for it too."""
    signed_image: bool = False
    """Ask for PCR8, the certificate that signed the image, too."""
    architecture: Architecture = Architecture.X86_64
    instance_type: str | None = None
    minimum: Count = 2
    maximum: Count = 4
    volume: Gibibytes = 16
    enclave_memory: Mebibytes = 1024
    enclave_processors: Processors = 2
    parent: ParentKind = ParentKind.SERVICE
    packages: str | None = None
    """Folder of RPM files, from the settings' own folder: instances install them from
    the stack's assets and ask no repository. Absent: Amazon Linux's, through S3."""
    zones: Annotated[int, msgspec.Meta(ge=2, le=6)] = 2
    network: VpcCidr = "10.20.0.0/16"
    nat_gateway: bool = False
    """Lets instances reach the internet. Nothing of ours needs it."""
    ecr_endpoints: bool = True
    """Not needed while `parent` is `service`; they cost by the hour."""
    client_networks: list[Cidr] = []
    """Who may reach the signer besides holders of its client security group."""
    alarm_topic: TopicArn | None = None
    """Absent: the stack makes one."""
    log_days: Literal[30, 90, 180, 365, 731, 1827, 3653] = 365
    expected_keys: Annotated[int, msgspec.Meta(ge=0)] = 0
    """An alarm says so when fewer are loaded. 0: don't look."""


class Settings(_Part, frozen=True, kw_only=True):
    """The whole file."""

    image: str | None = None
    """Folder of `enclave.eif` and `measurements.json`, from the file's own folder."""
    previous_measurements: Annotated[list[str], msgspec.Meta(max_length=4)] = []
    """`measurements.json` of images that may still open the vault during a rollout."""
    stacks: dict[str, StackSettings] = {}


def parse(data: bytes) -> Settings:
    """
    Read a settings file's bytes.

    Raises:
        Malformed: Says which field is wrong.
    """
    if len(data) > MAX_SETTINGS:
        raise Malformed(Code.TOO_LARGE, f"settings have at most {MAX_SETTINGS} bytes")
    try:
        return msgspec.json.decode(data, type=Settings)
    except ValueError as error:
        # msgspec names the field and the expected type. Nothing here is secret.
        raise Malformed(Code.MALFORMED_REQUEST, f"settings: {error}") from error


def read(path: Path) -> Settings:
    """
    Read the file at *path*.

    Raises:
        Malformed: It is unreadable, or says something impossible.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"the settings {path} cannot be read: {error.strerror}",
            "name them with: cdk -c settings=FILE",
        ) from error
    return parse(data)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One stack, decided: the settings with every default filled in."""

    name: str
    job: Job
    debug: bool
    deployment: str
    administrator: str
    chosen: StackSettings
    not_deployable: list[str]
    """Why this stack must not be deployed as it is; empty when it may."""

    @property
    def instance_type(self) -> str:
        """Of EC2."""
        return (
            self.chosen.instance_type
            or DEFAULT_INSTANCE_TYPES[self.chosen.architecture]
        )


STACKS: Final = {
    "devNitroWalletEth": (Job.WALLET, True),
    "prodNitroWalletEth": (Job.WALLET, False),
    "devNitroValidator": (Job.VALIDATOR, True),
    "prodNitroValidator": (Job.VALIDATOR, False),
}
"""The source documents' stacks: name, job, and whether its enclaves are debug ones."""


def plans(settings: Settings, *, measured: bool) -> list[Plan]:
    """
    Return the four stacks as they shall be.

    Args:
        settings: What was chosen.
        measured: Whether there is a measured image.

    Raises:
        Malformed: A stack is named that does not exist, or two choices contradict.
    """
    strangers = settings.stacks.keys() - STACKS.keys()
    _need(not strangers, f"there is no stack {min(strangers, default='')}")
    found = [
        _plan(name, job, debug, settings.stacks.get(name), measured)
        for name, (job, debug) in STACKS.items()
    ]
    deployments = [plan.deployment for plan in found]
    _need(
        len(set(deployments)) == len(deployments), "two stacks have the same deployment"
    )
    real = {plan.administrator for plan in found if not plan.debug}
    for plan in found:
        # An administrator who signs for both will one day sign the wrong file.
        _need(
            not plan.debug
            or plan.administrator == _EXAMPLE_ADMINISTRATOR
            or plan.administrator not in real,
            f"{plan.name} is a debug stack and has a production stack's administrator",
        )
    return found


def _plan(
    name: str, job: Job, debug: bool, chosen: StackSettings | None, measured: bool
) -> Plan:
    chosen = chosen or StackSettings()
    deployment = chosen.deployment or _default_deployment(name, debug)
    _need(
        deployment.startswith(DEBUG_PREFIX) is debug,
        f"{name}: the deployment of a debug stack begins with {DEBUG_PREFIX}, and no "
        "other does",
    )
    _need(chosen.minimum <= chosen.maximum, f"{name}: minimum is above maximum")
    _need(
        chosen.administrator != _EXAMPLE_ADMINISTRATOR,
        f"{name}: the administrator is the example's, whose key nobody has",
    )
    instance_type = chosen.instance_type or DEFAULT_INSTANCE_TYPES[chosen.architecture]
    unfit = why_not(
        instance_type,
        graviton=chosen.architecture is Architecture.ARM64,
        enclave_processors=chosen.enclave_processors,
    )
    _need(unfit is None, f"{name}: instance_type {instance_type}: {unfit}")
    reasons = []
    if chosen.administrator is None:
        reasons.append(
            f"stacks.{name}.administrator is not set in the settings: make a key with "
            "nitrosigner administrator new, and give its fingerprint"
        )
    if not measured:
        reasons.append("there is no enclave image: make image, then name its folder")
    return Plan(
        name=name,
        job=job,
        debug=debug,
        deployment=deployment,
        administrator=chosen.administrator or _EXAMPLE_ADMINISTRATOR,
        chosen=chosen,
        not_deployable=reasons,
    )


# KMS compares the deployment, so with the prefix neither kind of stack opens anything
# for a manifest of the other.
def _default_deployment(name: str, debug: bool) -> str:
    kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    return f"{DEBUG_PREFIX}{kebab}" if debug else kebab


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"settings: {sentence}",
            "see docs/operations/first-deployment.md",
        )
