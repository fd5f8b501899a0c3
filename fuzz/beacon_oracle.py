"""
Every message that a validator signs, built a second time.

Plain containers are remerkleable's. Progressive ones, which no released remerkleable
has, are hashed node by node by generalized index, the way the specification's light
client constants name their leaves. Domains and signing roots follow `compute_domain`
and `compute_signing_root`. Nothing here may use the code that it judges.

Source: ethereum/consensus-specs phase0 to gloas (1.7.0-beta.0), builder-specs;
EIP-7916, EIP-7495. Used by `beacon_duties.py` and by the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

from remerkleable.basic import boolean, uint64, uint256
from remerkleable.bitfields import Bitlist, Bitvector
from remerkleable.byte_arrays import (
    ByteList,
    Bytes4,
    Bytes32,
    Bytes48,
    Bytes96,
    ByteVector,
)
from remerkleable.complex import Container, List, Vector

Json: TypeAlias = dict[str, Any]
Ssz: TypeAlias = Any
"""A type or a value of remerkleable's."""

FORKS: Final = (
    *("phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu", "gloas"),
)
EPOCHS_OF_A_FORK: Final = 10
PRESETS: Final = ("mainnet", "minimal")
SLOTS_PER_EPOCH: Final = {"mainnet": 32, "minimal": 8}


class Chain(NamedTuple):
    """The chain that messages are for."""

    root: bytes
    """Its genesis validators root."""
    versions: Mapping[str, bytes]
    """Of its forks."""


CHAIN: Final = Chain(
    bytes(range(32)),
    {name: bytes([number, 0, 0, 9]) for number, name in enumerate(FORKS)},
)


# --- Plain containers, as the specification lists them -------------------------------


class Address(ByteVector[20]):  # type: ignore[misc]
    pass


class Checkpoint(Container):  # type: ignore[misc]
    epoch: uint64
    root: Bytes32


class AttestationData(Container):  # type: ignore[misc]
    slot: uint64
    index: uint64
    beacon_block_root: Bytes32
    source: Checkpoint
    target: Checkpoint


class Attestation(Container):  # type: ignore[misc]
    aggregation_bits: Bitlist[2048]
    data: AttestationData
    signature: Bytes96


class AttestationElectra(Container):  # type: ignore[misc]
    aggregation_bits: Bitlist[131072]
    data: AttestationData
    signature: Bytes96
    committee_bits: Bitvector[64]


class AttestationElectraMinimal(Container):  # type: ignore[misc]
    aggregation_bits: Bitlist[8192]
    data: AttestationData
    signature: Bytes96
    committee_bits: Bitvector[4]


class AggregateAndProof(Container):  # type: ignore[misc]
    aggregator_index: uint64
    aggregate: Attestation
    selection_proof: Bytes96


class AggregateAndProofElectra(Container):  # type: ignore[misc]
    aggregator_index: uint64
    aggregate: AttestationElectra
    selection_proof: Bytes96


class AggregateAndProofElectraMinimal(Container):  # type: ignore[misc]
    aggregator_index: uint64
    aggregate: AttestationElectraMinimal
    selection_proof: Bytes96


class BeaconBlockHeader(Container):  # type: ignore[misc]
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body_root: Bytes32


class VoluntaryExit(Container):  # type: ignore[misc]
    epoch: uint64
    validator_index: uint64


class SyncAggregatorSelectionData(Container):  # type: ignore[misc]
    slot: uint64
    subcommittee_index: uint64


class Contribution(Container):  # type: ignore[misc]
    slot: uint64
    beacon_block_root: Bytes32
    subcommittee_index: uint64
    aggregation_bits: Bitvector[128]
    signature: Bytes96


class ContributionMinimal(Container):  # type: ignore[misc]
    slot: uint64
    beacon_block_root: Bytes32
    subcommittee_index: uint64
    aggregation_bits: Bitvector[8]
    signature: Bytes96


