"""`nitrosigner slashing-history`: what validators have signed, in and out."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from nitrosigner.cli import confirmation, interchange_file, progress
from nitrosigner.cli.connection import Connection, signer_options
from nitrosigner.cli.files import reason, write_new
from nitrosigner.cli.interchange_file import History
from nitrosigner.cli.output import Output
from nitrosigner.cli.public_keys import public_key_names
from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import validator_api as wire

CHUNK: Final = 250
"""Validators in one request: about 110 kB, which every manifest's limit allows that
takes a block's request too."""

_file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.group("slashing-history")
def slashing_history() -> None:
    """Take over, hand over and look at what validators have signed."""


@slashing_history.command("import")
@click.argument("file", type=_file)
@signer_options()
def import_(connection: Connection, file: Path) -> None:
    """
    Move validators forward to what FILE says they have signed; - is stdin.

    FILE is an interchange file of EIP-3076, complete or minimal, of any length. It is
    read and checked as a whole before anything is sent. Nothing ever moves back: what
    the signer knows already stays forbidden. Keys need not be here yet.
    """
    with connection.client() as client:
        # First, so that the file of another chain is refused at once.
        chain = chain_of(client)
        history = read_file(connection, file, chain)
        moved = send(connection, client, history, chain)
    connection.output.result(
        {
            "validators": moved,
            "blocks": history.blocks,
            "attestations": history.attestations,
        },
        [
            f"{moved} validators stand at or past what the file says",
            f"it holds {history.blocks} blocks, {history.attestations} attestations",
        ],
    )


@slashing_history.command()
@click.argument("public_keys", nargs=-1, metavar="[PUBKEY]...")
@click.option(
    "--output",
    "-o",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A new file for it; by default stdout.",
)
@signer_options()
def export(
    connection: Connection, public_keys: Sequence[str], file: Path | None
) -> None:
    """
    Write the minimal interchange file of every validator, or of those named.

    Also of validators whose keys are gone, or came from a file and never had a key
    here. It says how far they have come *now*: a validator that goes on signing here
    moves past it. Disable it, or stop its clients, before another signer takes it over.

    A record that cannot be trusted is named, and is not in the file: then the exit
    code is 3.
    """
    with connection.client() as client:
        found, without = _found(client, public_key_names(public_keys))
    output = connection.output
    output.say(
        f"{len(found.data)} validators. Whoever of them signs on from here moves past "
        "this file: disable them before they move"
    )
    text = interchange_text(found)
    if file is not None:
        write_new(file, text)
        output.result(
            {"file": str(file), "validators": len(found.data), "without": without},
            [f"wrote {file}"],
        )
    else:
        # The file itself is JSON; --json changes nothing.
        click.echo(text, nl=False)
    _complain(output, without)


@slashing_history.command()
@click.argument("public_keys", nargs=-1, metavar="[PUBKEY]...")
@signer_options()
def show(connection: Connection, public_keys: Sequence[str]) -> None:
    """Show how far validators have come: every one, or those named."""
    with connection.client() as client:
        found, without = _found(client, public_key_names(public_keys))
    connection.output.table(
        found,
        ("VALIDATOR", "BLOCK SLOT", "SOURCE EPOCH", "TARGET EPOCH"),
        (_row(entry) for entry in found.data),
        empty="no validator is registered yet",
    )
    _complain(connection.output, without)


