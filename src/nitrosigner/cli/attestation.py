"""
`nitrosigner attestation`: show an attestation document, and say whether to believe it.

What is shown is what the document says. Only the verdict says whether it is true, so
it stands first, and a document that is refused is still shown: that is how a person
finds out why.
"""

import base64
import binascii
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from nitrosigner.attestation import certificate_chain, cose, measurements, trust_anchors
from nitrosigner.attestation.document import Document
from nitrosigner.attestation.errors import AttestationError, MalformedDocument
from nitrosigner.attestation.trust_anchors import TrustAnchor
from nitrosigner.attestation.verify import (
    MAX_AGE,
    Expectations,
    unverified_document,
    verify,
)
from nitrosigner.cli.connection import json_option
from nitrosigner.cli.files import read_file
from nitrosigner.cli.output import Output, report
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import statement as statements

MAX_INPUT: Final = 2 * cose.MAX_SIGNED
"""Bytes that are read: base64 with line breaks of the largest document fits."""
_HEAD_BASE64: Final = (b"hE", b"0o")
"""How base64 of an untagged and of a tagged COSE_Sign1 begins."""
_MADE: Final = "made"


@click.group()
def attestation() -> None:
    """Look at attestation documents."""


@attestation.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "roots",
    "--root",
    multiple=True,
    metavar="FILE|SHA256",
    help="A root certificate to trust, PEM or DER, or its SHA-256. Default: AWS's.",
)
@click.option(
    "--at",
    metavar="TIME",
    help="Check as of this time, ISO 8601 or Unix seconds; `made`: when it was made.",
)
@click.option("--nonce", metavar="HEX", help="The nonce that it must answer.")
@click.option("--pcr0", metavar="HEX", help="The enclave image that it must measure.")
@click.option("--allow-debug", is_flag=True, help="Take an enclave in debug mode.")
@json_option
@click.pass_context
def inspect(
    context: click.Context,
    *,
    file: Path,
    roots: tuple[str, ...],
    at: str | None,
    nonce: str | None,
    pcr0: str | None,
    allow_debug: bool,
    as_json: bool,
) -> None:
    """
    Show the attestation document in FILE, with a verdict and its reason.

    FILE holds the COSE_Sign1 as it is or in base64; `-` is standard input.
    """
    blob = _blob(read_file(file, "the document", MAX_INPUT))
    document = unverified_document(blob)
    asked = _Asked(
        anchors=tuple(map(_anchor, roots)) or (trust_anchors.AWS_NITRO_ROOT_G1,),
        now=_time(at, document),
        expectations=Expectations(
            pcrs={} if pcr0 is None else {0: _hex(pcr0, "--pcr0")},
            nonce=None if nonce is None else _hex(nonce, "--nonce"),
            allow_debug=allow_debug,
        ),
    )
    refusal: AttestationError | None = None
    try:
        verify(
            blob,
            anchors=asked.anchors,
            now=asked.now,
            expectations=asked.expectations,
        )
    except AttestationError as error:
        refusal = error
    shown = _Shown(document, _certificates(document), asked, refusal)
    Output(as_json).result(_json(shown), _lines(shown))
    if refusal is not None:
        if not as_json:
            report(refusal, as_json=False)
            if at is None and asked.now - document.timestamp > MAX_AGE:
                click.echo(
                    f"nitrosigner: hint: the document was made at"
                    f" {document.timestamp:%FT%TZ}; to check it as of then: --at made",
                    err=True,
                )
        context.exit(refusal.exit_code)


@dataclass(frozen=True, slots=True)
class _Asked:
    anchors: Sequence[TrustAnchor]
    now: datetime
    expectations: Expectations


@dataclass(frozen=True, slots=True)
class _Shown:
    document: Document
    certificates: Sequence[x509.Certificate]
    """Empty if they cannot be read."""
    asked: _Asked
    refusal: AttestationError | None

    @property
    def root(self) -> bytes:
        """SHA-256 of what the document presents as its root."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.document.chain[0])
        return digest.finalize()

    @property
    def emulated(self) -> bool:
        """Whether that is not a root of AWS's."""
        return trust_anchors.by_fingerprint(self.root, "").emulated

    @property
    def statement(self) -> statements.Statement | None:
        """What one of our own enclaves says in its user data."""
        try:
            return statements.decode(self.document.user_data or b"")
        except ValueError:
            return None


def _blob(content: bytes) -> bytes:
    if content[:2] in _HEAD_BASE64:
        try:
            return base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error:
            raise MalformedDocument("the document's base64 is broken") from None
    return content


def _anchor(text: str) -> TrustAnchor:
    path = Path(text)
    if path.is_file():
        data = read_file(path, "the root certificate")
        load = (
            x509.load_pem_x509_certificate
            if b"-----BEGIN" in data
            else x509.load_der_x509_certificate
        )
        try:
            fingerprint = load(data).fingerprint(hashes.SHA256())
        except ValueError:
            raise _usage(f"{path} is not a certificate", "give PEM or DER") from None
        return trust_anchors.by_fingerprint(fingerprint, path.name)
    try:
        fingerprint = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != trust_anchors.FINGERPRINT_SIZE:
        raise _usage(
            "--root is neither a file nor a SHA-256", "a fingerprint is 64 hex digits"
        )
    return trust_anchors.by_fingerprint(fingerprint, "given by fingerprint")


