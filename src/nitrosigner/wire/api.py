"""
The JSON of the HTTPS API, as both ends see it. `docs/openapi.json` shows the same.

Binary values are `0x`-prefixed lower-case hex unless a field says base64. Integers that
can pass 2^53 (wei, nonces of authorizations) are strings, decimal or `0x` hex; both are
taken and numbers too, where they are whole. Unknown fields are refused.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from nitrosigner.verdicts import Verdict
from nitrosigner.wire.manifest import Slug

PREFIX: Final = "/api/v1"
MAX_PAGE: Final = 1000


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


# --- errors -------------------------------------------------------------------------


class ErrorDetail(_Body, frozen=True, kw_only=True):
    """A verdict on the wire."""

    code: str
    message: str
    hint: str = ""


class ErrorBody(_Body, frozen=True, kw_only=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def error_body(verdict: Verdict) -> ErrorBody:
    """Return *verdict* as a body."""
    return ErrorBody(
        error=ErrorDetail(code=verdict.code, message=verdict.message, hint=verdict.hint)
    )


# --- keys ---------------------------------------------------------------------------

KeyState = Literal["enabled", "disabled", "deleted"]
KeyKind = Literal["vault", "kms"]


class KeyDescription(_Body, frozen=True, kw_only=True):
    """A key as the outside may see it. Answer of every `keys` route."""

    name: str
    algorithm: str
    kind: KeyKind
    """`vault`: sealed under the vault key. `kms`: opened by KMS for each signature."""
    public_key: str
    """Compressed, hex."""
    identity: str
    """Checksummed address for secp256k1."""
    state: KeyState
    version: int
    """Grows with each change; every change must name the current one."""
    created: int
    """Unix seconds."""
    purge_after: int | None = None
    """Unix seconds after which a deleted key may be gone for good."""


class KeyPage(_Body, frozen=True, kw_only=True):
    """GET /api/v1/keys?after=NAME&limit=N: in name order."""

    keys: list[KeyDescription]
    more: bool


class KeyCiphertext(_Body, frozen=True, kw_only=True):
    """GET /api/v1/keys/{key}/ciphertext: what is stored outside, base64."""

    name: str
    kind: KeyKind
    ciphertext: str


class CreateKey(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys: make a key inside. 201 with `KeyDescription`."""

    name: Slug
    algorithm: str = "secp256k1"


