"""
No permit without a durable watermark, whatever the store does and however many sign.

The store here fails in every way a real one can: no answer before a write, no answer
after it, items lost, altered, swapped, or taken back to an older state.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from nitrosigner.trusted.enclave.validators.slashing_guard import Advance, SlashingGuard
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.slashing import (
    Ceiling,
    DoubleProposal,
    DoubleVote,
    Epoch,
    Proposal,
    Proposed,
    SigningRoot,
    Slashable,
    Slot,
    Vote,
    Voted,
    Watermark,
)
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict

CHAIN = GenesisValidatorsRoot(b"\x01" * 32)
KEY, OTHER = b"\xaa" * 48, b"\xbb" * 48
SEAL = ItemSeal(b"\x07" * 32)


@dataclass
class Row:
    version: int
    data: bytes


class FailingStore:
    """A store in memory. Set an attribute, and it fails in that way."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.writes = 0
        self.round_trips = 0
        self.down = False
        self.answers_get_lost = False
        self.shuffle: random.Random | None = None

    async def _travel(self) -> None:
        # Lets other tasks in, so that races happen where they can.
        for _ in range(self.shuffle.randrange(4) if self.shuffle else 1):
            await asyncio.sleep(0)
        if self.down or (self.shuffle and self.shuffle.random() < 0.1):
            raise Undecided(Code.STORAGE_UNAVAILABLE, "down")

    async def fetch(self, public_keys: Sequence[bytes]) -> Mapping[bytes, Row]:
        await self._travel()
        return {
            key: Row(self.rows[key].version, self.rows[key].data)
            for key in public_keys
            if key in self.rows
        }

    async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
        await self._travel()
        self.round_trips += 1
        written = []
        for change in changes:
            row = self.rows.get(change.public_key)
            fits = (row.version if row else 0) == change.expected
            if fits:
                self.rows[change.public_key] = Row(change.expected + 1, change.data)
                self.writes += 1
            written.append(fits)
        if self.answers_get_lost:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "the answer was lost")
        await self._travel()
        return written


def guard_of(store: FailingStore, ceiling: Ceiling | None = None) -> SlashingGuard:
    return SlashingGuard(store, SEAL, CHAIN, ceiling or Ceiling())


def root(number: int) -> SigningRoot:
    return SigningRoot(number.to_bytes(32, "big"))


def vote(source: int, target: int, number: int = 0) -> Duty:
    judged = Vote(source=Epoch(source), target=Epoch(target), signing_root=root(number))
    return Duty(
        kind=DutyKind.ATTESTATION,
        signing_root=judged.signing_root,
        genesis_validators_root=CHAIN,
        slashable_by=judged,
    )


def block(slot: int, number: int = 0) -> Duty:
    judged = Proposal(slot=Slot(slot), signing_root=root(number))
    return Duty(
        kind=DutyKind.BLOCK_V2,
        signing_root=judged.signing_root,
        genesis_validators_root=CHAIN,
        slashable_by=judged,
    )


async def registered(store: FailingStore, *keys: bytes) -> SlashingGuard:
    guard = guard_of(store)
    for key in keys or (KEY,):
        await guard.register(key, Watermark())
    return guard


def test_the_same_vote_twice_but_never_two() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        first = await guard.permit(KEY, "key", vote(1, 2))
        writes = store.writes
        assert await guard.permit(KEY, "key", vote(1, 2)) == first
        assert store.writes == writes  # a repeat needs no write
        with pytest.raises(DoubleVote):
            await guard.permit(KEY, "key", vote(1, 2, number=5))
        await guard.permit(KEY, "key", block(9))
        with pytest.raises(DoubleProposal):
            await guard.permit(KEY, "key", block(9, number=5))

    asyncio.run(scenario())


def test_the_watermark_is_stored_before_the_permit_exists() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        await guard.permit(KEY, "key", vote(1, 2))
        # A signer that starts now knows of it.
        fresh = guard_of(store)
        with pytest.raises(DoubleVote):
            await fresh.permit(KEY, "key", vote(1, 2, number=5))

    asyncio.run(scenario())


def test_an_unregistered_validator_is_refused() -> None:
    async def scenario() -> None:
        guard = guard_of(FailingStore())
        with pytest.raises(Refused) as refusal:
            await guard.permit(KEY, "key", vote(1, 2))
        assert refusal.value.code is Code.NOT_REGISTERED
        assert list(await guard.load([KEY])) == [KEY]

    asyncio.run(scenario())


def test_no_answer_from_the_store_means_no_permit() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        store.down = True
        with pytest.raises(Undecided):
            await guard.permit(KEY, "key", vote(1, 2))
        store.down = False
        assert await guard.permit(KEY, "key", vote(1, 2))

    asyncio.run(scenario())


