"""
Gloas' messages against remerkleable, and against positions the specification fixes.

The released remerkleable has no progressive types. Plain parts are its; the progressive
tree is built a second time here by generalized index, node by node, which is how the
specification's light client constants name its leaves.
"""

import random
from hashlib import sha256
from typing import Any

import pytest
from remerkleable.basic import boolean, uint64, uint256
from remerkleable.byte_arrays import (
    ByteList,
    Bytes4,
    Bytes32,
    Bytes48,
    Bytes96,
    ByteVector,
)
from remerkleable.complex import Container

from nitrosigner.trusted.signing.beacon_containers import (
    MAINNET_PRESET,
    MINIMAL_PRESET,
)
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.beacon_duties import DutyKind, read_duty
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.ssz_progressive import merkleize_progressive
from nitrosigner.verdicts import Malformed, Refused

Json = dict[str, Any]
CHAIN = bytes(range(32))
GENESIS, FULU, GLOAS = (ForkVersion(bytes([n, 0, 0, 9])) for n in (0, 6, 7))
FORK_EPOCH = 10
MAINNET, MINIMAL = (
    BeaconNetwork(
        name=preset.name,
        preset=preset,
        genesis_validators_root=GenesisValidatorsRoot(CHAIN),
        fork_versions={"phase0": GENESIS, "capella": ForkVersion(b"\3\0\0\x09")},
    )
    for preset in (MAINNET_PRESET, MINIMAL_PRESET)
)


class Address(ByteVector[20]):  # type: ignore[misc]
    pass


class PayloadAttestationData(Container):  # type: ignore[misc]
    beacon_block_root: Bytes32
    slot: uint64
    payload_present: boolean
    blob_data_available: boolean


class ProposerPreferences(Container):  # type: ignore[misc]
    dependent_root: Bytes32
    proposal_slot: uint64
    validator_index: uint64
    fee_recipient: Address
    target_gas_limit: uint64


class BuilderRequestAuth(Container):  # type: ignore[misc]
    data: ByteList[4096]
    slot: uint64


class Withdrawal(Container):  # type: ignore[misc]
    index: uint64
    validator_index: uint64
    address: Address
    amount: uint64


class DepositRequest(Container):  # type: ignore[misc]
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64
    signature: Bytes96
    index: uint64


class WithdrawalRequest(Container):  # type: ignore[misc]
    source_address: Address
    validator_pubkey: Bytes48
    amount: uint64


class ConsolidationRequest(Container):  # type: ignore[misc]
    source_address: Address
    source_pubkey: Bytes48
    target_pubkey: Bytes48


class BuilderDepositRequest(Container):  # type: ignore[misc]
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64
    signature: Bytes96


class BuilderExitRequest(Container):  # type: ignore[misc]
    source_address: Address
    pubkey: Bytes48


class ForkData(Container):  # type: ignore[misc]
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):  # type: ignore[misc]
    object_root: Bytes32
    domain: Bytes32


def hashed(left: bytes, right: bytes) -> bytes:
    return sha256(left + right).digest()


def places(count: int) -> list[int]:
    """Return the generalized index of each chunk in a progressive tree."""
    found: list[int] = []
    level = 0
    while len(found) < count:
        subtree = (1 << (level + 2)) - 2  # the left child of the spine at this level
        found += range(subtree << 2 * level, (subtree << 2 * level) + 4**level)
        level += 1
    return found[:count]


def tree_root(chunks: list[bytes]) -> bytes:
    leaves = dict(zip(places(len(chunks)), chunks, strict=True))
    above = {index >> up for index in leaves for up in range(index.bit_length())}
    zeros = [bytes(32)]
    for _ in range(12):
        zeros.append(hashed(zeros[-1], zeros[-1]))

    def node(index: int, missing: int | None) -> bytes:
        """`missing` is the height of the subtree that is padded; None on the spine."""
        if index in leaves:
            return leaves[index]
        if index not in above:
            return zeros[missing or 0]
        spine = missing is None
        level = index.bit_length() - 1
        left = 2 * level if spine else (missing or 0) - 1
        right = None if spine else left
        return hashed(node(2 * index, left), node(2 * index + 1, right))

    return node(1, None)


