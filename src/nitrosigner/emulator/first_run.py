"""
What a local stack needs before its programs start: an administrator and a manifest.

Everything here may be run again, and after a crash at any line: what exists is kept.
A manifest that the administrator edited and signed stays in force; it is only signed
anew, with the next version, when it does not fit the stack any more (another KMS key,
lost client credentials).
"""

import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.emulator.client_credentials import ClientFiles, ensure_client
from nitrosigner.emulator.data_folder import DataFolder, replace, write_new
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire.manifest import (
    AcceptedManifest,
    Aws,
    Client,
    Limits,
    Manifest,
    Network,
    Operation,
    SignedManifest,
    accept,
    fingerprint,
    sign,
)
from nitrosigner.wire.manifest_validators import Validators

DEPLOYMENT: Final = "local"
REGION: Final = "us-east-1"
ACCOUNT: Final = "123456789012"
"""The account number that AWS's own examples use."""

# The first one is what JSON-RPC callers that name no chain are answered with.
NETWORKS: Final = (
    Network(name="anvil", chain_id=31337),
    Network(name="mainnet", chain_id=1),
    Network(name="rinkeby", chain_id=4),
    Network(name="sepolia", chain_id=11155111),
    Network(name="holesky", chain_id=17000),
    Network(name="hoodi", chain_id=560048),
)

# Digests whose meaning is unknown are signed for nobody unless an administrator says
# so, in a local stack too.
CLIENTS: Final[dict[str, tuple[Operation, ...]]] = {
    "default": (
        Operation.LIST_KEYS,
        Operation.CREATE_KEY,
        Operation.IMPORT_KEY,
        Operation.MANAGE_KEY,
        Operation.SIGN_TRANSACTION,
        Operation.SIGN_MESSAGE,
        Operation.SIGN_TYPED_DATA,
        Operation.SIGN_AUTHORIZATION,
    ),
    "operator": (
        Operation.LIST_KEYS,
        Operation.MANAGE_KEY,
        Operation.ROTATE_VAULT,
        Operation.MANAGE_TLS,
    ),
    "reader": (Operation.LIST_KEYS,),
}
VALIDATOR_CLIENT: Final = "validator"
"""What a validator client is called in a stack with validators."""
# What ends a validator, or says for good where its money goes, is the operator's alone.
VALIDATOR_OPERATIONS: Final[dict[str, tuple[Operation, ...]]] = {
    "default": (
        Operation.SIGN_DUTY,
        Operation.SIGN_DEPOSIT,
        Operation.SLASHING_HISTORY,
    ),
    "operator": (
        Operation.CREATE_KEY,
        Operation.IMPORT_KEY,
        Operation.SIGN_VOLUNTARY_EXIT,
        Operation.SIGN_DEPOSIT,
        Operation.SIGN_BLS_CHANGE,
        Operation.SLASHING_HISTORY,
        Operation.REPAIR_HISTORY,
    ),
    VALIDATOR_CLIENT: (Operation.LIST_KEYS, Operation.SIGN_DUTY),
}
"""Added to `CLIENTS` when a stack is given a beacon chain."""
VALIDATOR_LIMITS: Final = Limits(max_request_bytes=1 << 20)
"""Of a stack with validators: full blocks before Bellatrix, batches, histories."""


@dataclass(frozen=True, slots=True)
class Identities:
    """Who there is: the administrator, and the clients by name."""

    administrator: Ed25519PrivateKey
    clients: dict[str, ClientFiles]

    @property
    def fingerprint(self) -> str:
        """The administrator's, as the KMS key policy demands it."""
        return fingerprint(self.administrator.public_key())


def ensure_identities(
    folder: DataFolder, now: dt.datetime, *, validators: bool = False
) -> Identities:
    """
    Make the administrator's key and the clients' credentials, where there are none.

    Args:
        folder: Where they lie.
        now: For the certificates.
        validators: The stack is given a beacon chain. One that had one keeps it.

    Raises:
        Malformed: The administrator's key file is not an Ed25519 key.
    """
    names = list(CLIENTS)
    if validators or (folder.clients / VALIDATOR_CLIENT).exists():
        names.append(VALIDATOR_CLIENT)
    return Identities(
        administrator=_administrator(folder.administrator_key),
        clients={name: ensure_client(folder.clients, name, now) for name in names},
    )


