"""
The beacon chain that a local stack's validators sign for, as the manifest names it.

A chain is its preset, its fork versions and its genesis validators root. The first two
stand in the configuration that every client of a devnet is given (`config.yaml`); the
third is known once the chain has a genesis, and a signer that is told a wrong one signs
nothing for that chain.
"""

import json
from pathlib import Path
from typing import Final, Literal

import msgspec

from nitrosigner.trusted.signing.beacon_networks import FORKS, PUBLIC_NETWORKS
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest_validators import CustomNetwork, Validators

MAX_CONFIGURATION: Final = 256 * 1024
"""Bytes of a chain's configuration file."""
INTEROP_GENESIS_VALIDATORS_ROOT: Final = (
    "05d79a31a8e69ecd78114c50ce73116be33027d8431b82fff6c0b3cd9c2cbb1f"
)
"""Of the genesis with the 16 interop keys, which everybody knows and developers use:
`lodestar dev --genesisValidators 16`."""

Preset = Literal["minimal", "mainnet"]

# consensus-specs, configs/minimal.yaml.
_MINIMAL_VERSIONS: Final = {
    fork: f"{number:02x}000001" for number, fork in enumerate(FORKS)
}
_VERSION_FIELDS: Final = {
    "GENESIS_FORK_VERSION": "phase0",
    **{f"{fork.upper()}_FORK_VERSION": fork for fork in FORKS[1:]},
}
_NAMELESS: Final = "devnet"


def validators(
    preset: Preset, configuration: Path | None, genesis_validators_root: str | None
) -> Validators:
    """
    Return what the manifest says of validators.

    Args:
        preset: `mainnet` alone is Ethereum's main chain, `minimal` alone the chain of
            the 16 interop keys.
        configuration: A `config.yaml` of the consensus specifications, or what a
            beacon node answers at /eth/v1/config/spec.
        genesis_validators_root: Hex, 32 bytes.

    Raises:
        Malformed: They are no chain, or contradict each other.
    """
    if configuration is None:
        return _known(preset, genesis_validators_root)
    if genesis_validators_root is None:
        raise Malformed(
            Code.USAGE,
            "a chain's configuration does not hold its genesis validators root",
            "give it with --genesis-validators-root; a beacon node answers it at"
            " /eth/v1/beacon/genesis",
        )
    fields = _fields(configuration)
    base = fields.get("PRESET_BASE", preset)
    if base != preset:
        raise Malformed(
            Code.USAGE,
            f"the chain's preset is {base}, not {preset}",
            f"use --preset {base}" if base in ("minimal", "mainnet") else "",
        )
    name = fields.get("CONFIG_NAME", _NAMELESS)
    if name in PUBLIC_NETWORKS or not name.isascii():
        name = _NAMELESS
    return _checked(
        name,
        preset,
        genesis_validators_root,
        {
            fork: fields[field]
            for field, fork in _VERSION_FIELDS.items()
            if field in fields
        },
    )


def _known(preset: Preset, root: str | None) -> Validators:
    if preset == "minimal":
        root = root or INTEROP_GENESIS_VALIDATORS_ROOT
        return _checked("minimal", preset, root, _MINIMAL_VERSIONS)
    if root is None:
        return Validators(network="mainnet")
    for network in PUBLIC_NETWORKS.values():
        if network.genesis_validators_root.hex() == root.lower().removeprefix("0x"):
            return Validators(network=network.name)
    raise Malformed(
        Code.USAGE,
        "this genesis validators root is no public chain's",
        "name the chain's configuration with --network-config",
    )


def _checked(
    name: str, preset: Preset, root: str, versions: dict[str, str]
) -> Validators:
    custom = CustomNetwork(
        preset=preset,
        genesis_validators_root=root.lower().removeprefix("0x"),
        fork_versions={
            fork: version.lower().removeprefix("0x")
            for fork, version in versions.items()
        },
    )
    made = Validators(network=name.lower(), custom=custom)
    try:
        # What a constructor takes, a decoder would not always.
        made = msgspec.json.decode(msgspec.json.encode(made), type=Validators)
    except msgspec.ValidationError as error:
        # It names the field and the pattern; there is nothing secret in a chain.
        raise Malformed(Code.USAGE, f"the beacon chain: {error}") from None
    if not {"phase0", "capella"} <= versions.keys():
        raise Malformed(
            Code.USAGE,
            "the chain's configuration lacks GENESIS_FORK_VERSION or"
            " CAPELLA_FORK_VERSION",
        )
    return made


def _fields(path: Path) -> dict[str, str]:
    """Return a flat configuration's fields; those that are no plain value are not."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIGURATION + 1).decode()
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"{path} cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise Malformed(Code.USAGE, f"{path} is no chain's configuration") from None
    if len(text) > MAX_CONFIGURATION:
        raise Malformed(Code.USAGE, f"{path} is too large to be a configuration")
    if text.lstrip().startswith("{"):
        return _json_fields(path, text)
    # The specification's own file: one `NAME: value` a line, comments, no nesting that
    # we need.
    fields = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.isidentifier():
            fields[name] = rest.partition("#")[0].strip().strip("'\"")
    return fields


def _json_fields(path: Path, text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed(Code.USAGE, f"{path} is not JSON") from None
    found = found.get("data", found)
    if not isinstance(found, dict):
        raise Malformed(Code.USAGE, f"{path} is no chain's configuration")
    return {name: value for name, value in found.items() if isinstance(value, str)}
