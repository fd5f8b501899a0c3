"""
Signing roots against remerkleable's types and the specification's own formulas.

The oracle builds the containers a second time, in another library, and computes domain
and signing root as `compute_domain` and `compute_signing_root` have it.
"""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from remerkleable.basic import uint64
from remerkleable.bitfields import Bitlist, Bitvector
from remerkleable.byte_arrays import Bytes4, Bytes32, Bytes48, Bytes96, ByteVector
from remerkleable.complex import Container, List, Vector

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
from nitrosigner.trusted.signing.slashing import Proposal, Vote
from nitrosigner.verdicts import Malformed, Refused

Json = dict[str, Any]
CHAIN = bytes(range(32))
VERSIONS = {
    name: ForkVersion(bytes([number, 0, 0, 9]))
    for number, name in enumerate(
        ("phase0", "altair", "bellatrix", "capella", "deneb", "electra", "fulu")
    )
}
MAINNET, MINIMAL = (
    BeaconNetwork(
        name=preset.name,
        preset=preset,
        genesis_validators_root=GenesisValidatorsRoot(CHAIN),
        fork_versions=VERSIONS,
    )
    for preset in (MAINNET_PRESET, MINIMAL_PRESET)
)


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
    fee_recipient: ByteVector[20]
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
    to_execution_address: ByteVector[20]


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


class Epoch(Container):  # type: ignore[misc]
    value: uint64


class ForkData(Container):  # type: ignore[misc]
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):  # type: ignore[misc]
    object_root: Bytes32
    domain: Bytes32


def oracle_signing_root(
    object_root: bytes, domain_type: str, version: bytes, chain: bytes
) -> bytes:
    fork_data = ForkData(current_version=version, genesis_validators_root=chain)
    domain = bytes.fromhex(domain_type) + bytes(fork_data.hash_tree_root())[:28]
    data = SigningData(object_root=object_root, domain=domain)
    return bytes(data.hash_tree_root())


def generate(kind: type, source: random.Random) -> Any:
    """Return a random value of a remerkleable type."""
    if issubclass(kind, Container):
        return kind(**{n: generate(t, source) for n, t in kind.fields().items()})
    if issubclass(kind, uint64):
        return kind(source.randrange(1 << source.choice((3, 20, 40))))
    if issubclass(kind, Bitlist):
        return kind([source.random() < 0.5 for _ in range(source.randrange(200))])
    if issubclass(kind, Bitvector):
        return kind([source.random() < 0.5 for _ in range(kind.vector_length())])
    if issubclass(kind, ByteVector):
        return kind(source.randbytes(kind.type_byte_length()))
    if issubclass(kind, List):
        count = min(source.randrange(4), kind.limit())
        return kind([generate(kind.element_cls(), source) for _ in range(count)])
    assert issubclass(kind, Vector)
    return kind(
        [generate(kind.element_cls(), source) for _ in range(kind.vector_length())]
    )


def as_json(value: Any) -> Any:
    """Return a remerkleable value as the Beacon API spells it."""
    if isinstance(value, Container):
        return {name: as_json(getattr(value, name)) for name in value.fields()}
    if isinstance(value, uint64):
        return str(int(value))
    if isinstance(value, Bitlist | Bitvector | ByteVector):
        return "0x" + value.encode_bytes().hex()
    return [as_json(item) for item in value]


def fork_info(version: str = "electra", epoch: int = 0) -> Json:
    names = list(VERSIONS)
    before = names[max(names.index(version) - 1, 0)]
    return {
        "fork": {
            "previous_version": "0x" + VERSIONS[before].hex(),
            "current_version": "0x" + VERSIONS[version].hex(),
            "epoch": str(epoch),
        },
        "genesis_validators_root": "0x" + CHAIN.hex(),
    }


Case = tuple[DutyKind, type, str, Callable[[Json], Json], str, BeaconNetwork]


def under(key: str) -> Callable[[Json], Json]:
    return lambda value: {key: value}


def versioned(key: str, version: str, inner: str) -> Callable[[Json], Json]:
    return lambda value: {key: {"version": version, inner: value}}