class ContributionAndProof(Container):  # type: ignore[misc]
    aggregator_index: uint64
    contribution: Contribution
    selection_proof: Bytes96


class ContributionAndProofMinimal(Container):  # type: ignore[misc]
    aggregator_index: uint64
    contribution: ContributionMinimal
    selection_proof: Bytes96


class ValidatorRegistration(Container):  # type: ignore[misc]
    fee_recipient: Address
    gas_limit: uint64
    timestamp: uint64
    pubkey: Bytes48


class DepositMessage(Container):  # type: ignore[misc]
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64


class BLSToExecutionChange(Container):  # type: ignore[misc]
    validator_index: uint64
    from_bls_pubkey: Bytes48
    to_execution_address: Address


class Eth1Data(Container):  # type: ignore[misc]
    deposit_root: Bytes32
    deposit_count: uint64
    block_hash: Bytes32


class SignedHeader(Container):  # type: ignore[misc]
    message: BeaconBlockHeader
    signature: Bytes96


class ProposerSlashing(Container):  # type: ignore[misc]
    signed_header_1: SignedHeader
    signed_header_2: SignedHeader


class IndexedAttestation(Container):  # type: ignore[misc]
    attesting_indices: List[uint64, 2048]
    data: AttestationData
    signature: Bytes96


class AttesterSlashing(Container):  # type: ignore[misc]
    attestation_1: IndexedAttestation
    attestation_2: IndexedAttestation


class DepositData(Container):  # type: ignore[misc]
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64
    signature: Bytes96


class Deposit(Container):  # type: ignore[misc]
    proof: Vector[Bytes32, 33]
    data: DepositData


class SignedVoluntaryExit(Container):  # type: ignore[misc]
    message: VoluntaryExit
    signature: Bytes96


class SyncAggregate(Container):  # type: ignore[misc]
    sync_committee_bits: Bitvector[512]
    sync_committee_signature: Bytes96


class SyncAggregateMinimal(Container):  # type: ignore[misc]
    sync_committee_bits: Bitvector[32]
    sync_committee_signature: Bytes96


class BodyPhase0(Container):  # type: ignore[misc]
    randao_reveal: Bytes96
    eth1_data: Eth1Data
    graffiti: Bytes32
    proposer_slashings: List[ProposerSlashing, 16]
    attester_slashings: List[AttesterSlashing, 2]
    attestations: List[Attestation, 128]
    deposits: List[Deposit, 16]
    voluntary_exits: List[SignedVoluntaryExit, 16]


class BodyAltair(BodyPhase0):
    sync_aggregate: SyncAggregate


class BodyAltairMinimal(BodyPhase0):
    sync_aggregate: SyncAggregateMinimal


class BlockPhase0(Container):  # type: ignore[misc]
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body: BodyPhase0


class BlockAltair(Container):  # type: ignore[misc]
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body: BodyAltair


class BlockAltairMinimal(Container):  # type: ignore[misc]
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body: BodyAltairMinimal


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


def root_of(value: Ssz) -> bytes:
    return bytes(value.hash_tree_root())


def signing_root(root: bytes, domain: str, version: bytes, chain: bytes) -> bytes:
    """Return what is signed, by `compute_domain` and `compute_signing_root`."""
    fork = ForkData(current_version=version, genesis_validators_root=chain)
    whole = bytes.fromhex(domain) + root_of(fork)[:28]
    return root_of(SigningData(object_root=root, domain=whole))


