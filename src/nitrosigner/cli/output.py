"""
What a command says, and where: results on stdout, everything else on stderr.

With `--json` stdout holds exactly one JSON document, an error included, so that a
program can read it without looking at the exit code first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from nitrosigner.verdicts import Verdict
from nitrosigner.wire import api

PROGRAM: Final = "nitrosigner"
WIDEST: Final = 400
"""Columns of the widest table: names and addresses are bounded."""


@dataclass(frozen=True, slots=True)
class Output:
    """How this run of the command speaks."""

    as_json: bool

    def result(self, value: Any, lines: Iterable[str]) -> None:  # noqa: ANN401  # any JSON
        """Print *value* for a program, or *lines* for a person."""
        if self.as_json:
            click.echo(json_text(value))
            return
        for line in lines:
            click.echo(line)

    def fields(self, value: Any, fields: Sequence[tuple[str, str]]) -> None:  # noqa: ANN401  # any JSON
        """Print *value* for a program, or *fields* under each other for a person."""
        width = max((len(name) for name, _ in fields), default=0)
        self.result(value, (f"{name:<{width}}  {text}" for name, text in fields))

    def table(
        self,
        value: Any,  # noqa: ANN401  # any JSON
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        empty: str,
    ) -> None:
        """Print *value* for a program, or a table for a person."""
        if self.as_json:
            click.echo(json_text(value))
            return
        listed = list(rows)
        if not listed:
            self.say(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            # Addresses are for copying: never cut, never broken over lines.
            table.add_column(column, no_wrap=True, overflow="ignore")
        for row in listed:
            table.add_row(*row)
        # The terminal may wrap lines; rich would cut what does not fit.
        console = Console(width=WIDEST, markup=False, highlight=False)
        console.print(table, crop=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Tell a person something that is not the result."""
        click.echo(f"{PROGRAM}: {sentence}", err=True)


def json_text(value: Any) -> str:  # noqa: ANN401  # any JSON
    """Return *value*, structs included, as one line of JSON."""
    return msgspec.json.encode(value).decode()


def report(verdict: Verdict, *, as_json: bool) -> None:
    """Print why a command ends without its result."""
    if as_json:
        click.echo(json_text(api.error_body(verdict)))
        return
    click.echo(f"{PROGRAM}: error: {verdict.message}", err=True)
    if verdict.hint:
        click.echo(f"{PROGRAM}: hint: {verdict.hint}", err=True)
