"""`nitrosigner keys`: make, import, look at and retire keys."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import read_file, read_line, warn_of_readers
from nitrosigner.cli.secret_prompt import ask_secret
from nitrosigner.client.import_key import import_private_key
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.api import KeyDescription

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.group()
def keys() -> None:
    """Make, import, look at and retire keys."""


def _is_name(_context: click.Context, _parameter: click.Parameter, given: str) -> str:
    # The enclave decides; here only so that a person reads a sentence, not a pattern.
    if not _NAME.fullmatch(given):
        raise Malformed(
            Code.USAGE,
            "this cannot be the name of a key",
            "1 to 64 lower-case letters, digits, dots, dashes and underscores, "
            "of which the first is a letter or a digit",
        )
    return given


_new_name = click.option(
    "--name",
    required=True,
    callback=_is_name,
    help="What the key is called from now on.",
)


@keys.command()
@_new_name
@click.option(
    "--algorithm", default="secp256k1", show_default=True, help="What it signs with."
)
@signer_options()
def create(connection: Connection, name: str, algorithm: str) -> None:
    """Make a key inside the enclave."""
    with connection.client() as client:
        _show(connection, client.create_key(name, algorithm))


@keys.command("import")
@_new_name
@click.option(
    "--private-key-file",
    type=_file,
    metavar="FILE",
    help="A file with the key in hexadecimal; - is the standard input.",
)
@click.option("--keystore", type=_file, metavar="FILE", help="A V3 JSON keystore.")
@click.option(
    "--password-file", type=_file, metavar="FILE", help="The keystore's password."
)
@click.option(
    "--version",
    "replaced",
    type=click.IntRange(min=1),
    help="Replace the key of that name, whose current version this is.",
)
@expectation_options
@signer_options()
def import_(
    *,
    connection: Connection,
    expected: Expected,
    name: str,
    private_key_file: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    replaced: int | None,
) -> None:
    """
    Bring a private key into the enclave, encrypted to it.

    The enclave is verified first. A signer that is not a local stack's needs --pcr0:
    a key is handed to a known program only. The key comes from a file, a V3 keystore
    or a prompt, never from the command line.
    """
    if private_key_file and keystore:
        raise click.UsageError("Give --private-key-file or --keystore, not both")
    if password_file and not keystore:
        raise click.UsageError("--password-file goes with --keystore")
    connection.require_known_program(expected)
    with connection.client(bootstrap=True) as client:
        # First, so that nobody types a password for an enclave that is not there.
        proof = connection.verify(client, expected)
        with _private_key(private_key_file, keystore, password_file) as private_key:
            description = import_private_key(
                client, proof, private_key, name=name, version=replaced or 0
            )
    _show(connection, description)


@keys.command("list")
@signer_options()
def list_(connection: Connection) -> None:
    """List the keys that this client may see."""
    with connection.client() as client:
        found = list(client.list_keys())
    connection.output.table(
        {"keys": found},
        ("NAME", "ADDRESS", "ALGORITHM", "KIND", "STATE", "VERSION"),
        (
            (k.name, k.identity, k.algorithm, k.kind, k.state, str(k.version))
            for k in found
        ),
        empty="there are no keys yet; make one: nitrosigner keys create --name NAME",
    )


@keys.command()
@click.argument("key", required=False)
@click.option("--name", "named", help="The same as the argument KEY.")
@click.option("--ciphertext", is_flag=True, help="Show what is stored of it outside.")
@signer_options()
def show(
    connection: Connection, key: str | None, named: str | None, ciphertext: bool
) -> None:
    """Show one key, by name or address."""
    with connection.client() as client:
        if not ciphertext:
            _show(connection, client.key(_key(key, named)))
            return
        stored = client.ciphertext(_key(key, named))
    connection.output.result(stored, [stored.ciphertext])


_version = click.option(
    "--version",
    "current",
    type=click.IntRange(min=1),
    help="Only if the key's version is still this one.",
)


@keys.command()
@click.argument("key", required=False)
@click.option("--name", "named", help="The same as the argument KEY.")
@_version
@signer_options()
def disable(
    connection: Connection, key: str | None, named: str | None, current: int | None
) -> None:
    """Let a key sign nothing until it is enabled again."""
    with connection.client() as client:
        _show(connection, client.disable_key(_key(key, named), current))


@keys.command()
@click.argument("key", required=False)
@click.option("--name", "named", help="The same as the argument KEY.")
@_version
@signer_options()
def enable(
    connection: Connection, key: str | None, named: str | None, current: int | None
) -> None:
    """Let a disabled key sign again."""
    with connection.client() as client:
        _show(connection, client.enable_key(_key(key, named), current))


@keys.command()
@click.argument("key", required=False)
@click.option("--name", "named", help="The same as the argument KEY.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_version
@signer_options()
def delete(
    connection: Connection,
    key: str | None,
    named: str | None,
    current: int | None,
    yes: bool,
) -> None:
    """
    Delete a key. It can be restored until the day that the answer names.

    On a terminal it asks first.
    """
    with connection.client() as client:
        shown = client.key(_key(key, named))
        connection.output.say(
            f"deleting {shown.name} ({shown.identity}): it signs nothing any more; "
            "nitrosigner keys restore brings it back for a time"
        )
        asked = sys.stdin.isatty() and not (yes or connection.output.as_json)
        if asked and not click.confirm("Delete it?", err=True):
            raise click.Abort
        # The version that was shown: what somebody changed meanwhile is not deleted.
        _show(connection, client.delete_key(shown.name, current or shown.version))


@keys.command()
@click.argument("key", required=False)
@click.option("--name", "named", help="The same as the argument KEY.")
@_version
@signer_options()
def restore(
    connection: Connection, key: str | None, named: str | None, current: int | None
) -> None:
    """Bring a deleted key back, disabled."""
    with connection.client() as client:
        restored = client.restore_key(_key(key, named), current)
    if restored.state == "disabled":
        connection.output.say(
            f"it signs again after: nitrosigner keys enable {restored.name}"
        )
    _show(connection, restored)


@keys.command("rotate-vault")
@signer_options()
def rotate_vault(connection: Connection) -> None:
    """Seal every record under a new vault key. Addresses do not change."""
    with connection.client() as client:
        rotated = client.rotate_vault()
    connection.output.result(rotated, [f"{rotated.keys} keys sealed anew"])


def _key(argument: str | None, option: str | None) -> str:
    if bool(argument) == bool(option):
        raise click.UsageError("Name one key: its name or its address")
    return argument or option or ""


def _private_key(
    file: Path | None, keystore: Path | None, password_file: Path | None
) -> PrivateKey:
    if keystore is not None:
        # eth-keyfile takes half a second to import; only this way in needs it.
        from nitrosigner.client.keystore import open_keystore

        data = read_file(keystore, "the keystore")
        if password_file is not None:
            password = read_line(password_file, "the password file")
        else:
            password = ask_secret("Password of the keystore", "--password-file FILE")
        return open_keystore(data, password)
    if file is not None:
        data = read_file(file, "the private key file", 4096)
        warn_of_readers(file, "the private key file")
        # Bytes that are not ASCII become characters that are no hexadecimal digits.
        return PrivateKey.from_hex(data.decode("ascii", "replace"))
    return PrivateKey.from_hex(ask_secret("Private key", "--private-key-file FILE"))


def _show(connection: Connection, key: KeyDescription) -> None:
    fields = [
        ("name", key.name),
        ("address", key.identity),
        ("algorithm", key.algorithm),
        ("kind", key.kind),
        ("public key", key.public_key),
        ("state", key.state),
        ("version", str(key.version)),
        ("created", _day(key.created)),
    ]
    if key.purge_after is not None:
        fields.append(("gone after", _day(key.purge_after)))
    connection.output.fields(key, fields)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
