"""
The JSON of the validator job's HTTPS API, as both ends see it.

Three contracts meet here: Web3Signer's (`/api/v1/eth2`, `/reload`), the Keymanager API
(`/eth/v1`), and our own (`/api/v1/validators`, `/api/v1/slashing-history`). The first
two spell numbers as decimal strings and public keys as `0x` and 96 hex digits; so does
ours. A signing request itself is not described here: clients spell it in more ways than
a type can hold, and `trusted.signing.beacon_duties` reads it.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from nitrosigner.wire import api
from nitrosigner.wire.api import KeyDescription

ALGORITHM: Final = "bls12-381"
"""Of every validator key, in `import_wrapping.import_info` too."""
MAX_BATCH: Final = 10_000
"""Signatures in one batch, over all its parts."""
MAX_DERIVED: Final = 256
"""Keys out of one `derive`."""
MAX_KEYSTORES: Final = 128
"""Keystores in one Keymanager import: opening one takes about a second."""
MAX_DELETED: Final = 1_024
MAX_ENTRIES: Final = 10_000
"""Validators in one slashing history that is sent or asked for."""
HISTORY_PAGE: Final = 1_000
RECORDS_PAGE: Final = 500
"""Records in one part of the watermark store's list."""
HISTORY_NAMED: Final = 16
"""Validators that one query can name; an address has at most 2,048 characters."""
SIGNATURE_SIZE: Final = 96
PUBLIC_KEY_SIZE: Final = 48

PublicKeyHex = Annotated[str, msgspec.Meta(pattern=r"^(0x)?[0-9a-fA-F]{96}\Z")]
"""48 bytes. Clients leave `0x` out, and use capitals; what we write is `0x` and lower
case."""
Uint64 = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,19})\Z")]
Base64 = Annotated[str, msgspec.Meta(max_length=88_000)]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


# --- Web3Signer: /api/v1/eth2, /reload ----------------------------------------------


class DutySignature(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/eth2/sign/{identifier}, where JSON is accepted (`*/*` included).

    Without an Accept header, or with another, the body is the hex as text. A refusal's
    body is `api.ErrorBody` or its message as text, by the same rule.
    """

    signature: str


class BatchSign(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/eth2/sign: one duty for many keys (remote-signing-api, pull 29).

    Ours besides: the body may be a list of these, many duties in one request.
    """

    identifiers: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=256)]],
        msgspec.Meta(min_length=1, max_length=MAX_BATCH),
    ]
    """Public keys."""
    signing_request: msgspec.Raw
    """What `sign/{identifier}` takes."""


class BatchError(_Body, frozen=True, kw_only=True):
    """Why one key did not sign."""

    code: int
    """The HTTP status that `sign/{identifier}` would have answered."""
    message: str
    reason: str
    """The closed list's code (`verdicts.Code`); ours, the proposal has none."""


