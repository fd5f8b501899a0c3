"""
The containers that Gloas asks validators and builders to sign.

Field names and order are the specification's; the order decides the root. A stored copy
of Gloas' drafts is easily an old one: `gas_limit` instead of `target_gas_limit`, plain
containers instead of progressive ones. Sources: ethereum/consensus-specs specs/gloas as
of September 2026 (EIP-7732, EIP-7688, EIP-7843, EIP-7928, EIP-8282), ethereum/builder-
specs specs/gloas, and the schemas of ethereum/remote-signing-api 1.4.
"""

from typing import Final

from nitrosigner.trusted.signing.ssz import (
    Boolean,
    ByteList,
    ByteVector,
    Container,
    Uint64,
    Uint256,
)
from nitrosigner.trusted.signing.ssz_progressive import (
    ProgressiveByteList,
    ProgressiveContainer,
    ProgressiveList,
)

_UINT64: Final = Uint64()
_ROOT: Final = ByteVector(32)
_PUBLIC_KEY: Final = ByteVector(48)
_SIGNATURE: Final = ByteVector(96)
_ADDRESS: Final = ByteVector(20)
_COMMITMENT: Final = ByteVector(48)

_LOGS_BLOOM: Final = 256
_EXTRA_DATA: Final = 32
_AUTHENTICATION_DATA: Final = 4096

EXECUTION_PAYLOAD_BID: Final = ProgressiveContainer(
    parent_block_hash=_ROOT,
    parent_block_root=_ROOT,
    block_hash=_ROOT,
    prev_randao=_ROOT,
    fee_recipient=_ADDRESS,
    gas_limit=_UINT64,
    builder_index=_UINT64,
    slot=_UINT64,
    value=_UINT64,
    execution_payment=_UINT64,
    blob_kzg_commitments=ProgressiveList(_COMMITMENT),
    execution_requests_root=_ROOT,
)

_EXECUTION_PAYLOAD: Final = ProgressiveContainer(
    parent_hash=_ROOT,
    fee_recipient=_ADDRESS,
    state_root=_ROOT,
    receipts_root=_ROOT,
    logs_bloom=ByteVector(_LOGS_BLOOM),
    prev_randao=_ROOT,
    block_number=_UINT64,
    gas_limit=_UINT64,
    gas_used=_UINT64,
    timestamp=_UINT64,
    extra_data=ByteList(_EXTRA_DATA),
    base_fee_per_gas=Uint256(),
    block_hash=_ROOT,
    transactions=ProgressiveList(ProgressiveByteList()),
    withdrawals=ProgressiveList(
        Container(
            index=_UINT64, validator_index=_UINT64, address=_ADDRESS, amount=_UINT64
        )
    ),
    blob_gas_used=_UINT64,
    excess_blob_gas=_UINT64,
    block_access_list=ProgressiveByteList(),
    slot_number=_UINT64,
)
_EXECUTION_REQUESTS: Final = ProgressiveContainer(
    deposits=ProgressiveList(
        Container(
            pubkey=_PUBLIC_KEY,
            withdrawal_credentials=_ROOT,
            amount=_UINT64,
            signature=_SIGNATURE,
            index=_UINT64,
        )
    ),
    withdrawals=ProgressiveList(
        Container(source_address=_ADDRESS, validator_pubkey=_PUBLIC_KEY, amount=_UINT64)
    ),
    consolidations=ProgressiveList(
        Container(
            source_address=_ADDRESS,
            source_pubkey=_PUBLIC_KEY,
            target_pubkey=_PUBLIC_KEY,
        )
    ),
    builder_deposits=ProgressiveList(
        Container(
            pubkey=_PUBLIC_KEY,
            withdrawal_credentials=_ROOT,
            amount=_UINT64,
            signature=_SIGNATURE,
        )
    ),
    builder_exits=ProgressiveList(
        Container(source_address=_ADDRESS, pubkey=_PUBLIC_KEY)
    ),
)
EXECUTION_PAYLOAD_ENVELOPE: Final = ProgressiveContainer(
    payload=_EXECUTION_PAYLOAD,
    execution_requests=_EXECUTION_REQUESTS,
    builder_index=_UINT64,
    beacon_block_root=_ROOT,
    parent_beacon_block_root=_ROOT,
)

PAYLOAD_ATTESTATION_DATA: Final = Container(
    beacon_block_root=_ROOT,
    slot=_UINT64,
    payload_present=Boolean(),
    blob_data_available=Boolean(),
)
PROPOSER_PREFERENCES: Final = Container(
    dependent_root=_ROOT,
    proposal_slot=_UINT64,
    validator_index=_UINT64,
    fee_recipient=_ADDRESS,
    target_gas_limit=_UINT64,
)
BUILDER_REQUEST_AUTH: Final = Container(
    data=ByteList(_AUTHENTICATION_DATA), slot=_UINT64
)
