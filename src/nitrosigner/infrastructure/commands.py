"""
The commands that this room adds to `nitrosigner`: `deploy plan|status|doctor|…`.

Found through an entry point, like the emulator's, because they use the parent's stores
and the command line must not. Every other command loads this file too, so it imports
what it needs only when one of its commands is run. None of them needs Node.js.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from nitrosigner.infrastructure.account import Account
    from nitrosigner.infrastructure.outputs import Outputs

_file = click.Path(path_type=Path, dir_okay=False)
_outputs = click.option(
    "--outputs",
    "file",
    type=_file,
    metavar="FILE",
    help="What cdk deploy --outputs-file wrote. Without it the stack itself is asked.",
)
_stack = click.option(
    "--stack", metavar="NAME", help="Which one; one of a file may be left out."
)
_region = click.option(
    "--region",
    metavar="NAME",
    help="Of the stack, if there is no file; else AWS's own.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
_SHOWN: Final = 16


@click.group()
def deploy() -> None:
    """Look at the AWS stacks, and say what to do next."""


@deploy.command()
@click.option(
    "--settings",
    "file",
    type=_file,
    default=Path("deployment.json"),
    show_default=True,
    help="The stacks' settings; without the file everything is an example.",
)
@_json
def plan(file: Path, as_json: bool) -> None:
    """Show what the four stacks would be, and what they still lack."""
    from nitrosigner.cli.output import Output
    from nitrosigner.infrastructure import settings
    from nitrosigner.infrastructure.app import image_of
    from nitrosigner.infrastructure.deployment_checks import CDK

    chosen = settings.read(file) if file.exists() else settings.Settings()
    image = image_of(chosen, file.resolve().parent)
    rows: list[dict[str, Any]] = [
        {
            "stack": one.name,
            "mode": "DEBUG" if one.debug else "production",
            "deployment": one.deployment,
            "administrator": one.chosen.administrator,
            "measurements": None if one.debug or not image.eif else image.admitted,
            "instances": f"{one.chosen.minimum}-{one.chosen.maximum} "
            f"{one.instance_type}",
            "lacks": one.not_deployable,
            "next": f"{CDK} deploy {one.name} --outputs-file outputs.json"
            if not one.not_deployable
            else "see docs/operations/first-deployment.md",
        }
        for one in settings.plans(chosen, measured=image.eif is not None)
    ]
    output = Output(as_json)
    output.table(
        {"stacks": rows},
        ("stack", "mode", "deployment", "PCR0", "instances", "next"),
        [
            (
                row["stack"],
                row["mode"],
                row["deployment"],
                (row["measurements"] or ["-"])[0][:_SHOWN],
                row["instances"],
                row["next"],
            )
            for row in rows
        ],
        empty="no stacks",
    )
    if not as_json:
        for row in rows:
            for reason in row["lacks"]:
                output.say(f"{row['stack']}: {reason}")


@deploy.command()
@_outputs
@_stack
@_region
@click.option("--offline", is_flag=True, help="Read the file only; ask AWS nothing.")
@_json
def status(
    *,
    file: Path | None,
    stack: str | None,
    region: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Show what was deployed and, with AWS credentials, how it stands."""
    from nitrosigner.cli.output import Output

    if offline and file is None:
        raise click.UsageError("--offline needs --outputs FILE")
    name, outputs = _described(file, stack, region)
    shown: dict[str, Any] = {
        "stack": name,
        "mode": outputs.mode,
        "url": f"https://{outputs.host}",
        "deployment": outputs.deployment,
        "administrator": outputs.administrator,
        "measurements": outputs.admitted,
        "kms_key": outputs.key_arn,
    }
    if not offline:
        shown |= _live(name, outputs, account(outputs.region))
    Output(as_json).fields(
        shown,
        [
            (
                field,
                (", ".join(value) or "none") if isinstance(value, list) else str(value),
            )
            for field, value in shown.items()
        ],
    )


def _live(stack: str, outputs: "Outputs", account: "Account") -> dict[str, Any]:
    found = account.manifest(outputs)
    version = None
    if found is not None:
        from nitrosigner.wire import manifest

        version = manifest.accept(found[0]).manifest.version
    found_stack = account.stack(stack)
    return {
        "stack_status": "absent" if found_stack is None else found_stack.status,
        "key_state": account.key_state(outputs.key_arn),
        "manifest_version": version,
        "started": account.initialised(outputs.init_flag),
        "instances": [
            f"{one.name} {one.lifecycle} {one.health}"
            for one in account.instances(outputs.group)
        ],
        "alarms": account.alarms(stack),
    }


