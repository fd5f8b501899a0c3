"""
The slashing protection interchange format, EIP-3076 version 5.

A file is read whole or not at all: one malformed entry refuses everything, because half
a history protects nobody. What is kept of a history is its watermark, the minimal
strategy of the EIP; so a complete file can be read, and what is written is the minimal
form, which every client reads.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposed,
    SigningRoot,
    Slot,
    Voted,
    Watermark,
    merged,
)
from nitrosigner.trusted.signing.ssz import read_bytes, read_uint64
from nitrosigner.verdicts import Code, Malformed, Refused

VERSION: Final = "5"
MAX_FILE: Final = 256 << 20
"""Bytes. A complete history of 10,000 validators over a year is about this long."""


class _Block(msgspec.Struct, frozen=True):
    slot: Any
    signing_root: Any = None


class _Attestation(msgspec.Struct, frozen=True):
    source_epoch: Any
    target_epoch: Any
    signing_root: Any = None


class _Validator(msgspec.Struct, frozen=True):
    pubkey: Any
    signed_blocks: list[_Block]
    signed_attestations: list[_Attestation]


class _Metadata(msgspec.Struct, frozen=True):
    interchange_format_version: Annotated[str, msgspec.Meta(max_length=8)]
    genesis_validators_root: Any


class _File(msgspec.Struct, frozen=True):
    metadata: _Metadata
    data: list[_Validator]


def read(data: bytes, chain: GenesisValidatorsRoot) -> dict[bytes, Watermark]:
    """
    Return how far each validator of the file has come, by public key (48 bytes).

    Raises:
        Malformed: Something in it is not as the EIP has it; says where.
        Refused: It is the history of another chain.
    """
    if len(data) > MAX_FILE:
        raise Malformed(Code.TOO_LARGE, f"a history has at most {MAX_FILE} bytes")
    try:
        file = msgspec.json.decode(data, type=_File)
        json.loads(data, object_pairs_hook=_demand_names_once)
    except (ValueError, RecursionError) as error:
        raise Malformed(
            Code.MALFORMED_HISTORY, "this is not a slashing protection interchange file"
        ) from error
    if file.metadata.interchange_format_version != VERSION:
        raise Malformed(
            Code.MALFORMED_HISTORY,
            "only version 5 of the interchange format is read",
            "export the history again with a current client",
        )
    root = read_bytes(
        file.metadata.genesis_validators_root, "genesis_validators_root", 32
    )
    if root != chain:
        raise Refused(
            Code.WRONG_CHAIN,
            "this history is of another chain",
            "compare the genesis validators root with the manifest's network",
        )
    history: dict[bytes, Watermark] = {}
    for number, validator in enumerate(file.data):
        path = f"data[{number}]"
        public_key = read_bytes(validator.pubkey, f"{path}.pubkey", 48)
        reached = Watermark(
            proposed=_furthest_block(validator.signed_blocks, path),
            voted=_furthest_vote(validator.signed_attestations, path),
        )
        history[public_key] = merged(history.get(public_key, Watermark()), reached)
    return history


def _demand_names_once(members: list[tuple[str, object]]) -> None:
    # Of a name that stands twice either could be the half that protects.
    if len(dict(members)) != len(members):
        raise ValueError


def write(
    history: Mapping[bytes, Watermark] | Iterable[tuple[bytes, Watermark]],
    chain: GenesisValidatorsRoot,
) -> bytes:
    """Return the minimal interchange file of these validators, as indented JSON."""
    items = history.items() if isinstance(history, Mapping) else history
    file = {
        "metadata": {
            "interchange_format_version": VERSION,
            "genesis_validators_root": "0x" + chain.hex(),
        },
        "data": [_entry(public_key, reached) for public_key, reached in sorted(items)],
    }
    return msgspec.json.format(msgspec.json.encode(file), indent=2)


def _entry(public_key: bytes, reached: Watermark) -> dict[str, object]:
    blocks, votes = [], []
    if reached.proposed is not None:
        blocks.append(
            {"slot": str(reached.proposed.slot)}
            | _root_field(reached.proposed.signing_root)
        )
    if reached.voted is not None:
        votes.append(
            {
                "source_epoch": str(reached.voted.source),
                "target_epoch": str(reached.voted.target),
            }
            | _root_field(reached.voted.signing_root)
        )
    return {
        "pubkey": "0x" + public_key.hex(),
        "signed_blocks": blocks,
        "signed_attestations": votes,
    }


def _root_field(root: SigningRoot | None) -> dict[str, str]:
    return {} if root is None else {"signing_root": "0x" + root.hex()}


def _furthest_block(blocks: list[_Block], path: str) -> Proposed | None:
    reached = Watermark()
    for number, block in enumerate(blocks):
        where = f"{path}.signed_blocks[{number}]"
        one = Proposed(
            slot=Slot(read_uint64(block.slot, f"{where}.slot")),
            signing_root=_root(block.signing_root, where),
        )
        reached = merged(reached, Watermark(proposed=one))
    return reached.proposed


def _furthest_vote(votes: list[_Attestation], path: str) -> Voted | None:
    reached = Watermark()
    for number, vote in enumerate(votes):
        where = f"{path}.signed_attestations[{number}]"
        source = Epoch(read_uint64(vote.source_epoch, f"{where}.source_epoch"))
        target = Epoch(read_uint64(vote.target_epoch, f"{where}.target_epoch"))
        if source > target:
            raise Malformed(
                Code.MALFORMED_HISTORY, f"{where}: the source is after the target"
            )
        root = _root(vote.signing_root, where)
        one = Voted(source=source, target=target, signing_root=root)
        reached = merged(reached, Watermark(voted=one))
    return reached.voted


def _root(value: object, path: str) -> SigningRoot | None:
    if value is None:
        return None
    return SigningRoot(read_bytes(value, f"{path}.signing_root", 32))