class ImportKey(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/import: a key wrapped to the attested import key. 201."""

    name: Slug
    algorithm: str = "secp256k1"
    identity: str
    """The address that the key must turn out to have."""
    wrapped_key: str
    """Base64 of `import_wrapping.wrap`."""
    version: int = 0
    """0: the name must be free. Else the current version of the key to replace."""


class ImportKmsKey(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/import-kms: a KMS ciphertext made outside. 201."""

    name: Slug
    algorithm: str = "secp256k1"
    identity: str
    ciphertext: str
    """Base64 of KMS Encrypt under `manifest.kms_key_context`."""
    reseal: bool = False
    """False: keep it as it is and ask KMS for each signature. True: seal it under the
    vault key, once."""
    version: int = 0


class ChangeKey(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/disable|enable|delete|restore: `KeyDescription`."""

    version: int | None = None
    """The current version; absent: whatever it is now."""


class Rotated(_Body, frozen=True, kw_only=True):
    """POST /api/v1/vault/rotate: every record is sealed under a new vault key."""

    keys: int


# --- signing ------------------------------------------------------------------------


class SignTransaction(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/sign/transaction."""

    transaction: msgspec.Raw
    """An object in the field names of JSON-RPC; see `signing.transaction_fields`."""


class SignedTransactionBody(msgspec.Struct, frozen=True, kw_only=True):
    """The raw transaction, ready to broadcast, and its hash."""

    raw: str
    hash: str
    sender: str = msgspec.field(name="from")


class SignMessage(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/sign/message (EIP-191). One of the two, not both."""

    text: str | None = None
    """Signed as its UTF-8 bytes."""
    data: str | None = None
    """Signed as the bytes that this hex stands for."""


class SignTypedData(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/sign/typed-data (EIP-712 version 4)."""

    typed_data: msgspec.Raw


class SignDigest(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/sign/digest: 32 bytes of unknown meaning."""

    digest: str


class SignAuthorization(_Body, frozen=True, kw_only=True):
    """POST /api/v1/keys/{key}/sign/authorization (EIP-7702 tuple)."""

    chain_id: int | str
    address: str
    nonce: int | str


class SignedMessageBody(msgspec.Struct, frozen=True, kw_only=True):
    """A signature over a message, typed data or digest."""

    signature: str
    """65 bytes: r ‖ s ‖ v with v 27 or 28."""
    digest: str
    """What was signed, 32 bytes."""
    sender: str = msgspec.field(name="from")


class SignedAuthorizationBody(_Body, frozen=True, kw_only=True):
    """An authorization tuple as `eth_sendTransaction` takes it; quantities in hex."""

    chain_id: str = msgspec.field(name="chainId")
    address: str
    nonce: str
    y_parity: str = msgspec.field(name="yParity")
    r: str
    s: str


# --- who am I talking to --------------------------------------------------------------


class AttestationBody(_Body, frozen=True, kw_only=True):
    """
    GET /api/v1/attestation?nonce=HEX (8 to 64 bytes); no credential needed.

    The document's `public_key` is the raw X25519 import key, its `user_data` a
    `wire.statement`, its `nonce` the caller's.
    """

    document: str
    """Base64 of the COSE_Sign1."""
    manifest: str
    """Base64 of the manifest's payload: what `Statement.manifest` is the digest of,
    without the credentials' holders being asked. Empty unless authenticated."""


class ImportTls(_Body, frozen=True, kw_only=True):
    """
    POST /api/v1/tls/import: serve a certificate that was made elsewhere.

    Answered with `ServerTls`. New connections get it at once.
    """

    certificates: Annotated[str, msgspec.Meta(max_length=24 * 1024)]
    """PEM: the server's, then whoever issued each one, up to the self-signed root."""
    wrapped_key: str
    """Base64 of `import_wrapping.wrap` of its private key (PKCS #8, DER)."""


class ServerTls(_Body, frozen=True, kw_only=True):
    """GET /api/v1/tls, POST /api/v1/tls/reset: what new connections are shown."""

    origin: Literal["enclave", "imported"]
    """`enclave`: the key was made inside and has never been elsewhere."""
    sha256: str
    """Of the DER certificate, hex."""
    authority_sha256: str
    """Of the root that clients trust it by."""
    not_after: int
    """Unix seconds after which it, or whoever issued it, is good no more."""
    objection: str = ""
    """What clients object to in it, or soon will; empty: nothing that is known."""


class BootStep(_Body, frozen=True, kw_only=True):
    """One named state of the boot."""

    name: str
    ok: bool
    milliseconds: int


class HealthBody(_Body, frozen=True, kw_only=True):
    """GET /healthcheck: 200 when ready, 503 when not."""

    status: Literal["UP", "DOWN"]
    outcome: Literal["UP", "DOWN"]
    """The same, where Web3Signer has it: some validator clients read only this."""
    state: str
    """The boot state reached: nsm, recipient_key, manifest, kms, vault, records, tls,
    ready; or the reason for a later failure: audit_unavailable, keys_unavailable,
    expected_keys_unavailable, watermarks_unavailable, signing_unavailable,
    clock_unsound, certificate_unavailable."""
    message: str = ""
    """What is wrong, in a sentence, after a later failure. Else empty."""
    hint: str = ""
    """What to do then."""
    steps: list[BootStep]
    checks: dict[str, bool]
    """Of all that is watched, whether it is well: storage and kms (the last call of
    each), audit, keys, records, clock (as far apart as hypervisor, AWS and kernel may
    be), certificate; with validators expected_keys, slashing_protection, watermarks,
    signing."""
    keys_loaded: int
    kms_calls: int
    version: str


# --- JSON-RPC and Web3Signer eth1 ----------------------------------------------------


class RpcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """JSON-RPC 2.0. Members beyond these are ignored, as the specification has it."""

    jsonrpc: Annotated[str, msgspec.Meta(pattern=r"^2\.0\Z")]
    method: str
    id: int | str | float | msgspec.UnsetType | None = msgspec.UNSET
    """Absent: a notification, which is not answered."""
    params: Any = None


class Eth1Sign(_Body, frozen=True, kw_only=True):
    """POST /api/v1/eth1/sign/{identifier}: Web3Signer signs keccak-256 of the data."""

    data: str
