"""
The commands that the emulator adds to `nitrosigner`: `up` and `demo`.

The command line finds them through an entry point, because nothing may import this
room. Every other command loads this file too, so it imports what it needs only when
one of its commands is run.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from nitrosigner.emulator.vm.machine_options import machine_options

if TYPE_CHECKING:
    from nitrosigner.emulator.local_stack import Announcements, Ready
    from nitrosigner.emulator.stack_programs import Machine

DEFAULT_DATA: Final = Path("data")
DEFAULT_PORT: Final = 8443

_folder = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--data",
    type=_folder,
    default=DEFAULT_DATA,
    show_default=True,
    help="The stack's folder; made on the first run, kept between runs.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Where the signer listens on 127.0.0.1. 0: any free port.",
)
@click.option(
    "--preset",
    type=click.Choice(["minimal", "mainnet"]),
    help="Sign for validators too. Alone: mainnet, or a minimal chain of interop keys.",
)
@click.option(
    "--network-config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --preset: another chain's config.yaml (fork versions, name).",
)
@click.option(
    "--genesis-validators-root",
    metavar="HEX",
    help="With --preset: the chain's, as /eth/v1/beacon/genesis answers it.",
)
@click.option(
    "--plain-http-loopback",
    "plain_http_port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="LOCAL DEVELOPMENT ONLY. Unencrypted HTTP on 127.0.0.1, without credentials.",
)
@machine_options
@click.option("--json", "as_json", is_flag=True, help="One ready line of JSON.")
def up(
    *,
    data: Path,
    port: int,
    preset: Literal["minimal", "mainnet"] | None,
    network_config: Path | None,
    genesis_validators_root: str | None,
    plain_http_port: int | None,
    machine: "Machine | None",
    as_json: bool,
) -> None:
    """
    Run a signer on this machine: emulated KMS and Nitro, the real enclave program.

    Stays in the foreground until Ctrl-C; what it keeps survives in the data folder.
    EMULATED: nothing here protects a key from whoever runs this machine.
    """
    from nitrosigner.emulator import beacon_chain, local_stack
    from nitrosigner.image import contents

    if preset is None and (network_config or genesis_validators_root):
        raise click.UsageError("a chain is described together with --preset")
    options = local_stack.Options(
        data=data,
        port=port,
        source=contents.source_root(),
        validators=preset
        and beacon_chain.validators(preset, network_config, genesis_validators_root),
        plain_http_port=plain_http_port,
        machine=machine,
    )
    asyncio.run(local_stack.run(options, _announcements(as_json=as_json)))


@click.command()
@click.option(
    "--data",
    type=_folder,
    help="A folder to keep and look into; else a temporary one, removed at the end.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def demo(data: Path | None, *, as_json: bool) -> None:
    """
    Show both jobs for real on this machine, and what is refused.

    A wallet signs the transaction of AWS's own example; a validator votes, and is kept
    from being slashed. EMULATED: no Nitro hardware.
    """
    from nitrosigner.emulator.demo import show

    sys.exit(show(data, as_json=as_json))


def _announcements(*, as_json: bool) -> "Announcements":
    from rich.console import Console

    from nitrosigner.emulator.local_stack import Announcements

    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(text: str, style: str) -> None:
        # If nobody reads our messages any more, that is no reason to stop.
        with contextlib.suppress(OSError):
            console.print(f"nitrosigner: {text}", style=style, markup=False)

    def ready(state: "Ready") -> None:
        import msgspec

        text = msgspec.json.encode(state).decode() if as_json else _for_people(state)
        with contextlib.suppress(OSError):
            click.echo(text)
            sys.stdout.flush()

    return Announcements(
        progress=lambda text: say(text, "dim"),
        warning=lambda text: say(text, "bold yellow"),
        ready=ready,
    )


def _for_people(state: "Ready") -> str:
    here = _short(Path(state.data))
    validators = ""
    if state.beacon_network:
        validators = f"  validators     of {state.beacon_network}\n"
    if state.plain_http:
        validators += (
            f"  plain HTTP     {state.plain_http}\n"
            "                 (UNENCRYPTED, NO CREDENTIAL: local development only)\n"
        )
    return f"""\
Ready. EMULATED: no Nitro hardware, no AWS. Do not put real keys in here.

  signer         {state.url}
  certificate    {state.ca}
  PCR0           {state.pcr0}
                 ({_measured(state)})
  root           {state.trust_root} (EMULATED)
  administrator  {state.administrator}
  manifest       version {state.manifest_version}, {state.manifest}
{validators}\
  metrics        {state.metrics}
  logs           {Path(state.data) / "logs"}

Try, in another terminal:

  nitrosigner verify --data {here}
  nitrosigner keys create --data {here} --algorithm secp256k1 --name treasury
  nitrosigner keys list --data {here}
  nitrosigner doctor --data {here}

Ctrl-C stops it; the keys stay."""


def _measured(state: "Ready") -> str:
    if state.image is None:
        return "EMULATED: measures the trusted source tree"
    return f"of {_short(Path(state.image))}, in a virtual machine; EMULATED hardware"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


commands: list[click.Command] = [up, demo]
"""What the entry point `nitrosigner.plugins` hands to the command line."""
