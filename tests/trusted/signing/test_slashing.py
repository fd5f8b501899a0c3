"""The rules of EIP-3076: one row per verdict, then an oracle over random histories."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.trusted.signing.slashing import (
    BeyondCeiling,
    Ceiling,
    DoubleProposal,
    DoubleVote,
    Epoch,
    Proposal,
    Proposed,
    SigningRoot,
    Slashable,
    Slot,
    SlotNotAhead,
    SurroundsEarlierVote,
    TargetNotAhead,
    Vote,
    Voted,
    Watermark,
    after_proposing,
    after_voting,
    merged,
)
from nitrosigner.verdicts import Malformed

A, B = SigningRoot(b"a" * 32), SigningRoot(b"b" * 32)


def vote(source: int, target: int, root: SigningRoot = A) -> Vote:
    return Vote(source=Epoch(source), target=Epoch(target), signing_root=root)


def block(slot: int, root: SigningRoot = A) -> Proposal:
    return Proposal(slot=Slot(slot), signing_root=root)


VOTED = Voted(source=Epoch(4), target=Epoch(8), signing_root=A)
PROPOSED = Proposed(slot=Slot(8), signing_root=A)


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        (vote(4, 9), None),
        (vote(8, 9), None),
        (vote(9, 9), None),
        (vote(4, 8), None),  # the very same vote again
        (vote(4, 8, B), DoubleVote),
        (vote(5, 8), DoubleVote),  # the same root cannot have another source
        (vote(3, 9), SurroundsEarlierVote),
        (vote(3, 8), SurroundsEarlierVote),
        (vote(4, 7), TargetNotAhead),
        (vote(5, 7), TargetNotAhead),
    ],
)
def test_votes(wanted: Vote, verdict: type[Slashable] | None) -> None:
    if verdict is None:
        assert after_voting(VOTED, wanted).target == wanted.target
    else:
        with pytest.raises(verdict):
            after_voting(VOTED, wanted)


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        (block(9), None),
        (block(8), None),  # the very same block again
        (block(8, B), DoubleProposal),
        (block(7), SlotNotAhead),
        (block(0), SlotNotAhead),
    ],
)
def test_blocks(wanted: Proposal, verdict: type[Slashable] | None) -> None:
    if verdict is None:
        assert after_proposing(PROPOSED, wanted).slot == wanted.slot
    else:
        with pytest.raises(verdict):
            after_proposing(PROPOSED, wanted)


def test_a_fresh_key_may_sign_at_genesis() -> None:
    assert after_voting(None, vote(0, 0)).target == 0
    assert after_proposing(None, block(0)).slot == 0


def test_a_source_after_its_target_is_malformed() -> None:
    with pytest.raises(Malformed):
        vote(9, 8)


def test_an_unrecorded_root_refuses_the_same_target_and_slot() -> None:
    """A mark imported without its root cannot prove that a message is the same one."""
    with pytest.raises(DoubleVote):
        after_voting(
            Voted(source=Epoch(4), target=Epoch(8), signing_root=None), vote(4, 8)
        )
    with pytest.raises(DoubleProposal):
        after_proposing(Proposed(slot=Slot(8), signing_root=None), block(8))


def test_nothing_is_signed_beyond_the_ceiling() -> None:
    ceiling = Ceiling(slot=Slot(10), epoch=Epoch(10))
    assert after_proposing(PROPOSED, block(10), ceiling).slot == 10
    assert after_voting(VOTED, vote(4, 10), ceiling).target == 10
    with pytest.raises(BeyondCeiling):
        after_proposing(PROPOSED, block(11), ceiling)
    with pytest.raises(BeyondCeiling):
        after_voting(VOTED, vote(4, 11), ceiling)


def slashable_pair(one: Vote, other: Vote) -> bool:
    """`is_slashable_attestation_data` of the phase 0 specification, both ways round."""
    double = one.signing_root != other.signing_root and one.target == other.target
    surround = one.source < other.source and other.target < one.target
    surrounded = other.source < one.source and one.target < other.target
    return double or surround or surrounded


epochs = st.integers(0, 12)
votes = st.builds(
    lambda a, b, root: vote(min(a, b), max(a, b), root),
    epochs,
    epochs,
    st.sampled_from([A, B]),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(votes, max_size=30))
def test_no_history_that_was_permitted_holds_a_slashable_pair(
    wanted: list[Vote],
) -> None:
    reached: Voted | None = None
    signed: list[Vote] = []
    for one in wanted:
        try:
            reached = after_voting(reached, one)
        except Slashable:
            continue
        assert not any(slashable_pair(one, before) for before in signed)
        signed.append(one)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(block, epochs, st.sampled_from([A, B])), max_size=30))
def test_no_slot_is_proposed_in_twice(wanted: list[Proposal]) -> None:
    reached: Proposed | None = None
    signed: dict[int, SigningRoot] = {}
    for one in wanted:
        try:
            reached = after_proposing(reached, one)
        except Slashable:
            continue
        assert signed.setdefault(one.slot, one.signing_root) == one.signing_root


marks = st.none() | st.builds(
    lambda a, b, root: Voted(
        source=Epoch(min(a, b)), target=Epoch(max(a, b)), signing_root=root
    ),
    epochs,
    epochs,
    st.sampled_from([A, B, None]),
)
slots = st.none() | st.builds(
    lambda s, root: Proposed(slot=Slot(s), signing_root=root),
    epochs,
    st.sampled_from([A, B, None]),
)
watermarks = st.builds(lambda p, v: Watermark(proposed=p, voted=v), slots, marks)


def permits_vote(watermark: Watermark, wanted: Vote) -> bool:
    try:
        after_voting(watermark.voted, wanted)
    except Slashable:
        return False
    return True


def permits_block(watermark: Watermark, wanted: Proposal) -> bool:
    try:
        after_proposing(watermark.proposed, wanted)
    except Slashable:
        return False
    return True


@settings(max_examples=1000, deadline=None)
@given(watermarks, watermarks, votes, st.builds(block, epochs, st.sampled_from([A, B])))
def test_a_merge_permits_nothing_new_that_either_side_forbids(
    one: Watermark, other: Watermark, wanted: Vote, proposal: Proposal
) -> None:
    """Save one thing: the exact vote that is the furthest of the one may be repeated."""
    both = merged(one, other)
    if permits_vote(both, wanted):
        repeat = any(
            mark is not None
            and (mark.source, mark.target, mark.signing_root)
            == (wanted.source, wanted.target, wanted.signing_root)
            for mark in (one.voted, other.voted)
        )
        assert repeat or (permits_vote(one, wanted) and permits_vote(other, wanted))
    if permits_block(both, proposal):
        assert permits_block(one, proposal)
        assert permits_block(other, proposal)
    assert merged(other, one) == both
    assert merged(both, one) == both