def test_a_lost_answer_may_be_asked_again_but_not_for_another_vote() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        store.answers_get_lost = True
        with pytest.raises(Undecided):
            await guard.permit(KEY, "key", vote(1, 2))
        store.answers_get_lost = False
        with pytest.raises(DoubleVote):
            await guard.permit(KEY, "key", vote(1, 2, number=5))
        assert await guard.permit(KEY, "key", vote(1, 2))

    asyncio.run(scenario())


def test_a_lost_record_refuses_for_ever() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        await guard.permit(KEY, "key", vote(1, 2))
        store.rows.clear()
        with pytest.raises(Verdict):
            await guard.permit(KEY, "key", vote(2, 3))  # the write finds nothing
        with pytest.raises(Refused):
            await guard.permit(KEY, "key", vote(3, 4))
        with pytest.raises(Refused):
            await guard.register(KEY, Watermark())  # not by registering it again either

    asyncio.run(scenario())


def test_a_store_that_goes_back_is_refused() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        await guard.permit(KEY, "key", vote(1, 2))
        old = Row(store.rows[KEY].version, store.rows[KEY].data)
        await guard.permit(KEY, "key", vote(2, 3))
        store.rows[KEY] = old
        with pytest.raises(Refused) as refusal:
            await guard.permit(KEY, "key", vote(3, 4))
        assert refusal.value.code is Code.RECORD_UNTRUSTED
        with pytest.raises(Refused):
            await guard.permit(KEY, "key", vote(3, 4))

    asyncio.run(scenario())


@pytest.mark.parametrize("bit", [0, 300, 600])
def test_an_altered_item_is_refused(bit: int) -> None:
    async def scenario() -> None:
        store = FailingStore()
        await registered(store)
        data = bytearray(store.rows[KEY].data)
        data[bit // 8] ^= 1 << (bit % 8)
        store.rows[KEY].data = bytes(data)
        with pytest.raises(Refused):
            await guard_of(store).permit(KEY, "key", vote(1, 2))

    asyncio.run(scenario())


def test_items_do_not_open_for_another_validator_version_or_deployment() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store, KEY, OTHER)
        await guard.permit(KEY, "key", vote(1, 2))
        swapped = FailingStore()
        swapped.rows[KEY] = Row(store.rows[OTHER].version, store.rows[OTHER].data)
        renumbered = FailingStore()
        renumbered.rows[KEY] = Row(9, store.rows[KEY].data)
        foreign = FailingStore()
        stranger = SlashingGuard(foreign, ItemSeal(b"\x08" * 32), CHAIN)
        await stranger.register(KEY, Watermark())
        for bad in (swapped, renumbered, foreign):
            with pytest.raises(Refused):
                await guard_of(bad).permit(KEY, "key", vote(5, 6))

    asyncio.run(scenario())


def test_a_validator_stays_in_its_chain() -> None:
    async def scenario() -> None:
        store = FailingStore()
        await registered(store)
        elsewhere = SlashingGuard(store, SEAL, GenesisValidatorsRoot(b"\x02" * 32))
        with pytest.raises(Refused) as refusal:
            await elsewhere.permit(KEY, "key", vote(1, 2))
        assert refusal.value.code is Code.WRONG_CHAIN
        with pytest.raises(Refused):
            await elsewhere.register(KEY, Watermark())

    asyncio.run(scenario())


def test_importing_a_history_moves_forward_only() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store)
        await guard.permit(KEY, "key", vote(5, 9))
        older = Watermark(
            proposed=Proposed(slot=Slot(4), signing_root=None),
            voted=Voted(source=Epoch(2), target=Epoch(3), signing_root=None),
        )
        await guard.register(KEY, older)
        with pytest.raises(Slashable):
            await guard.permit(KEY, "key", vote(5, 8))
        with pytest.raises(Slashable):
            await guard.permit(KEY, "key", block(4))
        await guard.permit(KEY, "key", block(5))
        await guard.permit(KEY, "key", vote(5, 10))

    asyncio.run(scenario())


def test_the_ceiling_holds() -> None:
    async def scenario() -> None:
        store = FailingStore()
        await registered(store)
        guard = guard_of(store, Ceiling(slot=Slot(10), epoch=Epoch(10)))
        await guard.permit(KEY, "key", block(10))
        with pytest.raises(Slashable):
            await guard.permit(KEY, "key", block(11))
        with pytest.raises(Slashable):
            await guard.permit(KEY, "key", vote(1, 11))

    asyncio.run(scenario())


def test_a_slot_of_many_validators_is_one_round_trip() -> None:
    async def scenario() -> None:
        store = FailingStore()
        keys = [bytes([n]) * 48 for n in range(100)]
        guard = await registered(store, *keys)
        before = store.round_trips
        wanted = [(key, "name", vote(1, 2)) for key in keys]
        outcome = await guard.permit_many(wanted)
        assert not any(isinstance(one, Verdict) for one in outcome)
        assert store.round_trips - before <= 2

    asyncio.run(scenario())


