"""`nitrosigner image policy`: the KMS key policy for the images of a deployment."""

from pathlib import Path
from typing import Final

import click

from nitrosigner.cli.administrator import load_administrator
from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file, write_new
from nitrosigner.cli.output import Output
from nitrosigner.image import measurements_file
from nitrosigner.image.eif.measure import role_register
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.image.key_policy_lint import is_clean, lint
from nitrosigner.verdicts import Code, Malformed, Undecided
from nitrosigner.wire.manifest import fingerprint

MAX_IMAGES: Final = 2
"""An old and a new one during a rollout; more is a rollout that was not finished."""
_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--measurements",
    "files",
    multiple=True,
    type=_file,
    metavar="FILE",
    help="measurements.json of a build; twice during a rollout.",
)
@click.option("--pcr0", multiple=True, metavar="HEX", help="A measurement itself.")
@click.option(
    "--administrator",
    required=True,
    metavar="HEX|FILE",
    help="The fingerprint of who signs manifests, or his key's file.",
)
@click.option("--deployment", required=True, help="The manifest's deployment.")
@click.option(
    "--enclave-role", required=True, metavar="ARN", help="The parent instance's role."
)
@click.option(
    "--key-administrator",
    required=True,
    metavar="ARN",
    help="The role that manages the key, and opens nothing.",
)
@click.option("--gateway-role", metavar="ARN", help="The Lambda that imports keys.")
@click.option(
    "--bind-role/--no-bind-role",
    default=False,
    help="Demand PCR3 of the enclave's role too.",
)
@click.option("--pcr3", multiple=True, metavar="HEX", help="Demand this PCR3.")
@click.option("--pcr8", multiple=True, metavar="HEX", help="Demand this PCR8.")
@click.option(
    "--final",
    is_flag=True,
    help="Nobody may ever change the policy: a new image then means a new key.",
)
@click.option("--output", "-o", "target", type=_file, metavar="FILE")
@json_option
def policy(
    *,
    files: tuple[Path, ...],
    pcr0: tuple[str, ...],
    administrator: str,
    deployment: str,
    enclave_role: str,
    key_administrator: str,
    gateway_role: str | None,
    bind_role: bool,
    pcr3: tuple[str, ...],
    pcr8: tuple[str, ...],
    final: bool,
    target: Path | None,
    as_json: bool,
) -> None:
    """
    Write the KMS key policy that lets these images, and nothing else, open the vault.

    Give the old and the new measurement during a rollout, and the new one alone after
    it. See docs/operations/key-policy.md.
    """
    images = [_lower(one) for one in pcr0]
    images += [
        measurements_file.parse(read_file(one, "the measurements"))[0].hex()
        for one in files
    ]
    images = list(dict.fromkeys(images))
    if not images:
        raise Malformed(
            Code.USAGE,
            "no measurement is given",
            "give --measurements measurements.json, or --pcr0 HEX",
        )
    if len(images) > MAX_IMAGES:
        raise Malformed(
            Code.USAGE,
            f"a policy names at most {MAX_IMAGES} images",
            "the old one and the new one; finish the other rollout first",
        )
    bound = [role_register(enclave_role).hex()] if bind_role else []
    made = KeyPolicy(
        measurements=images,
        administrator=_fingerprint(administrator),
        deployment=deployment,
        enclave_role=enclave_role,
        key_administrator=key_administrator,
        gateway_role=gateway_role,
        pcr3=list(dict.fromkeys([*(_lower(one) for one in pcr3), *bound])),
        pcr8=[_lower(one) for one in pcr8],
        changeable=not final,
    )
    text = made.text
    if not is_clean(lint(text)):
        raise Undecided(
            Code.INTERNAL,
            "the policy that was made is not clean",
            "this is a bug of nitrosigner; nothing was written",
        )
    output = Output(as_json)
    if made.needs_bypass:
        output.say(
            "nobody will be able to change this policy; KMS takes it only with "
            "--bypass-policy-lockout-safety-check"
        )
    if len(images) > 1:
        output.say("two images may open the vault; name the new one alone when it runs")
    if target is not None:
        write_new(target, text.encode() + b"\n")
        output.say(
            f"wrote {target}; put it: aws kms put-key-policy --key-id KEY "
            f"--policy-name default --policy file://{target}"
        )
    if target is None or as_json:
        click.echo(text)


def _lower(text: str) -> str:
    return text.strip().lower().removeprefix("0x")


def _fingerprint(given: str) -> str:
    digits = _lower(given).replace(":", "")
    if len(digits) == 64 and all(one in "0123456789abcdef" for one in digits):
        return digits
    return fingerprint(load_administrator(Path(given)).public_key())
