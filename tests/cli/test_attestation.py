"""`nitrosigner attestation inspect`: the document, the verdict, and its reason."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import click
import pytest
from cryptography.hazmat.primitives import serialization

from nitrosigner.cli.attestation import attestation
from nitrosigner.emulator import nsm as emulated
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm
from nitrosigner.verdicts import Malformed
from nitrosigner.wire.statement import Statement, encode

VECTORS = Path(__file__).parents[2] / "../shared/vectors/attestation"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
PKI = NitroPki.new(NOW)
STATEMENT = Statement(
    deployment="local",
    manifest="aa" * 32,
    manifest_version=7,
    administrator="bb" * 32,
    tls="cc" * 32,
)
PCR0 = b"\x10" * 48


@dataclass
class Inspected:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Inspected:
        command: Sequence[str] = ["inspect", *map(str, arguments)]
        code = attestation.main(list(command), standalone_mode=False)
        captured = capsys.readouterr()
        return Inspected(code or 0, captured.out, captured.err)

    return run


def _document(*, debug: bool = False, user_data: bytes | None = None) -> bytes:
    code = {0: PCR0, 1: b"\x11" * 48, 2: b"\x12" * 48}
    pcrs = emulated.initial_pcrs(code, instance_id=PKI.instance_id, debug=debug)
    said = encode(STATEMENT) if user_data is None else user_data
    return EmulatedNsm(PKI, pcrs, lambda: NOW).attest(
        public_key=b"\x01" * 32, user_data=said, nonce=b"\x02" * 8
    )


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.bin"
    path.write_bytes(_document())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(PKI.root.public_bytes(serialization.Encoding.PEM))
    return path


AT = ("--at", "2026-05-04T12:00:01Z")


def test_a_document_under_another_root_is_refused_and_shown(
    inspect: Any, document: Path
) -> None:
    shown = inspect(document, *AT)
    assert shown.code == 3
    assert "REFUSED: the document's root certificate is not one" in shown.out
    assert "*** EMULATED" in shown.out
    assert PCR0.hex() in shown.out
    assert "nitrosigner: error: the document's root certificate" in shown.err


def test_a_root_is_named_by_file_or_fingerprint(
    inspect: Any, document: Path, root: Path, tmp_path: Path
) -> None:
    der = tmp_path / "root.der"
    der.write_bytes(PKI.root.public_bytes(serialization.Encoding.DER))
    fingerprint = PKI.trust_anchor.fingerprint.hex()
    colons = ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    for name in (root, der, fingerprint, colons):
        shown = inspect(document, "--root", name, *AT)
        assert shown.code == 0
        assert "genuine under a root that is NOT AWS's (EMULATED)" in shown.out
        assert "*** EMULATED" in shown.out
        assert shown.err == ""


def test_what_was_not_asked_is_said(inspect: Any, document: Path, root: Path) -> None:
    asked = ("--pcr0", PCR0.hex(), "--nonce", "02" * 8)
    bare = inspect(document, "--root", root, *AT)
    assert "of which program, was not asked" in bare.out
    assert "for which question, was not asked" in bare.out
    full = inspect(document, "--root", root, *AT, *asked)
    assert full.code == 0
    assert "not asked" not in full.out


def test_the_statement_of_our_own_enclave_is_read(
    inspect: Any, document: Path, root: Path
) -> None:
    shown = inspect(document, "--root", root, *AT)
    for text in ("local", "aa" * 32 + " (version 7)", "bb" * 32, "cc" * 32):
        assert text in shown.out
    assert inspect(document, "--json", "--root", root, *AT).json["statement"] == {
        "type": "nitrosigner/1",
        "deployment": "local",
        "manifest": "aa" * 32,
        "manifest_version": 7,
        "administrator": "bb" * 32,
        "tls": "cc" * 32,
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--nonce", "0203"), "nonce differs"),
        (("--pcr0", "aa" * 48), "PCR0 (enclave image) differs"),
        (("--at", "2026-05-04T12:06:00+00:00"), "360 seconds old"),
        (("--at", "2026-05-04T11:50:00"), "certificate 4 of the chain is not valid"),
        (("--at", "1777896660"), "660 seconds old"),
    ],
)
def test_each_expectation_is_a_reason(
    inspect: Any, document: Path, root: Path, options: tuple[str, str], reason: str
) -> None:
    shown = inspect(document, "--root", root, *AT, *options)
    assert shown.code == 3
    assert reason in shown.out
    assert reason in shown.err


def test_debug_mode_is_loud_and_refused(
    inspect: Any, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "debug.bin"
    path.write_bytes(_document(debug=True))
    refused = inspect(path, "--root", root, *AT)
    assert refused.code == 3
    assert "*** DEBUG MODE" in refused.out
    allowed = inspect(path, "--root", root, *AT, "--allow-debug")
    assert allowed.code == 0
    assert "*** DEBUG MODE" in allowed.out


def test_json_holds_everything_and_the_error(inspect: Any, document: Path) -> None:
    shown = inspect(document, "--json", *AT)
    assert shown.code == 3
    assert shown.err == ""
    value = shown.json
    assert value["ok"] is False
    assert value["emulated"] is True
    assert value["error"]["code"] == "attestation_untrusted"
    assert value["pcrs"]["0"] == PCR0.hex()
    assert value["root"] == PKI.trust_anchor.fingerprint.hex()
    assert value["nonce"] == "02" * 8
    assert value["public_key"] == "01" * 32
    assert len(value["certificates"]) == 5


def test_base64_is_read_too(inspect: Any, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "document.txt"
    for blob in (_document(), b"\xd2" + _document()):
        path.write_bytes(base64.encodebytes(blob))
        assert inspect(path, "--root", root, *AT).code == 0


def test_an_old_document_is_checked_as_of_its_time(
    inspect: Any, document: Path, root: Path
) -> None:
    old = inspect(document, "--root", root)
    if datetime.now(UTC) > NOW + timedelta(minutes=5):
        assert old.code == 3
        assert "--at made" in old.err
    assert inspect(document, "--root", root, "--at", "made").code == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends too early"),
        (b"hE=not base64", "base64 is broken"),
        (b"{}", "strict CBOR"),
        (b"\x00" * 100_000, "longer than"),
    ],
)
def test_what_is_no_document_is_malformed(
    inspect: Any, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "document"
    path.write_bytes(content)
    with pytest.raises(Malformed, match=reason):
        inspect(path)


@pytest.mark.parametrize(
    "options",
    [
        ("--root", "/no/such/file"),
        ("--root", "abcd"),
        ("--at", "yesterday"),
        ("--at", "9" * 30),
        ("--nonce", "xyz"),
        ("--pcr0", "0x0"),
    ],
)
def test_an_option_that_makes_no_sense_is_malformed(
    inspect: Any, document: Path, options: tuple[str, str]
) -> None:
    with pytest.raises(Malformed):
        inspect(document, *options)


def test_a_root_that_is_no_certificate_is_malformed(
    inspect: Any, document: Path, tmp_path: Path
) -> None:
    for content in (b"nothing", b"-----BEGIN CERTIFICATE-----\nAA==\n"):
        (tmp_path / "root").write_bytes(content)
        with pytest.raises(Malformed, match="is not a certificate"):
            inspect(document, "--root", tmp_path / "root")


def test_a_missing_file_is_malformed(inspect: Any, tmp_path: Path) -> None:
    with pytest.raises((Malformed, click.UsageError)):
        inspect(tmp_path / "none")


def test_a_document_whose_certificates_cannot_be_read_is_still_shown(
    inspect: Any, tmp_path: Path
) -> None:
    parts = cbor2.loads(_document())
    fields = cbor2.loads(parts[2]) | {"certificate": b"\x1b[2J", "user_data": b"\x1b["}
    path = tmp_path / "document.bin"
    path.write_bytes(cbor2.dumps([*parts[:2], cbor2.dumps(fields), parts[3]]))
    shown = inspect(path, *AT)
    assert shown.code == 2
    assert "certificates cannot be read" in shown.out
    assert "\x1b" not in shown.out


def test_an_aws_document_needs_no_root_and_is_not_called_emulated(
    inspect: Any,
) -> None:
    path = VECTORS / "signed-image-2022.bin"
    if not path.exists():
        pytest.skip("the real documents (../shared/vectors) are not on this machine")
    shown = inspect(path, "--at", "made")
    assert shown.code == 0
    assert "genuine under AWS's root" in shown.out
    assert "EMULATED" not in shown.out
    assert "certificate that signed the image" in shown.out
