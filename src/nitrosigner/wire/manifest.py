"""
What an enclave is told, signed by an administrator.

The image holds no administrator's key. Whoever signs a manifest is bound by KMS
instead: the fingerprint of the signing key stands in the encryption context of every
KMS call, and the key policy demands the right one. A manifest of a stranger therefore
boots into a deployment that opens nothing.

What is not allowed here is refused: there are no defaults that permit.
"""

import base64
import fnmatch
import hashlib
import ipaddress
import json
import re
from enum import StrEnum, unique
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire.manifest_validators import Validators

MAX_MANIFEST: Final = 60 * 1024
"""Bytes of a signed manifest. It must fit in one stored record."""
_SIGNED_LABEL: Final = b"nitrosigner/manifest/1\0"

Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
"""Names of deployments, keys and clients."""
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Amount = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,77})\Z")]
"""Wei as a decimal string: JSON numbers lose precision in other languages."""
KeyPattern = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9._*?-]{1,98}\Z")]
"""Long enough for a validator's name, `0x` and 96 digits. Only `*` and `?` are wild:
brackets, which `fnmatch` knows too, match nobody's expectation."""
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)
"""The last label begins with a letter, so that a mistyped IP address is no name."""


@unique
class Operation(StrEnum):
    """Everything that a client may be allowed. Closed list."""

    LIST_KEYS = "list_keys"
    CREATE_KEY = "create_key"
    IMPORT_KEY = "import_key"
    MANAGE_KEY = "manage_key"
    """Disable, enable, delete, restore."""
    SIGN_TRANSACTION = "sign_transaction"
    SIGN_MESSAGE = "sign_message"
    SIGN_TYPED_DATA = "sign_typed_data"
    SIGN_AUTHORIZATION = "sign_authorization"
    """EIP-7702: hands the account to a contract. Not implied by any other."""
    SIGN_DIGEST = "sign_digest"
    """Signs 32 bytes whose meaning is unknown. Not implied by any other."""
    ROTATE_VAULT = "rotate_vault"
    SIGN_DUTY = "sign_duty"
    """What a validator client asks for, day and night; not the four below."""
    SIGN_VOLUNTARY_EXIT = "sign_voluntary_exit"
    """Ends a validator for good."""
    SIGN_DEPOSIT = "sign_deposit"
    SIGN_BLS_CHANGE = "sign_bls_change"
    """Says for good where a validator's money goes."""
    SIGN_BUILDER_BID = "sign_builder_bid"
    """Promises a builder's money for a slot (Gloas). No validator needs it."""
    SLASHING_HISTORY = "slashing_history"
    """Export, and import that only moves forward."""
    REPAIR_HISTORY = "repair_history"
    """Replace a validator's record that cannot be trusted by a history from outside."""
    MANAGE_TLS = "manage_tls"
    """Have the listener serve an imported certificate, or the enclave's own again."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Aws(_Part, frozen=True, kw_only=True):
    """Where KMS is, and which key."""

    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]+\Z")]
    kms_key_arn: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+\Z"
        ),
    ]
    kms_certificate_authorities: list[str] = []
    """PEM. Empty: Amazon's own roots, which are part of the image."""


class Network(_Part, frozen=True, kw_only=True):
    """A chain that transactions may be signed for."""

    name: Slug
    chain_id: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class ClientLimits(_Part, frozen=True, kw_only=True):
    """Ceilings for one client's transactions. Absent: no ceiling."""

    max_value_wei: Amount | None = None
    max_fee_wei: Amount | None = None
    """Of gas limit × fee cap, blob gas included."""
    destinations: list[Address] | None = None
    """The only addresses that `to` may name, any case. Forbids contract creation."""


class Client(_Part, frozen=True, kw_only=True):
    """Who may do what with which keys. Any one listed credential is enough."""

    name: Slug
    certificates: list[str] = []
    """PEM of client certificates, each trusted as it is, without its issuer."""
    token_sha256: list[Digest] = []
    """Of bearer tokens of at least 256 random bits."""
    operations: list[Operation]
    keys: list[KeyPattern]
    """Key names; `*` and `?` match as in file names."""
    networks: list[Slug] | None = None
    """Absent: every network of the manifest."""
    unprotected_legacy: bool = False
    """May sign legacy transactions without a chain id, which any chain accepts."""
    limits: ClientLimits = ClientLimits()


