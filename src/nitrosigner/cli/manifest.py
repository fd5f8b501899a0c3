"""`nitrosigner manifest`: what an enclave is told, written, signed and read."""

from pathlib import Path
from typing import Any

import click
import msgspec

from nitrosigner.cli.administrator import load_administrator
from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file, write_new
from nitrosigner.cli.output import Output
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import manifest as manifests
from nitrosigner.wire.manifest import (
    MAX_MANIFEST,
    AcceptedManifest,
    Aws,
    Client,
    Manifest,
    Network,
    SignedManifest,
)
from nitrosigner.wire.manifest_validators import Validators

_file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_new_file = click.Path(path_type=Path, dir_okay=False)


@click.group()
def manifest() -> None:
    """Write, sign, show and check what an enclave is told."""


@manifest.command()
@click.option("--deployment", required=True, help="The deployment's name.")
@click.option("--kms-key-arn", required=True, help="The KMS key; its region too.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    required=True,
    metavar="NAME=CHAIN_ID",
    help="A chain that transactions may be signed for; the first is the default.",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    type=_file,
    metavar="FILE",
    help="An entry that `nitrosigner client new` printed.",
)
@click.option(
    "--tls-name",
    "tls_names",
    multiple=True,
    metavar="NAME",
    help="Names and addresses that clients call the signer by.",
)
@click.option(
    "--validators",
    "beacon_network",
    metavar="NAME",
    help="The beacon chain that validators sign for: mainnet, sepolia, hoodi, …",
)
@click.option("--version", "number", type=click.IntRange(min=1), default=1)
@click.option("--output", "-o", "file", type=_new_file, metavar="FILE")
@json_option
def new(
    *,
    deployment: str,
    kms_key_arn: str,
    networks: tuple[str, ...],
    beacon_network: str | None,
    clients: tuple[Path, ...],
    tls_names: tuple[str, ...],
    number: int,
    file: Path | None,
    as_json: bool,
) -> None:
    """
    Write a manifest, not signed yet, to be edited and then signed.

    What it does not allow is refused.
    """
    fields: dict[str, Any] = {
        "deployment": deployment,
        "version": number,
        "aws": Aws(region=_region(kms_key_arn), kms_key_arn=kms_key_arn),
        "networks": [_network(network) for network in networks],
        "clients": [_client(path) for path in clients],
    }
    if tls_names:
        fields["tls_names"] = list(tls_names)
    if beacon_network is not None:
        fields["validators"] = Validators(network=beacon_network)
    payload = msgspec.json.format(msgspec.json.encode(Manifest(**fields)), indent=2)
    made = manifests.parse(payload)
    output = Output(as_json)
    if file is not None:
        write_new(file, payload + b"\n")
        output.say(f"wrote {file}; edit it, then: nitrosigner manifest sign {file}")
        if not as_json:
            return
    output.result(made, [payload.decode()])


@manifest.command()
@click.argument("payload", type=_file)
@click.option(
    "--administrator-key",
    "--administrator",
    "key",
    type=_new_file,
    required=True,
    metavar="FILE",
    help="The administrator's private key.",
)
@click.option(
    "--output", "-o", "file", type=_new_file, metavar="FILE", help="Where it goes."
)
@json_option
def sign(payload: Path, key: Path, file: Path | None, as_json: bool) -> None:
    """Sign the manifest in PAYLOAD. The result is printed, or written to --output."""
    parsed = manifests.parse(read_file(payload, "the manifest", MAX_MANIFEST))
    signed = manifests.sign(parsed, load_administrator(key))
    accepted = manifests.accept(signed)
    output = Output(as_json)
    if file is None:
        output.say(f"digest {accepted.digest}, administrator {accepted.administrator}")
        output.result(msgspec.Raw(signed), [signed.decode()])
        return
    write_new(file, signed)
    output.fields({"file": str(file), **_summary(accepted)}, _summary_lines(accepted))


