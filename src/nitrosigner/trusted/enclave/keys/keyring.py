"""
The keys, as the front sees them.

A key signs a `Permit`; there is no method that signs bytes. Changes are durable in the
store before memory knows of them, and a change that was begun is finished even if its
caller is gone (`key_changes`).
"""

import base64

from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.keys.key_making import KeyMaking
from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.keys.key_signing import KeySigning
from nitrosigner.trusted.enclave.keys.key_states import KeyStates
from nitrosigner.trusted.enclave.keys.vault_rotation import VaultRotation
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.verdicts import Refused
from nitrosigner.wire import api


class Keyring:
    """The deployment's wallet keys; and what is done to all keys, unasked."""

    def __init__(
        self,
        parts: KeyParts,
    ) -> None:
        index, changes, writer = parts.index, parts.changes, parts.writer
        self._index = index
        self._kms = parts.kms
        self._recipient = parts.recipient
        self._changes = changes
        self._lookup = KeyLookup(index, changes)
        self._rotation = VaultRotation(index, changes, writer, parts.singles)
        self._refresh = parts.refresh
        self._signing = KeySigning(
            self._lookup, writer.algorithms, parts.kms, writer.accepted
        )
        self._states = KeyStates(index, self._lookup, changes, writer, parts.clock)
        self._making = KeyMaking(
            index=index,
            lookup=self._lookup,
            changes=changes,
            writer=writer,
            kms=parts.kms,
            recipient=parts.recipient,
            entropy=parts.entropy,
            clock=parts.clock,
        )

    # --- looking ---

    @property
    def count(self) -> int:
        """Keys that are loaded, validators' and deleted ones included."""
        return len(self._index)

    @property
    def rejected(self) -> dict[str, Refused]:
        """Names in the store that cannot be used, and why."""
        return dict(self._changes.rejected)

    @property
    def kms_calls(self) -> int:
        """KMS calls since boot."""
        return self._kms.calls

    @property
    def import_public_key(self) -> bytes:
        """Raw X25519 key of this boot, 32 bytes."""
        return self._recipient.import_public_key

    def describe(self, identifier: str) -> api.KeyDescription:
        """
        Return a key by name or by address (any case).

        Raises:
            Refused: UNKNOWN_KEY, or RECORD_UNTRUSTED if the store has it altered.
        """
        return self._lookup.find(identifier).describe()

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return up to *limit* keys after the name *after*, in name order."""
        slots, more = self._index.page(after, max(1, min(limit, api.MAX_PAGE)))
        return api.KeyPage(keys=[slot.describe() for slot in slots], more=more)

    def ciphertext(self, identifier: str) -> api.KeyCiphertext:
        """
        Return a key as it is stored outside: its sealed record, or for kind `kms` the
        KMS ciphertext that was imported. Raises as `describe`.
        """
        slot = self._lookup.find(identifier)
        if slot.kind == "vault":
            stored = slot.stored()
        else:
            # A KMS ciphertext is no secret: it was made outside.
            with slot.unseal() as ciphertext:
                stored = bytes(ciphertext.buffer)
        return api.KeyCiphertext(
            name=slot.name, kind=slot.kind, ciphertext=base64.b64encode(stored).decode()
        )

    # --- signing ---

    def sign_now(self, permit: Permit) -> Signature | None:
        """
        Unseal, sign, wipe. None if the key needs KMS: await `sign` instead.

        Raises:
            Refused: The key is unknown, disabled, deleted, or was altered.
            Undecided: A change of it is not settled.
        """
        return self._signing.sign_now(permit)

    async def sign(self, permit: Permit) -> Signature:
        """
        Sign with a key of either kind. Kind `kms`: one attested Decrypt, no cache.

        Raises:
            Refused: As `sign_now`; or KMS does not open the key.
            Undecided: As `sign_now`; or KMS did not answer, or too many wait for it.
        """
        return await self._signing.sign(permit)

    # --- changing ---

    async def create(self, name: str, algorithm: str) -> api.KeyDescription:
        """
        Make a key inside.

        Raises:
            Malformed: The name or the algorithm is none.
            Refused: The name is taken, or there are as many keys as allowed.
            Undecided: It may have been made; look at the name before asking again.
        """
        making = self._making.create(name, algorithm)
        return (await self._changes.answer(making)).describe()

    async def import_wrapped(self, request: api.ImportKey) -> api.KeyDescription:
        """
        Take a key that a client wrapped to `import_public_key`.

        Raises:
            Malformed: It does not unwrap for this name and address.
            Refused: It has another address; or the name or the version does not fit.
            Undecided: It may have been stored.
        """
        making = self._making.import_wrapped(request)
        return (await self._changes.answer(making)).describe()

    async def import_kms(self, request: api.ImportKmsKey) -> api.KeyDescription:
        """
        Take a KMS ciphertext of a key. KMS is asked once, to know that it opens.

        Raises:
            Malformed: There is no private key in it.
            Refused: KMS does not open it for us; or as `import_wrapped`.
            Undecided: KMS or the store did not answer.
        """
        making = self._making.import_kms(request)
        return (await self._changes.finish(making)).describe()

    async def disable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """
        Make the key refuse to sign until it is enabled.

        Raises (as do the three below):
            Refused: UNKNOWN_KEY; VERSION_CONFLICT; KEY_DELETED, restore it first.
            Undecided: It may have happened; the key signs nothing until that is known.
        """
        return await self._change(identifier, version, "disabled")

    async def enable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled key sign again."""
        return await self._change(identifier, version, "enabled")

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Delete, recoverably until `purge_after`."""
        return await self._change(identifier, version, "deleted")

    async def restore(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Bring a deleted key back. It is disabled then, as AWS KMS has it."""
        return await self._change(identifier, version, "disabled", restore=True)

    async def _change(
        self,
        identifier: str,
        version: int | None,
        state: api.KeyState,
        *,
        restore: bool = False,
    ) -> api.KeyDescription:
        change = self._states.change(identifier, version, state, restore=restore)
        return (await self._changes.answer(change)).describe()

    # --- the vault, and what is done without being asked ---

    async def rotate_vault(self) -> int:
        """
        Seal every record under a new vault key; return how many keys.

        Raises:
            Refused: KMS refuses, or another enclave rotates (VERSION_CONFLICT).
            Undecided: Nothing is lost. The next rotation or boot goes on with it.
        """
        return await self._changes.finish(self._rotation.rotate())

    async def finish_rotation(self) -> None:
        """Finish a rotation that an earlier life began, if there is one."""
        await self._changes.finish(self._rotation.finish())

    async def purge_expired(self) -> int:
        """Remove for good what was deleted long enough ago; return how many."""
        return await self._changes.finish(self._states.purge_expired())

    async def settle(self) -> None:
        """Read again what is unsettled. Raises no verdict: it stays unsettled."""
        await self._changes.settle_all()

    async def refresh(self) -> None:
        """Take over what other enclaves of the deployment changed. Raises Undecided."""
        await self._changes.finish(self._refresh.refresh())

    async def drain(self) -> None:
        """Wait for the changes that are under way."""
        await self._changes.drain()
