"""
Beacon chains as a signer has to know them: preset, chain and fork versions.

The versions of the public networks are facts of their launch configurations
(ethereum/consensus-specs configs; eth-clients/sepolia, holesky, hoodi). Everything else
is named by the manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nitrosigner.trusted.signing.beacon_containers import (
    MAINNET_PRESET,
    Preset,
)
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.verdicts import Code, Malformed

FORKS: Final = (
    "phase0",
    "altair",
    "bellatrix",
    "capella",
    "deneb",
    "electra",
    "fulu",
    "gloas",
)
"""In order of activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeaconNetwork:
    """One chain."""

    name: str
    preset: Preset
    genesis_validators_root: GenesisValidatorsRoot
    fork_versions: Mapping[str, ForkVersion]
    """By fork name. `phase0` is the genesis fork version."""
    every_fork: bool = False
    """Whether every fork that may be signed in is named. A custom network's manifest
    need not name those that nothing depends on."""

    def __post_init__(self) -> None:
        """Refuse a network that could not sign exits or deposits rightly."""
        versions = self.fork_versions
        unknown = versions.keys() - set(FORKS)
        if unknown or not {"phase0", "capella"} <= versions.keys():
            raise Malformed(
                Code.MALFORMED_MANIFEST,
                f"network {self.name}: fork versions of phase0 and capella are needed,"
                " and only known forks may be named",
            )
        if len(set(versions.values())) != len(versions):
            raise Malformed(
                Code.MALFORMED_MANIFEST,
                f"network {self.name}: two forks have one version",
            )

    def knows(self, version: ForkVersion) -> bool:
        """Return whether anything may be signed in the fork of this *version*."""
        return not self.every_fork or version in self.fork_versions.values()

    @property
    def genesis_version(self) -> ForkVersion:
        """The version that deposits and builder registrations are signed in."""
        return self.fork_versions["phase0"]

    def exit_version(self, current: ForkVersion, by_fork: ForkVersion) -> ForkVersion:
        """
        Return the version that a voluntary exit is signed in (EIP-7044).

        From Deneb on it is Capella's for ever; before that, the message's own epoch
        decides, which *by_fork* already is.
        """
        early = {
            self.fork_versions[name]
            for name in FORKS[: FORKS.index("deneb")]
            if name in self.fork_versions
        }
        return by_fork if current in early else self.fork_versions["capella"]


def _network(name: str, root: str, versions: str) -> BeaconNetwork:
    return BeaconNetwork(
        name=name,
        preset=MAINNET_PRESET,
        genesis_validators_root=GenesisValidatorsRoot(bytes.fromhex(root)),
        fork_versions={
            fork: ForkVersion(bytes.fromhex(version))
            for fork, version in zip(FORKS, versions.split(), strict=False)
        },
        every_fork=True,
    )


PUBLIC_NETWORKS: Final = {
    network.name: network
    for network in (
        _network(
            "mainnet",
            "4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95",
            "00000000 01000000 02000000 03000000 04000000 05000000 06000000 07000000",
        ),
        _network(
            "sepolia",
            "d8ea171f3c94aea21ebc42a1ed61052acf3f9209c00e4efbaaddac09ed9b8078",
            "90000069 90000070 90000071 90000072 90000073 90000074 90000075 90000076",
        ),
        _network(
            "holesky",
            "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1",
            "01017000 02017000 03017000 04017000 05017000 06017000 07017000",
        ),
        _network(
            "hoodi",
            "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f",
            "10000910 20000910 30000910 40000910 50000910 60000910 70000910 80000910",
        ),
    )
}