class Limits(_Part, frozen=True, kw_only=True):
    """What the listener allows everybody together."""

    max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 512
    max_request_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 24)] = 256 * 1024
    """Each connection may hold that much. Above 1 MiB for whole payloads (Gloas)."""
    max_keys: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100_000


class Manifest(
    _Part, frozen=True, kw_only=True, tag="nitrosigner/manifest/1", tag_field="format"
):
    """The whole of what an enclave is told."""

    deployment: Slug
    version: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    aws: Aws
    networks: Annotated[list[Network], msgspec.Meta(min_length=1)]
    clients: list[Client]
    tls_names: Annotated[list[str], msgspec.Meta(min_length=1, max_length=32)] = (
        msgspec.field(default_factory=lambda: ["localhost", "127.0.0.1"])
    )
    """DNS names and IP addresses that the server certificate is made out to."""
    deleted_keys_kept_days: Annotated[int, msgspec.Meta(ge=7, le=365)] = 30
    limits: Limits = Limits()
    validators: Validators | None = None
    """Absent: this deployment has wallet keys only."""


class SignedManifest(_Part, frozen=True, kw_only=True):
    """A manifest's bytes, who signed them, and the signature. Base64 in JSON."""

    payload: bytes
    administrator: bytes
    """Raw Ed25519 public key, 32 bytes."""
    signature: bytes


class AcceptedManifest(msgspec.Struct, frozen=True):
    """A manifest whose signature was checked."""

    manifest: Manifest
    digest: str
    """SHA-256 of the payload, hex."""
    administrator: str
    """SHA-256 of the administrator's raw public key, hex: its fingerprint."""


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """Return the administrator's fingerprint, as it stands in the KMS key policy."""
    raw = public_key.public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return hashlib.sha256(raw).hexdigest()


def sign(manifest: Manifest, administrator: Ed25519PrivateKey) -> bytes:
    """
    Return *manifest* as a signed file.

    Raises:
        Malformed: It could not be accepted again: too large, or inconsistent.
    """
    payload = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    signed = SignedManifest(
        payload=payload,
        administrator=administrator.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        ),
        signature=administrator.sign(_SIGNED_LABEL + payload),
    )
    data = msgspec.json.encode(signed)
    accept(data)
    return data


def accept(data: bytes) -> AcceptedManifest:
    """
    Read a signed manifest and check its signature. Whose it is, KMS decides.

    Raises:
        Malformed: Not a signed manifest, or its parts contradict each other.
        Refused: The signature is not the named administrator's.
    """
    if len(data) > MAX_MANIFEST:
        raise Malformed(
            Code.MALFORMED_MANIFEST, f"a manifest is at most {MAX_MANIFEST} bytes"
        )
    try:
        signed = msgspec.json.decode(data, type=SignedManifest)
        _refuse_repeated_names(data)
        public_key = Ed25519PublicKey.from_public_bytes(signed.administrator)
    except ValueError as error:
        raise Malformed(
            Code.MALFORMED_MANIFEST,
            "this is not a signed manifest",
            "make one with: nitrosigner manifest sign",
        ) from error
    try:
        public_key.verify(signed.signature, _SIGNED_LABEL + signed.payload)
    except InvalidSignature:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            "the manifest's signature is not the administrator's that it names",
        ) from None
    return AcceptedManifest(
        manifest=parse(signed.payload),
        digest=hashlib.sha256(signed.payload).hexdigest(),
        administrator=fingerprint(public_key),
    )


def parse(payload: bytes) -> Manifest:
    """
    Read a manifest that is not signed yet.

    Raises:
        Malformed: Says which part is at fault.
    """
    try:
        manifest = msgspec.json.decode(payload, type=Manifest)
        _refuse_repeated_names(payload)
    except ValueError as error:
        # msgspec names the field and the expected type, never the whole input.
        raise Malformed(Code.MALFORMED_MANIFEST, f"manifest: {error}") from error
    _check_consistency(manifest)
    return manifest


