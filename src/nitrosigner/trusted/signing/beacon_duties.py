"""
From the JSON of a Web3Signer request to the root that would be signed.

The root is always computed here, from the message; a `signingRoot` that the client sent
is compared and never used. A duty that can be slashed carries what the slashing rules
need, and only `guard` turns a duty into something that a key will sign.

Source: Web3Signer's API, ethereum/remote-signing-api, EIP-3030. Clients spell fields in
snake and in camel case, kinds in either case: both are taken.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum, unique
from typing import Final

import msgspec

from nitrosigner.trusted.signing import beacon_containers as containers
from nitrosigner.trusted.signing import beacon_domains as domains
from nitrosigner.trusted.signing import beacon_gloas as gloas
from nitrosigner.trusted.signing.beacon_aggregates import aggregate_and_proof
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.beacon_requests import (
    Reading,
    an_object,
    either,
    epoch_of,
    field,
    fork_info,
    slot_of,
    version_of,
)
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposal,
    SigningRoot,
    Vote,
)
from nitrosigner.trusted.signing.ssz import Kind, read_bytes, read_uint64
from nitrosigner.verdicts import Code, Malformed, Refused


@unique
class DutyKind(StrEnum):
    """What a validator is asked to sign. Closed list."""

    BLOCK = "BLOCK"
    BLOCK_V2 = "BLOCK_V2"
    ATTESTATION = "ATTESTATION"
    AGGREGATION_SLOT = "AGGREGATION_SLOT"
    AGGREGATE_AND_PROOF = "AGGREGATE_AND_PROOF"
    AGGREGATE_AND_PROOF_V2 = "AGGREGATE_AND_PROOF_V2"
    RANDAO_REVEAL = "RANDAO_REVEAL"
    VOLUNTARY_EXIT = "VOLUNTARY_EXIT"
    DEPOSIT = "DEPOSIT"
    SYNC_COMMITTEE_MESSAGE = "SYNC_COMMITTEE_MESSAGE"
    SYNC_COMMITTEE_SELECTION_PROOF = "SYNC_COMMITTEE_SELECTION_PROOF"
    SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF = "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF"
    VALIDATOR_REGISTRATION = "VALIDATOR_REGISTRATION"
    BLS_TO_EXECUTION_CHANGE = "BLS_TO_EXECUTION_CHANGE"
    EXECUTION_PAYLOAD_BID = "EXECUTION_PAYLOAD_BID"
    EXECUTION_PAYLOAD_ENVELOPE = "EXECUTION_PAYLOAD_ENVELOPE"
    PAYLOAD_ATTESTATION_MESSAGE = "PAYLOAD_ATTESTATION_MESSAGE"
    PROPOSER_PREFERENCES = "PROPOSER_PREFERENCES"
    BUILDER_REQUEST_AUTH = "BUILDER_REQUEST_AUTH"


class Duty(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message that was understood, and the root that stands for it."""

    kind: DutyKind
    signing_root: SigningRoot
    genesis_validators_root: GenesisValidatorsRoot | None
    """`None` for messages that belong to no chain."""
    slashable_by: Proposal | Vote | None
    """What the slashing rules judge; `None` where nothing can be slashed."""


_OTHER_NAMES: Final = {
    "PAYLOAD_ATTESTATION": DutyKind.PAYLOAD_ATTESTATION_MESSAGE.value,
    "REQUEST_AUTH": DutyKind.BUILDER_REQUEST_AUTH.value,
}
"""What Lodestar, Grandine and Lighthouse called kinds before the API had names."""

_Reader = Callable[[Mapping[str, object], BeaconNetwork], Reading]


def read_duty(body: object, network: BeaconNetwork) -> Duty:
    """
    Read one signing request of the Web3Signer API.

    Args:
        body: The decoded JSON.
        network: The chain that this deployment signs for.

    Raises:
        Malformed: It is no such request, or its `signingRoot` is of something else.
        Refused: It is for another chain.
    """
    request = an_object(body, "request")
    kind = _kind(request)
    duty = _chainless(request, kind, network)
    if duty is None:
        duty = _of_the_chain(request, kind, network)
    for name in ("signingRoot", "signing_root"):
        claimed = request.get(name)
        if claimed is None:
            continue
        if read_bytes(claimed, name, 32) != duty.signing_root:
            raise Malformed(
                Code.SIGNING_ROOT_MISMATCH,
                "signingRoot is not the root of this message",
                "client and signer disagree about the fork, the network or the preset",
            )
    return duty


