"""
The containers that Gloas asks validators and builders to sign.

Field names and order are the specification's; the order decides the root. A stored copy
of Gloas' drafts is easily an old one: `gas_limit` instead of `target_gas_limit`, plain
containers instead of progressive ones. Sources: ethereum/consensus-specs specs/gloas as
of September 2026 (EIP-7732, EIP-7688, EIP-7843, EIP-7928, EIP-8282), ethereum/builder-
specs specs/gloas, and the schemas of ethereum/remote-signing-api 1.4; compared with the
executable specification of 1.7.0-beta.0.
"""

from typing import Final

from nitrosigner.trusted.signing.beacon_containers import (
    ADDRESS,
    ATTESTATION_DATA,
    PUBLIC_KEY,
    ROOT,
    SIGNATURE,
    UINT64,
    Preset,
)
from nitrosigner.trusted.signing.ssz import (
    Bitvector,
    Boolean,
    ByteList,
    ByteVector,
    Container,
    Kind,
    Uint256,
)
from nitrosigner.trusted.signing.ssz_progressive import (
    ProgressiveBitlist,
    ProgressiveByteList,
    ProgressiveContainer,
    ProgressiveList,
)

_COMMITMENT: Final = ByteVector(48)

_LOGS_BLOOM: Final = 256
_EXTRA_DATA: Final = 32
_AUTHENTICATION_DATA: Final = 4096

EXECUTION_PAYLOAD_BID: Final = ProgressiveContainer(
    parent_block_hash=ROOT,
    parent_block_root=ROOT,
    block_hash=ROOT,
    prev_randao=ROOT,
    fee_recipient=ADDRESS,
    gas_limit=UINT64,
    builder_index=UINT64,
    slot=UINT64,
    value=UINT64,
    execution_payment=UINT64,
    blob_kzg_commitments=ProgressiveList(_COMMITMENT),
    execution_requests_root=ROOT,
)

_EXECUTION_PAYLOAD: Final = ProgressiveContainer(
    parent_hash=ROOT,
    fee_recipient=ADDRESS,
    state_root=ROOT,
    receipts_root=ROOT,
    logs_bloom=ByteVector(_LOGS_BLOOM),
    prev_randao=ROOT,
    block_number=UINT64,
    gas_limit=UINT64,
    gas_used=UINT64,
    timestamp=UINT64,
    extra_data=ByteList(_EXTRA_DATA),
    base_fee_per_gas=Uint256(),
    block_hash=ROOT,
    transactions=ProgressiveList(ProgressiveByteList()),
    withdrawals=ProgressiveList(
        Container(index=UINT64, validator_index=UINT64, address=ADDRESS, amount=UINT64)
    ),
    blob_gas_used=UINT64,
    excess_blob_gas=UINT64,
    block_access_list=ProgressiveByteList(),
    slot_number=UINT64,
)
_EXECUTION_REQUESTS: Final = ProgressiveContainer(
    deposits=ProgressiveList(
        Container(
            pubkey=PUBLIC_KEY,
            withdrawal_credentials=ROOT,
            amount=UINT64,
            signature=SIGNATURE,
            index=UINT64,
        )
    ),
    withdrawals=ProgressiveList(
        Container(source_address=ADDRESS, validator_pubkey=PUBLIC_KEY, amount=UINT64)
    ),
    consolidations=ProgressiveList(
        Container(
            source_address=ADDRESS,
            source_pubkey=PUBLIC_KEY,
            target_pubkey=PUBLIC_KEY,
        )
    ),
    builder_deposits=ProgressiveList(
        Container(
            pubkey=PUBLIC_KEY,
            withdrawal_credentials=ROOT,
            amount=UINT64,
            signature=SIGNATURE,
        )
    ),
    builder_exits=ProgressiveList(Container(source_address=ADDRESS, pubkey=PUBLIC_KEY)),
)
EXECUTION_PAYLOAD_ENVELOPE: Final = ProgressiveContainer(
    payload=_EXECUTION_PAYLOAD,
    execution_requests=_EXECUTION_REQUESTS,
    builder_index=UINT64,
    beacon_block_root=ROOT,
    parent_beacon_block_root=ROOT,
)

PAYLOAD_ATTESTATION_DATA: Final = Container(
    beacon_block_root=ROOT,
    slot=UINT64,
    payload_present=Boolean(),
    blob_data_available=Boolean(),
)
PROPOSER_PREFERENCES: Final = Container(
    dependent_root=ROOT,
    proposal_slot=UINT64,
    validator_index=UINT64,
    fee_recipient=ADDRESS,
    target_gas_limit=UINT64,
)
BUILDER_REQUEST_AUTH: Final = Container(
    data=ByteList(_AUTHENTICATION_DATA), slot=UINT64
)


def aggregate_and_proof(preset: Preset) -> Kind:
    """
    Return `AggregateAndProof` of Gloas: Electra's fields in progressive shapes.

    The JSON is Electra's to the letter, and the root another one.
    """
    return Container(
        aggregator_index=UINT64,
        aggregate=ProgressiveContainer(
            aggregation_bits=ProgressiveBitlist(),
            data=ATTESTATION_DATA,
            signature=SIGNATURE,
            committee_bits=Bitvector(preset.committees_per_slot),
        ),
        selection_proof=SIGNATURE,
    )