def test_one_refusal_in_a_batch_does_not_touch_the_others() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store, KEY, OTHER)
        await guard.permit(KEY, "key", vote(1, 2))
        outcome = await guard.permit_many(
            [
                (KEY, "key", vote(1, 2, number=9)),
                (OTHER, "other", vote(1, 2)),
                (b"\xcc" * 48, "unknown", vote(1, 2)),
            ]
        )
        assert isinstance(outcome[0], DoubleVote)
        assert not isinstance(outcome[1], Verdict)
        assert isinstance(outcome[2], Refused)

    asyncio.run(scenario())


def test_a_caller_that_goes_away_stops_nobody_else() -> None:
    async def scenario() -> None:
        store = FailingStore()
        guard = await registered(store, KEY, OTHER)
        gone = asyncio.create_task(guard.permit(KEY, "key", vote(1, 2)))
        stays = asyncio.create_task(guard.permit(OTHER, "other", vote(1, 2)))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays
        assert await guard.permit(KEY, "key", vote(1, 2))

    asyncio.run(scenario())


def test_a_batch_whose_caller_goes_away_stops_nobody_else() -> None:
    complaints: list[object] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: complaints.append(about))
        store = FailingStore()
        guard = await registered(store, KEY, OTHER)
        gone = asyncio.create_task(
            guard.permit_many([(KEY, "key", vote(1, 2)), (KEY, "key", vote(1, 2, 9))])
        )
        stays = asyncio.create_task(
            guard.permit_many(
                [(OTHER, "other", vote(1, 2)), (b"\xcc" * 48, "?", vote(1, 2))]
            )
        )
        await asyncio.sleep(0)
        gone.cancel()
        permit, refused = await stays
        assert not isinstance(permit, Verdict)
        assert isinstance(refused, Refused)
        # The first of the two was written, although nobody waited for it any more.
        assert guard.watermark(KEY) == Watermark(
            voted=Voted(
                source=Epoch(1), target=Epoch(2), signing_root=vote(1, 2).signing_root
            )
        )

    asyncio.run(scenario())
    assert not complaints


def test_a_fault_of_the_store_client_leaves_nobody_waiting() -> None:
    class Broken(FailingStore):
        async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
            raise ZeroDivisionError

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        store = FailingStore()
        await registered(store)
        broken = Broken()
        broken.rows = store.rows
        guard = guard_of(broken)
        with pytest.raises(Undecided):
            await asyncio.wait_for(guard.permit(KEY, "key", vote(1, 2)), 30)
        task = guard._committing
        assert task is not None
        with pytest.raises(ZeroDivisionError):
            await task

    asyncio.run(scenario())


def slashable_pair(one: Vote, other: Vote) -> bool:
    double = one.signing_root != other.signing_root and one.target == other.target
    surround = one.source < other.source and other.target < one.target
    surrounded = other.source < one.source and one.target < other.target
    return double or surround or surrounded


@pytest.mark.parametrize("seed", range(25))
def test_many_signers_on_one_failing_store_never_make_a_slashable_pair(
    seed: int,
) -> None:
    """
    Twelve signers, each restarted now and then, over a store that loses answers.

    Whatever they permit, all of it together must not hold a slashable pair.
    """
    source = random.Random(seed)
    permitted: list[Proposal | Vote] = []

    async def signer(store: FailingStore) -> None:
        guard = guard_of(store)
        for turn in range(30):
            if source.random() < 0.05:
                guard = guard_of(store)  # it died and came back
            # Everybody is at about the same place, as validator clients are.
            first, second = (turn + source.randrange(6) for _ in range(2))
            number = source.randrange(3)
            duty = (
                block(first, number)
                if source.random() < 0.5
                else vote(min(first, second), max(first, second), number)
            )
            try:
                await guard.permit(KEY, "key", duty)
            except Verdict:
                continue
            assert duty.slashable_by is not None
            permitted.append(duty.slashable_by)

    async def scenario() -> None:
        store = FailingStore()
        await registered(store)
        store.shuffle = source
        await asyncio.gather(*(signer(store) for _ in range(12)))

    asyncio.run(scenario())
    votes = [one for one in permitted if isinstance(one, Vote)]
    blocks = [one for one in permitted if isinstance(one, Proposal)]
    assert len(votes) > 5
    assert len(blocks) > 5
    for one in votes:
        assert not any(slashable_pair(one, other) for other in votes)
    slots: dict[int, SigningRoot] = {}
    for proposal in blocks:
        seen = slots.setdefault(proposal.slot, proposal.signing_root)
        assert seen == proposal.signing_root
