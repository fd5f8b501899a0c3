"""
`nitrosigner validators derive`: keys out of a mnemonic, inside the enclave.

The words are typed or read from a file, encrypted to the verified enclave, and never
stored there. What comes back, if a recipient is named, is a backup that only somebody
offline can open (`backup-key`, `open-backup`, which talk to no signer).
"""

import base64
import binascii
from pathlib import Path
from typing import Final

import click
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    json_option,
    signer_options,
)
from nitrosigner.cli.files import (
    demand_new,
    read_file,
    read_line,
    write_new,
    write_new_private,
)
from nitrosigner.cli.output import Output
from nitrosigner.cli.secret_prompt import ask_secret
from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.client.import_validator import Range, derive_validators
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import import_wrapping
from nitrosigner.wire import validator_api as wire

MAX_BACKUP: Final = 64 * 1024

_file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_new_file = click.Path(path_type=Path, dir_okay=False)


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file of a backup. Nothing in it is secret."""

    nitrosigner_backup: int = 1
    deployment: str
    """Part of what the encryption is bound to."""
    recipient: str
    """Base64 of the raw X25519 public key that it is encrypted to."""
    start: int
    count: int
    public_keys: list[str]
    """What m/12381/3600/i/0/0 gave, in order."""
    backup: str
    """Base64: the words, and after a line feed their passphrase if there was one."""


@click.command()
@click.option(
    "--mnemonic-file",
    type=_file,
    metavar="FILE",
    help="The words in one line; - is stdin. Without it you are asked.",
)
@click.option(
    "--passphrase-file",
    type=_file,
    metavar="FILE",
    help="The mnemonic's passphrase (BIP-39), if it has one.",
)
@click.option(
    "--new", is_flag=True, help="Make a new mnemonic inside; needs a recipient."
)
@click.option(
    "--start",
    type=click.IntRange(0, (1 << 32) - 1),
    default=0,
    show_default=True,
    metavar="I",
    help="The first index of m/12381/3600/I/0/0.",
)
@click.option(
    "--count",
    type=click.IntRange(1, wire.MAX_DERIVED),
    default=1,
    show_default=True,
    metavar="N",
)
@click.option(
    "--backup-recipient",
    metavar="KEY",
    help="Whom to encrypt the mnemonic to: what validators backup-key printed.",
)
@click.option(
    "--backup-file",
    type=_new_file,
    metavar="FILE",
    help="A new file for the backup. Needed with a recipient.",
)
@expectation_options
@signer_options()
def derive(
    *,
    connection: Connection,
    expected: Expected,
    mnemonic_file: Path | None,
    passphrase_file: Path | None,
    new: bool,
    start: int,
    count: int,
    backup_recipient: str | None,
    backup_file: Path | None,
) -> None:
    """
    Derive validators' keys from a mnemonic, inside the enclave.

    The enclave is verified first and forgets the words when it is done. Validators
    that have signed before: nitrosigner slashing-history import comes first.
    """
    if new and (mnemonic_file or passphrase_file):
        raise click.UsageError("--new makes the words itself: give no file")
    if (backup_recipient is None) != (backup_file is None):
        raise click.UsageError("--backup-recipient and --backup-file go together")
    if new and backup_recipient is None:
        raise click.UsageError("--new needs --backup-recipient: nobody has the words")
    recipient = None if backup_recipient is None else _recipient(backup_recipient)
    connection.require_known_program(expected)
    if backup_file is not None:
        demand_new(backup_file)
    with connection.client(bootstrap=True) as client:
        proof = connection.verify(client, expected)
        mnemonic = None if new else mnemonic_of(mnemonic_file, passphrase_file)
        try:
            derived = derive_validators(
                client,
                proof,
                mnemonic,
                Range(start, count),
                backup_recipient=recipient,
            )
        finally:
            if mnemonic is not None:
                mnemonic[:] = bytes(len(mnemonic))
    names = [key.name for key in derived.keys]
    if backup_file is not None and recipient is not None:
        _write_backup(
            connection,
            backup_file,
            Backup(
                deployment=proof.statement.deployment,
                recipient=base64.b64encode(recipient).decode(),
                start=start,
                count=count,
                public_keys=names,
                backup=derived.backup or "",
            ),
        )
    connection.output.result(derived, names)


@click.command("backup-key")
@click.argument("file", type=_new_file)
@json_option
def backup_key(file: Path, as_json: bool) -> None:
    """
    Make the key that backups are encrypted to. Do this offline.

    The private key goes into the new FILE (mode 0600); what is printed is public, for
    --backup-recipient.
    """
    private_key = X25519PrivateKey.generate()
    write_new_private(
        file,
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    public = base64.b64encode(private_key.public_key().public_bytes_raw()).decode()
    output = Output(as_json)
    output.say(f"wrote {file}; keep it offline. The recipient is:")
    output.result({"recipient": public, "file": str(file)}, [public])


@click.command("open-backup")
@click.argument("backup", type=_file)
@click.option("--key", "key_file", required=True, type=_file, metavar="FILE")
@click.option(
    "--output",
    "-o",
    "file",
    required=True,
    type=_new_file,
    metavar="FILE",
    help="A new file for the words (mode 0600). They are never printed.",
)
@json_option
def open_backup(backup: Path, key_file: Path, file: Path, as_json: bool) -> None:
    """Open a backup that validators derive wrote. Do this offline."""
    read = _read_backup(backup)
    private_key = _private_key(key_file)
    try:
        words = import_wrapping.unwrap(
            base64.b64decode(read.backup, validate=True),
            private_key,
            import_wrapping.backup_info(deployment=read.deployment),
        )
    except ValueError:
        raise Refused(
            Code.KEY_MISMATCH,
            "this key does not open this backup",
            f"the backup is for the recipient {read.recipient}",
        ) from None
    write_new_private(file, words + b"\n")
    Output(as_json).result({"file": str(file)}, [f"wrote {file}"])


def mnemonic_of(file: Path | None, passphrase_file: Path | None) -> bytearray:
    """
    Return the words, and after a line feed their passphrase if there is one.

    The caller wipes it. Never shows or quotes them.

    Raises:
        Malformed: A file can't be read, or there is no terminal to ask on.
    """
    if file is not None:
        text = read_line(file, "the mnemonic file")
    else:
        text = ask_secret("Mnemonic", "--mnemonic-file FILE")
    mnemonic = bytearray(" ".join(text.split()).encode())
    if passphrase_file is not None:
        mnemonic += b"\n" + read_line(passphrase_file, "the passphrase file").encode()
    return mnemonic


def _recipient(text: str) -> bytes:
    key = bytes_of_hex(text)
    if key is None:
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            key = b""
    try:
        return X25519PublicKey.from_public_bytes(key).public_bytes_raw()
    except ValueError:
        raise Malformed(
            Code.USAGE,
            "a backup's recipient is an X25519 public key, 32 bytes in base64",
            "nitrosigner validators backup-key FILE makes one and prints it",
        ) from None


def _write_backup(connection: Connection, file: Path, backup: Backup) -> None:
    text = msgspec.json.format(msgspec.json.encode(backup), indent=2) + b"\n"
    try:
        write_new(file, text)
    except Exception:
        # The enclave has forgotten the words: this is the one copy of them.
        connection.output.say("the backup could not be written; keep this text:")
        click.echo(text.decode(), err=True)
        raise
    connection.output.say(f"wrote the backup to {file}")


def _read_backup(file: Path) -> Backup:
    try:
        return msgspec.json.decode(
            read_file(file, "the backup", MAX_BACKUP), type=Backup
        )
    except ValueError:
        raise Malformed(
            Code.USAGE,
            f"{file} is no backup of nitrosigner",
            "it is the file that validators derive wrote",
        ) from None


def _private_key(file: Path) -> X25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(
            read_file(file, "the backup's key"), None
        )
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, X25519PrivateKey):
        raise Malformed(
            Code.USAGE,
            f"{file} is no key for backups",
            "it is the file that validators backup-key wrote",
        )
    return key
