"""
The keys in memory, found by name and by address.

One identity has one name. Policies speak of names: if a key had two, a client that may
use one of them could sign what the other name's policy forbids.
"""

import bisect
from collections import Counter
from collections.abc import Iterator
from typing import Final

from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR, WALLET, Slot

_ADDRESS_DIGITS: Final = 40


def looks_like_address(name: str) -> bool:
    """Return whether *name* would be taken for an address. Such names are refused."""
    return name[:2] in ("0x", "0X") and len(name) == 2 + _ADDRESS_DIGITS


class KeyIndex:
    """Slots by name, by identity, and for each purpose in name order."""

    def __init__(self) -> None:
        self._by_name: dict[str, Slot] = {}
        self._by_identity: dict[str, Slot] = {}
        self._names: dict[str, list[str]] = {WALLET: [], VALIDATOR: []}
        self._enabled: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Slot]:
        """Iterate over all of them, each purpose in name order."""
        for purpose in self._names:
            yield from self.each(purpose)

    def each(self, purpose: str) -> Iterator[Slot]:
        """Iterate in name order over what is there at each step."""
        names, name = self._names[purpose], ""
        while (at := bisect.bisect_right(names, name)) < len(names):
            name = names[at]
            yield self._by_name[name]

    def count(self, purpose: str) -> int:
        """Return how many keys serve *purpose*."""
        return len(self._names[purpose])

    def enabled(self, purpose: str) -> int:
        """Return how many of them are enabled."""
        return self._enabled[purpose]

    def named(self, name: str) -> Slot | None:
        """Return the key called *name*."""
        return self._by_name.get(name)

    def find(self, identifier: str) -> Slot | None:
        """Return the key whose name or identity (in any case) is *identifier*."""
        return self._by_name.get(identifier) or self.identified(identifier)

    def identified(self, identity: str) -> Slot | None:
        """Return the key whose identity, in any case, is *identity*."""
        return self._by_identity.get(identity.lower())

    def page(
        self, after: str, limit: int, purpose: str = WALLET
    ) -> tuple[list[Slot], bool]:
        """Return up to *limit* keys after *after*, and whether more follow."""
        start = bisect.bisect_right(self._names[purpose], after)
        names = self._names[purpose][start : start + limit]
        more = start + limit < len(self._names[purpose])
        return [self._by_name[name] for name in names], more

    def put(self, slot: Slot) -> None:
        """Add *slot*, or replace what had its name."""
        if slot.name in self._by_name:
            self.remove(slot.name)
        bisect.insort(self._names[slot.purpose], slot.name)
        self._enabled[slot.purpose] += slot.state == "enabled"
        self._by_name[slot.name] = slot
        self._by_identity[slot.identity.lower()] = slot

    def remove(self, name: str) -> None:
        """Forget the key called *name*."""
        slot = self._by_name.pop(name)
        self._enabled[slot.purpose] -= slot.state == "enabled"
        del self._by_identity[slot.identity.lower()]
        names = self._names[slot.purpose]
        del names[bisect.bisect_left(names, name)]
