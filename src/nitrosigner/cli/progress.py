"""Long work, shown on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from nitrosigner.cli.output import Output

STEPS: Final = 10
"""Lines that are said of one work where there is no terminal."""

Advance = Callable[[int], None]


@contextmanager
def shown(output: Output, label: str, total: int | None) -> Iterator[Advance]:
    """
    Show how far a work of *total* parts has come; call what is yielded with each step.

    Args:
        output: Where to say it.
        label: What is being done, a few words.
        total: None if nobody knows.
    """
    if not sys.stderr.isatty():
        yield _in_lines(output, label, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        *((MofNCompleteColumn(),) if total and total < 1_000_000 else ()),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda step: bar.advance(task, step)


def _in_lines(output: Output, label: str, total: int | None) -> Advance:
    done = 0
    said = 0

    def advance(step: int) -> None:
        nonlocal done, said
        done += step
        reached = min(done * STEPS // total, STEPS) if total else 0
        if reached > said:
            said = reached
            output.say(f"{label}: {reached * 100 // STEPS} %")

    return advance
