"""
The validators' keys, as the front sees them: the port `ValidatorKeys`.

A key signs a `Permit`, which only the slashing guard makes; there is no method that
signs bytes. What changes a key first changes its slashing protection, where that is the
safe order: a key that comes is registered before it exists, a key that goes is dead
here before its final history is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from nitrosigner.trusted.enclave.keys.key_imports import unwrapped
from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.keys.key_material import matching_public_key
from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators import duty_signing, validator_making
from nitrosigner.trusted.enclave.validators.keystore_opening import KeystoreOpening
from nitrosigner.trusted.enclave.validators.process_channel import Outcome, Then
from nitrosigner.trusted.enclave.validators.reference_items import opened_item
from nitrosigner.trusted.enclave.validators.seed_keys import SeedKeys
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    DepositData,
    Derived,
    History,
    Imported,
    Reloaded,
    SignedBlsChange,
    SignedVoluntaryExit,
    ValidatorFacts,
    WrappedSeed,
)
from nitrosigner.trusted.enclave.validators.validator_messages import ValidatorMessages
from nitrosigner.trusted.enclave.validators.validator_names import (
    is_validator_name,
    validator_name,
)
from nitrosigner.trusted.enclave.validators.validator_records import ValidatorRecords
from nitrosigner.trusted.enclave.validators.validator_states import ValidatorStates
from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR, Slot
from nitrosigner.trusted.signing.algorithms import PublicKey, Signature
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import api
from nitrosigner.wire.manifest_validators import Validators as Told


class Validators:
    """All validators of the deployment."""

    def __init__(
        self,
        parts: KeyParts,
        *,
        told: Told,
        network: BeaconNetwork,
        guard: SlashingGuard,
        bls: Bls12381,
        unprotected: Iterable[bytes],
    ) -> None:
        """
        Start the processes that sign; `close` ends them.

        *guard* knows all keys but the *unprotected*; *bls* gave its known answers.
        """
        self.network: Final = network
        self.guard: Final = guard
        self._told = told
        self._parts = parts
        self._index = parts.index
        self._changes = parts.changes
        self._bls = bls
        self._lookup = KeyLookup(parts.index, parts.changes, VALIDATOR)
        self._signing = duty_signing.DutySigning(self._lookup, bls)
        self._states = ValidatorStates(
            parts, self._lookup, guard, self._signing, unprotected
        )
        guard.gather_while(self.busy)
        self.records: Final = ValidatorRecords(parts, guard, self._states)
        self._messages = ValidatorMessages(network, guard, self._signing)
        self._making = validator_making.ValidatorMaking(parts, guard, bls)
        self._worker = KeystoreOpening(bls)
        self._deployment = parts.writer.accepted.manifest.deployment
        self._seeds = SeedKeys(
            self._deployment, parts.recipient, parts.entropy, bls, self._worker
        )

    async def close(self) -> None:
        """Finish what was begun."""
        await self._worker.close()
        await self._signing.close()

    # --- looking ---

    def busy(self) -> bool:
        """See `duty_signing.DutySigning.busy`."""
        return self._signing.busy()

    @property
    def signs(self) -> bool:
        """Whether every signing process is there. If not, start the enclave again."""
        return self._signing.healthy

    @property
    def import_public_key(self) -> bytes:
        """Raw X25519 key of this boot, 32 bytes."""
        return self._parts.recipient.import_public_key

    @property
    def facts(self) -> ValidatorFacts:
        """How things stand."""
        return ValidatorFacts(
            loaded=self._index.count(VALIDATOR),
            enabled=self._index.enabled(VALIDATOR),
            unprotected=self._states.unprotected,
            expected=self._told.expected_keys,
            signatures=self._signing.signatures,
            waiting=self._signing.waiting,
        )

    def find(self, identifier: str) -> Slot:
        """Return a key by its public key. See the port."""
        slot = self._index.named(identifier)  # nearly everybody spells it as we do
        if slot is None or slot.purpose != VALIDATOR:
            return self._lookup.find(validator_name(identifier))
        return slot

    def describe(self, identifier: str) -> api.KeyDescription:
        """See the port."""
        return self.find(identifier).describe()

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return up to *limit* keys after the name *after*, in name order."""
        limit = max(1, min(limit, api.MAX_PAGE))
        slots, more = self._index.page(after, limit, VALIDATOR)
        return api.KeyPage(keys=[slot.describe() for slot in slots], more=more)

    def enabled(self) -> list[str]:
        """Return the names of all keys that may sign, in name order."""
        return [
            slot.name for slot in self._index.each(VALIDATOR) if slot.state == "enabled"
        ]

    # --- signing ---

    async def sign(self, permit: Permit) -> Signature:
        """See the port."""
        return await self._signing.sign(permit)

    def sign_soon(self, permit: Permit, then: Then) -> None:
        """Sign as `sign` does, and tell *then*."""
        self._signing.sign_soon(permit, then)

    async def hash_once(self, message: bytes) -> None:
        """Hash in one place. See the port."""
        await self._signing.hash_once(message)

    async def sign_many(self, permits: Sequence[Permit]) -> list[Outcome]:
        """See the port."""
        return await self._signing.sign_many(permits)

    async def deposit_data(
        self, identifier: str, *, withdrawal_credentials: bytes, amount: int
    ) -> DepositData:
        """Sign a deposit."""
        await self.listen()
        key = self.find(identifier)
        return await self._messages.deposit(key, withdrawal_credentials, amount)

    async def voluntary_exit(
        self, identifier: str, *, validator_index: int, epoch: int
    ) -> SignedVoluntaryExit:
        """Sign a voluntary exit."""
        await self.listen()
        return await self._messages.exit(self.find(identifier), validator_index, epoch)

    async def bls_to_execution_change(
        self,
        identifier: str,
        *,
        validator_index: int,
        to_execution_address: bytes,
        seed: WrappedSeed | None = None,
        index: int = 0,
    ) -> SignedBlsChange:
        """Sign a change of withdrawal credentials. See the port."""
        await self.listen()
        if seed is None:
            return await self._messages.change(
                self.find(identifier), validator_index, to_execution_address
            )
        if seed.form == "new":
            raise Malformed(
                Code.MALFORMED_REQUEST, "a new seed is nobody's withdrawal key"
            )
        with (
            await self._seeds.entered(seed) as entered,
            await self._seeds.withdrawal(seed, entered, index) as withdrawal,
            self._bls.derive_child(withdrawal, 0) as signing,
        ):
            if "0x" + self._bls.public_key(signing).hex() != validator_name(identifier):
                raise Refused(
                    Code.KEY_MISMATCH,
                    "the validator at this index of the seed is another one",
                    "check the index, the mnemonic and its passphrase",
                )
            return await self._messages.change_by(
                self._bls, withdrawal, validator_index, to_execution_address
            )

    # --- keys come ---

    async def create(self) -> api.KeyDescription:
        """Make a key inside."""

        async def work() -> Imported:
            return await self._come(await self._making.create())

        return (await self._changes.answer(work())).key

    async def import_wrapped(
        self, identity: str, wrapped_key: str, history: Watermark
    ) -> Imported:
        """Take a wrapped key. See the port."""
        name = validator_name(identity)

        async def work() -> Imported:
            with unwrapped(
                wrapped_key,
                recipient=self._parts.recipient,
                deployment=self._deployment,
                name=name,
                algorithm=self._bls,
                identity=name,
            ) as secret:
                public_key = matching_public_key(self._bls, secret, name)
                return await self._keep(public_key, secret, history)

        return await self._changes.answer(work())

    async def import_keystore(
        self, keystore: str, password: str, history: Watermark
    ) -> Imported:
        """Take an EIP-2335 keystore."""

        async def work() -> Imported:
            public_key, secret = await self._worker.opened(keystore, password)
            with secret:
                return await self._keep(public_key, secret, history)

        return await self._changes.finish(work())

    async def import_reference(
        self, public_key: str, ciphertext: bytes, history: Watermark
    ) -> Imported:
        """Take an item of the AWS reference's table."""
        name = validator_name(public_key)

        async def work() -> Imported:
            keystore, password = await opened_item(
                ciphertext, self._parts.kms, self._parts.writer.accepted
            )
            found, secret = await self._worker.opened(keystore, password)
            with secret:
                if "0x" + found.hex() != name:
                    raise Refused(
                        Code.KEY_MISMATCH,
                        "the item holds another key than the one that was named",
                        "nothing was stored; look at the item's pubkey",
                    )
                return await self._keep(found, secret, history)

        return await self._changes.finish(work())

    async def derive(
        self,
        seed: WrappedSeed,
        *,
        start: int,
        count: int,
        backup_recipient: bytes | None = None,
    ) -> Derived:
        """Make the keys of a seed. See the port."""
        if seed.form == "new" and backup_recipient is None:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                "a new seed needs somebody offline who keeps it",
                "name the backup's recipient, or have single keys made without a seed",
            )

        async def work() -> Derived:
            with await self._seeds.entered(seed) as entered:
                # Before any key exists: a wrong recipient must not cost a seed.
                backup = b""
                if backup_recipient is not None:
                    backup = self._seeds.backup(entered, backup_recipient)
                secrets = await self._seeds.derived(seed, entered, start, count)
            try:
                kept = await self._making.keep_many(
                    [
                        validator_making.Newcomer(
                            self._bls.public_key(secret), secret, Watermark()
                        )
                        for secret in secrets
                    ]
                )
            finally:
                for secret in secrets:
                    secret.wipe()
            await self._states.came(
                [bytes.fromhex(one.key.public_key[2:]) for one in kept]
            )
            return Derived(kept, backup)

        return await self._changes.finish(work())

    async def _keep(
        self, public_key: PublicKey, secret: SecretBytes, history: Watermark
    ) -> Imported:
        newcomer = validator_making.Newcomer(public_key, secret, history)
        return await self._come(await self._making.keep(newcomer))

    async def _come(self, made: Imported) -> Imported:
        await self._states.came([bytes.fromhex(made.key.public_key[2:])])
        return made

    # --- keys change and go ---

    async def disable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let no enclave sign with the key until it is enabled."""
        slot, _ = await self._states.change(
            validator_name(identifier), version, "disabled"
        )
        return slot.describe()

    async def enable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled key sign again."""
        slot, _ = await self._states.change(
            validator_name(identifier), version, "enabled"
        )
        return slot.describe()

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> tuple[api.KeyDescription, Watermark | None]:
        """Delete, and return the final history. See the port."""
        slot, final = await self._states.change(
            validator_name(identifier), version, "deleted"
        )
        return slot.describe(), final

    async def reload(self) -> Reloaded:
        """Take over what the store holds. See the port."""
        difference = await self._changes.finish(self._parts.refresh.refresh())
        return Reloaded(
            added=difference.added,
            changed=difference.changed,
            removed=difference.removed,
            rejected=len(self._changes.rejected),
        )

    async def listen(self) -> None:
        """Take over what other enclaves changed. See the port."""
        await self._states.hearing.listen()

    async def seek(self, identifiers: Sequence[str]) -> None:
        """Look for keys that are unknown here. See the port."""
        names = [validator_name(identifier) for identifier in identifiers]
        # What is no public key is nobody's, here or elsewhere.
        keys = [bytes.fromhex(name[2:]) for name in names if is_validator_name(name)]
        if keys:
            await self._states.hearing.seek(keys)

    # --- slashing history ---

    async def history(self, public_keys: Sequence[bytes]) -> History:
        """Read from the store how far these have come."""
        lost = await self.guard.load(public_keys)
        reached = {
            key: watermark
            for key in public_keys
            if key not in lost and (watermark := self.guard.watermark(key))
        }
        return History(reached, list(lost))

    async def import_history(self, history: Mapping[bytes, Watermark]) -> int:
        """Register these validators, or move them forward. See the port."""
        await self._changes.finish(self.guard.register_many(history))
        await self._states.registered(history)
        return len(history)