def mixed(chunks: list[bytes], number: int) -> bytes:
    return hashed(tree_root(chunks), number.to_bytes(32, "little"))


def container_root(chunks: list[bytes]) -> bytes:
    return mixed(chunks, 2 ** len(chunks) - 1)


def list_root(chunks: list[bytes]) -> bytes:
    return mixed(chunks, len(chunks))


def bytes_root(data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 32)
    chunks = [padded[i : i + 32] for i in range(0, len(padded), 32)]
    return mixed(chunks, len(data))


def root_of(value: Any) -> bytes:
    return bytes(value.hash_tree_root())


def generate(kind: Any, source: random.Random) -> Any:
    if issubclass(kind, Container):
        return kind(**{n: generate(t, source) for n, t in kind.fields().items()})
    if issubclass(kind, boolean):
        return kind(source.random() < 0.5)
    if issubclass(kind, uint64):
        return kind(source.randrange(1 << source.choice((3, 20, 40))))
    if issubclass(kind, uint256):
        return kind(source.randrange(1 << 256))
    if issubclass(kind, ByteVector):
        return kind(source.randbytes(kind.type_byte_length()))
    assert issubclass(kind, ByteList)
    return kind(source.randbytes(source.randrange(1, min(kind.limit(), 300))))


def as_json(value: Any) -> Any:
    if isinstance(value, Container):
        return {name: as_json(getattr(value, name)) for name in value.fields()}
    if isinstance(value, boolean):
        return bool(value)
    if isinstance(value, uint64 | uint256):
        return str(int(value))
    return "0x" + value.encode_bytes().hex()


class Drawn:
    """A progressive container: its JSON, and the root that this file computes."""

    def __init__(self, source: random.Random) -> None:
        self.json: Json = {}
        self.roots: list[bytes] = []
        self._source = source

    def one(self, name: str, kind: Any) -> None:
        value = generate(kind, self._source)
        self.json[name] = as_json(value)
        self.roots.append(root_of(value))

    def several(self, name: str, kind: Any) -> None:
        count = self._source.choice((0, 1, 2, 5, 6, 22))
        values = [generate(kind, self._source) for _ in range(count)]
        self.json[name] = [as_json(value) for value in values]
        self.roots.append(list_root([root_of(value) for value in values]))

    def given(self, name: str, json: Any, root: bytes) -> None:
        self.json[name] = json
        self.roots.append(root)

    @property
    def root(self) -> bytes:
        return container_root(self.roots)


def bid(source: random.Random) -> tuple[Json, bytes, int]:
    drawn = Drawn(source)
    for name in ("parent_block_hash", "parent_block_root", "block_hash", "prev_randao"):
        drawn.one(name, Bytes32)
    drawn.one("fee_recipient", Address)
    for name in ("gas_limit", "builder_index", "slot", "value", "execution_payment"):
        drawn.one(name, uint64)
    drawn.several("blob_kzg_commitments", Bytes48)
    drawn.one("execution_requests_root", Bytes32)
    assert len(drawn.roots) == 12
    return drawn.json, drawn.root, int(drawn.json["slot"])


