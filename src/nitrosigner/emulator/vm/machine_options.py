"""
The options of `nitrosigner up` that boot an image in a virtual machine.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nitrosigner.verdicts import Verdict

if TYPE_CHECKING:
    from nitrosigner.emulator.stack_programs import Machine

DEFAULT_IMAGE: Final = Path("build/image/enclave.eif")
DEFAULT_MEMORY: Final = 512


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options, and what they mean as the argument `machine`."""

    @click.option(
        "--vm",
        is_flag=True,
        help="Boot the enclave image in a virtual machine (QEMU); see make image.",
    )
    @click.option(
        "--image",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_IMAGE,
        show_default=True,
        help="With --vm: the image.",
    )
    @click.option(
        "--memory",
        type=click.IntRange(128, 1 << 20),
        default=DEFAULT_MEMORY,
        show_default=True,
        help="With --vm: MiB of the machine.",
    )
    @click.option(
        "--accelerator",
        type=click.Choice(["tcg", "kvm"]),
        default="tcg",
        show_default=True,
        help="With --vm: tcg is software emulation.",
    )
    @functools.wraps(command)
    def with_machine(
        *,
        vm: bool,
        image: Path,
        memory: int,
        accelerator: str,
        **options: object,
    ) -> None:
        machine = _machine(image, memory, accelerator) if vm else None
        command(machine=machine, **options)

    return with_machine


def _machine(image: Path, memory: int, accelerator: str) -> "Machine":
    from nitrosigner.emulator.stack_programs import Machine
    from nitrosigner.emulator.vm.qemu import unpacked_qemu
    from nitrosigner.image.build.cache_folder import default_cache
    from nitrosigner.image.build.debian_mirror import machine_mirrors
    from nitrosigner.image.build.machine import MACHINES, X86_64
    from nitrosigner.image.eif.reader import read_eif

    kind = X86_64
    # What is wrong with the image is said where it is copied.
    with contextlib.suppress(OSError, Verdict), image.open("rb") as file:
        kind = MACHINES[read_eif(file).architecture]
    cache = default_cache(os.environ)
    # Before the stack's own deadline begins to run: the first time it is fetched.
    unpacked_qemu(
        cache,
        machine_mirrors,
        lambda text: click.echo(f"nitrosigner: {text}", err=True),
        kind,
    )
    return Machine(image, memory, accelerator, cache)
