"""A secret that a person types: never shown, never taken from the command line."""

import sys

import click

from nitrosigner.verdicts import Code, Malformed


def ask_secret(what: str, instead: str) -> str:
    """
    Ask for *what* on the terminal, without showing it.

    Raises:
        Malformed: There is no terminal; names *instead*, the option to give.
    """
    if not sys.stdin.isatty():
        raise Malformed(
            Code.USAGE,
            f"{what.lower()}: there is no terminal to ask on",
            f"give {instead}",
        )
    answer: str = click.prompt(what, hide_input=True, err=True)
    return answer