def _administrator(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        made = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_new(path, made)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed(
            Code.MALFORMED_KEY,
            f"{path} is not an administrator's key (Ed25519, PEM)",
            "restore it from a backup: the vault of this folder opens for no other",
        )
    return key


def ensure_manifest(
    folder: DataFolder,
    identities: Identities,
    aws: Aws,
    at_least: int,
    validators: Validators | None = None,
) -> tuple[AcceptedManifest, bytes]:
    """
    Return the manifest to run with, and its signed bytes; sign one where needed.

    Args:
        folder: Where it lies.
        identities: Who signs, and whose credentials it must name.
        aws: The KMS key and its certificate authority.
        at_least: The version that an enclave may already have seen; 0 for none.
        validators: The beacon chain to sign for, where the manifest has none yet.

    Raises:
        Malformed: There is a manifest file that is none.
        Refused: It is signed by somebody else, or signs for another beacon chain.
    """
    wanted = [
        _client(name, files, CLIENTS.get(name, ()))
        for name, files in identities.clients.items()
    ]
    if not folder.manifest.exists():
        manifest = Manifest(
            deployment=DEPLOYMENT,
            version=at_least + 1,
            aws=aws,
            networks=list(NETWORKS),
            # The validator client's credential lies there before it may do anything.
            clients=[one for one in wanted if one.operations],
        )
        manifest = _with_validators(manifest, wanted, validators)
        return _signed(folder, identities, manifest)
    data = folder.manifest.read_bytes()
    accepted = accept(data)
    if accepted.administrator != identities.fingerprint:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            f"{folder.manifest} is signed by another administrator's key",
            "sign it with the folder's own: nitrosigner manifest sign --help",
        )
    fitting = _with_validators(
        _fitted(accepted.manifest, wanted, aws), wanted, validators
    )
    if fitting == accepted.manifest and fitting.version >= at_least:
        write_new(folder.manifest_payload, _payload(data))
        return accepted, data
    version = max(at_least, accepted.manifest.version) + 1
    return _signed(
        folder, identities, msgspec.structs.replace(fitting, version=version)
    )


def _fitted(manifest: Manifest, wanted: list[Client], aws: Aws) -> Manifest:
    """Return *manifest* with our KMS key and our clients' present credentials."""
    by_name = {client.name: client for client in wanted}
    clients = []
    for client in manifest.clients:
        ours = by_name.get(client.name)
        if ours is None or _admits(client, ours):
            clients.append(client)
        else:
            # The permissions stay the administrator's; only the credential is new.
            clients.append(
                msgspec.structs.replace(
                    client,
                    certificates=ours.certificates,
                    token_sha256=ours.token_sha256,
                )
            )
    return msgspec.structs.replace(manifest, aws=aws, clients=clients)


def _with_validators(
    manifest: Manifest, wanted: list[Client], validators: Validators | None
) -> Manifest:
    """Return *manifest* with a beacon chain, and with clients that may use it."""
    if validators is None:
        return manifest
    present = manifest.validators
    if present is not None:
        # Expected keys and ceilings are the administrator's own.
        if (present.network, present.custom) == (validators.network, validators.custom):
            return manifest
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            f"this folder's validators sign for the chain {present.network}, with"
            " another genesis or other fork versions than those asked for",
            "leave --preset out to keep it, or use another folder for another chain",
        )
    clients = []
    for client in manifest.clients:
        more = VALIDATOR_OPERATIONS.get(client.name, ())
        operations = dict.fromkeys([*client.operations, *more])
        clients.append(msgspec.structs.replace(client, operations=list(operations)))
    known = {client.name for client in clients}
    for client in wanted:
        if client.name == VALIDATOR_CLIENT and client.name not in known:
            operations = dict.fromkeys(VALIDATOR_OPERATIONS[client.name])
            clients.append(msgspec.structs.replace(client, operations=list(operations)))
    limits = manifest.limits
    if limits == Limits():
        limits = VALIDATOR_LIMITS
    return msgspec.structs.replace(
        manifest, clients=clients, validators=validators, limits=limits
    )


def _admits(client: Client, ours: Client) -> bool:
    return set(ours.certificates) <= set(client.certificates) and (
        set(ours.token_sha256) <= set(client.token_sha256)
    )


def _client(name: str, files: ClientFiles, operations: tuple[Operation, ...]) -> Client:
    try:
        pem = files.cert.read_text(encoding="ascii")
        x509.load_pem_x509_certificate(pem.encode())
        token = files.token_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise Malformed(
            Code.MALFORMED_MANIFEST,
            f"the credentials of client {name} cannot be read",
            f"remove the folder {files.cert.parent} and they are made anew",
        ) from None
    return Client(
        name=name,
        certificates=[pem],
        token_sha256=[hashlib.sha256(token.encode()).hexdigest()],
        operations=list(operations),
        keys=["*"],
    )


def _signed(
    folder: DataFolder, identities: Identities, manifest: Manifest
) -> tuple[AcceptedManifest, bytes]:
    # Somebody's unsigned edits in the payload file are theirs; the rest is ours.
    edited = folder.manifest.exists() and _payload_was_edited(folder)
    data = sign(manifest, identities.administrator)
    replace(folder.manifest, data)
    if not edited:
        replace(folder.manifest_payload, _payload(data))
    return accept(data), data


def _payload_was_edited(folder: DataFolder) -> bool:
    shown = folder.manifest_payload
    return shown.exists() and shown.read_bytes() != _payload(
        folder.manifest.read_bytes()
    )


def _payload(signed: bytes) -> bytes:
    return msgspec.json.decode(signed, type=SignedManifest).payload
