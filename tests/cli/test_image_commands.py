"""`nitrosigner image` and `nitrosigner kms`, run as a person runs them."""

import datetime as dt
import json
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from nitrosigner.cli.main import run
from nitrosigner.image.eif.measure import Measurements, role_register
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.image.eif.signature import Signer
from nitrosigner.image.eif.writer import ImageContents, sign_eif, write_eif
from nitrosigner.image.measurements_file import encode
from nitrosigner.wire.manifest import fingerprint

ROLE, MANAGER, GATEWAY = (
    f"arn:aws:iam::123456789012:role/{name}" for name in ("enclave", "manager", "gate")
)
PCR0, NEXT = "ab" * 48, "cd" * 48
ADMINISTRATOR = "11" * 32
TRAILER = "TRAILER!!!"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    monkeypatch.chdir(tmp_path)

    def go(*arguments: Any) -> Ran:
        code = run(tuple(map(str, arguments)))
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return go


def archive(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    out = b""
    for name, data in {**files, TRAILER: b""}.items():
        path = name.encode("utf-8", "surrogateescape") + b"\0"
        values = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in values) + path
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return out


def write(path: Path, **changed: Any) -> Measurements:
    fields: dict[str, Any] = {
        "kernel": b"kernel",
        "command_line": "reboot=k",
        "ramdisks": [archive({"init": b"#!"}), archive({"app/main.py": b"print()"})],
        "metadata": Metadata(image_name="nitrosigner", image_version="7"),
        **changed,
    }
    return write_eif(path, ImageContents(**fields), replace=True)


@pytest.fixture
def eif(tmp_path: Path) -> Path:
    path = tmp_path / "enclave.eif"
    write(path)
    return path


@pytest.fixture
def signing(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "release\x1b[31m")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA384())
    )
    paths = (tmp_path / "key.pem", tmp_path / "certificate.pem")
    paths[0].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    paths[0].chmod(0o600)
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def signed(cli: Cli, eif: Path, signing: tuple[Path, Path], target: Path) -> Ran:
    password = target.with_name("password")
    password.write_text("open sesame\n")
    password.chmod(0o600)
    return cli(
        *("image", "sign", eif, "--key", signing[0], "--certificate", signing[1]),
        *("--password-file", password, "-o", target, "--json"),
    )


def test_describe_shows_what_is_in_an_image(cli: Cli, eif: Path) -> None:
    ran = cli("image", "describe", eif)
    assert ran.code == 0
    for shown in (
        "version 4, x86_64",
        "1024 MiB and 2 vCPUs",
        "command line   reboot=k",
        "nitrosigner 7",
        "(not measured)",
        "signature      none",
        "ramdisk 1: 1 entries",
        "-rw-r--r-- 0:0          7  app/main.py",
        "(application)",
    ):
        assert shown in ran.out
    value = cli("image", "describe", eif, "--json").json
    assert [one["type"] for one in value["sections"]] == [
        *("kernel", "command line", "metadata", "ramdisk", "ramdisk")
    ]
    assert value["ramdisks"][1]["files"][0]["path"] == "app/main.py"
    assert value["metadata"]["ImageName"] == "nitrosigner"
    assert value["signature"] is None
    without = cli("image", "describe", eif, "--no-files", "--json").json
    assert "files" not in without["ramdisks"][0]


def test_nothing_in_an_image_speaks_to_the_terminal(
    cli: Cli, tmp_path: Path, signing: tuple[Path, Path]
) -> None:
    path = tmp_path / "hostile.eif"
    write(
        path,
        ramdisks=[archive({"\x1b]0;title\x07": b"", "\udcff": b""})],
        metadata=Metadata(image_name="\x1b[2J", image_version="\u202e1"),
    )
    target = tmp_path / "signed.eif"
    assert signed(cli, path, signing, target).code == 0
    ran = cli("image", "describe", target)
    assert ran.code == 0
    assert "\\x1b]0;title\\x07" in ran.out
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err)
    write(tmp_path / "other.eif")
    ran = cli("image", "diff", target, tmp_path / "other.eif")
    assert not {"\x1b", "\x07"} & set(ran.out + ran.err)


