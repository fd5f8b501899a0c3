"""
What the front needs of the validators' keys. `validator_keys.Validators` has them.

A duty's way is: `find` the key, let the policy judge the client, read the duty with
`network`, have `guard` permit it (durable by then), `sign` the permit. Nothing in here
judges a client, and every method may raise a verdict, after which nothing was signed.

Every change is idempotent, because its answer may get lost: asked again it says what is
there. No method takes or returns a private key in the clear.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_records import ValidatorRecords
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Verdict
from nitrosigner.wire import api

MAX_DERIVED: Final = 256
"""Keys that one `derive` makes."""
NO_HISTORY: Final = Watermark()


class ValidatorKey(Protocol):
    """A loaded key, as cheap as it gets."""

    @property
    def name(self) -> str:
        """`0x` and 96 lower-case hex digits; what policies and permits call it."""
        ...

    @property
    def public_key(self) -> bytes:
        """48 bytes; what the guard calls it."""
        ...

    @property
    def state(self) -> api.KeyState:
        """Only an enabled key signs."""
        ...


class Imported(msgspec.Struct, frozen=True):
    """What an import found or made."""

    key: api.KeyDescription
    new: bool
    """False: it was here already (its history was merged; its state is as it was)."""


class WrappedSeed(msgspec.Struct, frozen=True):
    """Where derived keys come from."""

    form: Literal["mnemonic", "seed", "new"]
    """`mnemonic`: the words (BIP-39), and after a line feed the passphrase, if there is
    one. `seed`: 32 to 64 raw bytes. `new`: a mnemonic of 24 words is made inside."""
    wrapped: str = ""
    """Base64 of `import_wrapping.wrap` under `import_wrapping.seed_info`. Empty for
    `new`."""


class Derived(msgspec.Struct, frozen=True):
    """Keys out of one seed, in the order of their indices."""

    keys: list[Imported]
    backup: bytes
    """What was entered or made, as `import_wrapping.wrap` gives it to the offline
    recipient under `import_wrapping.backup_info`; empty if nobody was named."""


class DepositData(msgspec.Struct, frozen=True, kw_only=True):
    """A deposit, as the deposit contract and ethstaker-deposit-cli have it."""

    public_key: bytes
    withdrawal_credentials: bytes
    amount: int
    """Gwei."""
    signature: bytes
    message_root: bytes
    data_root: bytes
    fork_version: bytes
    network: str


class SignedVoluntaryExit(msgspec.Struct, frozen=True, kw_only=True):
    """Valid from its epoch on, for ever (EIP-7044)."""

    epoch: int
    validator_index: int
    signature: bytes


class SignedBlsChange(msgspec.Struct, frozen=True, kw_only=True):
    """Moves a validator's withdrawals to an address, once and for good."""

    validator_index: int
    from_bls_public_key: bytes
    to_execution_address: bytes
    signature: bytes
    network: str
    genesis_validators_root: bytes


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed. All of it happened in one step."""

    added: int
    changed: int
    removed: int
    rejected: int
    """Records in the store that cannot be used, after the reload."""


class History(msgspec.Struct, frozen=True):
    """How far validators have come, as the store says now."""

    reached: dict[bytes, Watermark]
    lost: list[bytes]
    """Asked for, and without a record that can be trusted."""


class ValidatorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """For health and metrics. Counted when asked; asks nobody."""

    loaded: int
    """Deleted ones included."""
    enabled: int
    unprotected: int
    """Loaded and enabled, and unable to vote: their watermark is lost or untrusted."""
    expected: int | None
    """`validators.expected_keys` of the manifest; fewer enabled ones: not ready."""
    signatures: int
    """Since boot."""
    waiting: int
    """Permits that wait for a thread."""


class ValidatorKeys(Protocol):
    """All validators of the deployment."""

    @property
    def network(self) -> BeaconNetwork:
        """The chain that the manifest names."""
        ...

    @property
    def guard(self) -> SlashingGuard:
        """Who permits duties: `permit`, `permit_many`, `permit_soon`."""
        ...

    @property
    def records(self) -> ValidatorRecords:
        """The slashing protection records themselves, also without a key."""
        ...

    @property
    def facts(self) -> ValidatorFacts:
        """How things stand."""
        ...

    @property
    def import_public_key(self) -> bytes:
        """Raw X25519 key of this boot."""
        ...

    # --- the enclaves beside us ---

    async def listen(self) -> None:
        """
        Take over what other enclaves on the store had changed when this was called.

        Done every second anyway. To be awaited before what cannot be taken back, and
        before a key's state is changed or told.

        Raises:
            Undecided: The store did not answer.
        """
        ...

    async def seek(self, identifiers: Sequence[str]) -> None:
        """
        Look for keys that `find` does not know: another enclave may have them by now.

        Raises:
            Malformed: One is no public key.
            Undecided: The store did not answer.
        """
        ...

    # --- looking ---

    def find(self, identifier: str) -> ValidatorKey:
        """
        Return a key by its public key in hex, with or without 0x, any case.

        Raises:
            Refused: UNKNOWN_KEY; NOT_ALLOWED if it is a wallet's; RECORD_UNTRUSTED.
        """
        ...

    def describe(self, identifier: str) -> api.KeyDescription:
        """Return what may be shown of a key. Raises as `find`."""
        ...

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return up to *limit* keys after the name *after*, in name order."""
        ...

    def enabled(self) -> list[str]:
        """Return the names of all keys that may sign, in name order."""
        ...

    # --- signing ---

    def busy(self) -> bool:
        """Return whether the processes that sign have work for a while."""
        ...

    async def sign(self, permit: Permit) -> Signature:
        """
        Unseal, sign and wipe in a process of its own; 96 bytes.

        Raises:
            Refused: The key is unknown, disabled, deleted, or was altered.
            Undecided: A change of it is not settled, or too many wait (OVERLOADED).
        """
        ...

    def sign_soon(
        self, permit: Permit, then: Callable[[Signature | Verdict], None]
    ) -> None:
        """As `sign`; *then* hears the outcome once, and must not raise."""
        ...

    async def hash_once(self, message: bytes) -> None:
        """Hash *message* in one place, before many keys sign it. It is public."""
        ...

    async def sign_many(self, permits: Sequence[Permit]) -> list[Signature | Verdict]:
        """Return for each permit its signature or why not."""
        ...

    async def deposit_data(
        self, identifier: str, *, withdrawal_credentials: bytes, amount: int
    ) -> DepositData:
        """
        Sign a deposit of *amount* gwei.

        Raises:
            Malformed: The credentials are none, or the amount is no deposit's.
        """
        ...

    async def voluntary_exit(
        self, identifier: str, *, validator_index: int, epoch: int
    ) -> SignedVoluntaryExit:
        """Sign a voluntary exit, in Capella's domain (EIP-7044)."""
        ...

    async def bls_to_execution_change(
        self,
        identifier: str,
        *,
        validator_index: int,
        to_execution_address: bytes,
        seed: WrappedSeed | None = None,
        index: int = 0,
    ) -> SignedBlsChange:
        """
        Sign a change of withdrawal credentials.

        The key that signs is the withdrawal key: without *seed* the key *identifier*
        itself; with it m/12381/3600/*index*/0 of that seed, whose validator key
        m/12381/3600/*index*/0/0 must be *identifier*.
        """
        ...

    # --- keys come and go ---

    async def create(self) -> api.KeyDescription:
        """Make a key inside. Nobody else ever has it: it lives with the vault."""
        ...

    async def import_wrapped(
        self, identity: str, wrapped_key: str, history: Watermark
    ) -> Imported:
        """
        Take a key that was wrapped to `import_public_key`.

        Its history is durable before the key is: a key without slashing protection
        never exists. A deleted key comes back enabled; one that is here stays as it is.

        Args:
            identity: `0x` and 96 hex digits.
            wrapped_key: Base64 of `import_wrapping.wrap` under `import_info` with
                name and identity both this (lower case), algorithm `bls12-381`.
            history: How far it has come elsewhere; `NO_HISTORY` if nowhere.
        """
        ...

    async def import_keystore(
        self, keystore: str, password: str, history: Watermark
    ) -> Imported:
        """
        Take an EIP-2335 keystore (its JSON). Takes about a second of one thread.

        Raises:
            Malformed: It is none, or not affordable.
            Refused: WRONG_PASSWORD, or KEY_MISMATCH: it holds another key than it says.
            Undecided: OVERLOADED: too many wait to be opened.
        """
        ...

    async def import_reference(
        self, public_key: str, ciphertext: bytes, history: Watermark
    ) -> Imported:
        """
        Take an item of the AWS reference's table: KMS opens it for us by attestation.

        Its mnemonic is dropped unread. Raises as `import_keystore`, and as KMS does.
        """
        ...

    async def derive(
        self,
        seed: WrappedSeed,
        *,
        start: int,
        count: int,
        backup_recipient: bytes | None = None,
    ) -> Derived:
        """
        Make the keys m/12381/3600/i/0/0 for `count` indices from *start* (EIP-2334).

        The seed is wiped before the answer. Asked again with the same seed and range
        it gives the same answer.

        Args:
            seed: Entered, or to be made.
            start: The first index.
            count: How many; at most `MAX_DERIVED`.
            backup_recipient: Raw X25519 key of somebody offline. Needed for `new`.
        """
        ...

    async def disable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Make the key refuse to sign until it is enabled."""
        ...

    async def enable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled key sign again."""
        ...

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> tuple[api.KeyDescription, Watermark | None]:
        """
        Delete, and return the final history. No enclave on this store votes with the
        key afterwards. None: there is no record to trust. The record itself is kept
        for ever; importing the key again lets it sign on from there.
        """
        ...

    async def reload(self) -> Reloaded:
        """
        Take over what the store holds, as one step. Also done every few minutes.

        Raises:
            Undecided: The store did not answer; nothing was changed.
        """
        ...

    # --- slashing history ---

    async def history(self, public_keys: Sequence[bytes]) -> History:
        """Read from the store how far these have come, also ones without a key here."""
        ...

    async def import_history(self, history: Mapping[bytes, Watermark]) -> int:
        """
        Register these validators, or move them forward; never back. Keys need not be
        here yet. Return how many; asked again after Undecided, it goes on.

        Raises:
            Refused: One is registered for another chain, or its record is not ours.
            Undecided: Some may have been moved.
        """
        ...
