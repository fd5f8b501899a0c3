"""
The entry point: builds the command, and turns every verdict into words and a number.

Exit codes: 0 done · 1 failed · 2 usage or malformed input · 3 refused · 4 undecided.
"""

import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

import click

from nitrosigner.cli.administrator import administrator
from nitrosigner.cli.attestation import attestation
from nitrosigner.cli.clients import client
from nitrosigner.cli.doctor import doctor
from nitrosigner.cli.image import image
from nitrosigner.cli.invoke import invoke
from nitrosigner.cli.keys import keys
from nitrosigner.cli.kms import kms
from nitrosigner.cli.manifest import manifest
from nitrosigner.cli.output import report
from nitrosigner.cli.sign import sign
from nitrosigner.cli.slashing_history import slashing_history
from nitrosigner.cli.tls import tls
from nitrosigner.cli.validators import validators
from nitrosigner.cli.verify import verify
from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict

PLUGINS: Final = "nitrosigner.plugins"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="nitrosigner", prog_name="nitrosigner")
def nitrosigner() -> None:
    """Sign with blockchain keys that open only inside an enclave."""


def command() -> click.Group:
    """Return the whole command, with what plugins bring."""
    group = click.Group(
        nitrosigner.name,
        params=nitrosigner.params,
        help=nitrosigner.help,
        callback=nitrosigner.callback,
        context_settings=nitrosigner.context_settings,
    )
    for ours in (
        administrator,
        attestation,
        client,
        doctor,
        image,
        invoke,
        keys,
        kms,
        manifest,
        sign,
        slashing_history,
        tls,
        validators,
        verify,
    ):
        group.add_command(ours)
    for entry in sorted(
        importlib.metadata.entry_points(group=PLUGINS), key=lambda entry: entry.name
    ):
        for plugin in entry.load():
            group.add_command(plugin)
    return group


def run(arguments: Sequence[str]) -> int:
    """Run the command with *arguments*; return the exit code. Never raises."""
    as_json = "--json" in arguments
    try:
        code = command().main(
            list(arguments), prog_name="nitrosigner", standalone_mode=False
        )
    except Verdict as verdict:
        report(verdict, as_json=as_json)
        return verdict.exit_code
    except click.UsageError as error:
        report(_usage(error), as_json=as_json)
        return Malformed.exit_code
    except click.ClickException:
        report(Malformed(Code.USAGE, "a file named cannot be used"), as_json=as_json)
        return Malformed.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("nitrosigner: stopped before it was done", err=True)
        return 1
    except Exception as error:  # noqa: BLE001  # the process's last door
        report(_bug(error), as_json=as_json)
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run as `nitrosigner`."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more
        # when it closes stdout. (click does the same for what commands print.)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _usage(error: click.UsageError) -> Malformed:
    path = error.ctx.command_path if error.ctx else "nitrosigner"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # A group without its command: the message is the whole help text.
        group = error.ctx.command
        commands = group.commands if isinstance(group, click.Group) else {}
        return Malformed(
            Code.USAGE,
            f"{path} needs a command",
            f"one of: {', '.join(sorted(commands))}; see: {path} --help",
        )
    # click's sentence quotes what was typed. Secrets are never options, but a person
    # may have typed one where nothing is expected.
    sentence = error.format_message().rstrip(".")
    if sentence.startswith("Got unexpected extra argument"):
        sentence = "there is an argument too many"
    return Malformed(
        Code.USAGE, sentence[:1].lower() + sentence[1:], f"see: {path} --help"
    )


def _bug(error: Exception) -> Undecided:
    """Say where, and never what: an exception's text may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    where = f"{os.path.basename(last.filename)}:{last.lineno}" if last else "unknown"  # noqa: PTH119  # a name, not a file
    return Undecided(
        Code.INTERNAL,
        f"an internal error: {type(error).__name__} at {where}",
        "this is a bug of nitrosigner; please report it with this line",
    )


if __name__ == "__main__":
    main()