@deploy.command()
@_outputs
@_stack
@_region
@_json
@click.pass_context
def doctor(
    context: click.Context,
    *,
    file: Path | None,
    stack: str | None,
    region: str | None,
    as_json: bool,
) -> None:
    """
    Check every step from the stack to a signature; say what to do next.

    Ends with 1 if one fails. The first that fails is the one to mend.
    """
    from nitrosigner.cli.output import Output, json_text
    from nitrosigner.infrastructure.deployment_checks import check

    name, outputs = _described(file, stack, region)
    where = f"--stack {name} --region {outputs.region}"
    if file is not None:
        where = f"--outputs {file} --stack {name}"
    output = Output(as_json)
    findings = []
    for finding in check(name, outputs, account(outputs.region), where):
        findings.append(finding)
        if not as_json:
            mark = "ok" if finding.ok else "FAILS"
            click.echo(f"{finding.step:<11} {mark:<6} {finding.sentence}")
            if finding.hint:
                output.say(f"next: {finding.hint}")
    ok = all(finding.ok for finding in findings)
    if as_json:
        steps = [
            {
                "step": one.step,
                "ok": one.ok,
                "message": one.sentence,
                "hint": one.hint,
            }
            for one in findings
        ]
        click.echo(json_text({"stack": name, "ok": ok, "steps": steps}))
    if not ok:
        context.exit(1)


@deploy.command("publish-manifest")
@_outputs
@_stack
@_region
@click.argument("manifest", type=_file)
@_json
def publish_manifest(
    *,
    file: Path | None,
    stack: str | None,
    region: str | None,
    manifest: Path,
    as_json: bool,
) -> None:
    """Put the signed MANIFEST in force for the next boots of the stack's enclaves."""
    from nitrosigner.cli.files import read_file
    from nitrosigner.cli.output import Output
    from nitrosigner.infrastructure.deployment_checks import check_manifest
    from nitrosigner.verdicts import Code, Refused, Undecided
    from nitrosigner.wire import manifest as manifests

    name, outputs = _described(file, stack, region)
    signed = read_file(manifest, "the manifest", manifests.MAX_MANIFEST)
    accepted = check_manifest(outputs, signed)
    reached = account(outputs.region)
    before = reached.manifest(outputs)
    expected = 0
    if before is not None:
        expected = before[1]
        newer = manifests.accept(before[0]).manifest.version
        if before[0] != signed and newer >= accepted.manifest.version:
            raise Refused(
                Code.MANIFEST_UNTRUSTED,
                f"version {newer} is published; enclaves that have seen it refuse "
                f"version {accepted.manifest.version}",
                f"raise the version above {newer} and sign again",
            )
    changed = before is None or before[0] != signed
    if changed and not reached.publish(outputs, signed, expected):
        raise Undecided(
            Code.VERSION_CONFLICT,
            "somebody else published a manifest meanwhile",
            "look at it with nitrosigner deploy status, then try again",
        )
    Output(as_json).fields(
        {
            "stack": name,
            "published": changed,
            "version": accepted.manifest.version,
            "digest": accepted.digest,
        },
        [
            ("stack", name),
            ("version", str(accepted.manifest.version)),
            ("digest", accepted.digest),
            ("published", "yes" if changed else "it was already"),
        ],
    )


def _described(
    file: Path | None, stack: str | None, region: str | None
) -> tuple[str, "Outputs"]:
    """Return the stack's name and outputs, from the file or from CloudFormation."""
    from nitrosigner.infrastructure import outputs as outputs_file

    if file is not None:
        return outputs_file.read(file, stack)
    if stack is None:
        raise click.UsageError("Give --outputs FILE or --stack NAME")
    import boto3
    import msgspec

    from nitrosigner.infrastructure.deployment_checks import deployed

    where = region or boto3.Session().region_name
    if where is None:
        raise click.UsageError("AWS's settings name no region: give --region NAME")
    found = deployed(stack, where, account(where))
    return stack, outputs_file.decode(stack, msgspec.json.encode(found.outputs))


def account(region: str) -> "Account":
    """Return the account that the environment's credentials open."""
    from nitrosigner.infrastructure.account import AwsAccount

    return AwsAccount(region)


commands: Final = (deploy,)