CASES: list[Case] = [
    (DutyKind.BLOCK, BlockPhase0, "00000000", under("block"), "phase0", MAINNET),
    *(
        (
            DutyKind.BLOCK_V2,
            block,
            "00000000",
            versioned("beacon_block", version, "block"),
            version.lower(),
            MAINNET,
        )
        for version, block in (("PHASE0", BlockPhase0), ("ALTAIR", BlockAltair))
    ),
    *(
        (
            DutyKind.BLOCK_V2,
            BeaconBlockHeader,
            "00000000",
            versioned("beacon_block", version, "block_header"),
            version.lower(),
            MAINNET,
        )
        for version in ("BELLATRIX", "CAPELLA", "DENEB", "ELECTRA", "FULU")
    ),
    (
        DutyKind.ATTESTATION,
        AttestationData,
        "01000000",
        under("attestation"),
        "electra",
        MAINNET,
    ),
    (
        DutyKind.AGGREGATE_AND_PROOF,
        AggregateAndProof,
        "06000000",
        under("aggregate_and_proof"),
        "deneb",
        MAINNET,
    ),
    (
        DutyKind.AGGREGATE_AND_PROOF_V2,
        AggregateAndProof,
        "06000000",
        versioned("aggregate_and_proof", "DENEB", "data"),
        "deneb",
        MAINNET,
    ),
    (
        DutyKind.AGGREGATE_AND_PROOF_V2,
        AggregateAndProofElectra,
        "06000000",
        versioned("aggregate_and_proof", "ELECTRA", "data"),
        "electra",
        MAINNET,
    ),
    (
        DutyKind.AGGREGATE_AND_PROOF_V2,
        AggregateAndProofElectraMinimal,
        "06000000",
        versioned("aggregate_and_proof", "FULU", "data"),
        "fulu",
        MINIMAL,
    ),
    (
        DutyKind.SYNC_COMMITTEE_SELECTION_PROOF,
        SyncAggregatorSelectionData,
        "08000000",
        under("sync_aggregator_selection_data"),
        "fulu",
        MAINNET,
    ),
    (
        DutyKind.SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF,
        ContributionAndProof,
        "09000000",
        under("contribution_and_proof"),
        "fulu",
        MAINNET,
    ),
    (
        DutyKind.SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF,
        ContributionAndProofMinimal,
        "09000000",
        under("contribution_and_proof"),
        "altair",
        MINIMAL,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1].__name__}-{c[4]}")
def test_the_signing_root_is_remerkleables(case: Case) -> None:
    kind, container, domain_type, wrap, fork, network = case
    source = random.Random(f"{kind}{container.__name__}{fork}")
    for _ in range(10):
        value = generate(container, source)
        if container is AttestationData and value.source.epoch > value.target.epoch:
            value.source, value.target = value.target, value.source
        body = {
            "type": kind.value,
            "fork_info": fork_info(fork),
            **wrap(as_json(value)),
        }
        duty = read_duty(body, network)
        wanted = oracle_signing_root(
            bytes(value.hash_tree_root()), domain_type, VERSIONS[fork], CHAIN
        )
        assert duty.signing_root == wanted
        match duty.slashable_by:
            case Proposal():
                assert duty.slashable_by.slot == int(value.slot)
                assert duty.slashable_by.signing_root == wanted
            case Vote():
                assert duty.slashable_by.source == int(value.source.epoch)
                assert duty.slashable_by.target == int(value.target.epoch)
            case None:
                assert kind not in (
                    DutyKind.BLOCK,
                    DutyKind.BLOCK_V2,
                    DutyKind.ATTESTATION,
                )
        # The client's root is taken in either spelling, and only compared.
        for name in ("signingRoot", "signing_root"):
            assert read_duty({**body, name: "0x" + wanted.hex()}, network) == duty
            with pytest.raises(Malformed):
                read_duty({**body, name: "0x" + "11" * 32}, network)


@pytest.mark.parametrize(
    ("kind", "payload", "object_root", "domain_type"),
    [
        (
            DutyKind.RANDAO_REVEAL,
            {"randao_reveal": {"epoch": "77"}},
            (77).to_bytes(32, "little"),
            "02000000",
        ),
        (
            DutyKind.AGGREGATION_SLOT,
            {"aggregation_slot": {"slot": "77"}},
            (77).to_bytes(32, "little"),
            "05000000",
        ),
        (
            DutyKind.SYNC_COMMITTEE_MESSAGE,
            {
                "sync_committee_message": {
                    "beacon_block_root": "0x" + "ab" * 32,
                    "slot": "77",
                }
            },
            b"\xab" * 32,
            "07000000",
        ),
    ],
)
def test_messages_without_a_container_of_their_own(
    kind: DutyKind, payload: Json, object_root: bytes, domain_type: str
) -> None:
    body = {"type": kind.value, "fork_info": fork_info("fulu"), **payload}
    wanted = oracle_signing_root(object_root, domain_type, VERSIONS["fulu"], CHAIN)
    assert read_duty(body, MAINNET).signing_root == wanted
    assert read_duty({**body, "type": kind.value.lower()}, MAINNET).kind is kind


