"""
What is exported protects wherever it goes (EIP-3076, "Conditions").

The importers here are written from the EIP's conditions, and share nothing with our own
reading. See docs/decisions/0028.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator

from nitrosigner.trusted.signing import interchange
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposal,
    SigningRoot,
    Slashable,
    Slot,
    Vote,
    Watermark,
    after_proposing,
    after_voting,
)

CHAIN = GenesisValidatorsRoot(b"\x04" * 32)
KEY = b"\xab" * 48
_UINT64 = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,19})$"}
_ROOT = {"type": "string", "pattern": "^0x[0-9a-f]{64}$"}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


# The format as the EIP's text has it: every number a string, signing roots optional.
SCHEMA = _object(
    {
        "metadata": _object(
            {
                "interchange_format_version": {"const": "5"},
                "genesis_validators_root": _ROOT,
            }
        ),
        "data": {
            "type": "array",
            "items": _object(
                {
                    "pubkey": {"type": "string", "pattern": "^0x[0-9a-f]{96}$"},
                    "signed_blocks": {
                        "type": "array",
                        "items": _object({"slot": _UINT64}, signing_root=_ROOT),
                    },
                    "signed_attestations": {
                        "type": "array",
                        "items": _object(
                            {"source_epoch": _UINT64, "target_epoch": _UINT64},
                            signing_root=_ROOT,
                        ),
                    },
                }
            ),
        },
    }
)

Block = tuple[int, int]
"""Slot and a number for the root."""
Attestation = tuple[int, int, int]
"""Source, target and a number for the root."""


def root(number: int) -> SigningRoot:
    return SigningRoot(number.to_bytes(32, "big"))


def slashable(one: Attestation, other: Attestation) -> bool:
    """`is_slashable_attestation_data`, either way round."""
    double = one != other and one[1] == other[1]
    around = one[0] < other[0] and other[1] < one[1]
    return double or around or (other[0] < one[0] and one[1] < other[1])


@dataclass
class CompleteImporter:
    """Keeps every entry, and refuses by the EIP's conditions 1 to 5."""

    blocks: list[tuple[int, str | None]] = field(default_factory=list)
    votes: list[tuple[int, int, str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, file: bytes) -> "CompleteImporter":
        made = cls()
        for validator in json.loads(file)["data"]:
            for one in validator["signed_blocks"]:
                made.blocks.append((int(one["slot"]), one.get("signing_root")))
            for one in validator["signed_attestations"]:
                made.votes.append(
                    (
                        int(one["source_epoch"]),
                        int(one["target_epoch"]),
                        one.get("signing_root"),
                    )
                )
        return made

    def signs_block(self, slot: int, number: int) -> bool:
        named = "0x" + root(number).hex()
        if (slot, named) in self.blocks:
            return True  # a repeat
        if any(slot == one for one, _ in self.blocks):
            return False
        return not self.blocks or slot > min(one for one, _ in self.blocks)

    def signs_vote(self, source: int, target: int, number: int) -> bool:
        named = "0x" + root(number).hex()
        if (source, target, named) in self.votes:
            return True  # a repeat
        for s, t, _ in self.votes:
            if (
                t == target
                or (source < s and t < target)
                or (s < source and target < t)
            ):
                return False
        return not self.votes or (
            source >= min(s for s, _, _ in self.votes)
            and target > min(t for _, t, _ in self.votes)
        )


numbers = st.integers(0, 12)
blocks = st.lists(st.tuples(numbers, st.integers(0, 2)), max_size=12)
votes = st.lists(
    st.tuples(numbers, numbers, st.integers(0, 2)).filter(lambda one: one[0] <= one[1]),
    max_size=12,
)


def signed_here(
    wanted_blocks: list[Block], wanted_votes: list[Attestation]
) -> tuple[Watermark, list[Block], list[Attestation]]:
    """Return the watermark and what was signed of what was asked for, in its order."""
    reached = Watermark()
    done_blocks, done_votes = [], []
    for slot, number in wanted_blocks:
        try:
            proposed = after_proposing(
                reached.proposed, Proposal(slot=Slot(slot), signing_root=root(number))
            )
        except Slashable:
            continue
        reached = Watermark(proposed=proposed, voted=reached.voted)
        done_blocks.append((slot, number))
    for source, target, number in wanted_votes:
        vote = Vote(
            source=Epoch(source), target=Epoch(target), signing_root=root(number)
        )
        try:
            voted = after_voting(reached.voted, vote)
        except Slashable:
            continue
        reached = Watermark(proposed=reached.proposed, voted=voted)
        done_votes.append((source, target, number))
    return reached, done_blocks, done_votes


@given(blocks, votes, st.tuples(numbers, st.integers(0, 2)), numbers, numbers)
def test_whoever_imports_it_signs_nothing_slashable_against_what_was_signed_here(
    wanted_blocks: list[Block],
    wanted_votes: list[Attestation],
    block: Block,
    one: int,
    other: int,
) -> None:
    reached, done_blocks, done_votes = signed_here(wanted_blocks, wanted_votes)
    file = interchange.write({KEY: reached}, CHAIN)
    OAS31Validator(SCHEMA).validate(json.loads(file))
    importer = CompleteImporter.of(file)
    if importer.signs_block(*block):
        assert all(slot != block[0] or done == block[1] for slot, done in done_blocks)
    vote = (min(one, other), max(one, other), block[1])
    if importer.signs_vote(*vote):
        assert not any(slashable(vote, done) for done in done_votes)


@given(blocks, votes)
def test_it_holds_at_most_one_message_of_a_kind_and_reads_back(
    wanted_blocks: list[Block], wanted_votes: list[Attestation]
) -> None:
    reached, done_blocks, done_votes = signed_here(wanted_blocks, wanted_votes)
    file = interchange.write({KEY: reached}, CHAIN)
    (entry,) = json.loads(file)["data"]
    assert len(entry["signed_blocks"]) == bool(done_blocks)
    assert len(entry["signed_attestations"]) == bool(done_votes)
    if done_blocks:
        assert int(entry["signed_blocks"][0]["slot"]) == max(done_blocks)[0]
    if done_votes:
        (vote,) = entry["signed_attestations"]
        assert int(vote["source_epoch"]) == max(source for source, _, _ in done_votes)
        assert int(vote["target_epoch"]) == max(target for _, target, _ in done_votes)
    assert interchange.read(file, CHAIN) == {KEY: reached}


def test_a_complete_file_with_a_gap_protects_less_than_the_minimal_one() -> None:
    signed = [(5, 6, 1), (10, 11, 1), (20, 21, 1)]
    reached, _, done = signed_here([], signed)
    assert done == signed
    document = json.loads(interchange.write({KEY: reached}, CHAIN))
    minimal = CompleteImporter.of(json.dumps(document).encode())
    # The log lost (or hid) the vote for 11. The watermark is in the file all the same.
    document["data"][0]["signed_attestations"].insert(
        0, {"source_epoch": "5", "target_epoch": "6"}
    )
    complete = CompleteImporter.of(json.dumps(document).encode())
    contradiction = (10, 11, 2)
    assert slashable(contradiction, signed[1])
    assert complete.signs_vote(*contradiction)
    assert not minimal.signs_vote(*contradiction)


@pytest.mark.parametrize("source_first", [True, False])
def test_a_root_is_left_out_where_no_message_stands_at_both(source_first: bool) -> None:
    entries = [
        {"source_epoch": "7", "target_epoch": "8", "signing_root": "0x" + "11" * 32},
        {"source_epoch": "3", "target_epoch": "9", "signing_root": "0x" + "22" * 32},
    ]
    document = {
        "metadata": {
            "interchange_format_version": "5",
            "genesis_validators_root": "0x" + CHAIN.hex(),
        },
        "data": [
            {
                "pubkey": "0x" + KEY.hex(),
                "signed_blocks": [],
                "signed_attestations": entries if source_first else entries[::-1],
            }
        ],
    }
    reached = interchange.read(json.dumps(document).encode(), CHAIN)
    (entry,) = json.loads(interchange.write(reached, CHAIN))["data"]
    assert entry["signed_attestations"] == [{"source_epoch": "7", "target_epoch": "9"}]