def _kind(request: Mapping[str, object]) -> DutyKind:
    name = request.get("type")
    name = name.upper() if isinstance(name, str) else ""
    try:
        return DutyKind(_OTHER_NAMES.get(name, name))
    except ValueError:
        raise Malformed(
            Code.MALFORMED_REQUEST, "type is not a kind of message that is signed here"
        ) from None


def _chainless(
    request: Mapping[str, object], kind: DutyKind, network: BeaconNetwork
) -> Duty | None:
    """Read what needs no `fork_info`: it is valid on any chain of the genesis fork."""
    if kind is DutyKind.DEPOSIT:
        deposit = dict(an_object(field(request, "deposit"), "deposit"))
        version = read_bytes(
            deposit.pop("genesis_fork_version", None), "genesis_fork_version", 4
        )
        if version != network.genesis_version:
            raise _another_chain()
        root = containers.DEPOSIT_MESSAGE.root(deposit, "deposit")
        domain_type = domains.DEPOSIT
    elif kind is DutyKind.VALIDATOR_REGISTRATION:
        registration = field(request, "validator_registration")
        root = containers.VALIDATOR_REGISTRATION.root(
            registration, "validator_registration"
        )
        domain_type = domains.APPLICATION_BUILDER
    elif kind is DutyKind.BUILDER_REQUEST_AUTH:
        root = gloas.builder_request_auth_root(request)
        domain_type = domains.BUILDER_REQUEST_AUTH
    else:
        return None
    domain = domains.domain(domain_type, network.genesis_version, domains.NO_CHAIN)
    return Duty(
        kind=kind,
        signing_root=domains.signing_root(root, domain),
        genesis_validators_root=None,
        slashable_by=None,
    )


def _of_the_chain(
    request: Mapping[str, object], kind: DutyKind, network: BeaconNetwork
) -> Duty:
    info = fork_info(request)
    if info.genesis_validators_root != network.genesis_validators_root:
        raise _another_chain()
    read = _READERS[kind](request, network)
    version = info.fork.version_at(read.epoch)
    if not network.knows(version):
        raise Refused(
            Code.WRONG_CHAIN,
            "this message is in a fork that this signer does not know",
            "compare fork_info with the network; a new fork needs a newer image",
        )
    if kind is DutyKind.VOLUNTARY_EXIT:
        version = network.exit_version(info.fork.current_version, version)
    elif kind is DutyKind.BLS_TO_EXECUTION_CHANGE:
        version = network.genesis_version
    domain = domains.domain(read.domain_type, version, info.genesis_validators_root)
    root = domains.signing_root(read.object_root, domain)
    judged: Proposal | Vote | None = None
    if read.proposal_slot is not None:
        judged = Proposal(slot=read.proposal_slot, signing_root=root)
    elif read.vote is not None:
        judged = Vote(source=read.vote[0], target=read.vote[1], signing_root=root)
    return Duty(
        kind=kind,
        signing_root=root,
        genesis_validators_root=info.genesis_validators_root,
        slashable_by=judged,
    )


def _another_chain() -> Refused:
    return Refused(
        Code.WRONG_CHAIN,
        "this message is for another chain than this signer's",
        "compare the network of the validator client with the manifest's",
    )


def _block(value: object, path: str, kind: Kind, network: BeaconNetwork) -> Reading:
    slot = slot_of(value, path)
    return Reading(
        kind.root(value, path),
        domains.BEACON_PROPOSER,
        epoch_of(slot, network.preset),
        proposal_slot=slot,
    )