def test_a_deposit_and_a_registration_belong_to_no_chain() -> None:
    source = random.Random(5)
    deposit, registration = (
        generate(kind, source) for kind in (DepositMessage, ValidatorRegistration)
    )
    version = "0x" + VERSIONS["phase0"].hex()
    duty = read_duty(
        {
            "type": "DEPOSIT",
            "deposit": {**as_json(deposit), "genesis_fork_version": version},
        },
        MAINNET,
    )
    assert duty.genesis_validators_root is None
    assert duty.signing_root == oracle_signing_root(
        bytes(deposit.hash_tree_root()), "03000000", VERSIONS["phase0"], bytes(32)
    )
    duty = read_duty(
        {
            "type": "VALIDATOR_REGISTRATION",
            "validator_registration": as_json(registration),
        },
        MAINNET,
    )
    assert duty.signing_root == oracle_signing_root(
        bytes(registration.hash_tree_root()), "00000001", VERSIONS["phase0"], bytes(32)
    )
    with pytest.raises(Refused):
        foreign = {**as_json(deposit), "genesis_fork_version": "0x01020304"}
        read_duty({"type": "DEPOSIT", "deposit": foreign}, MAINNET)


def test_a_bls_change_is_signed_in_the_genesis_fork() -> None:
    change = generate(BLSToExecutionChange, random.Random(6))
    body = {
        "type": "BLS_TO_EXECUTION_CHANGE",
        "fork_info": fork_info("fulu"),
        "bls_to_execution_change": as_json(change),
    }
    assert read_duty(body, MAINNET).signing_root == oracle_signing_root(
        bytes(change.hash_tree_root()), "0a000000", VERSIONS["phase0"], CHAIN
    )


@pytest.mark.parametrize(
    ("current", "exit_epoch", "signed_in"),
    [
        ("capella", 100, "capella"),
        ("capella", 5, "bellatrix"),  # before the fork's epoch: the previous version
        ("deneb", 100, "capella"),
        ("deneb", 5, "capella"),
        ("electra", 100, "capella"),
        ("fulu", 100, "capella"),
    ],
)
def test_an_exit_is_locked_to_capella_from_deneb_on(
    current: str, exit_epoch: int, signed_in: str
) -> None:
    """EIP-7044: an exit that was signed once stays valid in every later fork."""
    exit_ = VoluntaryExit(epoch=exit_epoch, validator_index=9)
    body = {
        "type": "VOLUNTARY_EXIT",
        "fork_info": fork_info(current, epoch=10),
        "voluntary_exit": as_json(exit_),
    }
    assert read_duty(body, MAINNET).signing_root == oracle_signing_root(
        bytes(exit_.hash_tree_root()), "04000000", VERSIONS[signed_in], CHAIN
    )


def test_the_previous_version_counts_before_the_forks_epoch() -> None:
    body: Json = {
        "type": "RANDAO_REVEAL",
        "fork_info": fork_info("fulu", epoch=10),
        "randao_reveal": {"epoch": "9"},
    }
    assert read_duty(body, MAINNET).signing_root == oracle_signing_root(
        (9).to_bytes(32, "little"), "02000000", VERSIONS["electra"], CHAIN
    )


def test_camel_case_forks_are_taken() -> None:
    body: Json = {
        "type": "RANDAO_REVEAL",
        "fork_info": fork_info("fulu"),
        "randao_reveal": {"epoch": "9"},
    }
    camel = copy.deepcopy(body)
    fork = camel["fork_info"]["fork"]
    fork["previousVersion"] = fork.pop("previous_version")
    fork["currentVersion"] = fork.pop("current_version")
    assert read_duty(camel, MAINNET) == read_duty(body, MAINNET)


def test_a_duty_for_another_chain_is_refused() -> None:
    body: Json = {
        "type": "RANDAO_REVEAL",
        "fork_info": {
            **fork_info("fulu"),
            "genesis_validators_root": "0x" + "99" * 32,
        },
        "randao_reveal": {"epoch": "9"},
    }
    with pytest.raises(Refused):
        read_duty(body, MAINNET)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"type": "SOMETHING"},
        {"type": 5},
        {"type": "RANDAO_REVEAL"},
        {"type": "RANDAO_REVEAL", "fork_info": fork_info()},
        {"type": "RANDAO_REVEAL", "fork_info": fork_info(), "randao_reveal": {}},
        {"type": "RANDAO_REVEAL", "fork_info": {}, "randao_reveal": {"epoch": "1"}},
        {
            "type": "BLOCK_V2",
            "fork_info": fork_info(),
            "beacon_block": {"version": "OSAKA", "block_header": {}},
        },
        {
            "type": "ATTESTATION",
            "fork_info": fork_info(),
            "attestation": {"source": {"epoch": "1"}},
        },
        {
            # Its containers are not Electra's: no root is better than a wrong one.
            "type": "AGGREGATE_AND_PROOF_V2",
            "fork_info": fork_info(),
            "aggregate_and_proof": {
                "version": "GLOAS",
                "data": as_json(generate(AggregateAndProofElectra, random.Random(1))),
            },
        },
        {"type": "DEPOSIT", "deposit": {}},
        {"type": "VALIDATOR_REGISTRATION", "validator_registration": "0x"},
    ],
)
def test_what_is_no_duty_is_malformed(body: object) -> None:
    with pytest.raises(Malformed):
        read_duty(body, MAINNET)
