"""`nitrosigner verify`: who answers at a URL, and what that proves."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from nitrosigner.attestation.measurements import CODE_REGISTERS
from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import write_new
from nitrosigner.cli.source_expectation import (
    SourceExpectation,
    of_measurements,
    of_source,
)
from nitrosigner.client.verification import Proof, attested_authority


@click.command()
@click.argument("signer", metavar="[URL]", required=False)
@click.option(
    "--save-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the signer's certificate authority, once verified.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A checkout that the signer must be.",
)
@click.option(
    "--rebuild", is_flag=True, help="Build the checkout now; believe no last build."
)
@click.option(
    "--measurements",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="measurements.json of a build that the signer must be.",
)
@expectation_options
@signer_options()
def verify(
    connection: Connection,
    expected: Expected,
    *,
    signer: str | None,
    save_ca: Path | None,
    source: Path | None,
    rebuild: bool,
    measurements: Path | None,
) -> None:
    """
    Verify the enclave behind URL, and say what that proves.

    Asks for a fresh attestation document and checks it, its nonce, its measurements,
    and that it vouches for the TLS certificate of that same connection. Needs no CA
    file and sends no credential.

    With --source or --measurements it says whether the running signer is that source.
    """
    if signer is not None:
        if connection.url is not None:
            raise click.UsageError("Give the URL once")
        connection = dataclasses.replace(connection, url=signer)
    stack = connection.stack()
    if stack is not None and expected.manifest is None:
        expected = dataclasses.replace(
            expected, manifest=stack.described.manifest or None
        )
    compared = _compared(
        connection, expected, source, measurements=measurements, rebuild=rebuild
    )
    if compared is not None:
        expected = dataclasses.replace(expected, pcrs=(*expected.pcrs, *compared.pcrs))
    with connection.client(bootstrap=True) as client:
        proof = connection.verify(client, expected)
        if compared is not None:
            compared.check(proof.attestation.pcrs)
        if save_ca is not None:
            write_new(save_ca, attested_authority(client, proof))
            connection.output.say(f"wrote {save_ca}")
    connection.output.result(described(proof, compared), _lines(proof, compared))


def _compared(
    connection: Connection,
    expected: Expected,
    source: Path | None,
    *,
    measurements: Path | None,
    rebuild: bool,
) -> SourceExpectation | None:
    if source is None and measurements is None:
        if rebuild:
            raise click.UsageError("--rebuild goes with --source DIR")
        return None
    given = {pcr.partition("=")[0].strip() for pcr in expected.pcrs}
    if given & {str(index) for index in CODE_REGISTERS}:
        # Two values for one register would each do.
        raise click.UsageError("Give --pcr0 or what to compare with, not both")
    if source is None:
        if rebuild:
            raise click.UsageError("--rebuild goes with --source DIR")
        return of_measurements(measurements) if measurements is not None else None
    if measurements is not None:
        raise click.UsageError("Give --source or --measurements, not both")
    return of_source(
        source,
        rebuild=rebuild,
        emulated=bool(expected.roots) or connection.stack() is not None,
        output=connection.output,
    )


def described(
    proof: Proof, compared: SourceExpectation | None = None
) -> dict[str, Any]:
    """Return *proof* as JSON values."""
    attestation, statement = proof.attestation, proof.statement
    proved, not_proved = _sentences(proof, compared)
    return {
        "ok": True,
        "url": proof.url,
        "emulated": proof.emulated,
        "debug": attestation.debug,
        "root": attestation.anchor.fingerprint.hex(),
        "module_id": attestation.module_id,
        "timestamp": attestation.timestamp.isoformat(),
        "pcrs": {
            str(index): value.hex()
            for index, value in sorted(attestation.pcrs.items())
            if any(value)
        },
        "deployment": statement.deployment,
        "manifest": statement.manifest,
        "manifest_version": statement.manifest_version,
        "administrator": statement.administrator,
        "tls_imported": statement.tls_imported,
        "certificate": proof.certificate,
        "proved": proved,
        "not_proved": not_proved,
    }


def _sentences(
    proof: Proof, compared: SourceExpectation | None
) -> tuple[list[str], list[str]]:
    proved, not_proved = proof.proved(), proof.not_proved()
    if compared is not None:
        proved += compared.proved(proof.attestation.pcrs)
        not_proved += compared.not_proved(proof.attestation.pcrs)
    return proved, not_proved


def _lines(proof: Proof, compared: SourceExpectation | None) -> list[str]:
    proved, not_proved = _sentences(proof, compared)
    colour = sys.stdout.isatty()

    def mark(text: str, foreground: str) -> str:
        return click.style(text, fg=foreground, bold=True) if colour else text

    lines = []
    if proof.emulated:
        lines.append(mark("*** EMULATED: this is not Nitro hardware ***", "yellow"))
    pcr0 = proof.attestation.pcrs.get(0, b"").hex()
    statement = proof.statement
    lines += [
        f"signer         {proof.url}",
        f"deployment     {statement.deployment}",
        f"PCR0           {pcr0}{'  (EMULATED)' if proof.emulated else ''}",
        f"manifest       {statement.manifest} (version {statement.manifest_version})",
        f"administrator  {statement.administrator}",
        f"certificate    {proof.certificate}",
        "",
        mark("proved:", "green"),
        *(f"  + {sentence}" for sentence in proved),
    ]
    if not_proved:
        lines.append(mark("not proved:", "yellow"))
        lines += [f"  - {sentence}" for sentence in not_proved]
    return lines
