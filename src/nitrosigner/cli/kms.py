"""`nitrosigner kms`: what a KMS key policy lets through."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file
from nitrosigner.cli.image import printable
from nitrosigner.cli.output import Output
from nitrosigner.image.key_policy_lint import Finding, is_clean, lint
from nitrosigner.image.policy_document import MAX_POLICY
from nitrosigner.verdicts import Code, Malformed

_FOUND: Final = 3
"""The exit code of `lint` when something has to be mended."""


@click.group()
def kms() -> None:
    """Judge the policy of a deployment's KMS key."""


@kms.command("lint")
@click.argument(
    "policy", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True)
)
@json_option
def lint_policy(policy: Path, as_json: bool) -> int:
    """
    Say what is wrong with the key policy in the file POLICY (`-`: standard input).

    Judges by asking the policy what it allows to whom, as KMS would. Does not see
    identity policies, service control policies, nor grants that exist. Exit code 0 if
    nothing has to be mended, 3 if something has.
    """
    data = read_file(policy, "the policy", 4 * MAX_POLICY)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed(
            Code.USAGE, f"the policy {policy} is not text", "give the policy's JSON"
        ) from None
    findings = lint(text)
    clean = is_clean(findings)
    value = {"clean": clean, "findings": findings}
    Output(as_json).result(value, _lines(findings, clean=clean))
    return 0 if clean else _FOUND


def _lines(findings: Sequence[Finding], *, clean: bool) -> Iterator[str]:
    for finding in findings:
        where = f" [{printable(finding.sid)}]" if finding.sid else ""
        yield f"{finding.severity}{where}: {printable(finding.sentence)}"
        if finding.example:
            yield f"  for example: {printable(finding.example)}"
        yield f"  remedy: {finding.remedy}  ({finding.rule})"
    if clean:
        yield "clean: only attested enclaves open the vault, and nothing goes around it"
