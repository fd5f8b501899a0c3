"""
The slashing rules of EIP-3076, minimal strategy, as functions of values.

Each rule takes the watermark that a key has reached and the message it is asked to
sign, and returns the watermark that the key will have reached afterwards. Storing that
watermark is the caller's duty, and must happen *before* the signature exists: see
`guard`. A rule refuses by raising; it never returns a bool.
"""

from typing import Annotated, Final, NewType

import msgspec

from nitrosigner.verdicts import Code, Malformed, Refused

Slot = NewType("Slot", int)
Epoch = NewType("Epoch", int)
SigningRoot = NewType("SigningRoot", bytes)

FAR_FUTURE: Final = (1 << 64) - 1


class Slashable(Refused):
    """Signing this could get the validator slashed."""

    http_status = 412

    def __init__(self, message: str) -> None:
        """Say which rule stands in the way."""
        super().__init__(Code.SLASHABLE, message)


class DoubleProposal(Slashable):
    """A different block for this slot was already signed."""


class SlotNotAhead(Slashable):
    """The slot is not ahead of every slot already proposed in."""


class DoubleVote(Slashable):
    """A different attestation for this target epoch was already signed."""


class SurroundsEarlierVote(Slashable):
    """The source is older than one already attested from."""


class TargetNotAhead(Slashable):
    """The target is not ahead of every target already attested to."""


class BeyondCeiling(Slashable):
    """The message lies beyond the ceiling that a planned migration has set."""


_Uint64 = Annotated[int, msgspec.Meta(ge=0)]


class Proposal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The parts of a block that the rules need."""

    slot: Slot
    signing_root: SigningRoot


class Vote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The parts of an attestation that the rules need."""

    source: Epoch
    target: Epoch
    signing_root: SigningRoot

    def __post_init__(self) -> None:
        """Refuse what no validator client means to send."""
        if self.source > self.target:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                f"source epoch {self.source} is after target epoch {self.target}",
            )


class Proposed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The furthest block a key has signed. It only moves forward."""

    slot: Slot
    signing_root: SigningRoot | None
    """`None` when imported from a history that did not record it."""


class Voted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The furthest attestation a key has signed. It only moves forward."""

    source: Epoch
    target: Epoch
    signing_root: SigningRoot | None


class Watermark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    How far a registered key has come. `None`: it has never signed such a message.

    That a key was registered is itself the record: an absent watermark is refused.
    """

    proposed: Proposed | None = None
    voted: Voted | None = None


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where signing ends for everybody, for a planned migration (Web3Signer's)."""

    slot: Slot | None = None
    epoch: Epoch | None = None


NO_CEILING: Final = Ceiling()


def after_proposing(
    reached: Proposed | None, wanted: Proposal, ceiling: Ceiling = NO_CEILING
) -> Proposed:
    """
    Return how far *wanted* would bring a key that has *reached* this far.

    Raises:
        Slashable: Signing *wanted* could be punished, given *reached*.
    """
    if ceiling.slot is not None and wanted.slot > ceiling.slot:
        raise BeyondCeiling(f"slot {wanted.slot} is beyond the ceiling {ceiling.slot}")
    if reached is not None:
        if wanted.slot == reached.slot:
            # The very same block again is never slashable, and validator clients ask
            # again after a timeout.
            if wanted.signing_root == reached.signing_root:
                return reached
            raise DoubleProposal(f"another block for slot {wanted.slot} was signed")
        if wanted.slot < reached.slot:
            raise SlotNotAhead(f"a block for slot {reached.slot} was signed already")
    return Proposed(slot=wanted.slot, signing_root=wanted.signing_root)


def after_voting(
    reached: Voted | None, wanted: Vote, ceiling: Ceiling = NO_CEILING
) -> Voted:
    """
    Return how far *wanted* would bring a key that has *reached* this far.

    Raises:
        Slashable: Signing *wanted* could be punished, given *reached*.
    """
    if ceiling.epoch is not None and wanted.target > ceiling.epoch:
        raise BeyondCeiling(
            f"target epoch {wanted.target} is beyond the ceiling {ceiling.epoch}"
        )
    if reached is not None:
        if wanted.source < reached.source:
            raise SurroundsEarlierVote(
                f"an attestation from source epoch {reached.source} was signed already"
            )
        if wanted.target == reached.target:
            # The root alone would do if it were always computed from this source and
            # target; we do not lean on that.
            if (wanted.source, wanted.signing_root) == (
                reached.source,
                reached.signing_root,
            ):
                return reached
            raise DoubleVote(
                f"another vote for target epoch {wanted.target} was signed"
            )
        if wanted.target < reached.target:
            raise TargetNotAhead(
                f"an attestation to target epoch {reached.target} was signed already"
            )
    return Voted(
        source=wanted.source, target=wanted.target, signing_root=wanted.signing_root
    )


def merged(one: Watermark, other: Watermark) -> Watermark:
    """
    Return the watermark that forbids what either forbids. It is never lower.

    A root is kept only where both agree on the whole message it belongs to, or where
    one is strictly ahead of the other in every part.
    """
    return Watermark(
        proposed=_merged_proposed(one.proposed, other.proposed),
        voted=_merged_voted(one.voted, other.voted),
    )


def _merged_proposed(one: Proposed | None, other: Proposed | None) -> Proposed | None:
    if one is None or other is None:
        return one or other
    if one.slot != other.slot:
        return one if one.slot > other.slot else other
    root = one.signing_root if one.signing_root == other.signing_root else None
    return Proposed(slot=one.slot, signing_root=root)


def _merged_voted(one: Voted | None, other: Voted | None) -> Voted | None:
    if one is None or other is None:
        return one or other
    source = Epoch(max(one.source, other.source))
    target = Epoch(max(one.target, other.target))
    roots = {
        vote.signing_root
        for vote in (one, other)
        if (vote.source, vote.target) == (source, target)
    }
    agreed = roots.pop() if len(roots) == 1 else None
    # A vote that lies at the merged mark from one side alone is only known to be the
    # furthest if the other side stays behind it in target.
    return Voted(source=source, target=target, signing_root=agreed)
