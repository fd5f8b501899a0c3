"""Commands that talk to a signer, run as a person runs them: text in, text and a number out."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

SECRET = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
PASSWORD = "canary-password-7f3a"
LOCAL = Account.from_key(SECRET)
TRANSACTION = {
    "type": 2,
    "chainId": 4,
    "nonce": 0,
    "gas": 100000,
    "value": 10**16,
    "to": "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf",
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": 3000000000,
}


Cli = Callable[..., Any]


def test_keys_live_their_life(cli: Cli, data: Path, signer: Any) -> None:
    made = cli(
        "keys",
        "create",
        "--algorithm",
        "secp256k1",
        "--name",
        "hot",
        "--data",
        data,
        "--json",
    ).json
    assert cli("keys", "show", "hot", "--data", data, "--json").json == made
    assert cli("keys", "show", "--name", "hot", "--data", data, "--json").json == made
    assert cli("keys", "list", "--data", data, "--json").json == {"keys": [made]}
    assert (
        cli("keys", "disable", "hot", "--data", data, "--json").json["state"]
        == "disabled"
    )
    assert (
        cli("keys", "enable", made["identity"], "--data", data, "--json").json["state"]
        == "enabled"
    )
    deleted = cli("keys", "delete", "hot", "--data", data, "--json")
    assert deleted.json["state"] == "deleted"
    assert "deleting hot" in deleted.err
    # what somebody changed since it was shown would not be deleted
    assert json.loads(signer.seen[-1].body) == {"version": 3}
    assert (
        cli("keys", "restore", "hot", "--data", data, "--json").json["state"]
        == "enabled"
    )
    assert cli("keys", "rotate-vault", "--data", data, "--json").json == {"keys": 1}
    assert (
        cli("keys", "show", "hot", "--ciphertext", "--data", data).out == "c2VhbGVk\n"
    )


def test_a_person_sees_whole_addresses_on_stdout_and_nothing_else(
    cli: Cli, data: Path, signer: Any
) -> None:
    assert cli("keys", "list", "--data", data).out == ""
    signer.add_key(
        "a-rather-long-name-of-a-key-that-does-not-end-here", bytes.fromhex(SECRET)
    )
    ran = cli("keys", "list", "--data", data)
    assert f" {LOCAL.address} " in ran.out
    assert ran.err == ""
    assert (
        f"address     {LOCAL.address}"
        in cli("keys", "show", LOCAL.address, "--data", data).out
    )


def test_the_folder_called_data_is_taken_when_nothing_is_named(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    assert cli("keys", "list").code == 2
    shutil.move(data, tmp_path / "data")
    assert cli("keys", "list", "--json").json == {"keys": []}


def test_url_and_files_are_enough(
    cli: Cli, options: list[Any], signer: Any, fakes: Any
) -> None:
    assert cli("keys", "create", "--name", "hot", *options).code == 0
    token = [
        "--url",
        signer.url,
        "--ca",
        signer.ca_file,
        "--token-file",
        signer.token_file,
    ]
    assert cli("keys", "list", *token, "--json").json["keys"][0]["name"] == "hot"


def test_transactions_messages_and_typed_data_are_signed(
    cli: Cli, data: Path, signer: Any, tmp_path: Path
) -> None:
    signer.add_key("hot", bytes.fromhex(SECRET))
    file = tmp_path / "transaction.json"
    file.write_text(json.dumps(TRANSACTION))
    expected = LOCAL.sign_transaction(TRANSACTION)
    signed = cli(
        "sign", "transaction", "--key", "hot", file, "--data", data, "--json"
    ).json
    assert signed == {
        "raw": expected.raw_transaction.to_0x_hex(),
        "hash": expected.hash.to_0x_hex(),
        "from": LOCAL.address,
    }
    piped = cli(
        "sign",
        "transaction",
        "--key",
        LOCAL.address,
        "-",
        "--data",
        data,
        stdin=file.read_bytes(),
    )
    assert f"raw   {signed['raw']}\n" in piped.out
    message = cli(
        "sign", "message", "--key", "hot", "-", "--data", data, "--json", stdin=b"hello"
    ).json
    as_hex = cli(
        "sign",
        "message",
        "--key",
        "hot",
        "--hex",
        "-",
        "--data",
        data,
        "--json",
        stdin=b"0x68656c6c6f\n",
    ).json
    assert message == as_hex
    assert (
        Account._recover_hash(message["digest"], signature=message["signature"])
        == LOCAL.address
    )
    typed = {
        "types": {"EIP712Domain": [], "A": [{"name": "x", "type": "uint256"}]},
        "primaryType": "A",
        "domain": {},
        "message": {"x": 2**64},
    }
    made = cli(
        "sign",
        "typed-data",
        "--key",
        "hot",
        "-",
        "--data",
        data,
        "--json",
        stdin=json.dumps(typed).encode(),
    ).json
    assert made["from"] == LOCAL.address
    authorization = {"chainId": 4, "address": TRANSACTION["to"], "nonce": "0x1"}
    made = cli(
        "sign",
        "authorization",
        "--key",
        "hot",
        "-",
        "--data",
        data,
        "--json",
        stdin=json.dumps(authorization).encode(),
    ).json
    assert (
        int(made["r"], 16) == LOCAL.sign_authorization({**authorization, "nonce": 1}).r
    )


def test_in_sign_the_key_option_is_the_signing_key(cli: Cli, signer: Any) -> None:
    signer.add_key("hot", bytes.fromhex(SECRET))
    ran = cli(
        "sign",
        "message",
        "--key",
        "hot",
        "-",
        "--url",
        signer.url,
        "--ca",
        signer.ca_file,
        "--cert",
        signer.cert_file,
        "--cert-key",
        signer.key_file,
        stdin=b"x",
    )
    assert ran.code == 0


def test_an_import_from_a_file_arrives_and_shows_nothing(
    cli: Cli, data: Path, signer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "private"
    file.touch(0o600)
    file.write_text(SECRET + "\n")
    ran = cli(
        "keys",
        "import",
        "--private-key-file",
        file,
        "--name",
        "hot",
        "--data",
        data,
        "--json",
    )
    assert ran.json["identity"] == LOCAL.address
    assert ran.err == ""
    assert signer.secrets["hot"].hex() == SECRET
    conflict = cli(
        "keys",
        "import",
        "--private-key-file",
        "-",
        "--name",
        "hot",
        "--data",
        data,
        "--json",
        stdin=SECRET.encode(),
    )
    assert (conflict.code, conflict.json["error"]["code"]) == (3, "version_conflict")
    file.chmod(0o644)
    replaced = cli(
        "keys",
        "import",
        "--private-key-file",
        file,
        "--name",
        "hot",
        "--version",
        "1",
        "--data",
        data,
        "--json",
    )
    assert replaced.json["version"] == 2
    assert "chmod 600" in replaced.err


def test_an_import_from_a_keystore_takes_its_password_from_a_file(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    keystore, password = tmp_path / "keystore.json", tmp_path / "password"
    keystore.write_text(
        json.dumps(Account.encrypt(SECRET, PASSWORD, kdf="pbkdf2", iterations=2))
    )
    password.touch(0o600)
    password.write_text(PASSWORD + "\n")
    given = [
        "keys",
        "import",
        "--keystore",
        keystore,
        "--name",
        "hot",
        "--data",
        data,
        "--json",
    ]
    asked = cli(*given)
    assert (asked.code, asked.json["error"]["hint"]) == (2, "give --password-file FILE")
    assert cli(*given, "--password-file", password).json["identity"] == LOCAL.address
    password.write_text("wrong")
    assert (
        cli(*given, "--password-file", password).json["error"]["code"]
        == "malformed_key"
    )


def test_a_key_goes_to_a_known_enclave_only(
    cli: Cli, options: list[Any], signer: Any, data: Path
) -> None:
    given = ["keys", "import", "--private-key-file", "-", "--name", "hot", "--json"]
    root = ["--root", data / "emulator/root.pem"]
    unnamed = cli(*given, *options, *root, stdin=SECRET.encode())
    assert (unnamed.code, "--pcr0" in unnamed.json["error"]["message"]) == (2, True)
    other = cli(*given, *options, *root, "--pcr0", "11" * 48, stdin=SECRET.encode())
    assert (other.code, other.json["error"]["code"]) == (3, "attestation_untrusted")
    aws = cli(*given, *options, "--pcr0", "c0" * 48, stdin=SECRET.encode())
    assert (aws.code, aws.json["error"]["code"]) == (3, "attestation_untrusted")
    assert not signer.secrets
    assert (
        cli(*given, *options, *root, "--pcr0", "c0" * 48, stdin=SECRET.encode()).code
        == 0
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "import", "--name", "a"],
        ["keys", "import", "--name", "a", "--private-key-file", "absent"],
        ["keys", "import", "--name", "a", "--private-key-file", "f", "--keystore", "f"],
        ["keys", "import", "--name", "a", "--password-file", "f"],
        ["keys", "import", "--name", "a", "--keystore", "stdin"],
        ["keys", "import"],
        ["keys", "show"],
        ["keys", "show", "a", "--name", "b"],
        ["sign", "transaction", "-"],
        ["sign", "transaction", "--key", "a", "absent"],
        ["sign", "transaction", "--key", "a", "/"],
        ["sign", "digest", "--key", "a", "-"],
        ["keys", "list", "--client", "nobody"],
        ["keys", "list", "--ca", "absent"],
        ["keys", "list", "--token-file", "absent"],
        ["keys", "list", "--token-file", "/dev/null"],
        ["keys", "list", "--cert", "absent"],
        ["keys", "list", "--url", "ftp://x"],
        ["keys", "list", "--frobnicate"],
        ["verify", "--pcr0", "00"],
        ["verify", "--pcr", "x=00"],
        ["verify", "--root", "absent"],
        ["verify", "--manifest", "absent"],
        ["verify", "--administrator", "00"],
    ],
)
def test_what_is_wrong_with_the_command_is_said_and_ends_with_2(
    cli: Cli, data: Path, arguments: list[str]
) -> None:
    ran = cli(*arguments, "--data", data, stdin=b"not hexadecimal")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("nitrosigner: error: ")
    as_json = cli(*arguments, "--data", data, "--json", stdin=b"not hexadecimal")
    assert as_json.code == 2
    assert set(as_json.json["error"]) == {"code", "message", "hint"}


@pytest.mark.parametrize(
    "data_in", [b"", b"[]", b"{", b"\xff", b'"x"', b"null", b'{"value": 1.5}']
)
def test_input_that_is_no_transaction_is_malformed(
    cli: Cli, data: Path, data_in: bytes
) -> None:
    ran = cli(
        "sign",
        "transaction",
        "--key",
        "hot",
        "-",
        "--data",
        data,
        "--json",
        stdin=data_in,
    )
    assert ran.code == 2
    assert ran.json["error"]["code"].startswith("malformed")


def test_a_transaction_with_a_field_twice_goes_nowhere(
    cli: Cli, data: Path, signer: Any
) -> None:
    # A person who read the file may have seen the other one.
    ran = cli(
        *("sign", "transaction", "--key", "hot", "-", "--data", data, "--json"),
        stdin=b'{"to": null, "nonce": 0, "value": "1", "value": "1000"}',
    )
    assert (ran.code, ran.json["error"]["code"]) == (2, "malformed_transaction")
    assert "twice" in ran.json["error"]["message"]
    assert not any("/sign/" in request.path for request in signer.seen)


@pytest.mark.parametrize("name", ["", "Treasury", "a b", "../x", "-a", "é", "a" * 65])
@pytest.mark.parametrize("command", ["create", "import"])
def test_a_name_that_no_key_can_have_is_told_in_a_sentence(
    cli: Cli, data: Path, name: str, command: str
) -> None:
    ran = cli("keys", command, f"--name={name}", "--data", data, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    assert "lower-case" in ran.json["error"]["hint"]


def test_exit_codes_say_which_verdict_it_was(
    cli: Cli, data: Path, signer: Any, tmp_path: Path
) -> None:
    refused = cli("keys", "show", "nobody", "--data", data)
    assert (refused.code, refused.out) == (3, "")
    assert (
        "nitrosigner: error: there is no such key\nnitrosigner: hint: " in refused.err
    )
    signer.fault = lambda handler: (
        handler.problem(503, "kms_unavailable", "KMS is away") is None
    )
    undecided = cli("keys", "show", "hot", "--data", data, "--json")
    assert (undecided.code, undecided.json["error"]["code"]) == (4, "kms_unavailable")
    signer.fault = None
    signer.stop()
    assert cli("keys", "list", "--data", data).code == 4
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli("keys", "list", "--data", empty).code == 4
    assert cli("keys", "list", "--data", tmp_path / "absent").code == 2


def test_verify_says_what_it_proved_and_labels_emulation(
    cli: Cli, data: Path, signer: Any, fakes: Any
) -> None:
    ran = cli("verify", "--data", data)
    assert ran.code == 0
    assert ran.out.startswith("*** EMULATED")
    assert "proved:" in ran.out
    assert "PCR0" in ran.out
    full = cli(
        "verify",
        signer.url.removeprefix("https://"),
        "--root",
        data / "emulator/root.pem",
        "--pcr0",
        "C0" * 48,
        "--manifest",
        fakes.MANIFEST,
        "--administrator",
        fakes.ADMINISTRATOR,
        "--json",
    ).json
    assert full["ok"]
    assert full["emulated"]
    assert full["pcrs"]["0"] == "c0" * 48
    assert full["not_proved"] == [
        "EMULATED: no Nitro hardware; whoever runs this machine can read everything"
    ]
    fingerprint = signer.pki.trust_anchor.fingerprint.hex()
    assert cli("verify", "--url", signer.url, "--root", fingerprint).code == 0


@pytest.mark.parametrize(
    "expected",
    [
        ["--pcr0", "11" * 48],
        ["--pcr", "1=" + "11" * 48],
        ["--manifest", "11" * 32],
        ["--administrator", "11" * 32],
        ["--root", "11" * 32],
    ],
)
def test_verify_refuses_what_does_not_fit(
    cli: Cli, data: Path, expected: list[str]
) -> None:
    ran = cli("verify", "--data", data, *expected, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (3, "attestation_untrusted")
    assert ran.json["error"]["hint"]


def test_verify_does_not_trust_an_emulator_unasked(cli: Cli, signer: Any) -> None:
    assert cli("verify", signer.url).code == 3


def test_verify_saves_the_authority_once(
    cli: Cli, data: Path, signer: Any, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.pem"
    assert cli("verify", "--data", data, "--save-ca", saved).code == 0
    assert saved.read_bytes() == signer.ca.pem
    again = cli("verify", "--data", data, "--save-ca", saved)
    assert again.code == 3
    assert (
        cli(
            "keys",
            "list",
            "--url",
            signer.url,
            "--ca",
            saved,
            "--token-file",
            signer.token_file,
        ).code
        == 0
    )


def test_doctor_finds_nothing_wrong_with_a_healthy_signer(
    cli: Cli, data: Path, signer: Any
) -> None:
    ran = cli("doctor", "--data", data, "--json")
    assert ran.json["ok"], ran.out
    assert ran.code == 0
    assert [check["name"] for check in ran.json["checks"]] == [
        "data folder",
        "stack",
        "processes",
        "boot",
        "port",
        "tls",
        "attestation",
        "health",
        "credentials",
    ]
    assert ran.json["state"] == "ready"
    assert ran.json["boot"][0]["name"] == "nsm"
    assert "ok       health" in cli("doctor", "--data", data).out


def failing(ran: Any) -> list[str]:
    return [
        check["name"] for check in ran.json["checks"] if check["verdict"] == "failed"
    ]


def test_doctor_repeats_what_the_enclave_says_is_wrong_and_what_to_do(
    cli: Cli, data: Path, signer: Any
) -> None:
    signer.health = {
        "status": "DOWN",
        "state": "clock_unsound",
        "checks": {"clock": False},
        "message": "the clock is +3600 s off",
        "hint": "start it \u001bagain",
    }
    ran = cli("doctor", "--data", data, "--json")
    (health,) = [one for one in ran.json["checks"] if one["name"] == "health"]
    assert "clock_unsound: the clock is +3600 s off; failing: clock" in health["detail"]
    assert health["hint"] == "start it again"


def test_doctor_names_the_step_that_fails(
    cli: Cli, data: Path, signer: Any, fakes: Any
) -> None:
    def doctor() -> Any:
        ran = cli("doctor", "--data", data, "--json")
        assert ran.code == 1
        assert not ran.json["ok"]
        for check in ran.json["checks"]:
            assert check["hint"] or check["verdict"] != "failed", check
        return ran

    signer.health = {
        "status": "DOWN",
        "state": "kms_unavailable",
        "checks": {"kms": False},
    }
    assert failing(doctor()) == ["health"]
    signer.health = {}
    signer.administrator = "ee" * 32
    assert failing(doctor()) == ["attestation"]
    signer.administrator = fakes.ADMINISTRATOR
    signer.pcrs = dict.fromkeys(range(3), b"\x01" * 48)
    assert failing(doctor()) == ["attestation"]
    signer.pcrs = dict.fromkeys(range(3), b"\xc0" * 48)
    signer.fault = lambda handler: (
        "/keys" in handler.path
        and handler.problem(403, "unauthenticated", "no") is None
    )
    assert failing(doctor()) == ["credentials"]
    signer.fault = None
    (data / "parent/state.json").write_text(
        '{"enclave": {"state": "kms", "code": "kms_refused", "message": "KMS \\u001brefuses"}}'
    )
    ran = doctor()
    assert failing(ran) == ["boot"]
    assert "kms: KMS refuses (kms_refused)" in ran.out
    (data / "parent/state.json").write_text("{")
    assert failing(doctor()) == ["boot"]
    (data / "parent/state.json").write_text(
        '{"enclave": {"state": "ready", "connections": 0}}'
    )
    assert failing(doctor()) == ["boot"]
    (data / "parent/state.json").write_text('{"enclave": null}')
    assert failing(doctor()) == ["boot"]
    (data / "parent/state.json").unlink()
    assert failing(doctor()) == ["boot"]
    (data / "parent/state.json").write_text('{"enclave": {"state": "ready"}, "pid": 1}')
    data.chmod(0o755)
    assert "data folder" in failing(doctor())
    data.chmod(0o700)
    signer.stop()
    assert failing(doctor()) == ["port"]
    stack = json.loads((data / "stack.json").read_bytes())
    (data / "stack.json").write_text(json.dumps({**stack, "pid": 0}))
    assert "processes" in failing(doctor())
    (data / "stack.json").write_text("{")
    assert "stack" in failing(doctor())
    (data / "stack.json").unlink()
    assert "stack" in failing(doctor())
    shutil.rmtree(data)
    assert failing(doctor()) == ["data folder"]


def test_doctor_works_without_a_folder(
    cli: Cli, data: Path, options: list[Any]
) -> None:
    ran = cli("doctor", *options, "--root", data / "emulator/root.pem", "--json")
    assert ran.json["ok"], ran.out
    assert cli("doctor").code == 2


def test_invoke_answers_an_event_as_the_function_would(
    cli: Cli, data: Path, signer: Any
) -> None:
    made = cli(
        "invoke", "wallet", "--data", data, stdin=b'{"operation": "create_key"}'
    ).json
    assert made["name"] == "default"
    event = {
        "operation": "sign_transaction",
        "transaction_payload": {**TRANSACTION, "value": 0.01},
    }
    signed = cli(
        "invoke", "wallet", "--data", data, stdin=json.dumps(event).encode()
    ).json
    assert (
        Account.recover_transaction(signed["transaction_signed"])
        == made["identity"]
        == signed["from"]
    )
    assert json.loads(signer.seen[-1].body)["transaction"]["value"] == hex(10**16)


@pytest.mark.parametrize(
    ("event", "code", "error"),
    [
        (b"", 2, "malformed_json"),
        (b"{", 2, "malformed_json"),
        (b"[" * 100_000, 2, "malformed_json"),
        (b"null", 2, "malformed_request"),
        (b'{"operation": "status", "operation": "get_key"}', 2, "malformed_request"),
        (b'{"operation": "decrypt"}', 2, "malformed_request"),
        (b'{"operation": "get_key", "key": "nobody"}', 3, "unknown_key"),
        (
            json.dumps({"operation": "set_key", "eth_key": SECRET}).encode(),
            4,
            "credentials_unavailable",
        ),
    ],
)
def test_invoke_says_what_kind_of_error_it_was(
    cli: Cli, data: Path, event: bytes, code: int, error: str
) -> None:
    ran = cli("invoke", "wallet", "--data", data, "--json", stdin=event)
    assert (ran.code, ran.json["error"]["code"]) == (code, error)


def test_a_bug_says_where_and_not_what(
    cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nitrosigner.client.signer_client import SignerClient

    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(SignerClient, "key", broken)
    ran = cli("keys", "show", "hot", "--data", data, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "internal")
    assert "RuntimeError at test_signer_commands.py" in ran.json["error"]["message"]


COMMAND = Path(sys.executable).with_name("nitrosigner")


def test_the_installed_command_ends_with_the_verdicts_number(data: Path) -> None:
    def status(*arguments: Any) -> int:
        return subprocess.run(
            [COMMAND, *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        ).returncode

    assert status("keys", "list", "--data", data) == 0
    assert status("keys", "show", "nobody", "--data", data) == 3
    assert status("nonsense") == 2
    assert status("--version") == 0


@pytest.mark.parametrize(
    "form", [["list"], ["list", "--json"], ["show", "nobody", "--json"]]
)
def test_a_reader_that_leaves_early_is_no_error_message(
    data: Path, signer: Any, form: list[str]
) -> None:
    for number in range(300):
        signer.add_key(f"key-{number:04}", (number + 1).to_bytes(32))
    signer.page = 500
    process = subprocess.Popen(
        [COMMAND, "keys", *form, "--data", data],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1
