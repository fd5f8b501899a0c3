"""
How a validator's key comes to be here: first its slashing protection, then the key.

Whatever dies in between leaves a record that forbids, and no key that could do without
one. Asking again goes on from there. Every way in ends in `keep`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.keys.key_writer import header_of
from nitrosigner.trusted.enclave.parent_link.parent_services import StoreConflict
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_keys_port import Imported
from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR, Header, Slot
from nitrosigner.trusted.signing.algorithms import PublicKey
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Refused, Undecided

AT_ONCE: Final = 16
"""Keys written at the same time: the store can commit them in groups."""
_CONFLICTS: Final = 3
_KEY_MATERIAL: Final = 64
"""Random bytes that a new key is derived from."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A key that is to be kept. Whoever made it wipes the secret."""

    public_key: PublicKey
    secret: SecretBytes
    history: Watermark


class ValidatorMaking:
    """Registers, then seals. Every method runs to its end once it was begun."""

    def __init__(self, parts: KeyParts, guard: SlashingGuard, bls: Bls12381) -> None:
        self._index = parts.index
        self._changes = parts.changes
        self._writer = parts.writer
        self._entropy = parts.entropy
        self._clock = parts.clock
        self._guard = guard
        self._bls = bls
        self._accepted = parts.writer.accepted

    async def create(self) -> Imported:
        """Make a key inside."""
        # The NSM blocks for milliseconds: not on the loop that signs. Derived as
        # EIP-2333 has it: 32 random bytes are a key less than half of the time.
        with (
            await asyncio.to_thread(
                self._entropy.secret, _KEY_MATERIAL, self._bls.name
            ) as material,
            self._bls.derive_master(material) as secret,
        ):
            public_key = self._bls.public_key(secret)
            return await self.keep(Newcomer(public_key, secret, Watermark()))

    async def keep_many(self, newcomers: Sequence[Newcomer]) -> list[Imported]:
        """Keep all of them; raise what the first failure was."""
        kept: list[Imported] = []
        for start in range(0, len(newcomers), AT_ONCE):
            outcomes = await asyncio.gather(
                *(self.keep(one) for one in newcomers[start : start + AT_ONCE]),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                kept.append(outcome)
        return kept

    async def keep(self, newcomer: Newcomer) -> Imported:
        """
        Register, then seal and store. A deleted key comes back, enabled.

        Raises:
            Refused: It is registered for another chain, its record is not ours, or
                there are as many keys as allowed.
            Undecided: The store did not answer. Ask again.
        """
        name = "0x" + newcomer.public_key.hex()
        for _ in range(_CONFLICTS):
            async with self._changes.alone(name):
                held = self._index.named(name)
                if held is not None:
                    # Another enclave may have deleted it: then it has to come back.
                    await self._changes.settle(name)
                    held = self._index.named(name)
                here = held is not None and held.state != "deleted"
                if held is None:
                    self._require_room()
                await self._guard.register(
                    newcomer.public_key, newcomer.history, revive=not here
                )
                if held is not None and here:
                    return Imported(held.describe(), new=False)
                header = self._header(name, newcomer.public_key, held)
                try:
                    slot = await self._changes.write(header, newcomer.secret)
                except StoreConflict:
                    # Another enclave imports the same key; look at what it wrote.
                    continue
                return Imported(slot.describe(), new=True)
        raise Undecided(
            Code.OVERLOADED,
            "this key changes again and again",
            "let one import finish before the next",
        )

    def _header(self, name: str, public_key: PublicKey, held: Slot | None) -> Header:
        return Header(
            purpose=VALIDATOR,
            deployment=self._accepted.manifest.deployment,
            name=name,
            algorithm=self._bls.name,
            kind="vault",
            public_key=public_key,
            identity=name,
            state="enabled",
            version=held.version if held else 0,
            created=header_of(held).created if held else int(self._clock.now()),
            purge_after=0,
            manifest=self._accepted.manifest.version,
        )

    def _require_room(self) -> None:
        if len(self._index) >= self._accepted.manifest.limits.max_keys:
            raise Refused(
                Code.OVER_LIMIT,
                "there are as many keys as the manifest allows",
                "raise limits.max_keys in the manifest",
            )
