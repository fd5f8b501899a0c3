"""`nitrosigner administrator`: the key that signs manifests."""

from pathlib import Path

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file, warn_of_readers, write_new_private
from nitrosigner.cli.output import Output
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest import fingerprint


@click.group()
def administrator() -> None:
    """Make and look at the key that signs manifests."""


@administrator.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def new(file: Path, as_json: bool) -> None:
    """
    Make an administrator's key in FILE (mode 0600, never overwritten).

    Whoever holds it says what the enclave may sign. Its fingerprint goes into the KMS
    key policy.
    """
    key = Ed25519PrivateKey.generate()
    write_new_private(
        file,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _show(Output(as_json), file, key.public_key())


@administrator.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show the fingerprint of the administrator's key in FILE."""
    _show(Output(as_json), file, load_administrator(file).public_key())


def load_administrator(path: Path) -> Ed25519PrivateKey:
    """
    Return the administrator's private key in *path*.

    Raises:
        Malformed: It is none.
    """
    pem = read_file(path, "the administrator's key", 4096)
    warn_of_readers(path, "the administrator's key")
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed(
            Code.MALFORMED_KEY,
            f"{path} is not an administrator's key (Ed25519, PEM, not encrypted)",
            "make one with: nitrosigner administrator new FILE",
        )
    return key


def _show(output: Output, file: Path, key: Ed25519PublicKey) -> None:
    value = {"file": str(file), "fingerprint": fingerprint(key)}
    output.fields(value, list(value.items()))