def _refuse_repeated_names(data: bytes) -> None:
    """
    Raise ValueError if an object of *data* has a name twice.

    JSON readers differ in which of the two they take, so what a person or another tool
    read before signing might not be what we take. *data* was decoded by its type
    before: it is no deeper than that.
    """

    def once(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            msg = "a field stands twice in one object"
            raise ValueError(msg)

    json.loads(data, object_pairs_hook=once)


def _is_tls_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _DNS_NAME.match(name) is not None
    return True


def _check_consistency(manifest: Manifest) -> None:
    def need(condition: bool, sentence: str) -> None:
        if not condition:
            raise Malformed(Code.MALFORMED_MANIFEST, f"manifest: {sentence}")

    for name in manifest.tls_names:
        need(_is_tls_name(name), "a TLS name is neither a DNS name nor an address")
    arns = [manifest.aws.kms_key_arn]
    if manifest.validators is not None and manifest.validators.reference_kms_key_arn:
        arns.append(manifest.validators.reference_kms_key_arn)
    for arn in arns:
        need(
            arn.split(":")[3] == manifest.aws.region, "the KMS key is in another region"
        )
    names = [client.name for client in manifest.clients]
    need(len(set(names)) == len(names), "two clients have one name")
    networks = [network.name for network in manifest.networks]
    need(len(set(networks)) == len(networks), "two networks have one name")
    chains = [network.chain_id for network in manifest.networks]
    need(len(set(chains)) == len(chains), "two networks have one chain id")
    credentials: list[str] = []
    for client in manifest.clients:
        need(
            bool(client.certificates or client.token_sha256),
            f"client {client.name} has no credential",
        )
        for network in client.networks or []:
            need(network in networks, f"client {client.name} names an unknown network")
        for pem in client.certificates:
            try:
                found = x509.load_pem_x509_certificates(pem.encode())
            except ValueError:
                found = []
            # A second one in the same text would be trusted by whoever loads it all.
            need(
                len(found) == 1,
                f"each certificate of client {client.name} is one PEM certificate",
            )
            der = found[0].public_bytes(serialization.Encoding.DER)
            credentials.append(hashlib.sha256(der).hexdigest())
        credentials += client.token_sha256
    need(len(set(credentials)) == len(credentials), "two clients share a credential")
    for pem in manifest.aws.kms_certificate_authorities:
        try:
            x509.load_pem_x509_certificate(pem.encode())
        except ValueError:
            need(False, "a KMS certificate authority is not PEM")


def key_allowed(client: Client, name: str) -> bool:
    """Return whether *client* may touch the key called *name* at all."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in client.keys)


def encryption_context(
    accepted: AcceptedManifest, purpose: str, **more: str
) -> dict[str, str]:
    """Return the encryption context of a KMS call: *purpose* is `vault` or `key`."""
    return {
        "administrator": accepted.administrator,
        "deployment": accepted.manifest.deployment,
        "purpose": purpose,
        **more,
    }


def kms_key_context(
    accepted: AcceptedManifest, *, name: str, algorithm: str, identity: str
) -> dict[str, str]:
    """Return the context under which a gateway encrypts a key with KMS (`set_key`)."""
    return key_encryption_context(
        administrator=accepted.administrator,
        deployment=accepted.manifest.deployment,
        name=name,
        algorithm=algorithm,
        identity=identity,
    )


def key_encryption_context(
    *, administrator: str, deployment: str, name: str, algorithm: str, identity: str
) -> dict[str, str]:
    """As `kms_key_context`, for a gateway that knows an attested statement only."""
    return {
        "administrator": administrator,
        "deployment": deployment,
        "purpose": "key",
        "name": name,
        "algorithm": algorithm,
        "identity": identity,
    }


def new_token(random: bytes) -> tuple[str, str]:
    """Return a bearer token made of 32 *random* bytes, and what the manifest holds."""
    token = base64.urlsafe_b64encode(random).rstrip(b"=").decode()
    return token, hashlib.sha256(token.encode()).hexdigest()
