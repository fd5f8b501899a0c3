"""
Parts of a Web3Signer request that the readers of all kinds share.

A missing or misshapen part is the client's fault and named to it; nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nitrosigner.trusted.signing.beacon_containers import Preset
from nitrosigner.trusted.signing.beacon_domains import (
    Fork,
    ForkInfo,
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.slashing import Epoch, Slot
from nitrosigner.trusted.signing.ssz import read_bytes, read_uint64
from nitrosigner.verdicts import Code, Malformed

_VERSIONS: Final = frozenset(
    ("PHASE0", "ALTAIR", "BELLATRIX", "CAPELLA", "DENEB", "ELECTRA", "FULU", "GLOAS")
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One kind's message: its object root, domain and epoch."""

    object_root: bytes
    domain_type: bytes
    epoch: Epoch
    proposal_slot: Slot | None = None
    vote: tuple[Epoch, Epoch] | None = None


def an_object(value: object, path: str) -> Mapping[str, object]:
    """
    Return *value*, which is a JSON object.

    Raises:
        Malformed: It is none.
    """
    if not isinstance(value, Mapping):
        raise Malformed(Code.MALFORMED_REQUEST, f"{path}: expected an object")
    return value


def field(value: Mapping[str, object], name: str) -> object:
    """
    Return the field *name*.

    Raises:
        Malformed: It is missing.
    """
    if name not in value:
        raise Malformed(Code.MALFORMED_REQUEST, f"the field {name} is missing")
    return value[name]


def either(value: Mapping[str, object], snake: str, camel: str) -> object:
    """
    Return a field in whichever spelling it came.

    Raises:
        Malformed: It came in neither.
    """
    return value[camel] if camel in value else field(value, snake)


def version_of(versioned: Mapping[str, object], path: str) -> str:
    """
    Return the fork that *versioned* says it is of, in upper case.

    Raises:
        Malformed: It is not a known one.
    """
    version = field(versioned, "version")
    if not isinstance(version, str) or version.upper() not in _VERSIONS:
        raise Malformed(Code.MALFORMED_REQUEST, f"{path}.version: not a known fork")
    return version.upper()


def epoch_of(slot: int, preset: Preset) -> Epoch:
    """Return the epoch that *slot* is in."""
    return Epoch(slot // preset.slots_per_epoch)


def slot_of(value: object, path: str) -> Slot:
    """
    Return the `slot` of a message.

    Raises:
        Malformed: It has none.
    """
    return Slot(read_uint64(field(an_object(value, path), "slot"), f"{path}.slot"))


def fork_info(request: Mapping[str, object]) -> ForkInfo:
    """
    Return the fork and the chain that the client says *request* is for.

    Raises:
        Malformed: It does not say so.
    """
    info = an_object(either(request, "fork_info", "forkInfo"), "fork_info")
    fork = an_object(field(info, "fork"), "fork_info.fork")
    root = either(info, "genesis_validators_root", "genesisValidatorsRoot")
    previous = either(fork, "previous_version", "previousVersion")
    current = either(fork, "current_version", "currentVersion")
    return ForkInfo(
        fork=Fork(
            previous_version=ForkVersion(read_bytes(previous, "previous_version", 4)),
            current_version=ForkVersion(read_bytes(current, "current_version", 4)),
            epoch=Epoch(read_uint64(field(fork, "epoch"), "fork.epoch")),
        ),
        genesis_validators_root=GenesisValidatorsRoot(
            read_bytes(root, "genesis_validators_root", 32)
        ),
    )
