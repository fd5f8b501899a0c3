"""What is read at once must be what is read with care, or nothing at all."""

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing.beacon_attestations import (
    MAX_BODY,
    MAX_KEPT,
    Attestations,
)
from nitrosigner.trusted.signing.beacon_containers import MAINNET_PRESET
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.beacon_duties import Duty, read_duty
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS, BeaconNetwork
from nitrosigner.verdicts import Verdict

Json = dict[str, Any]
CHAIN = GenesisValidatorsRoot(bytes(range(32)))
NETWORK = BeaconNetwork(
    name="mainnet",
    preset=MAINNET_PRESET,
    genesis_validators_root=CHAIN,
    fork_versions={
        name: ForkVersion(bytes([number, 0, 0, 9]))
        for number, name in enumerate(
            ("phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu")
        )
    },
)


def attestation(seed: int = 0) -> Json:
    source = random.Random(seed)
    target = source.randrange(1, 10_000)

    def root() -> str:
        return "0x" + source.randbytes(32).hex()

    return {
        "type": "ATTESTATION",
        "fork_info": {
            "fork": {
                "previous_version": "0x05000009",
                "current_version": "0x06000009",
                "epoch": str(source.choice([0, target, target + 1, 2**64 - 1])),
            },
            "genesis_validators_root": "0x" + CHAIN.hex(),
        },
        "attestation": {
            "slot": str(target * 32 + source.randrange(32)),
            "index": str(source.choice([0, 0, 5])),
            "beacon_block_root": root(),
            "source": {"epoch": str(source.randrange(target + 1)), "root": root()},
            "target": {"epoch": str(target), "root": root()},
        },
    }


def with_care(body: bytes) -> Duty | None:
    """Return what the general reader makes of *body*; None if it says no."""
    try:
        return read_duty(json.loads(body), NETWORK)
    except (Verdict, ValueError):
        return None


@pytest.mark.parametrize("seed", range(200))
def test_the_usual_shape_is_read_at_once_and_alike(seed: int) -> None:
    request = attestation(seed)
    body = json.dumps(request).encode()
    duty = with_care(body)
    assert duty is not None
    reader = Attestations(NETWORK)
    assert reader.read(body) == duty
    assert reader.read(body) == duty  # remembered
    request["signingRoot"] = "0x" + duty.signing_root.hex()
    assert reader.read(json.dumps(request).encode()) == duty
    request["signingRoot"] = None
    assert reader.read(json.dumps(request).encode()) == duty


def paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path, *(p for key in value for p in paths(value[key], (*path, key)))]


PLACES = [path for path in paths(attestation()) if path]
ODD = [
    None, True, 0, 7, -1, 2**64, 1.5, "", "0", "00", "-1", "+1", " 1", "1 ", "1_0",
    "\u0661", "\u00b2", str(2**64 - 1), str(2**64), "1" * 21, "0x", "0x1", "0X" + "ab" * 32,
    "ab" * 32, "0x" + "ab" * 31, "0x" + "ab" * 33, "0x" + "zz" * 32, "0x" + "AB" * 32,
    "0x" + "a b" * 21 + "c", "0x" + " " * 64, "0x" + "ab" * 4, "0xAB000009", "1x05000009",
    [], {}, [1], {"epoch": "1"}, {"epoch": "1", "root": "0x" + "ab" * 32}, "ATTESTATION",
    "attestation", "BLOCK_V2", "\ud83d\ude00",
]  # fmt: skip


def changed(request: Json, path: tuple[str, ...], odd: Any) -> Json:
    request = copy.deepcopy(request)
    place = request
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = odd
    return request


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_an_odd_value_anywhere_is_read_alike_or_not_at_all(
    path: tuple[str, ...],
) -> None:
    reader = Attestations(NETWORK)
    for seed, odd in enumerate(ODD):
        body = json.dumps(changed(attestation(seed), path, odd)).encode()
        read = reader.read(body)
        assert read is None or read == with_care(body), (path, odd)


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_what_is_missing_renamed_or_too_much_is_read_alike_or_not_at_all(
    path: tuple[str, ...],
) -> None:
    reader = Attestations(NETWORK)
    request = attestation(1)
    place = request
    for name in path[:-1]:
        place = place[name]
    for name in ("extra", "signing_root", "forkInfo", "signingRoot"):
        place[name] = "0x" + "11" * 32
        body = json.dumps(request).encode()
        read = reader.read(body)
        assert read is None or read == with_care(body)
        del place[name]
    place["renamed"] = place.pop(path[-1])
    assert reader.read(json.dumps(request).encode()) is None
    del place["renamed"]
    assert reader.read(json.dumps(request).encode()) is None


@given(st.data())
def test_whatever_bytes_come_are_read_alike_or_not_at_all(data: st.DataObject) -> None:
    body = bytearray(json.dumps(attestation(data.draw(st.integers(0, 50)))).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at] = data.draw(st.integers(0, 255))
        else:
            length = data.draw(st.integers(1, 40))
            body[at:at] = body[max(0, at - length) : at]
    read = Attestations(NETWORK).read(bytes(body))
    assert read is None or read == with_care(bytes(body))


def test_another_chain_a_wrong_root_and_a_backward_vote_are_left_to_care() -> None:
    reader = Attestations(NETWORK)
    for path, odd in (
        (("fork_info", "genesis_validators_root"), "0x" + "01" * 32),
        (("signingRoot",), "0x" + "01" * 32),
        (("attestation", "source", "epoch"), str(2**60)),
    ):
        body = json.dumps(changed(attestation(2), path, odd)).encode()
        assert reader.read(body) is None
        assert with_care(body) is None


def test_what_is_remembered_has_a_bound() -> None:
    reader = Attestations(NETWORK)
    for seed in range(MAX_KEPT + 100):
        assert reader.read(json.dumps(attestation(seed)).encode()) is not None
    assert reader._remembered.cache_info().currsize == MAX_KEPT
    assert reader.read(b" " * MAX_BODY + json.dumps(attestation(1)).encode()) is None


@pytest.mark.parametrize("used", ["previous_version", "current_version"])
def test_a_fork_that_a_public_network_does_not_name_is_left_to_care(used: str) -> None:
    network = PUBLIC_NETWORKS["hoodi"]
    request = attestation(3)
    info = request["fork_info"]
    info["genesis_validators_root"] = "0x" + network.genesis_validators_root.hex()
    known = "0x" + network.fork_versions["fulu"].hex()
    info["fork"] |= {"previous_version": known, "current_version": known}
    reader = Attestations(network)
    body = json.dumps(request).encode()
    assert reader.read(body) == read_duty(request, network)
    info["fork"][used] = "0x0badf00d"
    body = json.dumps(request).encode()
    assert reader.read(body) is None
