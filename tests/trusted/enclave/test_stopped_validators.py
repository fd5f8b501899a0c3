"""A validator that was deleted or disabled votes no more, in any enclave on its store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from nitrosigner.trusted.enclave.parent_link.watermark_store_port import Advance
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    SigningRoot,
    Slashable,
    Vote,
    Voted,
    Watermark,
)
from nitrosigner.verdicts import Code, Refused, Undecided

CHAIN = GenesisValidatorsRoot(b"\x01" * 32)
KEY, OTHER = b"\xa1" * 48, b"\xa2" * 48


@dataclass(frozen=True)
class Item:
    version: int
    data: bytes


class Store:
    def __init__(self) -> None:
        self.items: dict[bytes, Item] = {}
        self.deaf = False

    async def fetch(self, public_keys: Sequence[bytes]) -> dict[bytes, Item]:
        return {key: self.items[key] for key in public_keys if key in self.items}

    async def advance(self, changes: Sequence[Advance]) -> list[bool]:
        written = []
        for change in changes:
            held = self.items.get(change.public_key)
            fits = (held.version if held else 0) == change.expected
            if fits:
                self.items[change.public_key] = Item(change.expected + 1, change.data)
            written.append(fits)
        if self.deaf:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "no answer")
        return written


def guard(store: Store) -> SlashingGuard:
    return SlashingGuard(store, ItemSeal(b"k" * 32), CHAIN)


def vote(target: int, root: int = 0) -> Duty:
    signing_root = SigningRoot(bytes([target, root]) * 16)
    return Duty(
        kind=DutyKind.ATTESTATION,
        signing_root=signing_root,
        genesis_validators_root=CHAIN,
        slashable_by=Vote(
            source=Epoch(0), target=Epoch(target), signing_root=signing_root
        ),
    )


def at(target: int) -> Watermark:
    return Watermark(
        voted=Voted(source=Epoch(0), target=Epoch(target), signing_root=None)
    )


def test_another_enclave_that_heard_of_nothing_refuses_too() -> None:
    async def play() -> None:
        store = Store()
        one, two = guard(store), guard(store)
        await one.register(KEY, Watermark())
        await two.permit(KEY, "k", vote(5))  # two knows the validator by now
        final = await one.stop(KEY, "retired")
        assert final.voted is not None
        assert final.voted.target == 5
        for enclave in (two, one):
            with pytest.raises(Refused) as caught:
                await enclave.permit(KEY, "k", vote(6))
            assert caught.value.code is Code.NOT_REGISTERED
        assert await one.stop(KEY, "retired") == final

    asyncio.run(play())


def test_the_final_watermark_holds_every_vote_that_was_permitted() -> None:
    async def play() -> None:
        store = Store()
        one, two = guard(store), guard(store)
        await one.register(KEY, Watermark())
        votes = [two.permit(KEY, "k", vote(target)) for target in range(1, 40)]
        permitted, final = await asyncio.gather(
            asyncio.gather(*votes, return_exceptions=True), one.stop(KEY, "retired")
        )
        signed = [
            target
            for target, permit in enumerate(permitted, start=1)
            if not isinstance(permit, Exception)
        ]
        reached = final.voted.target if final.voted else 0
        assert all(target <= reached for target in signed)

    asyncio.run(play())


def test_a_key_that_comes_back_goes_on_from_there() -> None:
    async def play() -> None:
        store = Store()
        one, two = guard(store), guard(store)
        await one.register(KEY, at(7))
        await one.stop(KEY, "retired")
        # A history that arrives moves it forward, and does not bring it back.
        await two.register(KEY, at(9))
        with pytest.raises(Refused):
            await two.permit(KEY, "k", vote(10))
        await two.register(KEY, Watermark(), revive=True)
        with pytest.raises(Slashable):
            await two.permit(KEY, "k", vote(9))
        await two.permit(KEY, "k", vote(10))
        await one.permit(KEY, "k", vote(11))

    asyncio.run(play())


def test_a_disabled_validator_votes_in_no_enclave_until_it_is_enabled() -> None:
    async def play() -> None:
        store = Store()
        one, two = guard(store), guard(store)
        await one.register(KEY, Watermark())
        await two.permit(KEY, "k", vote(5))  # two knows the validator by now
        await one.stop(KEY, "disabled")
        for enclave in (two, one, guard(store)):
            with pytest.raises(Refused) as caught:
                await enclave.permit(KEY, "k", vote(6))
            assert caught.value.code is Code.KEY_DISABLED
        # A history that arrives does not enable it.
        await two.register(KEY, at(7))
        with pytest.raises(Refused):
            await two.permit(KEY, "k", vote(8))
        await one.resume(KEY)
        with pytest.raises(Slashable):
            await two.permit(KEY, "k", vote(7))
        await two.permit(KEY, "k", vote(8))

    asyncio.run(play())


def test_disabling_and_enabling_does_not_bring_a_deleted_validator_back() -> None:
    async def play() -> None:
        store = Store()
        one = guard(store)
        await one.register(KEY, at(7))
        await one.stop(KEY, "retired")
        await one.stop(KEY, "disabled")
        await one.resume(KEY)
        with pytest.raises(Refused) as caught:
            await guard(store).permit(KEY, "k", vote(8))
        assert caught.value.code is Code.NOT_REGISTERED

    asyncio.run(play())


def test_an_answer_that_got_lost_is_asked_for_again() -> None:
    async def play() -> None:
        store = Store()
        one = guard(store)
        await one.register(KEY, at(7))
        store.deaf = True
        with pytest.raises(Undecided):
            await one.stop(KEY, "retired")
        store.deaf = False
        assert (await one.stop(KEY, "retired")).voted == at(7).voted

    asyncio.run(play())


def test_nobody_retires_who_was_never_registered() -> None:
    async def play() -> None:
        store = Store()
        with pytest.raises(Refused):
            await guard(store).stop(KEY, "retired")
        assert not store.items

    asyncio.run(play())


def test_a_history_with_one_that_is_refused_moves_nobody() -> None:
    async def play() -> None:
        store = Store()
        stranger = SlashingGuard(
            store, ItemSeal(b"k" * 32), GenesisValidatorsRoot(b"\x02" * 32)
        )
        await stranger.register(OTHER, Watermark())
        before = dict(store.items)
        history = {bytes([n]) * 48: at(5) for n in range(1, 120)} | {OTHER: at(5)}
        history |= {bytes([n, 1]) * 24: at(5) for n in range(250)}
        with pytest.raises(Refused):
            await guard(store).register_many(history)
        assert store.items == before
        del history[OTHER]
        await guard(store).register_many(history)
        assert len(store.items) == len(history) + 1

    asyncio.run(play())
