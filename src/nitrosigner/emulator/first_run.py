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
    Manifest,
    Network,
    Operation,
    SignedManifest,
    accept,
    fingerprint,
    sign,
)

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
    ),
    "reader": (Operation.LIST_KEYS,),
}


@dataclass(frozen=True, slots=True)
class Identities:
    """Who there is: the administrator, and the clients by name."""

    administrator: Ed25519PrivateKey
    clients: dict[str, ClientFiles]

    @property
    def fingerprint(self) -> str:
        """The administrator's, as the KMS key policy demands it."""
        return fingerprint(self.administrator.public_key())


def ensure_identities(folder: DataFolder, now: dt.datetime) -> Identities:
    """
    Make the administrator's key and the clients' credentials, where there are none.

    Raises:
        Malformed: The administrator's key file is not an Ed25519 key.
    """
    return Identities(
        administrator=_administrator(folder.administrator_key),
        clients={name: ensure_client(folder.clients, name, now) for name in CLIENTS},
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
    folder: DataFolder, identities: Identities, aws: Aws, at_least: int
) -> tuple[AcceptedManifest, bytes]:
    """
    Return the manifest to run with, and its signed bytes; sign one where needed.

    Args:
        folder: Where it lies.
        identities: Who signs, and whose credentials it must name.
        aws: The KMS key and its certificate authority.
        at_least: The version that an enclave may already have seen; 0 for none.

    Raises:
        Malformed: There is a manifest file that is none.
        Refused: It is signed by somebody else.
    """
    wanted = [
        _client(name, identities.clients[name], operations)
        for name, operations in CLIENTS.items()
    ]
    if not folder.manifest.exists():
        manifest = Manifest(
            deployment=DEPLOYMENT,
            version=at_least + 1,
            aws=aws,
            networks=list(NETWORKS),
            clients=wanted,
        )
        return _signed(folder, identities, manifest)
    data = folder.manifest.read_bytes()
    accepted = accept(data)
    if accepted.administrator != identities.fingerprint:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            f"{folder.manifest} is signed by another administrator's key",
            "sign it with the folder's own: nitrosigner manifest sign --help",
        )
    fitting = _fitted(accepted.manifest, wanted, aws)
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