def _time(text: str | None, document: Document) -> datetime:
    if text is None:
        return datetime.now(UTC)
    if text == _MADE:
        return document.timestamp
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text), UTC)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise _usage(
            "--at is not a time", "like 2026-05-04T12:00:00Z, 1777896000 or `made`"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise _usage(f"{option} is not hex", "two digits for each byte") from None


def _usage(sentence: str, hint: str) -> Malformed:
    return Malformed(Code.USAGE, sentence, hint)


def _certificates(document: Document) -> Sequence[x509.Certificate]:
    try:
        return certificate_chain.load(document.chain)
    except MalformedDocument:
        return ()


def _json(shown: _Shown) -> dict[str, Any]:
    document, refusal = shown.document, shown.refusal
    value: dict[str, Any] = {
        "ok": refusal is None,
        "checked_at": shown.asked.now.isoformat(),
        "emulated": shown.emulated,
        "debug": measurements.is_debug(document.pcrs),
        "root": shown.root.hex(),
        "module_id": document.module_id,
        "timestamp": document.timestamp.isoformat(),
        "pcrs": {str(n): value.hex() for n, value in sorted(document.pcrs.items())},
        "public_key": _maybe_hex(document.public_key),
        "user_data": _maybe_hex(document.user_data),
        "statement": shown.statement,
        "nonce": _maybe_hex(document.nonce),
        "certificates": [
            {
                "subject": _common_name(certificate),
                "valid_from": certificate.not_valid_before_utc.isoformat(),
                "valid_to": certificate.not_valid_after_utc.isoformat(),
                "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            }
            for certificate in shown.certificates
        ],
    }
    if refusal is not None:
        value["error"] = {
            "code": refusal.code,
            "message": refusal.message,
            "hint": refusal.hint,
        }
    return value


def _lines(shown: _Shown) -> list[str]:
    document = shown.document
    lines = []
    if shown.emulated:
        lines.append(
            _mark("*** EMULATED: the root certificate is not AWS's ***", "yellow")
        )
    if measurements.is_debug(document.pcrs):
        lines.append(_mark("*** DEBUG MODE: the image is not measured ***", "yellow"))
    lines += [
        *_verdict_lines(shown),
        "",
        f"module id    {document.module_id}",
        f"made         {document.timestamp.isoformat(timespec='milliseconds')}",
        f"root         {shown.root.hex()} ({_root_name(shown)})",
        "",
        *_register_lines(document),
        "",
        *_certificate_lines(shown),
        "",
        f"public key   {_bytes_for_people(document.public_key)}",
        f"nonce        {_bytes_for_people(document.nonce)}",
        f"user data    {_bytes_for_people(document.user_data)}",
    ]
    if (said := shown.statement) is not None:
        lines += [
            f"  deployment        {said.deployment}",
            f"  manifest          {said.manifest} (version {said.manifest_version})",
            f"  administrator     {said.administrator}",
            f"  TLS certificate   {said.tls}"
            + (" (its key was IMPORTED)" if said.tls_imported else ""),
        ]
    return lines


def _verdict_lines(shown: _Shown) -> list[str]:
    if shown.refusal is not None:
        return [_mark("verdict      REFUSED: ", "red") + shown.refusal.message]
    under = "a root that is NOT AWS's (EMULATED)" if shown.emulated else "AWS's root"
    lines = [
        _mark("verdict      genuine", "green")
        + f" under {under}, as of {shown.asked.now:%FT%TZ}"
    ]
    if 0 not in shown.asked.expectations.pcrs:
        lines.append("             of which program, was not asked (--pcr0)")
    if shown.asked.expectations.nonce is None:
        lines.append("             for which question, was not asked (--nonce)")
    return lines


def _register_lines(document: Document) -> list[str]:
    lines = [
        f"PCR{index:<2}        {value.hex()}"
        f"  {measurements.MEANINGS.get(index, 'defined by the application')}"
        for index, value in sorted(document.pcrs.items())
        if value != measurements.ZERO
    ]
    zero = [
        n for n, value in sorted(document.pcrs.items()) if value == measurements.ZERO
    ]
    if zero:
        lines.append(f"all zero     PCR {', '.join(map(str, zero))}")
    return lines


def _certificate_lines(shown: _Shown) -> list[str]:
    if not shown.certificates:
        return ["certificates cannot be read"]
    return [
        f"certificate  {certificate.not_valid_before_utc:%FT%TZ} to"
        f" {certificate.not_valid_after_utc:%FT%TZ}  {_common_name(certificate)}"
        for certificate in shown.certificates
    ]


def _root_name(shown: _Shown) -> str:
    known = trust_anchors.by_fingerprint(shown.root, "not AWS's")
    return known.name


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _printable(str(names[0].value)) if names else "(no name)"


def _printable(text: str) -> str:
    """What comes from a stranger's file must not move the cursor of a terminal."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def _bytes_for_people(value: bytes | None) -> str:
    if value is None:
        return "none"
    if not value:
        return "empty"
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable():
        return f"{text!r} ({len(value)} bytes)"
    return f"{value.hex()} ({len(value)} bytes)"


def _maybe_hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _mark(text: str, colour: str) -> str:
    return click.style(text, fg=colour, bold=True) if sys.stdout.isatty() else text
