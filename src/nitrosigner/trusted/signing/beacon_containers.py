"""
The consensus layer's containers that a validator signs, for one preset.

Field names and order are the specification's; the order decides the root. Source:
ethereum/consensus-specs, phase0, altair, electra and validator guides; builder-specs
for the registration. remerkleable types in the tests are the second opinion.
"""

from dataclasses import dataclass
from typing import Final

from nitrosigner.trusted.signing.ssz import (
    Bitlist,
    Bitvector,
    ByteVector,
    Container,
    Kind,
    List,
    Uint64,
    Uint64List,
    Vector,
)

UINT64: Final = Uint64()
ROOT: Final = ByteVector(32)
PUBLIC_KEY: Final = ByteVector(48)
SIGNATURE: Final = ByteVector(96)
ADDRESS: Final = ByteVector(20)

_DEPOSIT_PROOF: Final = 33
_VALIDATORS_PER_COMMITTEE: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The constants that differ between the mainnet and the minimal preset."""

    name: str
    slots_per_epoch: int
    sync_committee_size: int
    committees_per_slot: int


MAINNET_PRESET: Final = Preset(
    name="mainnet", slots_per_epoch=32, sync_committee_size=512, committees_per_slot=64
)
MINIMAL_PRESET: Final = Preset(
    name="minimal", slots_per_epoch=8, sync_committee_size=32, committees_per_slot=4
)
PRESETS: Final = {preset.name: preset for preset in (MAINNET_PRESET, MINIMAL_PRESET)}

_CHECKPOINT: Final = Container(epoch=UINT64, root=ROOT)
ATTESTATION_DATA: Final = Container(
    slot=UINT64,
    index=UINT64,
    beacon_block_root=ROOT,
    source=_CHECKPOINT,
    target=_CHECKPOINT,
)
BLOCK_HEADER: Final = Container(
    slot=UINT64,
    proposer_index=UINT64,
    parent_root=ROOT,
    state_root=ROOT,
    body_root=ROOT,
)
VOLUNTARY_EXIT: Final = Container(epoch=UINT64, validator_index=UINT64)
SYNC_AGGREGATOR_SELECTION: Final = Container(slot=UINT64, subcommittee_index=UINT64)
VALIDATOR_REGISTRATION: Final = Container(
    fee_recipient=ADDRESS, gas_limit=UINT64, timestamp=UINT64, pubkey=PUBLIC_KEY
)
DEPOSIT_MESSAGE: Final = Container(
    pubkey=PUBLIC_KEY, withdrawal_credentials=ROOT, amount=UINT64
)
DEPOSIT_DATA: Final = Container(
    pubkey=PUBLIC_KEY,
    withdrawal_credentials=ROOT,
    amount=UINT64,
    signature=SIGNATURE,
)
BLS_TO_EXECUTION_CHANGE: Final = Container(
    validator_index=UINT64, from_bls_pubkey=PUBLIC_KEY, to_execution_address=ADDRESS
)
EPOCH: Final = UINT64
SLOT: Final = UINT64

_ATTESTATION: Final = Container(
    aggregation_bits=Bitlist(_VALIDATORS_PER_COMMITTEE),
    data=ATTESTATION_DATA,
    signature=SIGNATURE,
)
AGGREGATE_AND_PROOF: Final = Container(
    aggregator_index=UINT64, aggregate=_ATTESTATION, selection_proof=SIGNATURE
)


def aggregate_and_proof_electra(preset: Preset) -> Kind:
    """Return `AggregateAndProof` from Electra on (EIP-7549)."""
    committees = preset.committees_per_slot
    return Container(
        aggregator_index=UINT64,
        aggregate=Container(
            aggregation_bits=Bitlist(_VALIDATORS_PER_COMMITTEE * committees),
            data=ATTESTATION_DATA,
            signature=SIGNATURE,
            committee_bits=Bitvector(committees),
        ),
        selection_proof=SIGNATURE,
    )


def contribution_and_proof(preset: Preset) -> Kind:
    """Return `ContributionAndProof`; a subcommittee is a quarter of the committee."""
    return Container(
        aggregator_index=UINT64,
        contribution=Container(
            slot=UINT64,
            beacon_block_root=ROOT,
            subcommittee_index=UINT64,
            aggregation_bits=Bitvector(preset.sync_committee_size // 4),
            signature=SIGNATURE,
        ),
        selection_proof=SIGNATURE,
    )


def full_block(preset: Preset, *, altair: bool) -> Kind:
    """Return `BeaconBlock` of phase 0 or Altair; later forks are signed as headers."""
    signed_header = Container(message=BLOCK_HEADER, signature=SIGNATURE)
    indexed = Container(
        attesting_indices=Uint64List(_VALIDATORS_PER_COMMITTEE),
        data=ATTESTATION_DATA,
        signature=SIGNATURE,
    )
    deposit = Container(
        proof=Vector(ROOT, _DEPOSIT_PROOF),
        data=DEPOSIT_DATA,
    )
    body: dict[str, Kind] = {
        "randao_reveal": SIGNATURE,
        "eth1_data": Container(
            deposit_root=ROOT, deposit_count=UINT64, block_hash=ROOT
        ),
        "graffiti": ROOT,
        "proposer_slashings": List(
            Container(signed_header_1=signed_header, signed_header_2=signed_header), 16
        ),
        "attester_slashings": List(
            Container(attestation_1=indexed, attestation_2=indexed), 2
        ),
        "attestations": List(_ATTESTATION, 128),
        "deposits": List(deposit, 16),
        "voluntary_exits": List(
            Container(message=VOLUNTARY_EXIT, signature=SIGNATURE), 16
        ),
    }
    if altair:
        body["sync_aggregate"] = Container(
            sync_committee_bits=Bitvector(preset.sync_committee_size),
            sync_committee_signature=SIGNATURE,
        )
    return Container(
        slot=UINT64,
        proposer_index=UINT64,
        parent_root=ROOT,
        state_root=ROOT,
        body=Container(**body),
    )
