"""Commands that need no signer: administrator, client, manifest, and the command itself."""

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nitrosigner.cli.main import run
from nitrosigner.wire import manifest as manifests

ARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    monkeypatch.chdir(tmp_path)

    def go(*arguments: Any) -> tuple[int, str, str]:
        code = run(tuple(map(str, arguments)))
        out, err = capfd.readouterr()
        return code, out, err

    return go


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_administrators_key_is_made_private_and_never_overwritten(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "administrator.pem"
    code, out, _ = cli("administrator", "new", file, "--json")
    assert code == 0
    assert mode(file) == 0o600
    before = file.read_bytes()
    key = serialization.load_pem_private_key(before, None).public_key()
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert json.loads(out)["fingerprint"] == hashlib.sha256(raw).hexdigest()
    assert json.loads(cli("administrator", "show", file, "--json")[1]) == json.loads(
        out
    )
    code, out, err = cli("administrator", "new", file)
    assert (code, out) == (3, "")
    assert "exists" in err
    assert file.read_bytes() == before
    assert cli("administrator", "new", tmp_path / "no/such/folder.pem")[0] == 2


def test_a_clients_credentials_are_made_whole_and_private(
    cli: Cli, tmp_path: Path
) -> None:
    code, out, _ = cli(
        "client",
        "new",
        "alice",
        "--operation",
        "sign_transaction",
        "--keys",
        "hot-*",
        "--json",
    )
    assert code == 0
    folder = tmp_path / "alice"
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
        ("cert.pem", "key.pem", "token"), 0o600
    )
    entry = msgspec.json.decode(out, type=manifests.Client)
    token = (folder / "token").read_text().strip()
    assert entry.token_sha256[0] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in out
    certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    assert entry.certificates[0].encode() == (folder / "cert.pem").read_bytes()
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert certificate.public_key() == key.public_key()
    assert (entry.operations, list(entry.keys)) == (
        [manifests.Operation.SIGN_TRANSACTION],
        ["hot-*"],
    )
    before = token
    assert cli("client", "new", "alice")[0] == 3
    assert (folder / "token").read_text().strip() == before
    for name in ("Alice", "", "a b", "../x", "x" * 65):
        assert cli("client", "new", name, "--output", "elsewhere")[0] == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def signed(cli: Cli, tmp_path: Path) -> Path:
    """A manifest on its whole way: clients, new, sign."""
    cli("administrator", "new", "administrator.pem")
    entry = cli("client", "new", "alice", "--operation", "list_keys")[1]
    (tmp_path / "alice.json").write_text(entry)
    code, _, err = cli(
        "manifest",
        "new",
        "--deployment",
        "prod",
        "--kms-key-arn",
        ARN,
        "--network",
        "mainnet=1",
        "--network",
        "sepolia=11155111",
        "--client",
        "alice.json",
        "--tls-name",
        "signer.internal",
        "-o",
        "manifest.payload.json",
    )
    assert code == 0, err
    code, out, err = cli(
        "manifest",
        "sign",
        "manifest.payload.json",
        "--administrator-key",
        "administrator.pem",
        "-o",
        "manifest.json",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["deployment"] == "prod"
    return tmp_path / "manifest.json"


def test_a_manifest_goes_its_whole_way(cli: Cli, signed: Path) -> None:
    accepted = manifests.accept(signed.read_bytes())
    assert accepted.manifest.aws.region == "eu-central-1"
    assert [network.chain_id for network in accepted.manifest.networks] == [1, 11155111]
    assert list(accepted.manifest.tls_names) == ["signer.internal"]
    shown = json.loads(cli("manifest", "show", signed, "--json")[1])
    assert (shown["signed"], shown["digest"]) == (True, accepted.digest)
    assert shown["manifest"]["clients"][0]["name"] == "alice"
    text = cli("manifest", "show", signed)[1]
    for part in (
        "mainnet = 1",
        "alice: list_keys with keys none",
        accepted.administrator,
    ):
        assert part in text
    assert "NOT SIGNED" in cli("manifest", "show", "manifest.payload.json")[1]
    assert (
        cli("manifest", "check", signed, "--administrator", accepted.administrator)[0]
        == 0
    )
    assert cli("manifest", "check", signed, "--administrator", "00" * 32)[0] == 3
    _code, out, _ = cli(
        "manifest",
        "sign",
        "manifest.payload.json",
        "--administrator-key",
        "administrator.pem",
    )
    assert manifests.accept(out.encode()).digest == accepted.digest
    # what was signed is not written over
    assert (
        cli(
            "manifest",
            "sign",
            "manifest.payload.json",
            "--administrator-key",
            "administrator.pem",
            "-o",
            signed,
        )[0]
        == 3
    )


def test_a_manifest_that_replaces_one_must_be_newer_and_of_the_same_hand(
    cli: Cli, signed: Path, tmp_path: Path
) -> None:
    assert cli("manifest", "check", signed, "--newer-than", signed)[0] == 3
    payload = json.loads((tmp_path / "manifest.payload.json").read_bytes())
    (tmp_path / "second.json").write_text(json.dumps({**payload, "version": 2}))
    cli("administrator", "new", "other.pem")
    for key, code in (("administrator.pem", 0), ("other.pem", 3)):
        cli(
            "manifest",
            "sign",
            "second.json",
            "--administrator-key",
            key,
            "-o",
            f"by-{key}.json",
        )
        assert (
            cli("manifest", "check", f"by-{key}.json", "--newer-than", signed)[0]
            == code
        )
    (tmp_path / "elsewhere.json").write_text(
        json.dumps({**payload, "version": 2, "deployment": "test"})
    )
    cli(
        "manifest",
        "sign",
        "elsewhere.json",
        "--administrator-key",
        "administrator.pem",
        "-o",
        "elsewhere.signed.json",
    )
    assert (
        cli("manifest", "check", "elsewhere.signed.json", "--newer-than", signed)[0]
        == 3
    )


def test_altered_manifests_are_refused_or_malformed(
    cli: Cli, signed: Path, tmp_path: Path
) -> None:
    parts = json.loads(signed.read_bytes())
    altered = tmp_path / "altered.json"
    for change, code in (
        ({"signature": parts["signature"][:-4] + "AAA="}, 3),
        ({"payload": "e30="}, 3),
        ({"payload": 1}, 2),
        ({"more": 1}, 2),
    ):
        altered.write_text(json.dumps({**parts, **change}))
        assert cli("manifest", "check", altered)[0] == code, change
    altered.write_bytes(b"\xff\xfe")
    assert cli("manifest", "check", altered)[0] == 2
    assert cli("manifest", "show", altered)[0] == 2
    assert cli("manifest", "check", tmp_path / "absent")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kms-key-arn", "nonsense", "--network", "a=1"],
        ["--kms-key-arn", ARN, "--network", "a"],
        ["--kms-key-arn", ARN, "--network", "a=0"],
        ["--kms-key-arn", ARN, "--network", "a=1", "--network", "b=1"],
        ["--kms-key-arn", ARN, "--network", "A=1"],
        ["--kms-key-arn", ARN],
        ["--kms-key-arn", ARN, "--network", "a=1", "--client", "absent"],
        ["--kms-key-arn", ARN, "--network", "a=1", "--client", "/dev/null"],
    ],
)
def test_what_makes_no_manifest_is_said(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli("manifest", "new", "--deployment", "prod", *arguments)
    assert (code, out) == (2, "")
    assert "nitrosigner: error:" in err
    code, out, _ = cli("manifest", "new", "--deployment", "prod", *arguments, "--json")
    assert set(json.loads(out)["error"]) == {"code", "message", "hint"}


def test_a_manifest_for_validators_names_their_chain(cli: Cli, tmp_path: Path) -> None:
    arguments = ["--kms-key-arn", ARN, "--network", "a=1", "--validators", "hoodi"]
    code, _, err = cli(
        "manifest", "new", "--deployment", "prod", *arguments, "-o", "validators.json"
    )
    assert code == 0, err
    made = json.loads((tmp_path / "validators.json").read_text())
    assert made["validators"]["network"] == "hoodi"
    code, out, _ = cli("manifest", "show", "validators.json")
    assert code == 0
    assert "on hoodi" in out


def test_a_key_that_is_no_administrators_is_refused(cli: Cli, signed: Path) -> None:
    assert (
        cli(
            "manifest",
            "sign",
            "manifest.payload.json",
            "--administrator-key",
            "alice/key.pem",
        )[0]
        == 2
    )
    assert (
        cli(
            "manifest",
            "sign",
            "manifest.payload.json",
            "--administrator-key",
            "alice.json",
        )[0]
        == 2
    )


def test_help_is_given_on_request_and_every_command_has_some(cli: Cli) -> None:
    from click import Group

    from nitrosigner.cli.main import command

    def walk(group: Group, path: list[str]) -> None:
        for name, each in group.commands.items():
            assert each.help, path
            code, out, err = cli(*path, name, "--help")
            assert (code, err) == (0, "")
            assert out.startswith("Usage: nitrosigner")
            if isinstance(each, Group):
                walk(each, [*path, name])

    walk(command(), [])


def test_every_command_that_talks_to_a_signer_takes_the_same_options(cli: Cli) -> None:
    for path in (
        ["keys", "create"],
        ["keys", "import"],
        ["keys", "list"],
        ["keys", "show"],
        ["keys", "disable"],
        ["keys", "enable"],
        ["keys", "delete"],
        ["keys", "restore"],
        ["sign", "transaction"],
        ["sign", "message"],
        ["sign", "typed-data"],
        ["sign", "digest"],
        ["sign", "authorization"],
        ["verify"],
        ["doctor"],
        ["invoke", "wallet"],
    ):
        text = cli(*path, "--help")[1]
        for option in (
            "--url",
            "--ca",
            "--cert",
            "--key",
            "--token-file",
            "--data",
            "--json",
        ):
            assert option in text, (path, option)


def test_a_command_that_is_none_ends_with_2(cli: Cli) -> None:
    for arguments in (
        ["frobnicate"],
        ["keys"],
        ["keys", "frobnicate"],
        [],
        ["--frobnicate"],
    ):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, ""), arguments
        assert "nitrosigner: hint:" in err
    code, out, _ = cli("frobnicate", "--json")
    assert json.loads(out)["error"]["code"] == "usage"


def test_secrets_have_no_place_among_the_options(cli: Cli) -> None:
    for option in ("--private-key", "--password", "--token", "--eth-key"):
        for arguments in ([option, "canary"], [f"{option}=canary"], ["canary"]):
            code, out, err = cli("keys", "import", "--name", "a", *arguments)
            assert (code, out) == (2, "")
            assert "canary" not in err