def payload(source: random.Random) -> Drawn:
    drawn = Drawn(source)
    drawn.one("parent_hash", Bytes32)
    drawn.one("fee_recipient", Address)
    drawn.one("state_root", Bytes32)
    drawn.one("receipts_root", Bytes32)
    drawn.one("logs_bloom", ByteVector[256])
    drawn.one("prev_randao", Bytes32)
    for name in ("block_number", "gas_limit", "gas_used", "timestamp"):
        drawn.one(name, uint64)
    drawn.one("extra_data", ByteList[32])
    drawn.one("base_fee_per_gas", uint256)
    drawn.one("block_hash", Bytes32)
    sent = [source.randbytes(source.choice((0, 31, 32, 33, 700))) for _ in range(7)]
    drawn.given(
        "transactions",
        ["0x" + one.hex() for one in sent],
        list_root([bytes_root(one) for one in sent]),
    )
    drawn.several("withdrawals", Withdrawal)
    drawn.one("blob_gas_used", uint64)
    drawn.one("excess_blob_gas", uint64)
    accessed = source.randbytes(source.randrange(900))
    drawn.given("block_access_list", "0x" + accessed.hex(), bytes_root(accessed))
    drawn.one("slot_number", uint64)
    assert len(drawn.roots) == 19
    return drawn


def envelope(source: random.Random) -> tuple[Json, bytes, int]:
    revealed, requests, drawn = payload(source), Drawn(source), Drawn(source)
    requests.several("deposits", DepositRequest)
    requests.several("withdrawals", WithdrawalRequest)
    requests.several("consolidations", ConsolidationRequest)
    requests.several("builder_deposits", BuilderDepositRequest)
    requests.several("builder_exits", BuilderExitRequest)
    drawn.given("payload", revealed.json, revealed.root)
    drawn.given("execution_requests", requests.json, requests.root)
    drawn.one("builder_index", uint64)
    drawn.one("beacon_block_root", Bytes32)
    drawn.one("parent_beacon_block_root", Bytes32)
    return drawn.json, drawn.root, int(revealed.json["slot_number"])


def attestation(source: random.Random) -> tuple[Json, bytes, int]:
    value = generate(PayloadAttestationData, source)
    return as_json(value), root_of(value), int(value.slot)


def preferences(source: random.Random) -> tuple[Json, bytes, int]:
    value = generate(ProposerPreferences, source)
    return as_json(value), root_of(value), int(value.proposal_slot)


CASES = [
    (DutyKind.EXECUTION_PAYLOAD_BID, bid, "0b000000"),
    (DutyKind.EXECUTION_PAYLOAD_ENVELOPE, envelope, "0b000000"),
    (DutyKind.PAYLOAD_ATTESTATION_MESSAGE, attestation, "0c000000"),
    (DutyKind.PROPOSER_PREFERENCES, preferences, "0d000000"),
]


def request(kind: DutyKind, data: Any, version: object = "GLOAS") -> Json:
    return {
        "type": kind.value,
        "fork_info": {
            "fork": {
                "previous_version": "0x" + FULU.hex(),
                "current_version": "0x" + GLOAS.hex(),
                "epoch": str(FORK_EPOCH),
            },
            "genesis_validators_root": "0x" + CHAIN.hex(),
        },
        kind.value.lower(): {"version": version, "data": data},
    }


def signing_root(root: bytes, domain: str, version: bytes, chain: bytes) -> bytes:
    fork = ForkData(current_version=version, genesis_validators_root=chain)
    whole = bytes.fromhex(domain) + root_of(fork)[:28]
    return root_of(SigningData(object_root=root, domain=whole))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("network", [MAINNET, MINIMAL], ids=lambda n: n.name)
def test_the_signing_root_is_the_second_opinions(
    case: Any, network: BeaconNetwork
) -> None:
    kind, draw, domain = case
    source = random.Random(f"{kind}{network.name}")
    for _ in range(12):
        data, root, slot = draw(source)
        # The version is that of the message's own slot, on either side of the fork.
        epoch = slot // network.preset.slots_per_epoch
        version = GLOAS if epoch >= FORK_EPOCH else FULU
        wanted = signing_root(root, domain, version, CHAIN)
        duty = read_duty(request(kind, data), network)
        assert (duty.kind, duty.signing_root) == (kind, wanted)
        assert duty.genesis_validators_root == CHAIN
        assert duty.slashable_by is None
        assert read_duty(request(kind, data, "gloas"), network) == duty
        body = request(kind, data)
        assert read_duty({**body, "signingRoot": "0x" + wanted.hex()}, network) == duty
        with pytest.raises(Malformed):
            read_duty({**body, "signingRoot": "0x" + "11" * 32}, network)


