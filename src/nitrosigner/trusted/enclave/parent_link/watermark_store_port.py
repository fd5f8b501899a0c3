"""
Where watermarks survive, as the slashing guard needs it. `parent_watermarks` has it.

The one thing not to get wrong: a change is made only if the version that it names is
still the stored one. That is what keeps two signers from both signing.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class Stored(Protocol):
    """One stored item: its version and bytes."""

    @property
    def version(self) -> int:
        """What the store calls its version; at least 1."""
        ...

    @property
    def data(self) -> bytes:
        """The item, closed."""
        ...


class Advance(msgspec.Struct, frozen=True, gc=False):
    """Replace the item of a validator if its stored version is *expected*."""

    public_key: bytes
    expected: int
    """0: only if there is none."""
    data: bytes


class WatermarkStore(Protocol):
    """
    Where watermarks survive. Shared by every enclave of the deployment.

    Each item of `advance` is atomic and conditional by itself, durable before it is
    answered, and reads see every write that was answered before. It is *not* trusted
    to be honest: items are sealed. It is trusted not to be replayed as a whole across
    a restart of every enclave (THREAT_MODEL names this residue).
    """

    async def fetch(self, public_keys: Sequence[bytes]) -> Mapping[bytes, Stored]:
        """
        Return the items of these validators; absent ones are left out.

        Raises:
            Undecided: No answer.
        """
        ...

    async def advance(self, changes: Sequence[Advance]) -> Sequence[bool]:
        """
        Write each change whose condition holds; say for each whether it was written.

        Raises:
            Undecided: No answer: each may have been written or not.
        """
        ...
