"""
Every slashing protection record in the store: those of keys that are here, of keys that
are gone, and of histories that came before their keys.

What is listed as true was read again and opened, not taken from the list. What does not
open is shown as what it is, somebody's bytes, and is replaced only together with a
history that a person vouches for.
"""

from dataclasses import dataclass

from nitrosigner.trusted.enclave.keys.key_news import NOBODY
from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.parent_link.watermark_store_port import Stored
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_states import (
    STOPPED,
    ValidatorStates,
)
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Malformed, Refused


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A record that we did not make, or that is not where or when we made it."""

    public_key: bytes
    stored: Stored | None
    """None: it is gone, and was there since we started."""
    why: Refused


@dataclass(frozen=True, slots=True)
class Records:
    """Part of a store."""

    reached: dict[bytes, Watermark]
    untrusted: list[Untrusted]
    after: bytes | None
    """Where the next part begins; None: this was the last."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    replaced: Untrusted
    reached: Watermark


class ValidatorRecords:
    """Looks at records, and replaces what nobody can trust."""

    def __init__(
        self, parts: KeyParts, guard: SlashingGuard, states: ValidatorStates
    ) -> None:
        self._store = parts.writer.store
        self._index = parts.index
        self._changes = parts.changes
        self._guard = guard
        self._states = states

    async def page(self, after: bytes | None, limit: int) -> Records:
        """
        Return up to *limit* records after that of *after*, in the store's own order.

        Raises:
            Undecided: The store did not answer.
        """
        page = await self._store.page_of_watermarks(after, limit)
        listed = {
            item.public_key: item for item in page.items if item.public_key != NOBODY
        }
        lost = await self._guard.load(list(listed))
        reached = {
            public_key: watermark
            for public_key in listed
            if public_key not in lost
            and (watermark := self._guard.watermark(public_key)) is not None
        }
        untrusted = [
            Untrusted(public_key, listed[public_key], why)
            for public_key, why in lost.items()
        ]
        following = page.items[-1].public_key if page.more else None
        return Records(reached, untrusted, following)

    async def repair(self, public_key: bytes, history: Watermark) -> Repaired:
        """
        Replace a record that cannot be trusted by *history*; never by less than a vote.

        Raises:
            Malformed: *history* knows of no vote.
            Refused: The record can be trusted, is another chain's, or never was.
            Undecided: The store did not answer, or somebody else changed it.
        """
        if history.voted is None:
            raise Malformed(
                Code.MALFORMED_HISTORY,
                "this history has no attestation of the validator",
                "a record is not replaced by an empty one: give the latest history, of"
                " every signer that had the key",
            )
        return await self._changes.finish(self._repair(public_key, history))

    async def _repair(self, public_key: bytes, history: Watermark) -> Repaired:
        await self._states.hearing.listen()
        name = f"0x{public_key.hex()}"
        async with self._changes.alone(name):
            slot = self._index.named(name)
            found = await self._store.read_watermarks([public_key])
            why = (await self._guard.load([public_key])).get(public_key)
            # What was stopped stays so; the record that said it is not to be trusted.
            stopped = STOPPED[slot.state] if slot else ""
            reached = await self._guard.mend(public_key, history, stopped)
            await self._states.came([public_key])
        if why is None:
            # It was in order a moment ago, and not when it was replaced.
            why = Refused(Code.RECORD_UNTRUSTED, "it changed while it was looked at")
        return Repaired(Untrusted(public_key, found.get(public_key), why), reached)
