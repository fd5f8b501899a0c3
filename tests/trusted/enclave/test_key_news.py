"""What enclaves on one store tell each other: nothing is missed, whatever gets lost."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.enclave.keys.key_news import NOBODY, NOTES, KeyNews
from nitrosigner.trusted.enclave.parent_link.watermark_store_port import Advance
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.services import MAX_WATERMARK


@dataclass(frozen=True)
class Item:
    version: int
    data: bytes


class Store:
    """It may lose a request or an answer, and let others in between."""

    def __init__(self, seed: int = 0) -> None:
        self.items: dict[bytes, Item] = {}
        self.source = random.Random(seed)
        self.lossy = False

    async def _travel(self) -> None:
        for _ in range(self.source.randrange(3)):
            await asyncio.sleep(0)
        if self.lossy and self.source.random() < 0.2:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "lost on the way")

    async def fetch(self, public_keys: Sequence[bytes]) -> dict[bytes, Item]:
        await self._travel()
        return {key: self.items[key] for key in public_keys if key in self.items}

    async def advance(self, changes: Sequence[Advance]) -> list[bool]:
        await self._travel()
        written = []
        for change in changes:
            held = self.items.get(change.public_key)
            fits = (held.version if held else 0) == change.expected
            if fits:
                assert len(change.data) <= MAX_WATERMARK
                self.items[change.public_key] = Item(change.expected + 1, change.data)
            written.append(fits)
        await self._travel()
        return written


class Listener:
    def __init__(self, store: Store) -> None:
        self.news = KeyNews(store)
        self.heard: list[Sequence[bytes] | None] = []

    async def take_over(self, public_keys: Sequence[bytes] | None) -> None:
        self.heard.append(public_keys)

    async def listen(self) -> Sequence[bytes] | None:
        self.heard.clear()
        await self.news.take_in(self.take_over)
        return self.heard[0] if self.heard else []


def key(number: int) -> bytes:
    return b"\x80" + number.to_bytes(47, "big")


def test_whose_key_changed_is_told_once() -> None:
    async def play() -> None:
        store = Store()
        one, two = Listener(store), Listener(store)
        assert await two.listen() == []
        await one.news.tell([key(1)])
        await one.news.tell([key(2), key(3)])
        assert await two.listen() == [key(1), key(2), key(3)]
        assert await two.listen() == []
        assert await one.listen() == []  # its own

    asyncio.run(play())


def test_who_begins_later_hears_only_what_comes_then() -> None:
    async def play() -> None:
        store = Store()
        one, two = Listener(store), Listener(store)
        await one.news.tell([key(1)])
        await two.news.begin()
        assert await two.listen() == []
        await one.news.tell([key(2)])
        assert await two.listen() == [key(2)]

    asyncio.run(play())


def test_who_missed_too_much_is_told_to_read_everything() -> None:
    async def play() -> None:
        store = Store()
        one, two, three = Listener(store), Listener(store), Listener(store)
        await one.news.tell([key(1), key(2)])
        await two.listen()
        for number in range(NOTES):
            await one.news.tell([key(10 + number)])
        assert await two.listen() == [key(10 + number) for number in range(NOTES)]
        assert await three.listen() is None
        await one.news.tell(map(key, range(100)))
        assert await two.listen() is None
        assert await two.listen() == []

    asyncio.run(play())


def test_half_of_what_came_together_does_not_pass_for_all_of_it() -> None:
    async def play() -> None:
        store = Store()
        one, two = Listener(store), Listener(store)
        await one.news.tell(map(key, range(NOTES)))
        await one.news.tell([key(50)])
        assert await two.listen() is None

    asyncio.run(play())


def test_what_failed_is_heard_again() -> None:
    async def play() -> None:
        store = Store()
        one, two = Listener(store), Listener(store)
        await one.news.tell([key(1)])

        async def fail(_: Sequence[bytes] | None) -> None:
            raise Undecided(Code.STORAGE_UNAVAILABLE, "no")

        with pytest.raises(Undecided):
            await two.news.take_in(fail)
        assert await two.listen() == [key(1)]

    asyncio.run(play())


@pytest.mark.parametrize(
    "item",
    [
        Item(9, b"what somebody wrote"),
        Item(9, b"x" * 56),
        Item((1 << 53) - 1, bytes(56)),
        Item(1, bytes(56 * 18)),
    ],
)
def test_whatever_lies_there_everything_is_read_and_the_next_change_is_told(
    item: Item,
) -> None:
    async def play() -> None:
        store = Store()
        one, two = Listener(store), Listener(store)
        for number in range(3):
            await one.news.tell([key(number)])
        await two.listen()
        store.items[NOBODY] = item
        assert await two.listen() is None
        assert await two.listen() == []
        await one.news.tell([key(7)])
        heard = await two.listen()
        assert heard is None or key(7) in heard

    asyncio.run(play())


@given(st.integers(), st.integers(2, 4), st.booleans())
def test_nothing_that_was_told_is_missed(seed: int, count: int, lossy: bool) -> None:
    async def play() -> None:
        store = Store(seed)
        store.lossy = lossy
        source = store.source
        # By listener: what it has not heard of yet, and what of that it must hear next.
        unheard: list[set[bytes]] = [set() for _ in range(count)]
        told: list[set[bytes]] = [set() for _ in range(count)]
        listeners = [Listener(store) for _ in range(count)]
        numbers = iter(range(10_000))

        async def tell(number: int) -> None:
            changed = {key(next(numbers)) for _ in range(source.choice([1, 1, 3, 30]))}
            others = [other for other in range(count) if other != number]
            for other in others:
                unheard[other] |= changed
            await listeners[number].news.tell(changed)
            for other in others:
                told[other] |= changed

        async def listen(number: int) -> None:
            due = set(told[number])
            heard = await listeners[number].listen()
            unheard[number] -= unheard[number] if heard is None else set(heard)
            assert not (unheard[number] & due)

        async def one(number: int) -> None:
            for _ in range(12):
                with contextlib.suppress(Undecided):
                    await (tell if source.random() < 0.6 else listen)(number)

        await asyncio.gather(*(one(number) for number in range(count)))
        store.lossy = False
        for me in listeners:
            await me.news.tell()  # what could not be told before
        for number in range(count):
            told[number] = unheard[number]
            await listen(number)

    asyncio.run(play())