class BatchResult(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """One of the answer's list: results stand in the order of the identifiers."""

    identifier: str
    """As it was sent."""
    signature: str | None = None
    error: BatchError | None = None


class HighWatermark(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """GET /api/v1/eth2/highWatermark: the manifest's ceiling; `{}` if it has none."""

    epoch: str | None = None
    slot: str | None = None


class ReloadStatus(_Body, frozen=True, kw_only=True, rename="camel"):
    """GET /reload. POST /reload answers 202 with this, 409 while one is running."""

    status: Literal["idle", "running", "completed", "completed_with_errors", "failed"]
    last_operation_time: str | None = None
    """UTC, ISO 8601."""
    last_error: str | None = None


# --- slashing history (EIP-3076) ----------------------------------------------------


class SignedBlock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A block that was signed."""

    slot: str
    signing_root: str | None = None


class SignedAttestation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attestation that was signed."""

    source_epoch: str
    target_epoch: str
    signing_root: str | None = None


class ValidatorHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What one validator signed; the minimal form has one entry in each list."""

    pubkey: str
    signed_blocks: list[SignedBlock]
    signed_attestations: list[SignedAttestation]


class HistoryMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Which format, which chain."""

    interchange_format_version: str
    genesis_validators_root: str


class SlashingHistory(msgspec.Struct, frozen=True, kw_only=True):
    """
    An EIP-3076 interchange document, version 5.

    POST /api/v1/slashing-history takes one, complete or minimal: all of it moves
    watermarks forward, or (malformed, another chain) none of it. GET answers the
    minimal form: `?keys=0x…,0x…` of these validators, or `?after=0x…&limit=N` of all
    that the client may see, in key order. An answer with fewer than *limit* entries is
    the last.
    """

    metadata: HistoryMetadata
    data: list[ValidatorHistory]


class UntrustedRecord(_Body, frozen=True, kw_only=True):
    """A record in the watermark store that this deployment's enclaves did not make."""

    pubkey: str
    reason: str
    hint: str
    version: int
    """What the store says; 0: there is none any more."""
    stored: str
    """Base64: what lies there, or lay."""
    claims: ValidatorHistory | None
    """What those bytes say, if they say anything. Do not believe it."""


class HistoryRecords(_Body, frozen=True, kw_only=True):
    """
    GET /api/v1/slashing-history/records: every record in the watermark store.

    Also of keys that are gone, and of histories without a key. `?after=0x…&limit=N`
    asks on from `next` of the part before.
    """

    metadata: HistoryMetadata
    data: list[ValidatorHistory]
    """Those that were verified. With the metadata, an interchange document."""
    untrusted: list[UntrustedRecord]
    next: str | None
    """Ask on after this one; null: this was the last part."""


class RepairHistory(_Body, frozen=True, kw_only=True):
    """POST /api/v1/slashing-history/repair: replace a record nobody can trust."""

    pubkey: PublicKeyHex
    history: SlashingHistory
    """Of this validator alone, with an attestation at least."""


class HistoryRepaired(_Body, frozen=True, kw_only=True):
    """Answer of POST /api/v1/slashing-history/repair."""

    replaced: UntrustedRecord
    now: ValidatorHistory


class HistoryImported(_Body, frozen=True, kw_only=True):
    """Answer of POST /api/v1/slashing-history."""

    validators: int
    """How many are registered and stand at or past what the document says."""


# --- validators: /api/v1/validators -------------------------------------------------


class CreateValidator(_Body, frozen=True, kw_only=True):
    """POST /api/v1/validators: make a key inside. 201 with `KeyDescription`."""


class ImportValidator(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/validators/import: one key, and what it has signed.

    201 with `KeyDescription`; 200 if it was here already: its history moved forward,
    its state is as it was. The history is made durable before the key is stored.
    """

    identity: PublicKeyHex
    """The public key that it must turn out to have."""
    wrapped_key: Base64
    """`import_wrapping.wrap` of the 32 bytes, with name and identity both `0x` and the
    public key in lower case, algorithm `bls12-381`."""
    history: SlashingHistory | None = None
    """May only name this validator. `None`: it has never signed anything elsewhere."""


class ImportReference(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/validators/import-reference: an item that the AWS reference wrote.

    The ciphertext is KMS Encrypt (no encryption context) of a JSON object with an
    EIP-2335 keystore, its password and a mnemonic. It is opened inside; the mnemonic is
    dropped. Answers as `import` does.
    """

    public_key: PublicKeyHex
    ciphertext: Base64
    history: SlashingHistory | None = None


class Seed(_Body, frozen=True, kw_only=True):
    """Where keys are derived from."""

    form: Literal["mnemonic", "seed", "new"]
    """`mnemonic`: BIP-39 words, and after a line feed the passphrase if there is one.
    `seed`: 32 to 64 raw bytes. `new`: 24 words are made inside, and leave it only as
    the backup."""
    wrapped: Base64 = ""
    """`import_wrapping.wrap` under `import_wrapping.seed_info`. Empty for `new`."""


class DeriveValidators(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/validators/derive: keys m/12381/3600/i/0/0 of EIP-2334. 201.

    Validators that have signed before: send their history (POST slashing-history)
    first. Asked again with the same seed and range it gives the same answer.
    """

    seed: Seed
    start: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    """The first i."""
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_DERIVED)] = 1
    backup_recipient: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Base64 of a raw X25519 public key, offline. Needed for `new`."""


class DerivedValidators(_Body, frozen=True, kw_only=True):
    """Answer of `derive`."""

    keys: list[KeyDescription]
    """In the order of their indices."""
    backup: str | None = None
    """Base64: what was entered or made, wrapped to the recipient under
    `import_wrapping.backup_info`."""


class DepositDataRequest(_Body, frozen=True, kw_only=True):
    """POST /api/v1/validators/{pubkey}/deposit-data."""

    withdrawal_credentials: Annotated[
        str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{64}\Z")
    ]
    """32 bytes: 0x01 or 0x02, eleven zeros, an address; or 0x00 and a hash."""
    amount: Uint64 = "32000000000"
    """Gwei."""


class DepositData(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of deposit_data.json, as ethstaker-deposit-cli writes and checks it."""

    pubkey: str
    """Hex without `0x`, as are all others here."""
    withdrawal_credentials: str
    amount: int
    """Gwei."""
    signature: str
    deposit_message_root: str
    deposit_data_root: str
    fork_version: str
    network_name: str
    deposit_cli_version: str


class VoluntaryExitRequest(_Body, frozen=True, kw_only=True):
    """POST /api/v1/validators/{pubkey}/voluntary-exit."""

    epoch: Uint64
    """The first epoch in which it is valid; from then on it is for ever."""
    validator_index: Uint64


class VoluntaryExit(_Body, frozen=True, kw_only=True):
    """The message."""

    epoch: str
    validator_index: str


class SignedVoluntaryExit(_Body, frozen=True, kw_only=True):
    """What a beacon node takes at /eth/v1/beacon/pool/voluntary_exits."""

    message: VoluntaryExit
    signature: str


class BlsToExecutionChangeRequest(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/validators/{pubkey}/bls-to-execution-change.

    What signs is the withdrawal key: with *seed* m/12381/3600/index/0 of it, where
    m/12381/3600/index/0/0 must be the key in the path; without *seed* the key in the
    path itself.
    """

    validator_index: Uint64
    to_execution_address: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
    seed: Seed | None = None
    index: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0


class BlsToExecutionChange(_Body, frozen=True, kw_only=True):
    """The message."""

    validator_index: str
    from_bls_pubkey: str
    to_execution_address: str


class BlsToExecutionChangeMetadata(_Body, frozen=True, kw_only=True):
    """What deposit tools put beside the message, for those who publish it."""

    network_name: str
    genesis_validators_root: str


class SignedBlsToExecutionChange(_Body, frozen=True, kw_only=True):
    """
    One of the list that a beacon node takes.

    That is POST /eth/v1/beacon/pool/bls_to_execution_changes.
    """

    message: BlsToExecutionChange
    signature: str
    metadata: BlsToExecutionChangeMetadata


class ChangeValidator(api.ChangeKey, frozen=True, kw_only=True):
    """POST /api/v1/validators/{pubkey}/disable|enable|delete: `KeyDescription`."""


# --- Keymanager API: /eth/v1 --------------------------------------------------------
# Unknown fields are ignored here: the specification grows, and clients run ahead of it.


class ListedKeystore(_Body, frozen=True, kw_only=True):
    """One local key."""

    validating_pubkey: str
    derivation_path: str = ""
    readonly: bool = False


class KeystoreList(_Body, frozen=True, kw_only=True):
    """GET /eth/v1/keystores."""

    data: list[ListedKeystore]


class ImportKeystores(msgspec.Struct, frozen=True, kw_only=True):
    """POST /eth/v1/keystores. `passwords[i]` opens `keystores[i]`."""

    keystores: Annotated[list[Any], msgspec.Meta(max_length=MAX_KEYSTORES)]
    """Each an EIP-2335 document as text; as an object it is taken too."""
    passwords: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=1024)]],
        msgspec.Meta(max_length=MAX_KEYSTORES),
    ]
    slashing_protection: Any = None
    """An interchange document as text; as an object it is taken too."""

    def __repr__(self) -> str:
        """Keep passwords out of whatever shows values."""
        return f"<{len(self.keystores)} keystores, not shown>"


class KeystoreStatus(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one key of the request."""

    status: Literal[
        "imported", "duplicate", "deleted", "not_active", "not_found", "error"
    ]
    message: str = ""


class KeystoresImported(_Body, frozen=True, kw_only=True):
    """Answer of POST /eth/v1/keystores and of POST and DELETE /eth/v1/remotekeys."""

    data: list[KeystoreStatus]


class DeleteKeystores(msgspec.Struct, frozen=True, kw_only=True):
    """DELETE /eth/v1/keystores and /eth/v1/remotekeys."""

    pubkeys: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=256)]],
        msgspec.Meta(max_length=MAX_DELETED),
    ]


class KeystoresDeleted(_Body, frozen=True, kw_only=True):
    """
    Answer of DELETE /eth/v1/keystores.

    No `deleted` key signs any more, here or in an enclave on the same store, by the
    time that this is sent.
    """

    data: list[KeystoreStatus]
    slashing_protection: str
    """An interchange document as text, of the keys `deleted` or `not_active`."""


class RemoteKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that another signer holds. This one holds its own: there are none."""

    pubkey: str
    url: str = ""
    readonly: bool = False


class RemoteKeyList(_Body, frozen=True, kw_only=True):
    """GET /eth/v1/remotekeys."""

    data: list[RemoteKey]


class ImportRemoteKeys(msgspec.Struct, frozen=True, kw_only=True):
    """POST /eth/v1/remotekeys."""

    remote_keys: Annotated[list[RemoteKey], msgspec.Meta(max_length=MAX_DELETED)]


class KeymanagerExit(_Body, frozen=True, kw_only=True):
    """POST /eth/v1/validator/{pubkey}/voluntary_exit?epoch=N&validator_index=N."""

    data: SignedVoluntaryExit


class KeymanagerError(_Body, frozen=True, kw_only=True):
    """Every refusal under /eth/v1."""

    message: str
    code: str = ""
    """Ours: the closed list's code."""


# --- metrics ------------------------------------------------------------------------

LATENCY_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
"""Upper bounds, seconds; one more bucket is for everything slower."""


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts by bucket, not cumulative: len(LATENCY_BUCKETS) + 1 of them."""

    counts: Annotated[list[int], msgspec.Meta(max_length=len(LATENCY_BUCKETS) + 1)]
    sum: float
    """Seconds."""


Counted = Annotated[dict[str, int], msgspec.Meta(max_length=64)]


class Metrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Counters since boot. Names of keys, clients and messages never stand in it.

    The enclave sends it to the parent (`services.ReportMetrics`), which offers it to
    Prometheus. GET /api/v1/metrics answers it to known clients.
    """

    permitted: Counted
    """Duties signed, by kind."""
    prevented: Counted
    """Duties refused, by reason: `verdicts.Code`, or the slashing rule's name."""
    malformed: int
    undecided: Counted
    """Duties that could not be decided, by `verdicts.Code`."""
    shed: int
    """Of these: turned away because too many were in flight or they waited too long."""
    latency: Histogram
    """Of signed duties, from the whole request to the answer."""
    in_flight: int
    keys_loaded: int
    """Validator keys."""
    keys_enabled: int
    watermark_age: float
    """Seconds since a duty's watermark was last made durable; -1 if none was since
    boot. The chain's head is unknown in here: compare with the slot's length."""
    kms_calls: int
    certificate_not_after: int
    """Unix seconds at which the server certificate ends."""
    clock_offset: float
    """Seconds by which the enclave's clock is ahead of the hypervisor's."""