def _legacy_block(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    kind = containers.full_block(network.preset, altair=False)
    return _block(field(request, "block"), "block", kind, network)


def _versioned_block(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    versioned = an_object(
        either(request, "beacon_block", "beaconBlock"), "beacon_block"
    )
    version = version_of(versioned, "beacon_block")
    if version in ("PHASE0", "ALTAIR"):
        kind: Kind = containers.full_block(network.preset, altair=version == "ALTAIR")
        return _block(field(versioned, "block"), "beacon_block.block", kind, network)
    header = either(versioned, "block_header", "blockHeader")
    return _block(header, "beacon_block.block_header", containers.BLOCK_HEADER, network)


def _attestation(request: Mapping[str, object], _: BeaconNetwork) -> Reading:
    data = an_object(field(request, "attestation"), "attestation")
    root = containers.ATTESTATION_DATA.root(data, "attestation")
    source, target = (
        Epoch(
            read_uint64(
                field(an_object(data[end], f"attestation.{end}"), "epoch"),
                f"attestation.{end}.epoch",
            )
        )
        for end in ("source", "target")
    )
    return Reading(root, domains.BEACON_ATTESTER, target, vote=(source, target))


def _aggregation_slot(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    slot = slot_of(field(request, "aggregation_slot"), "aggregation_slot")
    return Reading(
        containers.SLOT.root(slot, "aggregation_slot.slot"),
        domains.SELECTION_PROOF,
        epoch_of(slot, network.preset),
    )


def _randao(request: Mapping[str, object], _: BeaconNetwork) -> Reading:
    reveal = an_object(field(request, "randao_reveal"), "randao_reveal")
    epoch = Epoch(read_uint64(field(reveal, "epoch"), "randao_reveal.epoch"))
    return Reading(containers.EPOCH.root(epoch, "epoch"), domains.RANDAO, epoch)


def _exit(request: Mapping[str, object], _: BeaconNetwork) -> Reading:
    message = an_object(field(request, "voluntary_exit"), "voluntary_exit")
    root = containers.VOLUNTARY_EXIT.root(message, "voluntary_exit")
    epoch = Epoch(read_uint64(message["epoch"], "voluntary_exit.epoch"))
    return Reading(root, domains.VOLUNTARY_EXIT, epoch)


def _sync_message(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    path = "sync_committee_message"
    message = an_object(field(request, path), path)
    root = containers.ROOT.root(field(message, "beacon_block_root"), path)
    epoch = epoch_of(slot_of(message, path), network.preset)
    return Reading(root, domains.SYNC_COMMITTEE, epoch)


def _sync_selection(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    path = "sync_aggregator_selection_data"
    data = field(request, path)
    root = containers.SYNC_AGGREGATOR_SELECTION.root(data, path)
    epoch = epoch_of(slot_of(data, path), network.preset)
    return Reading(root, domains.SYNC_COMMITTEE_SELECTION_PROOF, epoch)


def _contribution(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    path = "contribution_and_proof"
    value = an_object(field(request, path), path)
    root = containers.contribution_and_proof(network.preset).root(value, path)
    slot = slot_of(value["contribution"], f"{path}.contribution")
    epoch = epoch_of(slot, network.preset)
    return Reading(root, domains.CONTRIBUTION_AND_PROOF, epoch)


def _bls_change(request: Mapping[str, object], _: BeaconNetwork) -> Reading:
    path = "bls_to_execution_change"
    # Lodestar sends the name of the kind as the name of the field.
    change = either(request, path, path.upper())
    root = containers.BLS_TO_EXECUTION_CHANGE.root(change, path)
    return Reading(root, domains.BLS_TO_EXECUTION_CHANGE, Epoch(0))


_READERS: Final[Mapping[DutyKind, _Reader]] = {
    DutyKind.BLOCK: _legacy_block,
    DutyKind.BLOCK_V2: _versioned_block,
    DutyKind.ATTESTATION: _attestation,
    DutyKind.AGGREGATION_SLOT: _aggregation_slot,
    DutyKind.AGGREGATE_AND_PROOF: aggregate_and_proof,
    DutyKind.AGGREGATE_AND_PROOF_V2: aggregate_and_proof,
    DutyKind.RANDAO_REVEAL: _randao,
    DutyKind.VOLUNTARY_EXIT: _exit,
    DutyKind.SYNC_COMMITTEE_MESSAGE: _sync_message,
    DutyKind.SYNC_COMMITTEE_SELECTION_PROOF: _sync_selection,
    DutyKind.SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF: _contribution,
    DutyKind.BLS_TO_EXECUTION_CHANGE: _bls_change,
    DutyKind.EXECUTION_PAYLOAD_BID: gloas.payload_bid,
    DutyKind.EXECUTION_PAYLOAD_ENVELOPE: gloas.payload_envelope,
    DutyKind.PAYLOAD_ATTESTATION_MESSAGE: gloas.payload_attestation,
    DutyKind.PROPOSER_PREFERENCES: gloas.proposer_preferences,
}
