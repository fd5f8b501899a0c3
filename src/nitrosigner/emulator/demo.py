"""
`nitrosigner demo`: both jobs for real on this machine, step by step.

Everything runs as its users run it: the stack as `nitrosigner up`, the handler as
`nitrosigner invoke wallet`, the rest through the client library.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from nitrosigner.emulator.demo_attacks import Attacks
from nitrosigner.emulator.demo_steps import Script, Step, StepFailed
from nitrosigner.emulator.demo_validator import ValidatorJob
from nitrosigner.emulator.demo_wallet import Signed, Wallet
from nitrosigner.emulator.local_stack import StackFailed
from nitrosigner.emulator.running_stack import RunningStack

STEPS: Final = 17


class Shown(msgspec.Struct, kw_only=True):
    """The whole demo, as `nitrosigner demo --json` prints it."""

    ok: bool
    emulated: bool
    seconds: float
    pcr0: str
    steps: list[Step]
    transaction: Signed | None


def show(data: Path | None, *, as_json: bool) -> int:
    """
    Run the demo in *data*, or in a temporary folder; return the exit code.

    Raises:
        StackFailed: There is something in *data*.
    """
    if data is not None:
        if data.exists() and any(data.iterdir()):
            raise StackFailed(
                f"{data} is not empty",
                "the demo makes a stack of its own: name a folder that is not there",
            )
        return _show(data, as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="nitrosigner-demo-") as temporary:
        return _show(Path(temporary) / "data", as_json=as_json)


def _show(data: Path, *, as_json: bool) -> int:
    # With --json stdout is for the object alone.
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    script = Script(_begun(console), _ended(console))
    console.print(
        "nitrosigner's two jobs, wallet and validator, on this machine. "
        "[bold yellow]EMULATED[/]: no Nitro hardware, no AWS.\n"
    )
    began = time.monotonic()
    signed: Signed | None = None
    pcr0 = ""
    stack: RunningStack | None = None
    try:
        stack = _start(script, data)
        pcr0 = stack.ready.pcr0
        signed = _run(script, stack)
    except StepFailed:
        pass
    finally:
        if stack is not None:
            stack.stop()
    ok = len(script.steps) == STEPS and all(step.ok for step in script.steps)
    shown = Shown(
        ok=ok,
        emulated=True,
        seconds=round(time.monotonic() - began, 1),
        pcr0=pcr0,
        steps=script.steps,
        transaction=signed,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
    else:
        _conclude(console, shown)
    return 0 if ok else 1


def _start(script: Script, data: Path) -> RunningStack:
    with script.step(
        "stack",
        "A local stack starts: KMS, parent and enclave as separate processes",
        "the source that runs is what was measured (EMULATED: no hardware vouches "
        "for it)",
    ) as lines:
        stack = RunningStack.start(data, options=("--preset", "minimal"))
        lines.append(f"PCR0 {stack.ready.pcr0} (EMULATED)")
        for name, pid in stack.ready.pids.items():
            lines.append(f"process {pid}: {name}")
    return stack


def _run(script: Script, stack: RunningStack) -> Signed:
    wallet = Wallet(script, stack)
    wallet.attestation()
    wallet.create()
    wallet.import_wrapped()
    wallet.set_key()
    signed = wallet.sign()
    wallet.check(signed)
    wallet.search()
    attacks = Attacks(script, stack)
    attacks.swapped_record()
    attacks.altered_enclave()
    attacks.forbidden_client()
    wallet.broadcast()
    validator = ValidatorJob(script, stack)
    validator.bring_in()
    validator.vote()
    validator.slashable()
    validator.race()
    validator.export()
    return signed


def _begun(console: Console) -> Callable[[int, str], None]:
    def begun(number: int, title: str) -> None:
        console.print(f"[bold]{number:>2}  {title}[/]")

    return begun


def _ended(console: Console) -> Callable[[Step], None]:
    def ended(step: Step) -> None:
        for line in step.detail.splitlines():
            console.print(f"      {line}", style="dim", markup=False)
        if step.skipped:
            verdict = "[yellow]skipped[/]"
        elif step.ok:
            verdict = f"[green]proves:[/] {step.proves}"
        else:
            verdict = "[bold red]FAILED[/]"
        console.print(f"    {verdict} [dim]({step.seconds:.1f} s)[/]\n")

    return ended


def _conclude(console: Console, shown: Shown) -> None:
    if shown.ok and shown.transaction is not None:
        console.print("[bold]The signed transaction[/]\n")
        console.print(f"  from  {shown.transaction.sender}", markup=False)
        console.print(f"  hash  {shown.transaction.hash}", markup=False)
        console.print(f"  raw   {shown.transaction.raw}\n", markup=False)
        console.print(
            f"{len(shown.steps)} steps, {shown.seconds:.0f} seconds. Yours to try: "
            "nitrosigner up"
        )
    else:
        console.print("[bold red]The demo failed[/]; --data DIR keeps its logs.")