def test_measure_prints_what_nitro_cli_prints(cli: Cli, eif: Path) -> None:
    measured = write(eif)
    value = cli("image", "measure", eif, "--json").json
    assert value["Measurements"] == {
        "HashAlgorithm": "Sha384 { ... }",
        **measured.named,
    }
    more = cli(
        *("image", "measure", eif, "--role-arn", ROLE),
        *("--instance-id", "i-0123456789abcdef0"),
    )
    assert f"PCR3  {role_register(ROLE).hex()}" in more.out
    assert more.out.index("PCR2") < more.out.index("PCR3") < more.out.index("PCR4")
    assert cli("image", "measure", eif, "--role-arn", "role").code == 2


def test_what_measure_prints_a_policy_can_be_made_of(
    cli: Cli, eif: Path, tmp_path: Path
) -> None:
    (tmp_path / "measured.json").write_text(cli("image", "measure", eif, "--json").out)
    made = cli(*policy_of("--measurements", tmp_path / "measured.json"))
    assert made.code == 0
    assert write(eif).pcr0.hex() in made.out


def test_sign_writes_an_image_that_verifies_and_nothing_else(
    cli: Cli, eif: Path, signing: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "signed.eif"
    ran = signed(cli, eif, signing, target)
    assert ran.code == 0
    assert set(ran.json["Measurements"]) == {"PCR0", "PCR1", "PCR2", "PCR8"}
    value = cli("image", "describe", target, "--json").json
    assert value["signature"]["verified"]
    assert value["measurements"] == ran.json["Measurements"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    again = signed(cli, eif, signing, target)
    assert again.code == 3
    assert "exists" in again.json["error"]["message"]


@pytest.mark.parametrize("missing", ["password", "key", "certificate"])
def test_an_image_that_is_not_signed_is_no_success(
    missing: str, cli: Cli, eif: Path, signing: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "signed.eif"
    options = ["image", "sign", eif, "-o", target]
    if missing != "key":
        options += ["--key", signing[0]]
    if missing != "certificate":
        options += ["--certificate", signing[1]]
    ran = cli(*options)
    assert ran.code == 2
    assert not target.exists()


def test_an_image_whose_signature_is_false_is_shown_and_refused(
    cli: Cli, eif: Path, tmp_path: Path
) -> None:
    target = falsely_signed(eif, tmp_path)
    ran = cli("image", "describe", target)
    assert ran.code == 3
    assert "NOT TRUE" in ran.out
    assert "PCR8" not in ran.out
    for command in (("measure", target), ("diff", eif, target)):
        ran = cli("image", *command)
        assert (ran.code, ran.out) == (3, "")


def falsely_signed(eif: Path, tmp_path: Path) -> Path:
    """Sign one image, then change a byte of its kernel and mend the checksum."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA384())
    )
    target = tmp_path / "false.eif"
    with eif.open("rb") as file:
        sign_eif(target, read_eif(file), Signer(key, certificate))
    data = bytearray(target.read_bytes())
    data[560] ^= 1
    crc = zlib.crc32(data[548:], zlib.crc32(data[:544]))
    data[544:548] = crc.to_bytes(4, "big")
    target.write_bytes(data)
    return target


def test_diff_names_the_file_and_what_changed(
    cli: Cli, eif: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.eif"
    write(
        other,
        command_line="reboot=t",
        ramdisks=[
            archive({"init": b"#!"}, mode=0o100755),
            archive({"app/main.py": b"print(1)", "app/new.py": b""}),
        ],
    )
    assert cli("image", "diff", eif, eif).code == 0
    ran = cli("image", "diff", eif, other)
    assert ran.code == 3
    assert ran.out.splitlines() == [
        "different: PCR0, PCR1, PCR2",
        "command line: - reboot=k",
        "command line: + reboot=t",
        "ramdisk 1: ~ init: mode -rw-r--r-- → -rwxr-xr-x",
        "ramdisk 2: + app/new.py",
        "ramdisk 2: ~ app/main.py: size 7 → 8, content",
    ]
    value = cli("image", "diff", eif, other, "--json").json
    assert value["differing"] == ["PCR0", "PCR1", "PCR2"]
    assert value["ramdisks"][1]["changed"][0]["what"] == ["size", "content"]


@pytest.mark.parametrize("command", ["describe", "measure", "diff"])
def test_what_is_no_image_is_said_to_be_none(
    command: str, cli: Cli, eif: Path, tmp_path: Path
) -> None:
    for name, data in (("empty", b""), ("cut", eif.read_bytes()[:-1])):
        path = tmp_path / name
        path.write_bytes(data)
        more = [eif] if command == "diff" else []
        ran = cli("image", command, path, *more)
        assert (ran.code, ran.out) == (2, "")
        assert "no enclave image" in ran.err
    assert cli("image", command, "absent", *more).code == 2


def policy_of(*more: Any) -> tuple[Any, ...]:
    return (
        *("image", "policy", "--deployment", "prod", "--administrator", ADMINISTRATOR),
        *("--enclave-role", ROLE, "--key-administrator", MANAGER, *more),
    )


def test_the_policy_that_is_written_lints_clean(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "measurements.json").write_bytes(
        encode(Measurements(b"\xab" * 48, b"\x01" * 48, b"\x02" * 48), {})
    )
    target = tmp_path / "policy.json"
    ran = cli(
        *policy_of("--measurements", "measurements.json", "--pcr0", NEXT.upper()),
        *("--gateway-role", GATEWAY, "--bind-role", "--pcr8", "56" * 48, "-o", target),
    )
    assert ran.code == 0
    assert "put-key-policy" in ran.err
    assert "two images" in ran.err
    text = target.read_text()
    for part in (PCR0, NEXT, role_register(ROLE).hex(), "56" * 48, GATEWAY):
        assert part in text
    lint = cli("kms", "lint", target)
    assert (lint.code, lint.out.split(":")[0]) == (0, "clean")
    assert cli("kms", "lint", target, "--json").json == {"clean": True, "findings": []}
    assert cli(*policy_of("--pcr0", PCR0, "-o", target)).code == 3


def test_the_administrator_may_be_named_by_a_key_file(cli: Cli, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "administrator.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    ran = cli(*policy_of("--pcr0", PCR0, "--administrator", path))
    assert fingerprint(key.public_key()) in ran.out


def test_a_final_policy_says_what_it_means(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "policy.json"
    ran = cli(*policy_of("--pcr0", PCR0, "--final", "-o", target))
    assert ran.code == 0
    assert "bypass" in ran.err
    lint = cli("kms", "lint", target)
    assert lint.code == 0
    assert lint.out.startswith("note: nobody may ever change")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 2),
        (("--pcr0", "12"), 2),
        (("--pcr0", "0" * 96), 3),
        (("--pcr0", PCR0, "--pcr0", NEXT, "--pcr0", "ef" * 48), 2),
        (("--pcr0", PCR0, "--gateway-role", ROLE), 2),
        (("--measurements", "absent"), 2),
        (("--pcr0", PCR0, "--pcr8", "0" * 96), 3),
    ],
)
def test_a_policy_that_would_be_wrong_is_not_written(
    more: tuple[str, ...], code: int, cli: Cli
) -> None:
    ran = cli(*policy_of(*more))
    assert (ran.code, ran.out) == (code, "")


def test_lint_names_statement_request_and_remedy(cli: Cli, tmp_path: Path) -> None:
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Default\x1b",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    ran = cli("kms", "lint", path)
    assert ran.code == 3
    assert "error [Default\\x1b]: it lets the account open the vault" in ran.out
    assert "  for example: " in ran.out
    assert "  remedy: " in ran.out
    assert "\x1b" not in ran.out
    value = cli("kms", "lint", path, "--json").json
    assert not value["clean"]
    assert {one["severity"] for one in value["findings"]} >= {"error", "warning"}


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[" * 200_000])
def test_what_is_no_policy_is_malformed(data: bytes, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(data)
    ran = cli("kms", "lint", "policy.json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("nitrosigner: error: ")
