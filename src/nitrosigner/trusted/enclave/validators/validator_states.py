"""
Disables, enables and deletes validators, for every enclave on the store.

The order is the point. A key that stops is first dead here, then its watermark says so,
where any other enclave's next vote loses the race and reads it, and then the others are
told; only then is there an answer. A key that goes on goes the same way.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from nitrosigner.trusted.enclave.keys.key_hearing import KeyHearing
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.keys.key_states import KeyStates
from nitrosigner.trusted.enclave.validators.duty_signing import DutySigning
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.watermark_book import Stopped
from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR, Slot
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire import api

STOPPED: Final[dict[api.KeyState, Stopped]] = {
    "enabled": "",
    "disabled": "disabled",
    "deleted": "retired",
}


class ValidatorStates:
    """Which validators may sign, here and in the enclaves beside us."""

    def __init__(
        self,
        parts: KeyParts,
        lookup: KeyLookup,
        guard: SlashingGuard,
        signing: DutySigning,
        unprotected: Iterable[bytes],
    ) -> None:
        """*unprotected*: loaded keys without a watermark that can be trusted."""
        self._index: KeyIndex = parts.index
        self._changes = parts.changes
        self._guard = guard
        self._signing = signing
        self._news = parts.news
        self._states = KeyStates(
            parts.index, lookup, parts.changes, parts.writer, parts.clock
        )
        self._unprotected = set(unprotected)
        self.hearing: Final = KeyHearing(parts, self._look_at_watermarks)
        parts.refresh.before = self._look_at_watermarks

    @property
    def unprotected(self) -> int:
        """Enabled keys that cannot vote."""
        slots = (self._index.named(f"0x{key.hex()}") for key in self._unprotected)
        return sum(slot is not None and slot.state == "enabled" for slot in slots)

    async def change(
        self, name: str, version: int | None, state: api.KeyState
    ) -> tuple[Slot, Watermark | None]:
        """
        Give a key another state; return how far it has come (None: nobody knows).

        Raises:
            Undecided: Part of it may have happened. Ask again.
        """
        return await self._changes.answer(self._change(name, version, state))

    async def _change(
        self, name: str, version: int | None, state: api.KeyState
    ) -> tuple[Slot, Watermark | None]:
        slot = await self._states.change(name, version, state)
        if state != "enabled":
            # Dead here: no permit is signed from now on. What was permitted before is
            # in the watermark, and its signature is out or thrown away by then.
            await self._signing.quiet(name)
        reached: Watermark | None = None
        try:
            # Everywhere: enclaves that have not heard of it cannot vote.
            reached = await self._guard.stop(slot.public_key, STOPPED[state])
        except Refused:
            # No record that can be trusted: nobody votes with it as it is.
            self._unprotected.add(slot.public_key)
        await self._news.tell([slot.public_key])
        return slot, reached

    async def came(self, public_keys: Sequence[bytes]) -> None:
        """Tell of keys that came: now, or if that cannot be, a little later."""
        self._unprotected.difference_update(public_keys)
        with suppress(Undecided):
            await self._news.tell(public_keys)

    async def registered(self, public_keys: Iterable[bytes]) -> None:
        """Know that these have watermarks by now; tell those who had none."""
        mended = self._unprotected.intersection(public_keys)
        if mended:
            await self.came(list(mended))

    async def _look_at_watermarks(self, coming: Sequence[Slot]) -> None:
        """Read the watermarks of keys that come, and of those that had none."""
        keys = {slot.public_key for slot in coming if slot.purpose == VALIDATOR}
        keys |= self._unprotected
        lost = set(await self._guard.load(sorted(keys)))
        self._unprotected = (self._unprotected - keys) | lost
