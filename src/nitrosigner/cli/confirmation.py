"""Say what will happen, and on a terminal ask whether it shall."""

import sys

import click

from nitrosigner.cli.output import Output


def confirm(output: Output, what: str, question: str, *, yes: bool) -> None:
    """
    Say *what*; ask *question* on a terminal, unless *yes* or JSON is wanted.

    Raises:
        click.Abort: The person does not want it.
    """
    output.say(what)
    if yes or output.as_json or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        raise click.Abort