@slashing_history.command()
@click.argument("public_key", metavar="PUBKEY")
@click.option(
    "--slashing-history",
    "file",
    type=_file,
    required=True,
    metavar="FILE",
    help="An interchange file with the latest history of this validator.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@signer_options()
def repair(connection: Connection, public_key: str, file: Path, *, yes: bool) -> None:
    """
    Replace a record that cannot be trusted by the history in FILE.

    It is for a record that somebody altered, deleted or restored in the store, so that
    no vote is signed. One that is in order is left alone. The new record says what
    FILE says, or what this signer has itself seen since it started if that is more;
    what the old one claims counts for nothing. If FILE is not the latest history of
    the validator, of every signer that ever had it, it can be slashed afterwards.

    Needs repair_history in the manifest.
    """
    (name,) = public_key_names([public_key])
    with connection.client() as client:
        chain = chain_of(client)
        history = read_file(connection, file, chain)
        reached = history.reached.get(bytes.fromhex(name[2:]))
        if reached is None or reached.voted is None:
            raise Malformed(
                Code.MALFORMED_HISTORY,
                f"{file} has no attestation of this validator",
                "a record is not replaced by an empty one. A validator that has never "
                "attested: write an attestation of epochs 0 and 0 into the file",
            )
        told = interchange_file.document({bytes.fromhex(name[2:]): reached}, chain)
        confirmation.confirm(
            connection.output,
            f"the record of {name} will be replaced, if it cannot be trusted. It may "
            f"then vote beyond {', '.join(_row(told.data[0])[1:])} (block slot, source "
            "and target epoch)",
            "Is this its latest history, of every signer that ever had it?",
            yes=yes,
        )
        repaired = client.repair_history(name, told)
    old = repaired.replaced
    claimed = (
        "nothing readable" if old.claims is None else ", ".join(_row(old.claims)[1:])
    )
    stored = old.stored or "no bytes"
    connection.output.result(
        repaired,
        [
            f"replaced {name}: {old.reason}",
            f"there was: version {old.version}, claiming {claimed}; {stored}",
            f"there is: {', '.join(_row(repaired.now)[1:])}",
        ],
    )


def chain_of(client: SignerClient) -> bytes:
    """
    Return the genesis validators root that the signer signs for, 32 bytes.

    Raises:
        Undecided: What it says is none.
    """
    said = client.page_of_history(limit=1).metadata.genesis_validators_root
    chain = bytes_of_hex(said)
    if chain is None or len(chain) != 32:
        raise Undecided(
            Code.INTERNAL,
            "the signer does not say which chain it signs for",
            "check that the signer's version fits this client",
        )
    return chain


def exported(client: SignerClient, names: Sequence[str] = ()) -> wire.SlashingHistory:
    """Return the minimal document of *names*, or of all, in the order of their keys."""
    metadata = None
    data: list[wire.ValidatorHistory] = []
    for part in client.slashing_history(names):
        metadata = metadata or part.metadata
        data += part.data
    if metadata is None:  # pragma: no cover  # at least one document comes
        raise AssertionError
    return wire.SlashingHistory(
        metadata=metadata, data=sorted(data, key=lambda entry: entry.pubkey)
    )


def _found(
    client: SignerClient, names: Sequence[str]
) -> tuple[wire.SlashingHistory, dict[str, str]]:
    """Return the minimal document, and who is not in it and why."""
    if names:
        found = exported(client, names)
        missing = sorted(set(names) - {entry.pubkey for entry in found.data})
        return found, dict.fromkeys(missing, "there is no record that can be trusted")
    metadata = None
    data: dict[str, wire.ValidatorHistory] = {}
    without: dict[str, str] = {}
    for part in client.history_records():
        metadata = metadata or part.metadata
        data |= {entry.pubkey: entry for entry in part.data}
        without |= {one.pubkey: one.reason for one in part.untrusted}
    if metadata is None:  # pragma: no cover  # at least one part comes
        raise AssertionError
    listed = [data[name] for name in sorted(data)]
    return wire.SlashingHistory(metadata=metadata, data=listed), without


def _complain(output: Output, without: Mapping[str, str]) -> None:
    """
    Name those whose records cannot be trusted.

    Raises:
        Refused: There is one.
    """
    if not without:
        return
    for name, why in sorted(without.items()):
        output.say(f"{name}: {why}")
    raise Refused(
        Code.RECORD_UNTRUSTED,
        f"{len(without)} validators without a record that can be trusted are left out",
        "from their latest history: nitrosigner slashing-history repair PUBKEY "
        "--slashing-history FILE",
    )


def interchange_text(document: wire.SlashingHistory) -> bytes:
    """Return the file that every validator client reads."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_file(connection: Connection, file: Path, chain: bytes) -> History:
    """
    Read the interchange *file*, with a progress bar.

    Raises:
        Malformed, Refused: As `interchange_file.read`, and if it can't be read.
    """
    try:
        with _opened(file) as (source, size):
            shown = progress.shown(connection.output, f"reading {file}", size)
            with shown as advance:

                def read(wanted: int) -> bytes:
                    data = source.read(wanted)
                    advance(len(data))
                    return data

                return interchange_file.read(read, chain)
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"the history {file} {reason(error)}", "check the path"
        ) from None


def send(
    connection: Connection, client: SignerClient, history: History, chain: bytes
) -> int:
    """
    Send *history* in parts, each of them all or nothing; return how many validators.

    Raises:
        Verdict: After saying how many are in. Nothing was moved back; sending all of
            it again goes on.
    """
    total = len(history.reached)
    moved = 0
    parts = list(interchange_file.documents(history.reached, chain, CHUNK))
    with progress.shown(connection.output, "sending", total) as advance:
        # The last is the next to go.
        parts.reverse()
        while parts:
            part = parts.pop()
            try:
                moved += client.import_slashing_history(part).validators
            except Verdict as verdict:
                if verdict.code is Code.TOO_LARGE and len(part.data) > 1:
                    # The manifest may allow less than the usual.
                    parts += _halves(part)
                    continue
                connection.output.say(
                    f"{moved} of {total} validators are in; the same command again "
                    "goes on, nothing moves back"
                )
                raise
            advance(len(part.data))
    return moved


def _halves(part: wire.SlashingHistory) -> list[wire.SlashingHistory]:
    middle = len(part.data) // 2
    return [
        msgspec.structs.replace(part, data=part.data[middle:]),
        msgspec.structs.replace(part, data=part.data[:middle]),
    ]


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    with file.open("rb") as source:
        yield source, file.stat().st_size or None


def _row(entry: wire.ValidatorHistory) -> Sequence[str]:
    block = max((int(signed.slot) for signed in entry.signed_blocks), default=None)
    source = max(
        (int(vote.source_epoch) for vote in entry.signed_attestations), default=None
    )
    target = max(
        (int(vote.target_epoch) for vote in entry.signed_attestations), default=None
    )
    return (
        entry.pubkey,
        *("-" if n is None else str(n) for n in (block, source, target)),
    )
