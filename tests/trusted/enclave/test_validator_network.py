"""What a manifest says of a chain becomes that chain, or is refused."""

from typing import Any

import pytest

from nitrosigner.trusted.enclave.validators.validator_names import validator_name
from nitrosigner.trusted.enclave.validators.validator_network import (
    beacon_network,
    ceiling,
)
from nitrosigner.trusted.signing.beacon_containers import MINIMAL_PRESET
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS
from nitrosigner.trusted.signing.slashing import NO_CEILING, Ceiling, Epoch, Slot
from nitrosigner.verdicts import Malformed
from nitrosigner.wire.manifest_validators import CustomNetwork, Validators

FORKS = {"phase0": "0x00000001", "capella": "03000001", "fulu": "0x06000001"}


def custom(**changes: Any) -> CustomNetwork:
    fields: dict[str, Any] = {
        "preset": "minimal",
        "genesis_validators_root": "0x" + "ab" * 32,
        "fork_versions": FORKS,
    }
    return CustomNetwork(**fields | changes)


@pytest.mark.parametrize("name", sorted(PUBLIC_NETWORKS))
def test_a_public_network_is_known_by_its_name(name: str) -> None:
    assert beacon_network(Validators(network=name)) is PUBLIC_NETWORKS[name]


def test_a_network_of_ones_own_is_what_was_described() -> None:
    made = beacon_network(Validators(network="devnet", custom=custom()))
    assert (made.name, made.preset) == ("devnet", MINIMAL_PRESET)
    assert made.genesis_validators_root == b"\xab" * 32
    assert made.genesis_version == bytes.fromhex("00000001")
    assert made.fork_versions["capella"] == bytes.fromhex("03000001")


@pytest.mark.parametrize(
    "told",
    [
        Validators(network="devnet"),
        Validators(network="mainnet", custom=custom()),
        Validators(network="devnet", custom=custom(fork_versions={})),
        Validators(
            network="devnet",
            custom=custom(fork_versions=FORKS | {"prague": "07000001"}),
        ),
        Validators(
            network="devnet", custom=custom(fork_versions=FORKS | {"deneb": "03000001"})
        ),
    ],
)
def test_what_is_no_chain_is_malformed(told: Validators) -> None:
    with pytest.raises(Malformed):
        beacon_network(told)


def test_there_is_no_ceiling_unless_the_administrator_sets_one() -> None:
    assert ceiling(Validators(network="mainnet")) == NO_CEILING
    told = Validators(network="mainnet", ceiling_slot=0, ceiling_epoch=7)
    assert ceiling(told) == Ceiling(slot=Slot(0), epoch=Epoch(7))


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("0x" + "Ab" * 48, "0x" + "ab" * 48),
        ("AB" * 48, "0x" + "ab" * 48),
        ("0X" + "ab" * 48, "0x" + "ab" * 48),
        ("ab" * 47, "ab" * 47),
        ("0x" + "ag" * 48, "0x" + "ag" * 48),
        ("0x0x" + "ab" * 47, "0x0x" + "ab" * 47),
        ("", ""),
    ],
)
def test_a_validator_has_one_name(identifier: str, name: str) -> None:
    assert validator_name(identifier) == name