@manifest.command()
@click.argument("file", type=_file)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a manifest, signed or not, as what it allows."""
    data = read_file(file, "the manifest", MAX_MANIFEST)
    output = Output(as_json)
    if _is_signed(data):
        accepted = manifests.accept(data)
        head = _summary_lines(accepted)
        shown, value = accepted.manifest, {**_summary(accepted), "signed": True}
    else:
        shown, value = manifests.parse(data), {"signed": False}
        head = [("NOT SIGNED", "an enclave does not take it like this")]
    if as_json:
        output.result({**value, "manifest": shown}, [])
        return
    output.fields(value, [*head, *_body_lines(shown)])


@manifest.command()
@click.argument("file", type=_file)
@click.option("--administrator", metavar="HEX", help="Whose signature it must be.")
@click.option(
    "--newer-than",
    type=_file,
    metavar="FILE",
    help="The manifest in force, that this one is to replace.",
)
@json_option
def check(
    file: Path, administrator: str | None, newer_than: Path | None, as_json: bool
) -> None:
    """Check that an enclave would take the signed manifest in FILE."""
    accepted = manifests.accept(read_file(file, "the manifest", MAX_MANIFEST))
    if administrator is not None and accepted.administrator != administrator.lower():
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            "the manifest is signed by another administrator",
            f"its administrator is {accepted.administrator}",
        )
    if newer_than is not None:
        _check_replaces(
            accepted,
            manifests.accept(read_file(newer_than, "the manifest", MAX_MANIFEST)),
        )
    value = {"ok": True, **_summary(accepted)}
    Output(as_json).fields(value, [("ok", "signed"), *_summary_lines(accepted)])


def _check_replaces(new: AcceptedManifest, old: AcceptedManifest) -> None:
    if new.administrator != old.administrator:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            "another administrator signed the manifest in force",
            "under another administrator the enclave finds an empty deployment",
        )
    if new.manifest.deployment != old.manifest.deployment:
        raise Refused(
            Code.MANIFEST_UNTRUSTED, "the manifest in force is of another deployment"
        )
    if new.manifest.version <= old.manifest.version:
        raise Refused(
            Code.MANIFEST_UNTRUSTED,
            f"version {new.manifest.version} does not follow the one in force, "
            f"{old.manifest.version}",
            "raise `version` and sign it again",
        )


def _is_signed(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=SignedManifest)
    except ValueError:
        return False
    return True


def _summary(accepted: AcceptedManifest) -> dict[str, Any]:
    return {
        "deployment": accepted.manifest.deployment,
        "version": accepted.manifest.version,
        "digest": accepted.digest,
        "administrator": accepted.administrator,
    }


def _summary_lines(accepted: AcceptedManifest) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in _summary(accepted).items()]


def _body_lines(shown: Manifest) -> list[tuple[str, str]]:
    lines = [
        ("deployment", shown.deployment),
        ("version", str(shown.version)),
        ("kms key", shown.aws.kms_key_arn),
        ("tls names", ", ".join(shown.tls_names)),
        ("kept deleted", f"{shown.deleted_keys_kept_days} days"),
    ]
    if shown.aws.kms_certificate_authorities:
        lines.append(("KMS CA", "not Amazon's: named in this manifest"))
    lines += [("network", f"{n.name} = {n.chain_id}") for n in shown.networks]
    if shown.validators is not None:
        lines.append(("validators", _validators_line(shown.validators)))
    return lines + [("client", _client_line(client)) for client in shown.clients]


def _validators_line(validators: Validators) -> str:
    line = f"on {validators.network}"
    if validators.custom is not None:
        line += f", a chain of its own with the {validators.custom.preset} preset"
    if validators.expected_keys is not None:
        line += f", ready with {validators.expected_keys} keys"
    if validators.ceiling_slot is not None:
        line += f", no block after slot {validators.ceiling_slot}"
    if validators.ceiling_epoch is not None:
        line += f", no vote after epoch {validators.ceiling_epoch}"
    return line


def _client_line(client: Client) -> str:
    line = (
        f"{client.name}: {', '.join(client.operations) or 'nothing'}"
        f" with keys {', '.join(client.keys) or 'none'}"
    )
    if client.networks is not None:
        line += f" on {', '.join(client.networks) or 'no network'}"
    limits = client.limits
    if limits.max_value_wei is not None:
        line += f", at most {limits.max_value_wei} wei"
    if limits.max_fee_wei is not None:
        line += f", fee at most {limits.max_fee_wei} wei"
    if limits.destinations is not None:
        line += f", to {len(limits.destinations)} addresses only"
    if client.unprotected_legacy:
        line += ", and transactions that ANY chain accepts"
    return line


def _region(arn: str) -> str:
    parts = arn.split(":")
    return parts[3] if len(parts) > 4 else ""


def _network(text: str) -> Network:
    name, _, chain = text.partition("=")
    if not (chain.isascii() and chain.isdigit() and len(chain) < 20):
        raise Malformed(
            Code.USAGE, "--network takes NAME=CHAIN_ID", "for example mainnet=1"
        )
    return Network(name=name, chain_id=int(chain))


def _client(path: Path) -> Client:
    try:
        return msgspec.json.decode(read_file(path, "the client's entry"), type=Client)
    except msgspec.MsgspecError:
        raise Malformed(
            Code.MALFORMED_MANIFEST,
            f"{path} is not a client's entry",
            "nitrosigner client new prints one",
        ) from None
