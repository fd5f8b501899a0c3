"""
Finds keys, and says why one cannot be found or used.
"""

from nitrosigner.trusted.enclave.keys.key_changes import KeyChanges
from nitrosigner.trusted.enclave.keys.key_index import KeyIndex
from nitrosigner.trusted.enclave.vault.sealed_records import WALLET, Slot
from nitrosigner.verdicts import Code, Refused


class KeyLookup:
    """Over what is in memory and serves one purpose. Asks nobody."""

    def __init__(
        self, index: KeyIndex, changes: KeyChanges, purpose: str = WALLET
    ) -> None:
        self._index = index
        self._changes = changes
        self._purpose = purpose

    def find(self, identifier: str) -> Slot:
        """
        Return the key with this name or address (any case).

        Raises:
            Refused: UNKNOWN_KEY; NOT_ALLOWED if it serves another purpose; or
                RECORD_UNTRUSTED if the store has it altered.
        """
        slot = self._index.find(identifier)
        if slot is None:
            raise self._missing(identifier)
        self._require_purpose(slot)
        return slot

    def ready(self, name: str) -> Slot:
        """
        Return the key called *name* if it may sign now.

        Raises:
            Refused: It is unknown, disabled, deleted or rejected.
            Undecided: Its last change is not settled.
        """
        slot = self._index.named(name)
        if slot is None:
            raise self._missing(name)
        self._require_purpose(slot)
        self._changes.require_settled(name)
        if slot.state == "enabled":
            return slot
        raise deleted() if slot.state == "deleted" else _disabled()

    def _require_purpose(self, slot: Slot) -> None:
        if slot.purpose != self._purpose:
            raise Refused(
                Code.NOT_ALLOWED,
                f"this is a {slot.purpose} key, and no {self._purpose} key",
                "wallet keys are under /api/v1/keys, validators' under "
                "/api/v1/validators and /api/v1/eth2",
            )

    def _missing(self, identifier: str) -> Refused:
        rejected = self._changes.rejected.get(identifier)
        if rejected is not None:
            return rejected
        return Refused(
            Code.UNKNOWN_KEY,
            "there is no such key",
            "nitrosigner keys list, or validators list, shows those you may see",
        )


def require_version(slot: Slot, version: int | None) -> None:
    """
    Raise unless *slot* is at *version* (None: any).

    Raises:
        Refused: VERSION_CONFLICT.
    """
    if version is not None and version != slot.version:
        raise Refused(
            Code.VERSION_CONFLICT,
            f"the key is at version {slot.version} by now",
            "look at what changed, then repeat with the current version",
        )


def deleted() -> Refused:
    """Return the verdict on the use of a deleted key."""
    return Refused(
        Code.KEY_DELETED, "the key is deleted", "keys restore; validators import"
    )


def _disabled() -> Refused:
    return Refused(
        Code.KEY_DISABLED, "the key is disabled", "keys (or validators) enable"
    )