def generate(kind: Ssz, source: Random) -> Ssz:
    """Return a random value of a remerkleable type."""
    if issubclass(kind, Container):
        return kind(**{n: generate(t, source) for n, t in kind.fields().items()})
    if issubclass(kind, boolean):
        return kind(source.random() < 0.5)
    if issubclass(kind, uint64):
        return kind(source.randrange(1 << source.choice((3, 20, 40))))
    if issubclass(kind, uint256):
        return kind(source.randrange(1 << 256))
    if issubclass(kind, Bitlist):
        return kind([source.random() < 0.5 for _ in range(source.randrange(200))])
    if issubclass(kind, Bitvector):
        return kind([source.random() < 0.5 for _ in range(kind.vector_length())])
    if issubclass(kind, ByteVector):
        return kind(source.randbytes(kind.type_byte_length()))
    if issubclass(kind, ByteList):
        return kind(source.randbytes(source.randrange(1, min(kind.limit(), 300))))
    if issubclass(kind, List):
        count = min(source.randrange(4), kind.limit())
        return kind([generate(kind.element_cls(), source) for _ in range(count)])
    assert issubclass(kind, Vector)
    return kind(
        [generate(kind.element_cls(), source) for _ in range(kind.vector_length())]
    )


def as_json(value: Ssz) -> Ssz:
    """Return a remerkleable value as the Beacon API spells it."""
    if isinstance(value, Container):
        return {name: as_json(getattr(value, name)) for name in value.fields()}
    if isinstance(value, boolean):
        return bool(value)
    if isinstance(value, uint64 | uint256):
        return str(int(value))
    if isinstance(value, Bitlist | Bitvector | ByteVector | ByteList):
        return "0x" + value.encode_bytes().hex()
    return [as_json(item) for item in value]


# --- Progressive trees (EIP-7916, EIP-7495), by generalized index --------------------


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
    for _ in range(16):
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


def chunks_of(data: bytes) -> list[bytes]:
    padded = data + bytes(-len(data) % 32)
    return [padded[i : i + 32] for i in range(0, len(padded), 32)]


class Value(NamedTuple):
    """A message, or a part of one: its JSON and its root."""

    json: Any
    root: bytes


def plain(kind: Ssz, random: Random, **told: Ssz) -> Value:
    value = generate(kind, random)
    for name, one in told.items():
        setattr(value, name, one)
    return Value(as_json(value), root_of(value))


def number(value: int) -> Value:
    return Value(str(value), value.to_bytes(32, "little"))


def byte_list(data: bytes) -> Value:
    return Value("0x" + data.hex(), mixed(chunks_of(data), len(data)))


