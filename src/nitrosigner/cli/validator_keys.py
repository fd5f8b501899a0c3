"""`nitrosigner validators create|list|disable|enable|delete`."""

from pathlib import Path

import click

from nitrosigner.cli import progress
from nitrosigner.cli.confirmation import confirm
from nitrosigner.cli.connection import Connection, signer_options
from nitrosigner.cli.files import demand_new, write_new
from nitrosigner.cli.public_keys import public_key_name
from nitrosigner.cli.slashing_history import exported, interchange_text
from nitrosigner.verdicts import Verdict
from nitrosigner.wire.api import KeyDescription

FEW = 10
"""Work of at most this many steps needs no progress bar."""


@click.command()
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N"
)
@signer_options()
def create(connection: Connection, count: int) -> None:
    """
    Make validators' keys inside the enclave.

    Nobody has them anywhere else, you neither: they live as long as the deployment's
    vault and its KMS key. Keys that a mnemonic can bring back: validators derive.
    """
    made: list[KeyDescription] = []
    with (
        connection.client() as client,
        progress.shown(connection.output, "making keys", count) as advance,
    ):
        try:
            for _ in range(count):
                made.append(client.create_validator())
                advance(1)
        except Verdict:
            for key in made:
                connection.output.say(f"made before it failed: {key.name}")
            raise
    connection.output.result({"keys": made}, (key.name for key in made))


@click.command("list")
@signer_options()
def list_(connection: Connection) -> None:
    """List the validators that this client may see."""
    with connection.client() as client:
        found = list(client.list_validators())
    connection.output.table(
        {"keys": found},
        ("VALIDATOR", "STATE", "VERSION"),
        ((key.name, key.state, str(key.version)) for key in found),
        empty="there are no validators yet: nitrosigner validators import --help",
    )


_version = click.option(
    "--version",
    "current",
    type=click.IntRange(min=1),
    help="Only if the record's version is still this one.",
)


@click.command()
@click.argument("public_key", metavar="PUBKEY")
@_version
@signer_options()
def disable(connection: Connection, public_key: str, current: int | None) -> None:
    """Let a validator sign nothing until it is enabled again."""
    with connection.client() as client:
        _show(
            connection, client.disable_validator(public_key_name(public_key), current)
        )


@click.command()
@click.argument("public_key", metavar="PUBKEY")
@_version
@signer_options()
def enable(connection: Connection, public_key: str, current: int | None) -> None:
    """Let a disabled validator sign again."""
    with connection.client() as client:
        _show(connection, client.enable_validator(public_key_name(public_key), current))


@click.command()
@click.argument("public_key", metavar="PUBKEY")
@click.option(
    "--output",
    "-o",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A new file for its slashing history; by default stdout.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_version
@signer_options()
def delete(
    connection: Connection,
    public_key: str,
    file: Path | None,
    current: int | None,
    yes: bool,
) -> None:
    """
    Delete a validator's key, and hand over what it has signed.

    What is printed (or written into --output) is its final slashing history: the next
    signer must have it before it has the key. Here it is kept for ever. The key can
    come back only by being imported again. On a terminal it asks first.
    """
    name = public_key_name(public_key)
    output = connection.output
    if file is not None:
        demand_new(file)
    with connection.client() as client:
        shown = client.validator(name)
        confirm(
            output,
            f"deleting {name} ({shown.state}): it signs nothing any more here, and its "
            "key is not given out",
            "Delete it?",
            yes=yes,
        )
        # The version that was shown: what somebody changed meanwhile is not deleted.
        deleted = client.delete_validator(name, current or shown.version)
        try:
            history = exported(client, [name])
        except Verdict:
            output.say(
                f"it is deleted; for its history: nitrosigner slashing-history export "
                f"{name}"
            )
            raise
    if file is not None:
        write_new(file, interchange_text(history))
        output.say(f"wrote its slashing history to {file}")
    output.result(
        {"key": deleted, "slashing_history": history},
        [f"{name}  {deleted.state}"]
        if file is not None
        else [interchange_text(history).decode().rstrip("\n")],
    )


def _show(connection: Connection, key: KeyDescription) -> None:
    connection.output.fields(
        key,
        [
            ("validator", key.name),
            ("state", key.state),
            ("version", str(key.version)),
        ],
    )
