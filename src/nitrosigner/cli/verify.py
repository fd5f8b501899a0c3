"""`nitrosigner verify`: who answers at a URL, and what that proves."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import write_new
from nitrosigner.client.verification import Proof, attested_authority


@click.command()
@click.argument("signer", metavar="[URL]", required=False)
@click.option(
    "--save-ca",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the signer's certificate authority, once verified.",
)
@expectation_options
@signer_options()
def verify(
    connection: Connection,
    expected: Expected,
    signer: str | None,
    save_ca: Path | None,
) -> None:
    """
    Verify the enclave behind URL, and say what that proves.

    Asks for a fresh attestation document and checks it, its nonce, its measurements,
    and that it vouches for the TLS certificate of that same connection. Needs no CA
    file and sends no credential.
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
    with connection.client(bootstrap=True) as client:
        proof = connection.verify(client, expected)
        if save_ca is not None:
            write_new(save_ca, attested_authority(client, proof))
            connection.output.say(f"wrote {save_ca}")
    connection.output.result(described(proof), _lines(proof))


def described(proof: Proof) -> dict[str, Any]:
    """Return *proof* as JSON values."""
    attestation, statement = proof.attestation, proof.statement
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
        "certificate": proof.certificate,
        "proved": proof.proved(),
        "not_proved": proof.not_proved(),
    }


def _lines(proof: Proof) -> list[str]:
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
        *(f"  + {sentence}" for sentence in proof.proved()),
    ]
    if proof.not_proved():
        lines.append(mark("not proved:", "yellow"))
        lines += [f"  - {sentence}" for sentence in proof.not_proved()]
    return lines