def bit_list(source: Random) -> Value:
    count = source.choice((0, 1, 7, 8, 255, 256, 257, 1280, 1281, 5377))
    bits = sum(1 << i for i in range(count) if source.random() < 0.5)
    packed = bits.to_bytes((count + 7) // 8, "little")
    sent = (bits | 1 << count).to_bytes(count // 8 + 1, "little")
    return Value("0x" + sent.hex(), mixed(chunks_of(packed), count))


def several(values: list[Value]) -> Value:
    roots = [one.root for one in values]
    return Value([one.json for one in values], mixed(roots, len(roots)))


def container(**fields: Value) -> Value:
    """Return a progressive container in which every field is active."""
    return Value(
        {name: one.json for name, one in fields.items()},
        container_root([one.root for one in fields.values()]),
    )


def some(kind: Ssz, source: Random) -> Value:
    count = source.choice((0, 1, 2, 5, 6, 22))
    return several([plain(kind, source) for _ in range(count)])


def bid(source: Random, slot: int) -> Value:
    def hash32() -> Value:
        return plain(Bytes32, source)

    def amount() -> Value:
        return plain(uint64, source)

    return container(
        parent_block_hash=hash32(),
        parent_block_root=hash32(),
        block_hash=hash32(),
        prev_randao=hash32(),
        fee_recipient=plain(Address, source),
        gas_limit=amount(),
        builder_index=amount(),
        slot=number(slot),
        value=amount(),
        execution_payment=amount(),
        blob_kzg_commitments=some(Bytes48, source),
        execution_requests_root=hash32(),
    )


def envelope(source: Random, slot: int, sent: Sequence[bytes] = ()) -> Value:
    if not sent:
        sizes = (0, 31, 32, 33, 700)
        sent = [source.randbytes(source.choice(sizes)) for _ in range(7)]
    payload = container(
        parent_hash=plain(Bytes32, source),
        fee_recipient=plain(Address, source),
        state_root=plain(Bytes32, source),
        receipts_root=plain(Bytes32, source),
        logs_bloom=plain(ByteVector[256], source),
        prev_randao=plain(Bytes32, source),
        block_number=plain(uint64, source),
        gas_limit=plain(uint64, source),
        gas_used=plain(uint64, source),
        timestamp=plain(uint64, source),
        extra_data=plain(ByteList[32], source),
        base_fee_per_gas=plain(uint256, source),
        block_hash=plain(Bytes32, source),
        transactions=several([byte_list(one) for one in sent]),
        withdrawals=some(Withdrawal, source),
        blob_gas_used=plain(uint64, source),
        excess_blob_gas=plain(uint64, source),
        block_access_list=byte_list(source.randbytes(source.randrange(900))),
        slot_number=number(slot),
    )
    requests = container(
        deposits=some(DepositRequest, source),
        withdrawals=some(WithdrawalRequest, source),
        consolidations=some(ConsolidationRequest, source),
        builder_deposits=some(BuilderDepositRequest, source),
        builder_exits=some(BuilderExitRequest, source),
    )
    return container(
        payload=payload,
        execution_requests=requests,
        builder_index=plain(uint64, source),
        beacon_block_root=plain(Bytes32, source),
        parent_beacon_block_root=plain(Bytes32, source),
    )


def gloas_aggregate(source: Random, slot: int, committees: int) -> Value:
    attestation = container(
        aggregation_bits=bit_list(source),
        data=plain(AttestationData, source, slot=slot),
        signature=plain(Bytes96, source),
        committee_bits=plain(Bitvector[committees], source),
    )
    index, proof = plain(uint64, source), plain(Bytes96, source)
    left = hashed(index.root, attestation.root)  # a plain container of three fields
    return Value(
        {
            "aggregator_index": index.json,
            "aggregate": attestation.json,
            "selection_proof": proof.json,
        },
        hashed(left, hashed(proof.root, bytes(32))),
    )


# --- Messages ----------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """One message that a validator is asked to sign."""

    kind: str
    key: str
    """The field of the request that holds it."""
    data: Any
    signing_root: bytes
    fork: str
    """The one that is active when it counts."""
    preset: str
    fork_info: Json | None
    judged: tuple[int, ...] | None = None
    """Slot of a proposal, or source and target of a vote."""

    @property
    def versioned(self) -> Json:
        """The object as `{version, data}`."""
        return {"version": self.fork.upper(), "data": self.data}


SINCE: Final[Mapping[str, str]] = {
    "SYNC_COMMITTEE_MESSAGE": "altair",
    "SYNC_COMMITTEE_SELECTION_PROOF": "altair",
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF": "altair",
    "VALIDATOR_REGISTRATION": "bellatrix",
    "BLS_TO_EXECUTION_CHANGE": "capella",
    "EXECUTION_PAYLOAD_BID": "gloas",
    "EXECUTION_PAYLOAD_ENVELOPE": "gloas",
    "PAYLOAD_ATTESTATION_MESSAGE": "gloas",
    "PROPOSER_PREFERENCES": "gloas",
    "BUILDER_REQUEST_AUTH": "gloas",
}
"""The fork that a kind came with; the others are of phase 0."""
_KEYS: Final[Mapping[str, str]] = {
    "BLOCK_V2": "beacon_block",
    "AGGREGATE_AND_PROOF_V2": "aggregate_and_proof",
    "SYNC_COMMITTEE_SELECTION_PROOF": "sync_aggregator_selection_data",
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF": "contribution_and_proof",
}
"""Where the field is not called like the kind."""
_DOMAINS: Final[Mapping[str, str]] = {
    "BLOCK": "00000000",
    "BLOCK_V2": "00000000",
    "ATTESTATION": "01000000",
    "RANDAO_REVEAL": "02000000",
    "DEPOSIT": "03000000",
    "VOLUNTARY_EXIT": "04000000",
    "AGGREGATION_SLOT": "05000000",
    "AGGREGATE_AND_PROOF": "06000000",
    "AGGREGATE_AND_PROOF_V2": "06000000",
    "SYNC_COMMITTEE_MESSAGE": "07000000",
    "SYNC_COMMITTEE_SELECTION_PROOF": "08000000",
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF": "09000000",
    "BLS_TO_EXECUTION_CHANGE": "0a000000",
    "VALIDATOR_REGISTRATION": "00000001",
    "EXECUTION_PAYLOAD_BID": "0b000000",
    "EXECUTION_PAYLOAD_ENVELOPE": "0b000000",
    "BUILDER_REQUEST_AUTH": "0b000001",
    "PAYLOAD_ATTESTATION_MESSAGE": "0c000000",
    "PROPOSER_PREFERENCES": "0d000000",
}
CHAINLESS: Final = (
    "DEPOSIT",
    "VALIDATOR_REGISTRATION",
    "BUILDER_REQUEST_AUTH",
)


def kinds_of(fork: str) -> list[str]:
    """Return what validators sign in *fork*."""
    number = FORKS.index(fork)
    return [
        kind
        for kind in _DOMAINS
        if FORKS.index(SINCE.get(kind, "phase0")) <= number
        and (kind != "BLOCK" or fork == "phase0")
    ]


class When(NamedTuple):
    """Where on which chain a message counts."""

    chain: Chain
    fork: str
    preset: str
    epoch: int
    slot: int
    transactions: Sequence[bytes]


def _block(source: Random, when: When) -> Value:
    altair = BlockAltairMinimal if when.preset == "minimal" else BlockAltair
    whole = {"phase0": BlockPhase0, "altair": altair}
    return plain(whole.get(when.fork, BeaconBlockHeader), source, slot=when.slot)


def _attestation(source: Random, when: When) -> Value:
    start, target = (
        Checkpoint(epoch=at, root=source.randbytes(32))
        for at in (max(when.epoch - 1, 0), when.epoch)
    )
    return plain(AttestationData, source, slot=when.slot, source=start, target=target)


def _aggregate(source: Random, when: When) -> Value:
    minimal = when.preset == "minimal"
    if when.fork == "gloas":
        return gloas_aggregate(source, when.slot, 4 if minimal else 64)
    kind: Ssz = AggregateAndProof
    if when.fork in ("electra", "fulu"):
        kind = AggregateAndProofElectraMinimal if minimal else AggregateAndProofElectra
    value = generate(kind, source)
    value.aggregate.data.slot = when.slot
    return Value(as_json(value), root_of(value))


def _contribution(source: Random, when: When) -> Value:
    minimal = when.preset == "minimal"
    kind = ContributionAndProofMinimal if minimal else ContributionAndProof
    value = generate(kind, source)
    value.contribution.slot = when.slot
    return Value(as_json(value), root_of(value))


def _deposit(source: Random, when: When) -> Value:
    message = plain(DepositMessage, source)
    version = "0x" + when.chain.versions["phase0"].hex()
    return Value(message.json | {"genesis_fork_version": version}, message.root)


def _sync_message(source: Random, when: When) -> Value:
    block = source.randbytes(32)
    sent = {"beacon_block_root": "0x" + block.hex(), "slot": str(when.slot)}
    return Value(sent, block)


_VALUES: Final[Mapping[str, Callable[[Random, When], Value]]] = {
    "BLOCK": _block,
    "BLOCK_V2": _block,
    "ATTESTATION": _attestation,
    "AGGREGATE_AND_PROOF": _aggregate,
    "AGGREGATE_AND_PROOF_V2": _aggregate,
    "AGGREGATION_SLOT": lambda _, at: Value(
        {"slot": str(at.slot)}, number(at.slot).root
    ),
    "RANDAO_REVEAL": lambda _, at: Value(
        {"epoch": str(at.epoch)}, number(at.epoch).root
    ),
    "VOLUNTARY_EXIT": lambda source, at: plain(VoluntaryExit, source, epoch=at.epoch),
    "DEPOSIT": _deposit,
    "SYNC_COMMITTEE_MESSAGE": _sync_message,
    "SYNC_COMMITTEE_SELECTION_PROOF": lambda source, at: plain(
        SyncAggregatorSelectionData, source, slot=at.slot
    ),
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF": _contribution,
    "VALIDATOR_REGISTRATION": lambda source, _: plain(ValidatorRegistration, source),
    "BLS_TO_EXECUTION_CHANGE": lambda source, _: plain(BLSToExecutionChange, source),
    "EXECUTION_PAYLOAD_BID": lambda source, at: bid(source, at.slot),
    "EXECUTION_PAYLOAD_ENVELOPE": lambda source, at: envelope(
        source, at.slot, at.transactions
    ),
    "PAYLOAD_ATTESTATION_MESSAGE": lambda source, at: plain(
        PayloadAttestationData, source, slot=at.slot
    ),
    "PROPOSER_PREFERENCES": lambda source, at: plain(
        ProposerPreferences, source, proposal_slot=at.slot
    ),
    "BUILDER_REQUEST_AUTH": lambda source, at: plain(
        BuilderRequestAuth, source, slot=at.slot
    ),
}


def draw(
    kind: str,
    fork: str,
    preset: str,
    source: Random,
    *,
    chain: Chain = CHAIN,
    client_is_ahead: bool = False,
    epoch_of_duty: bool = False,
    transactions: Sequence[bytes] = (),
) -> Message:
    """
    Return a random message of *kind* that counts in *fork*.

    Args:
        client_is_ahead: The client is in the next fork already, and says so.
        epoch_of_duty: `fork.epoch` is the message's own epoch, as Lodestar has it.
        transactions: Of an execution payload, instead of random ones.
    """
    active = FORKS.index(fork)
    epoch = active * EPOCHS_OF_A_FORK + source.randrange(EPOCHS_OF_A_FORK)
    slots = SLOTS_PER_EPOCH[preset]
    slot = epoch * slots + source.randrange(slots)
    said = min(active + client_is_ahead, len(FORKS) - 1)
    since = said * EPOCHS_OF_A_FORK
    version = chain.versions[fork]
    if kind == "VOLUNTARY_EXIT" and said >= FORKS.index("deneb"):
        version = chain.versions["capella"]  # EIP-7044
    elif kind in CHAINLESS or kind == "BLS_TO_EXECUTION_CHANGE":
        version = chain.versions["phase0"]
    chainless = kind in CHAINLESS
    when = When(chain, fork, preset, epoch, slot, transactions)
    value = _VALUES[kind](source, when)
    judged: tuple[int, ...] | None = None
    if kind in ("BLOCK", "BLOCK_V2"):
        judged = (slot,)
    elif kind == "ATTESTATION":
        judged = (max(epoch - 1, 0), epoch)
    info = {
        "fork": {
            "previous_version": "0x" + chain.versions[FORKS[max(said - 1, 0)]].hex(),
            "current_version": "0x" + chain.versions[FORKS[said]].hex(),
            "epoch": str(epoch if epoch_of_duty and said == active else since),
        },
        "genesis_validators_root": "0x" + chain.root.hex(),
    }
    return Message(
        kind=kind,
        key=_KEYS.get(kind, kind.lower()),
        data=value.json,
        signing_root=signing_root(
            value.root, _DOMAINS[kind], version, bytes(32) if chainless else chain.root
        ),
        fork=fork,
        preset=preset,
        fork_info=None if chainless else info,
        judged=judged,
    )
