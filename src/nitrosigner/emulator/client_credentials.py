"""
Credentials for the clients of a local stack: a certificate with its key, and a token.

In production an administrator takes the client's certificate and the hash of its
token into the manifest; nobody hands private keys around as a local stack's folder
does.
"""

import datetime as dt
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.client.client_certificate import self_signed
from nitrosigner.emulator.data_folder import new_folder
from nitrosigner.wire.manifest import new_token

LIFETIME: Final = dt.timedelta(days=3650)
"""A local stack is not renewed by anybody."""
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """Where one client's credentials lie."""

    cert: Path
    key: Path
    token_file: Path


def client_files(clients: Path, name: str) -> ClientFiles:
    """Return where the credentials of client *name* are, or will be."""
    folder = clients / name
    return ClientFiles(
        cert=folder / "cert.pem", key=folder / "key.pem", token_file=folder / "token"
    )


def ensure_client(clients: Path, name: str, now: dt.datetime) -> ClientFiles:
    """Make credentials for client *name* if there are none, all three or none."""
    files = client_files(clients, name)
    if not (clients / name).exists():
        certificate, key = self_signed(name, now, LIFETIME)
        token, _ = new_token(secrets.token_bytes(TOKEN_BYTES))
        contents = {
            files.cert.name: certificate,
            files.key.name: key,
            files.token_file.name: token.encode() + b"\n",
        }
        new_folder(clients / name, contents)
    return files
