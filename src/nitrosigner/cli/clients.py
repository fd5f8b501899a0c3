"""`nitrosigner client`: credentials for somebody who may ask the signer."""

import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
import msgspec

from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import reason, write_new_private
from nitrosigner.cli.output import Output
from nitrosigner.client.client_certificate import self_signed
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire.manifest import Client, Operation, Slug, new_token

TOKEN_BYTES: Final = 32


@click.group()
def client() -> None:
    """Make credentials for those who may ask the signer."""


@client.command()
@click.argument("name")
@click.option(
    "--output",
    "-o",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The new folder for them; by default NAME.",
)
@click.option(
    "--operation",
    "operations",
    multiple=True,
    type=click.Choice([operation.value for operation in Operation]),
    help="What the client may do. By default list_keys alone.",
)
@click.option(
    "--keys",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Key names that it may use, * and ? match. By default none.",
)
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True)
@json_option
def new(
    *,
    name: str,
    folder: Path | None,
    operations: tuple[str, ...],
    patterns: tuple[str, ...],
    days: int,
    as_json: bool,
) -> None:
    """
    Make a certificate with its key, and a token, for the client NAME.

    They go into a new folder: cert.pem, key.pem, token (mode 0600). What is printed is
    the entry for `clients` in the manifest; it holds nothing secret. Either credential
    is enough; take the one that is not used out of the entry.
    """
    try:
        msgspec.convert(name, Slug)
    except msgspec.ValidationError:
        raise Malformed(
            Code.USAGE,
            "a client's name is 1 to 64 of a-z, 0-9, dot, dash and underscore",
            "it starts with a letter or digit",
        ) from None
    certificate, key = self_signed(name, datetime.now(UTC), timedelta(days=days))
    token, token_sha256 = new_token(secrets.token_bytes(TOKEN_BYTES))
    entry = Client(
        name=name,
        certificates=[certificate.decode()],
        token_sha256=[token_sha256],
        operations=list(map(Operation, operations)) or [Operation.LIST_KEYS],
        keys=list(patterns),
    )
    folder = folder or Path(name)
    _write_all(
        folder,
        {"cert.pem": certificate, "key.pem": key, "token": token.encode() + b"\n"},
    )
    output = Output(as_json)
    output.say(f"wrote {folder}/cert.pem, key.pem and token; the manifest's entry is:")
    output.result(entry, [msgspec.json.format(msgspec.json.encode(entry)).decode()])


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise Refused(
            Code.NOT_ALLOWED,
            f"{folder} exists and is not written into",
            "name another folder with --output",
        ) from None
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"{folder} cannot be made: it {reason(error)}"
        ) from None
    try:
        for file, data in files.items():
            write_new_private(folder / file, data)
    except BaseException:
        # All three or none: half a credential helps nobody.
        shutil.rmtree(folder, ignore_errors=True)
        raise