def test_authentication_to_a_builder_belongs_to_no_chain() -> None:
    value = generate(BuilderRequestAuth, random.Random(7))
    kind = DutyKind.BUILDER_REQUEST_AUTH
    body = request(kind, as_json(value))
    del body["fork_info"]
    duty = read_duty(body, MAINNET)
    wanted = signing_root(root_of(value), "0b000001", GENESIS, bytes(32))
    assert duty.signing_root == wanted
    assert duty.genesis_validators_root is None
    assert duty.slashable_by is None
    for data in ("0x", "0x" + "00" * 4097, "https://builder"):
        with pytest.raises(Malformed):
            read_duty(request(kind, {"data": data, "slot": "1"}), MAINNET)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_is_no_message_of_gloas_is_malformed(case: Any) -> None:
    kind, draw, _ = case
    data, _, _ = draw(random.Random(3))
    for version in ("FULU", "HEZE", "", 7):
        with pytest.raises(Malformed):
            read_duty(request(kind, data, version), MAINNET)
    for name in data:
        with pytest.raises(Malformed):
            read_duty(request(kind, data | {name: None}), MAINNET)
        with pytest.raises(Malformed):
            less = {key: value for key, value in data.items() if key != name}
            read_duty(request(kind, less), MAINNET)
    with pytest.raises(Malformed):
        read_duty(request(kind, data | {"extra": "1"}), MAINNET)
    with pytest.raises(Malformed):
        read_duty(request(kind, data) | {kind.value.lower(): data}, MAINNET)
    other = request(kind, data)
    other["fork_info"]["genesis_validators_root"] = "0x" + "99" * 32
    with pytest.raises(Refused):
        read_duty(other, MAINNET)


def test_progressive_leaves_are_where_the_specifications_constants_put_them() -> None:
    """Field 10 of the body at 357, 20 of the state at 367: below the mixed-in word."""
    assert [places(86)[i] for i in (0, 1, 5, 21)] == [2, 24, 224, 1920]

    def in_container(index: int) -> int:
        place = places(index + 1)[index]
        return place + (1 << (place.bit_length() - 1))

    # FINALIZED_ROOT_GINDEX_GLOAS, CURRENT_ and NEXT_SYNC_COMMITTEE_GINDEX_GLOAS,
    assert in_container(20) * 2 + 1 == 735
    assert [in_container(22), in_container(23)] == [2945, 2946]
    # EXECUTION_BLOCK_HASH_GINDEX_GLOAS: the bid is itself a progressive container.
    assert in_container(10) * 2 * in_container(0) == 2856


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 20, 21, 22, 85, 86])
def test_progressive_trees_are_the_same_node_by_node(count: int) -> None:
    chunks = [sha256(bytes([i])).digest() for i in range(count)]
    assert merkleize_progressive(chunks) == tree_root(chunks)


@pytest.mark.parametrize(
    ("count", "root"),
    [
        (5, "3fd53b812118ddea60b9deab5c72d32b0c4dcfd2c94deda753e6e1d548fbc274"),
        (22, "040be60071c540aafc1d44f366239ab6a41bf8740a38f9d52ab0bbd9cd974c45"),
        (86, "b73c4c427974f47c74c2812d353c966f5dadae70c44f6fe9a15e179b86914977"),
    ],
)
def test_progressive_trees_are_those_of_a_later_remerkleable(
    count: int, root: str
) -> None:
    """Roots of remerkleable 0.1.31, which Erigon's tests of EIP-7916 publish."""
    chunks = [bytes([i + 1]) * 32 for i in range(count)]
    assert merkleize_progressive(chunks).hex() == root
