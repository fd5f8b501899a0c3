"""
What the parent is told, in one JSON file, read once into frozen values.

Nothing in it can change what is signed: that is in the manifest, which the enclave
checks. It names addresses, files and limits.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from botocore.utils import METADATA_BASE_URL

from nitrosigner.untrusted.parent.egress_proxy import (
    Destination,
    EgressLimits,
    kms_destinations,
)
from nitrosigner.untrusted.parent.services import ServicesLimits
from nitrosigner.untrusted.parent.tcp_relay import RelayLimits
from nitrosigner.verdicts import Code, Malformed

MAX_CONFIGURATION: Final = 64 * 1024

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Cid = Annotated[int, msgspec.Meta(ge=4, lt=(1 << 32) - 1)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Listen(_Part, frozen=True, kw_only=True):
    """Where callers are let in. Port 0: any free one, named in the ready line."""

    address: Text = "0.0.0.0"
    port: Port = 443


class Metrics(_Part, frozen=True, kw_only=True):
    """Where Prometheus may ask for `/metrics`, over plain HTTP. Port 0: any free."""

    address: Text = "127.0.0.1"
    port: Port = 9464


class KernelMode(_Part, frozen=True, kw_only=True, tag_field="kind", tag="vsock"):
    """A real vsock."""

    enclave_cid: Cid = 16


class UnixMode(_Part, frozen=True, kw_only=True, tag_field="kind", tag="unix"):
    """UNIX sockets below a run folder."""

    run: Text
    enclave_cid: Cid = 16


class Sqlite(_Part, frozen=True, kw_only=True, tag_field="kind", tag="sqlite"):
    """Records in a file."""

    path: Text


class SecretsManager(
    _Part, frozen=True, kw_only=True, tag_field="kind", tag="secrets_manager"
):
    """Records as secrets called prefix + collection + "/" + name."""

    prefix: Annotated[
        str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+=.@-][A-Za-z0-9/_+=.@-]{0,98}/\Z")
    ]
    recovery_days: Annotated[int, msgspec.Meta(ge=7, le=30)] = 7
    kms_key_id: Text | None = None
    """The key that Secrets Manager encrypts with; absent: the account's own."""
    endpoint: Text | None = None
    """Absent: the region's."""


class DynamoDb(_Part, frozen=True, kw_only=True, tag_field="kind", tag="dynamodb"):
    """
    Items of a table. Records and watermarks have different keys: two tables.
    """

    table: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{3,255}\Z")]
    deployment: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}\Z")]
    """Whose items they are: deployments may share a table. Never change it."""
    endpoint: Text | None = None
    """Absent: the region's."""


class SqliteWatermarks(
    _Part, frozen=True, kw_only=True, tag_field="kind", tag="sqlite"
):
    """Slashing watermarks in a file of their own."""

    path: Text


class Egress(_Part, frozen=True, kw_only=True):
    """Whom the enclave may reach: the region's KMS, and what is added here."""

    also_allowed: Annotated[list[Text], msgspec.Meta(max_length=64)] = []
    """`host:port`, exactly."""
    pins: dict[str, str] = {}
    """Allowed `host:port` → `address:port`, where DNS is not to be asked."""


class Audit(_Part, frozen=True, kw_only=True):
    """Where audit events go."""

    path: Text
    rotate_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class Limits(_Part, frozen=True, kw_only=True):
    """What each part bears."""

    relay: RelayLimits = RelayLimits()
    egress: EgressLimits = EgressLimits()
    services: ServicesLimits = ServicesLimits()
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0


class Configuration(_Part, frozen=True, kw_only=True):
    """The whole file."""

    listen: Listen = Listen()
    vsock: KernelMode | UnixMode
    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+\Z")]
    store: Sqlite | SecretsManager | DynamoDb
    watermarks: SqliteWatermarks | DynamoDb | None = None
    """Where validators' slashing protection lies. Absent: no validator can sign."""
    imds_endpoint: Text = METADATA_BASE_URL
    egress: Egress = Egress()
    audit: Audit
    state: Text
    """Path of `state.json`."""
    metrics: Metrics | None = None
    """Absent: nowhere."""
    control: Text | None = None
    """The socket on which a watchdog asks that callers be let in no more."""
    limits: Limits = Limits()

    def allowed(self) -> frozenset[Destination]:
        """Return whom the enclave may reach."""
        return kms_destinations(self.region) | frozenset(
            Destination.parse(one) for one in self.egress.also_allowed
        )

    def pins(self) -> dict[Destination, Destination]:
        """Return where pinned destinations are found."""
        return {
            Destination.parse(name): Destination.parse(address)
            for name, address in self.egress.pins.items()
        }


def read(path: Path) -> Configuration:
    """
    Read the file.

    Raises:
        Malformed: Says what is wrong with it, and where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIGURATION + 1)
    except OSError as error:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"the configuration {path} cannot be read: {error.strerror}",
            "name it with: --config FILE",
        ) from error
    return parse(data)


def parse(data: bytes) -> Configuration:
    """Read a configuration's bytes. Raise `Malformed` if they are none."""
    if len(data) > MAX_CONFIGURATION:
        raise Malformed(
            Code.TOO_LARGE, f"a configuration has at most {MAX_CONFIGURATION} bytes"
        )
    try:
        configuration = msgspec.json.decode(data, type=Configuration)
    except ValueError as error:
        # msgspec names the field and the expected type, never the whole input, and
        # there is nothing secret in a configuration.
        raise Malformed(Code.MALFORMED_REQUEST, f"configuration: {error}") from error
    strangers = configuration.pins().keys() - configuration.allowed()
    if strangers:
        stranger = min(f"{one.host}:{one.port}" for one in strangers)
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"configuration: egress.pins names {stranger}, which is not allowed",
            "add it to egress.also_allowed if the enclave is meant to reach it",
        )
    if _same_place(configuration):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "configuration: store and watermarks name one file or table",
            "give the watermarks one of their own",
        )
    _check_limits(configuration.limits)
    return configuration


def _same_place(configuration: Configuration) -> bool:
    match configuration.store, configuration.watermarks:
        case Sqlite(path=one), SqliteWatermarks(path=other):
            return Path(one).absolute() == Path(other).absolute()
        case DynamoDb(table=one), DynamoDb(table=other):
            return one == other
        case _:
            return False


def _check_limits(limits: Limits) -> None:
    for part in (limits.relay, limits.egress, limits.services):
        for field in msgspec.structs.fields(part):
            if getattr(part, field.name) <= 0:
                raise Malformed(
                    Code.MALFORMED_REQUEST,
                    f"configuration: the limit {field.name} must be above zero",
                )
