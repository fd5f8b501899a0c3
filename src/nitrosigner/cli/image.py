"""`nitrosigner image`: what an enclave image holds, measures to, and is signed by."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives import hashes

from nitrosigner.attestation.measurements import MEANINGS
from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file, read_line, reason, warn_of_readers
from nitrosigner.cli.image_policy import policy
from nitrosigner.cli.output import Output
from nitrosigner.image import image_difference
from nitrosigner.image.eif.measure import instance_register, role_register
from nitrosigner.image.eif.reader import Eif, Section, read_eif
from nitrosigner.image.eif.signature import signer
from nitrosigner.image.eif.writer import sign_eif
from nitrosigner.image.image_difference import ImageDifference, RamdiskDifference
from nitrosigner.image.ramdisk import Entry, UnlistedRamdisk
from nitrosigner.verdicts import Code, Malformed, Refused

_file = click.Path(path_type=Path, dir_okay=False)
_DIFFERENT: Final = 3
"""The exit code of `diff` when the images measure differently."""
_LIST_FILES: Final = click.option(
    "--files/--no-files", default=True, help="List the files of the ramdisks."
)


@click.group()
def image() -> None:
    """Look into enclave images, measure, compare and sign them."""


image.add_command(policy)


@image.command()
@click.argument("file", type=_file)
@_LIST_FILES
@json_option
def describe(file: Path, files: bool, as_json: bool) -> None:
    """
    Show what is in the image FILE.

    Its sections, kernel, command line, ramdisks with their files, metadata, signature
    and PCRs. Metadata is not measured: whoever holds the file can rewrite it.
    """
    with _opened(file) as eif:
        described = _described(eif, with_files=files)
        Output(as_json).result(described, _description(file, described))
        # An image that no hypervisor would start has been shown; say so at the end.
        eif.checked_measurements()


@image.command()
@click.argument("file", type=_file)
@click.option("--role-arn", metavar="ARN", help="Add PCR3 of this instance role.")
@click.option("--instance-id", metavar="ID", help="Add PCR4 on this instance.")
@json_option
def measure(
    file: Path, role_arn: str | None, instance_id: str | None, as_json: bool
) -> None:
    """
    Print the PCRs that an enclave of the image FILE will have.

    With --json as nitro-cli prints them.
    """
    with _opened(file) as eif:
        named = dict(eif.checked_measurements().named)
    if role_arn is not None:
        named["PCR3"] = role_register(role_arn).hex()
    if instance_id is not None:
        named["PCR4"] = instance_register(instance_id).hex()
    named = dict(sorted(named.items()))
    Output(as_json).fields(
        {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **named}},
        list(named.items()),
    )


@image.command()
@click.argument("file", type=_file)
@click.option("--key", type=_file, required=True, help="A P-384 private key, PEM.")
@click.option("--certificate", type=_file, required=True, help="Its certificate, PEM.")
@click.option(
    "--password-file", type=_file, metavar="FILE", help="What the key is locked with."
)
@click.option(
    "--output", "-o", "target", type=_file, required=True, help="The signed image."
)
@json_option
def sign(
    *,
    file: Path,
    key: Path,
    certificate: Path,
    password_file: Path | None,
    target: Path,
    as_json: bool,
) -> None:
    """
    Sign the image FILE, so that it has a PCR8.

    PCR0 to PCR2 stay what they are. What was written is read again, and without a
    signature that verifies there is no file and no exit code 0.
    """
    warn_of_readers(key, "the signing key")
    password = None
    if password_file is not None:
        password = read_line(password_file, "the password file").encode()
    by = signer(
        read_file(key, "the signing key"),
        read_file(certificate, "the certificate"),
        now=datetime.now(UTC),
        password=password,
    )
    with _opened(file) as eif:
        measured = sign_eif(target, eif, by)
    output = Output(as_json)
    output.say(f"wrote {target}, and verified its signature")
    output.fields({"Measurements": measured.named}, list(measured.named.items()))


@image.command()
@click.argument("before", type=_file)
@click.argument("after", type=_file)
@json_option
def diff(before: Path, after: Path, as_json: bool) -> int:
    """
    Say what makes two images measure differently: which file of which ramdisk.

    Exit code 0 if both measure the same, 3 if not.
    """
    with ExitStack() as stack:
        found = image_difference.compare(
            stack.enter_context(_opened(before)), stack.enter_context(_opened(after))
        )
    Output(as_json).result(_difference(found), _difference_lines(found))
    return 0 if found.same else _DIFFERENT


@contextmanager
def _opened(path: Path) -> Iterator[Eif]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise Malformed(
            Code.USAGE, f"the image {path} {reason(error)}", "check the path"
        ) from None
    with file:
        if not file.seekable():
            raise Malformed(Code.USAGE, f"{path} is a stream; an image must be a file")
        yield read_eif(file)


def _described(eif: Eif, *, with_files: bool) -> dict[str, Any]:
    return {
        "version": 4,
        "architecture": eif.architecture,
        "default_memory": eif.header.memory,
        "default_vcpus": eif.header.vcpus,
        "sections": [
            {"type": section.kind.title, "offset": section.offset, "size": section.size}
            for section in eif.sections
        ],
        "command_line": eif.command_line,
        "ramdisks": [_ramdisk(eif, one, with_files=with_files) for one in eif.ramdisks],
        "metadata": eif.metadata,
        "signature": _signature(eif),
        "measurements": _measurements(eif),
    }


def _ramdisk(eif: Eif, section: Section, *, with_files: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"size": section.size}
    try:
        files = image_difference.listing(eif, section)
    except UnlistedRamdisk as error:
        return {**described, "unlisted": error.message}
    described["unpacked"] = sum(entry.size for entry in files.values())
    described["entries"] = len(files)
    if with_files:
        described["files"] = [_entry(entry) for entry in files.values()]
    return described


def _entry(entry: Entry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "path": printable(entry.path)}


def _signature(eif: Eif) -> dict[str, Any] | None:
    signature = eif.signature
    if signature is None:
        return None
    certificate = signature.certificate
    try:
        signature.check(eif.unsigned_measurements.pcr0)
    except Refused as error:
        verified, why = False, error.message
    else:
        verified, why = True, ""
    return {
        "verified": verified,
        "why_not": why,
        "subject": printable(certificate.subject.rfc4514_string()),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _measurements(eif: Eif) -> dict[str, str]:
    try:
        return dict(eif.checked_measurements().named)
    except Refused:
        return dict(eif.unsigned_measurements.named)


def _description(file: Path, described: dict[str, Any]) -> Iterator[str]:
    yield f"{file}: enclave image, version 4, {described['architecture']}"
    yield (
        f"asks for {described['default_memory'] >> 20} MiB and"
        f" {described['default_vcpus']} vCPUs"
    )
    yield ""
    for section in described["sections"]:
        yield f"  {section['type']:<13} {section['size']:>11,} bytes"
    yield ""
    yield f"command line   {printable(described['command_line'])}"
    metadata = described["metadata"]
    if metadata is not None:
        build = metadata.build_metadata
        yield (
            f"metadata       {printable(metadata.image_name)}"
            f" {printable(metadata.image_version)}, kernel"
            f" {printable(build.kernel_version)}, built by"
            f" {printable(build.build_tool)} {printable(build.build_tool_version)}"
            f" at {printable(build.build_time)} (not measured)"
        )
    signature = described["signature"]
    if signature is None:
        yield "signature      none: PCR8 will be all zeros"
    elif signature["verified"]:
        yield f"signature      by {signature['subject']}, verified"
    else:
        yield f"signature      NOT TRUE: {signature['why_not']}"
    for number, ramdisk in enumerate(described["ramdisks"], start=1):
        yield ""
        yield from _ramdisk_lines(number, ramdisk)
    yield ""
    for name, value in described["measurements"].items():
        yield f"{name}  {value}  ({MEANINGS[int(name[3:])]})"


def _ramdisk_lines(number: int, ramdisk: dict[str, Any]) -> Iterator[str]:
    if "unlisted" in ramdisk:
        yield f"ramdisk {number}: {ramdisk['unlisted']}"
        return
    yield (
        f"ramdisk {number}: {ramdisk['entries']} entries,"
        f" {ramdisk['unpacked']:,} bytes unpacked"
    )
    for one in ramdisk.get("files", ()):
        entry = Entry(**one)
        yield (
            f"  {entry.mode_text} {entry.owner}:{entry.group} {entry.size:>10}"
            f"  {entry.path}"
        )


def _difference(found: ImageDifference) -> dict[str, Any]:
    return {
        "same": found.same,
        "differing": [f"PCR{index}" for index in found.registers],
        "kernel": found.kernel,
        "command_lines": found.command_lines,
        "ramdisks": [
            {
                "number": one.number,
                "added": [_entry(entry) for entry in one.added],
                "removed": [_entry(entry) for entry in one.removed],
                "changed": [
                    {
                        "path": printable(change.before.path),
                        "what": change.what,
                        "before": _entry(change.before),
                        "after": _entry(change.after),
                    }
                    for change in one.changed
                ],
                "same_files": one.same_files,
                "unlisted": one.unlisted,
            }
            for one in found.ramdisks
        ],
        "unmeasured": found.unmeasured,
    }


def _difference_lines(found: ImageDifference) -> Iterator[str]:
    if found.same:
        yield "both measure the same"
    else:
        names = ", ".join(f"PCR{index}" for index in found.registers)
        yield f"different: {names}"
    if found.kernel:
        yield "kernel: another one"
    if found.command_lines is not None:
        yield f"command line: - {printable(found.command_lines[0])}"
        yield f"command line: + {printable(found.command_lines[1])}"
    for ramdisk in found.ramdisks:
        yield from _ramdisk_difference_lines(ramdisk)
    if found.unmeasured:
        yield f"not measured, and different: {', '.join(found.unmeasured)}"


def _ramdisk_difference_lines(found: RamdiskDifference) -> Iterator[str]:
    name = f"ramdisk {found.number}"
    if found.unlisted:
        yield f"{name}: its bytes differ; {found.unlisted}"
    if found.same_files:
        yield (
            f"{name}: the same files, packed differently (order, inodes, compression)"
        )
    for entry in found.removed:
        yield f"{name}: - {printable(entry.path)}"
    for entry in found.added:
        yield f"{name}: + {printable(entry.path)}"
    for change in found.changed:
        old, new = change.before, change.after
        shown = [
            f"{what} {getattr(old, what)} → {getattr(new, what)}"
            if what not in ("content", "mode")
            else f"mode {old.mode_text} → {new.mode_text}"
            if what == "mode"
            else "content"
            for what in change.what
        ]
        yield f"{name}: ~ {printable(old.path)}: {', '.join(shown)}"


def printable(text: str) -> str:
    """Return *text*, which a stranger wrote, without what a terminal would obey."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
