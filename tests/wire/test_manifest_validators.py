"""The part of a manifest that speaks of validators."""

from typing import Any

import msgspec
import pytest

from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import manifest
from nitrosigner.wire.manifest import Operation

ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CUSTOM = {
    "preset": "minimal",
    "genesis_validators_root": "0x" + "ab" * 32,
    "fork_versions": {"phase0": "0x00000001", "capella": "03000001"},
}


def parse(validators: Any, **changes: Any) -> manifest.Manifest:
    fields = {
        "format": "nitrosigner/manifest/1",
        "deployment": "validators",
        "version": 1,
        "aws": {"region": "eu-west-1", "kms_key_arn": ARN},
        "networks": [{"name": "mainnet", "chain_id": 1}],
        "clients": [],
    } | changes
    if validators is not None:
        fields["validators"] = validators
    return manifest.parse(msgspec.json.encode(fields))


def test_an_older_manifest_has_no_validators() -> None:
    assert parse(None).validators is None


def test_a_public_network_needs_its_name_only() -> None:
    said = parse({"network": "hoodi"}).validators
    assert said is not None
    assert (said.network, said.custom, said.expected_keys) == ("hoodi", None, None)


def test_a_network_of_ones_own_is_described() -> None:
    said = parse(
        {
            "network": "devnet",
            "custom": CUSTOM,
            "expected_keys": 64,
            "ceiling_slot": 100,
            "ceiling_epoch": 3,
        }
    ).validators
    assert said is not None
    assert said.custom is not None
    assert said.custom.fork_versions["capella"] == "03000001"
    assert (said.expected_keys, said.ceiling_slot, said.ceiling_epoch) == (64, 100, 3)


@pytest.mark.parametrize(
    ("validators", "named"),
    [
        ({}, "network"),
        ({"network": "Main net"}, "network"),
        ({"network": "a", "custom": CUSTOM | {"preset": "tiny"}}, "preset"),
        ({"network": "a", "custom": CUSTOM | {"genesis_validators_root": "0x12"}}, "genesis_validators_root"),
        ({"network": "a", "custom": CUSTOM | {"fork_versions": {"phase0": "0x0000001"}}}, "fork_versions"),
        ({"network": "a", "custom": CUSTOM | {"chain_id": 1}}, "chain_id"),
        ({"network": "a", "expected_keys": -1}, "expected_keys"),
        ({"network": "a", "ceiling_slot": -1}, "ceiling_slot"),
        ({"network": "a", "ceiling_epoch": 1 << 63}, "ceiling_epoch"),
        ({"network": "a", "slashing_protection": False}, "slashing_protection"),
        ({"network": "a", "reference_kms_key_arn": "alias/x"}, "reference_kms_key_arn"),
        ({"network": "a", "reference_kms_key_arn": ARN.replace("eu-west-1", "us-east-1")}, "another region"),
    ],
)  # fmt: skip
def test_what_is_no_chain_is_malformed_and_named(validators: Any, named: str) -> None:
    with pytest.raises(Malformed, match=named) as caught:
        parse(validators)
    assert caught.value.code is Code.MALFORMED_MANIFEST


def test_a_pattern_can_name_one_validator() -> None:
    name = "0x" + "a1" * 48
    client = {
        "name": "vc",
        "token_sha256": ["a" * 64],
        "operations": [Operation.SIGN_DUTY],
        "keys": [name],
    }
    (one,) = parse({"network": "mainnet"}, clients=[client]).clients
    assert manifest.key_allowed(one, name)
    assert not manifest.key_allowed(one, name[:-1] + "2")
    with pytest.raises(Malformed, match="keys"):
        parse(None, clients=[client | {"keys": ["a" * 99]}])
