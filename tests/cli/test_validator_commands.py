"""Commands of the validator job, run as a person runs them, against a fake signer."""
# ruff: noqa: PLR0917  # a test asks for as many fixtures as it needs

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PASSWORD = "canary-keystore-pässwörd"
WORDS = "canary " + "abandon " * 10 + "about"
TO = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"


def keystore(fake: Any, number: int, password: str = PASSWORD) -> dict[str, Any]:
    """An EIP-2335 keystore, cheap to open."""
    secret = fake.secret_of(number)
    salt = bytes([number + 1]) * 32
    # EIP-2335 has passwords in NFKD, whatever form a file holds them in.
    normal = unicodedata.normalize("NFKD", password).encode()
    derived = hashlib.pbkdf2_hmac("sha256", normal, salt, 10, 32)
    iv = bytes(16)
    encryptor = Cipher(algorithms.AES128(derived[:16]), modes.CTR(iv)).encryptor()
    message = encryptor.update(secret)
    return {
        "crypto": {
            "kdf": {
                "function": "pbkdf2",
                "params": {
                    "dklen": 32,
                    "c": 10,
                    "prf": "hmac-sha256",
                    "salt": salt.hex(),
                },
                "message": "",
            },
            "checksum": {
                "function": "sha256",
                "params": {},
                "message": hashlib.sha256(derived[16:] + message).hexdigest(),
            },
            "cipher": {
                "function": "aes-128-ctr",
                "params": {"iv": iv.hex()},
                "message": message.hex(),
            },
        },
        "pubkey": fake.public_key(secret)[2:],
        "path": "m/12381/3600/0/0/0",
        "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
        "version": 4,
    }


@pytest.fixture
def fake(fakes: Any) -> Any:
    return fakes.validators


@pytest.fixture
def state(signer: Any) -> Any:
    return signer.validators


@pytest.fixture
def folder(tmp_path: Path, fake: Any) -> Path:
    made = tmp_path / "keystores"
    (made / "more").mkdir(parents=True)
    for number in range(6):
        path = made / ("more" if number > 3 else ".") / f"keystore-{number}.json"
        path.write_text(json.dumps(keystore(fake, number)))
    (made / "deposit_data-1.json").write_text("[]")
    (made / "copy.json").write_text(json.dumps(keystore(fake, 0)))
    return made


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text(PASSWORD + "\n")
    return file


def name(fake: Any, number: int) -> str:
    made: str = fake.public_key(fake.secret_of(number))
    return made


def history_file(
    tmp_path: Path, fake: Any, marks: dict[str, tuple[int, int, int]], chain: str = ""
) -> Path:
    file = tmp_path / "history.json"
    data = [
        {
            "pubkey": public_key,
            "signed_blocks": [{"slot": "1"}, {"slot": str(slot)}],
            "signed_attestations": [
                {"source_epoch": str(source), "target_epoch": str(target)}
            ],
        }
        for public_key, (slot, source, target) in marks.items()
    ]
    metadata = {
        "interchange_format_version": "5",
        "genesis_validators_root": chain or fake.CHAIN,
    }
    file.write_text(json.dumps({"metadata": metadata, "data": data}))
    return file


# --- import -----------------------------------------------------------------------


def test_a_folder_of_keystores_is_imported_with_its_past(
    cli: Any,
    data: Path,
    folder: Path,
    password: Path,
    tmp_path: Path,
    state: Any,
    fake: Any,
) -> None:
    past = history_file(
        tmp_path, fake, {name(fake, 0): (9, 2, 3), "0x" + "77" * 48: (1, 1, 1)}
    )
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--slashing-history", past, "--data", data, "--json",
    )  # fmt: skip
    assert ran.code == 0
    names = sorted(name(fake, number) for number in range(6))
    assert ran.json["imported"] == names
    assert (ran.json["failed"], ran.json["histories"]) == ([], 1)
    # copy.json comes first in the alphabet; keystore-0.json is the same key again
    left_out = {Path(path).name for path in ran.json["left_out"]}
    assert left_out == {"deposit_data-1.json", "keystore-0.json"}
    assert sorted(state.secrets) == names
    assert state.secrets[name(fake, 3)] == fake.secret_of(3)
    assert state.reached[name(fake, 0)] == [9, 2, 3]
    assert state.reached[name(fake, 1)] == [-1, -1, -1]
    # of a validator that has no keystore here nothing is sent
    assert "0x" + "77" * 48 not in state.reached
    assert "5 of 6 validators come without a slashing history" in ran.err
    assert "the history of 1 other validators is not used" in ran.err
    assert "importing: 100 %" in ran.err


def test_a_key_and_its_past_travel_in_one_request(
    cli: Any,
    data: Path,
    folder: Path,
    password: Path,
    tmp_path: Path,
    signer: Any,
    fake: Any,
) -> None:
    past = history_file(
        tmp_path, fake, {name(fake, number): (9, 2, 3) for number in range(6)}
    )
    cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--slashing-history", past, "--data", data,
    )  # fmt: skip
    imports = [seen for seen in signer.seen if seen.path.endswith("/validators/import")]
    assert len(imports) == 6
    for seen in imports:
        sent = json.loads(seen.body)
        assert [e["pubkey"] for e in sent["history"]["data"]] == [sent["identity"]]
    posted = [s for s in signer.seen if s.method == "POST" and "history" in s.path]
    assert posted == []


def test_an_import_that_was_stopped_goes_on(
    cli: Any, data: Path, folder: Path, password: Path, state: Any, fake: Any
) -> None:
    state.fail_after = 2
    arguments = (
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--jobs", 1, "--data", data,
    )  # fmt: skip
    ran = cli(*arguments)
    assert ran.code == 4
    assert "2 of 6 keys are in; the same command again goes on" in ran.err
    assert len(state.secrets) == 2
    state.fail_after = None
    ran = cli(*arguments, "--json")
    assert ran.code == 0
    assert len(ran.json["already_here"]) == 2
    assert len(ran.json["imported"]) == 4
    assert "2 are here already" in ran.err
    assert len(state.secrets) == 6
    again = cli(*arguments, "--json")
    assert (again.json["imported"], len(again.json["already_here"])) == ([], 6)


def test_the_past_of_keys_that_are_here_is_merged_forward(
    cli: Any,
    data: Path,
    folder: Path,
    password: Path,
    tmp_path: Path,
    state: Any,
    fake: Any,
) -> None:
    state.add(name(fake, 0), fake.secret_of(0))
    state.reached[name(fake, 0)] = [20, 1, 1]
    past = history_file(tmp_path, fake, {name(fake, 0): (9, 2, 3)})
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--slashing-history", past, "--data", data, "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert state.reached[name(fake, 0)] == [20, 2, 3]
    assert ran.json["histories"] == 1


def test_the_past_of_another_chain_stops_all(
    cli: Any,
    data: Path,
    folder: Path,
    password: Path,
    tmp_path: Path,
    state: Any,
    fake: Any,
) -> None:
    past = history_file(tmp_path, fake, {}, chain="0x" + "00" * 32)
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--slashing-history", past, "--data", data, "--json",
    )  # fmt: skip
    assert (ran.code, ran.json["error"]["code"]) == (3, "wrong_chain")
    assert state.secrets == {}


def test_one_bad_keystore_fails_and_the_others_go_in(
    cli: Any, data: Path, folder: Path, password: Path, state: Any, fake: Any
) -> None:
    (folder / "keystore-1.json").write_text(json.dumps(keystore(fake, 1, "another")))
    lying = keystore(fake, 2) | {"pubkey": name(fake, 40)[2:]}
    (folder / "keystore-2.json").write_text(json.dumps(lying))
    (folder / "keystore-3.json").write_text('{"crypto": {"kdf"')
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--data", data, "--json",
    )  # fmt: skip
    assert ran.code == 3
    assert {Path(f["file"]).name: f["code"] for f in ran.json["failed"]} == {
        "keystore-1.json": "wrong_password",
        "keystore-2.json": "key_mismatch",
        "keystore-3.json": "malformed_keystore",
    }
    assert len(ran.json["imported"]) == 3 == len(state.secrets)
    (folder / "keystore-2.json").write_text('{"crypto": {"kdf"')
    again = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--data", data, "--json",
    )  # fmt: skip
    # Three failures, and only one of them tells of the password.
    assert again.code == 3
    assert len(again.json["failed"]) == len(again.json["already_here"]) == 3


def test_a_password_that_opens_nothing_is_not_tried_on_thousands(
    cli: Any, data: Path, folder: Path, tmp_path: Path, state: Any
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("canary-wrong")
    wrong.chmod(0o600)
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", wrong,
        "--jobs", 1, "--data", data, "--json",
    )  # fmt: skip
    assert (ran.code, ran.json["error"]["code"]) == (3, "wrong_password")
    assert "opens none of the first" in ran.json["error"]["message"]
    assert state.secrets == {}


def test_passwords_may_lie_in_a_folder_of_their_own(
    cli: Any, data: Path, folder: Path, tmp_path: Path, fake: Any
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for number in range(6):
        mine = f"canary-{number}"
        path = next(folder.rglob(f"keystore-{number}.json"))
        path.write_text(json.dumps(keystore(fake, number, mine)))
        # as the deposit tool's users call them, and as Lighthouse does
        file = f"keystore-{number}.txt" if number % 2 else name(fake, number)
        (secrets / file).write_text(mine + "\n")
    (folder / "copy.json").unlink()
    (secrets / "keystore-5.txt").unlink()
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", secrets,
        "--data", data, "--json",
    )  # fmt: skip
    assert ran.code == 2
    assert len(ran.json["imported"]) == 5
    assert "keystore-5.json" in ran.json["failed"][0]["message"]


def test_a_keystore_goes_to_a_known_program_only(
    cli: Any, options: list[Any], folder: Path, password: Path, state: Any
) -> None:
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        *options,
    )  # fmt: skip
    assert ran.code == 2
    assert "--pcr0 is missing" in ran.err
    assert state.secrets == {}


def test_an_enclave_that_measures_otherwise_gets_no_keystore(
    cli: Any, data: Path, folder: Path, password: Path, signer: Any, state: Any
) -> None:
    signer.pcrs[0] = b"\xee" * 48
    ran = cli(
        "validators", "import", "--keystores", folder, "--password-file", password,
        "--data", data, "--json",
    )  # fmt: skip
    assert (ran.code, ran.json["error"]["code"]) == (3, "attestation_untrusted")
    assert state.secrets == {}


def test_a_folder_without_keystores_is_a_mistake(
    cli: Any, data: Path, tmp_path: Path, password: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ran = cli(
        "validators", "import", "--keystores", tmp_path / "empty",
        "--password-file", password, "--data", data,
    )  # fmt: skip
    assert ran.code == 2
    assert "no EIP-2335 keystore" in ran.err


def test_nothing_secret_reaches_any_stream_of_the_real_process(
    data: Path, folder: Path, password: Path, fakes: Any, state: Any
) -> None:
    ran = subprocess.run(
        [
            sys.executable, "-m", "nitrosigner.cli.main", "validators", "import",
            "--keystores", folder, "--password-file", password, "--data", data,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(data)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len(state.secrets) == 6
    said = ran.stdout + ran.stderr
    for secret in (PASSWORD, fakes.TOKEN, *(s.hex() for s in state.secrets.values())):
        assert secret not in said


# --- life -------------------------------------------------------------------------


def test_validators_live_their_life(
    cli: Any, data: Path, state: Any, tmp_path: Path
) -> None:
    made = cli("validators", "create", "--count", 3, "--data", data, "--json").json
    names = [key["name"] for key in made["keys"]]
    listed = cli("validators", "list", "--data", data, "--json").json["keys"]
    assert [key["name"] for key in listed] == sorted(names)
    assert names[0] in cli("validators", "list", "--data", data).out.split()
    shouted = "0x" + names[0][2:].upper()
    off = cli("validators", "disable", shouted, "--data", data, "--json")
    assert off.json["state"] == "disabled"
    on = cli("validators", "enable", names[0][2:], "--data", data, "--json")
    assert on.json["state"] == "enabled"
    state.reached[names[0]] = [5, 6, 7]
    file = tmp_path / "its-history.json"
    gone = cli("validators", "delete", names[0], "--output", file, "--data", data)
    assert gone.code == 0
    assert "deleting" in gone.err
    entry = json.loads(file.read_text())["data"][0]
    assert (entry["pubkey"], entry["signed_blocks"]) == (names[0], [{"slot": "5"}])
    # without --output the history is what stdout holds
    printed = cli("validators", "delete", names[1], "--data", data)
    assert json.loads(printed.out)["data"][0]["pubkey"] == names[1]
    both = cli("validators", "delete", names[2], "--data", data, "--json").json
    assert both["key"]["state"] == "deleted"
    assert both["slashing_history"]["data"][0]["pubkey"] == names[2]


def test_a_folder_that_is_not_there_is_said_so(
    cli: Any, data: Path, tmp_path: Path
) -> None:
    ran = cli("validators", "import", "--keystores", tmp_path / "no", "--data", data)
    assert ran.code == 2
    assert "no does not exist" in ran.err


def test_nothing_is_deleted_whose_history_has_no_place(
    cli: Any, data: Path, state: Any, tmp_path: Path
) -> None:
    made = cli("validators", "create", "--data", data, "--json").json["keys"][0]
    taken = tmp_path / "taken.json"
    taken.write_text("somebody's")
    for file, why in ((taken, "not overwritten"), (taken.parent / "no/f", "no such")):
        ran = cli("validators", "delete", made["name"], "-o", file, "--data", data)
        assert ran.code != 0
        assert why in ran.err
        assert "deleting" not in ran.err
    assert state.keys[made["name"]]["state"] == "enabled"
    assert taken.read_text() == "somebody's"


def test_deleting_says_how_to_get_the_history_that_did_not_come(
    cli: Any, data: Path, signer: Any, state: Any
) -> None:
    made = cli("validators", "create", "--data", data, "--json").json["keys"][0]

    def no_history(handler: Any) -> bool:
        if "slashing-history" not in handler.path:
            return False
        handler.problem(503, "storage_unavailable", "the store is gone")
        return True

    signer.fault = no_history
    ran = cli("validators", "delete", made["name"], "--data", data)
    assert ran.code == 4
    assert f"slashing-history export {made['name']}" in ran.err
    assert state.keys[made["name"]]["state"] == "deleted"


def test_what_was_made_before_a_failure_is_said(
    cli: Any, data: Path, state: Any
) -> None:
    state.fail_after = 2
    ran = cli("validators", "create", "--count", 3, "--data", data)
    assert ran.code == 4
    assert ran.err.count("made before it failed") == 2


def test_a_validator_is_named_by_its_key_alone(cli: Any, data: Path) -> None:
    ran = cli("validators", "disable", "hot", "--data", data)
    assert ran.code == 2
    assert "96 hexadecimal digits" in ran.err


# --- derive -----------------------------------------------------------------------


@pytest.fixture
def mnemonic(tmp_path: Path) -> Path:
    file = tmp_path / "words"
    file.touch(0o600)
    file.write_text("  " + WORDS.replace(" ", "   ") + "\n")
    return file


def test_a_mnemonic_makes_keys_and_its_backup_opens(
    cli: Any, data: Path, mnemonic: Path, tmp_path: Path, state: Any
) -> None:
    recipient = cli("validators", "backup-key", tmp_path / "offline.pem").out.strip()
    passphrase = tmp_path / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text("canary-passphrase")
    ran = cli(
        "validators", "derive", "--mnemonic-file", mnemonic,
        "--passphrase-file", passphrase, "--start", 4, "--count", 2,
        "--backup-recipient", recipient, "--backup-file", tmp_path / "backup.json",
        "--data", data,
    )  # fmt: skip
    assert ran.code == 0
    assert ran.out.split() == list(state.keys)
    expected = f"{WORDS}\ncanary-passphrase"
    assert state.words == [expected.encode()]
    written = json.loads((tmp_path / "backup.json").read_text())
    assert (written["start"], written["count"]) == (4, 2)
    assert written["public_keys"] == list(state.keys)
    opened = cli(
        "validators", "open-backup", tmp_path / "backup.json",
        "--key", tmp_path / "offline.pem", "--output", tmp_path / "opened",
    )  # fmt: skip
    assert opened.code == 0
    assert (tmp_path / "opened").read_text() == expected + "\n"
    assert (tmp_path / "opened").stat().st_mode & 0o777 == 0o600
    cli("validators", "backup-key", tmp_path / "other.pem")
    refused = cli(
        "validators", "open-backup", tmp_path / "backup.json",
        "--key", tmp_path / "other.pem", "--output", tmp_path / "again", "--json",
    )  # fmt: skip
    assert (refused.code, refused.json["error"]["code"]) == (3, "key_mismatch")
    assert not (tmp_path / "again").exists()


def test_new_words_leave_the_enclave_as_a_backup_only(
    cli: Any, data: Path, tmp_path: Path, fake: Any
) -> None:
    refused = cli("validators", "derive", "--new", "--data", data)
    assert refused.code == 2
    assert "nobody has the words" in refused.err
    recipient = cli("validators", "backup-key", tmp_path / "offline.pem").out.strip()
    arguments = (
        "validators", "derive", "--new", "--backup-recipient", recipient,
        "--backup-file", tmp_path / "backup.json", "--data", data,
    )  # fmt: skip
    assert cli(*arguments).code == 0
    cli(
        "validators", "open-backup", tmp_path / "backup.json",
        "--key", tmp_path / "offline.pem", "--output", tmp_path / "opened",
    )  # fmt: skip
    assert (tmp_path / "opened").read_bytes() == fake.NEW_WORDS + b"\n"
    # before anything is asked: the one copy of the words would have no place
    again = cli(*arguments)
    assert (again.code, "not overwritten" in again.err) == (3, True)


@pytest.mark.parametrize(
    "recipient", ["", "x", "age1abc", "00" * 31, base64.b64encode(bytes(31)).decode()]
)
def test_a_recipient_must_be_a_key(
    cli: Any, data: Path, mnemonic: Path, tmp_path: Path, recipient: str, state: Any
) -> None:
    ran = cli(
        "validators", "derive", "--mnemonic-file", mnemonic,
        "--backup-recipient", recipient, "--backup-file", tmp_path / "b",
        "--data", data,
    )  # fmt: skip
    assert ran.code == 2
    assert state.words == []


def test_without_a_terminal_nobody_is_asked_for_words(cli: Any, data: Path) -> None:
    ran = cli("validators", "derive", "--data", data)
    assert ran.code == 2
    assert "give --mnemonic-file FILE" in ran.err


def test_words_that_are_none_are_not_quoted(
    cli: Any, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "short"
    file.write_text("canary abandon about")
    file.chmod(0o600)
    ran = cli("validators", "derive", "--mnemonic-file", file, "--data", data)
    assert ran.code == 2
    assert "12, 15, 18, 21 or 24 words" in ran.err


# --- statements -------------------------------------------------------------------


@pytest.fixture
def one(cli: Any, data: Path) -> str:
    made = cli("validators", "create", "--data", data, "--json")
    public_key: str = made.json["keys"][0]["name"]
    return public_key


def test_deposits_are_one_file_for_the_launchpad(
    cli: Any, data: Path, one: str, tmp_path: Path
) -> None:
    ran = cli(
        "validators", "deposit-data", one, "--withdrawal-address", TO,
        "--compounding", "--amount", "32.000000001", "--data", data,
    )  # fmt: skip
    (deposit,) = json.loads(ran.out)
    assert deposit["pubkey"] == one[2:]
    assert deposit["amount"] == 32_000_000_001
    assert deposit["withdrawal_credentials"] == "02" + "00" * 11 + TO[2:].lower()
    file = tmp_path / "deposit_data.json"
    cli(
        "validators", "deposit-data", one, "--withdrawal-credentials", "00" * 32,
        "--output", file, "--data", data,
    )  # fmt: skip
    assert json.loads(file.read_text())[0]["withdrawal_credentials"] == "00" * 32


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--withdrawal-address", TO, "--withdrawal-credentials", "00" * 32),
        ("--withdrawal-address", TO.replace("a5D", "a5d")),
        ("--withdrawal-address", TO[:-1]),
        ("--withdrawal-address", TO[2:]),
        ("--withdrawal-credentials", "00" * 31),
        ("--withdrawal-credentials", "00" * 32, "--compounding"),
        ("--withdrawal-address", TO, "--amount", "1.0000000001"),
        ("--withdrawal-address", TO, "--amount", "-1"),
        ("--withdrawal-address", TO, "--amount", "1e3"),
    ],
)
def test_a_deposit_that_is_wrong_is_not_signed(
    cli: Any, data: Path, one: str, signer: Any, arguments: Any
) -> None:
    asked = len(signer.seen)
    ran = cli("validators", "deposit-data", one, *arguments, "--data", data)
    assert ran.code == 2
    assert len(signer.seen) == asked


def test_an_exit_is_what_a_beacon_node_takes(cli: Any, data: Path, one: str) -> None:
    ran = cli(
        "validators", "exit", one, "--validator-index", 7, "--epoch", 300,
        "--data", data,
    )  # fmt: skip
    assert json.loads(ran.out)["message"] == {"epoch": "300", "validator_index": "7"}
    assert "for ever" in ran.err


def test_a_change_of_credentials_can_be_signed_by_words(
    cli: Any, data: Path, one: str, mnemonic: Path, state: Any
) -> None:
    plain = cli(
        "validators", "bls-change", one, "--validator-index", 7, "--to-address", TO,
        "--data", data,
    )  # fmt: skip
    (change,) = json.loads(plain.out)  # beacon nodes take a list
    assert change["message"]["to_execution_address"] == TO.lower()
    assert TO in plain.err
    wanted = cli(
        "validators", "bls-change", one, "--validator-index", 7, "--to-address", TO,
        "--mnemonic-file", mnemonic, "--data", data,
    )  # fmt: skip
    assert wanted.code == 2  # which index?
    assert state.words == []
    cli(
        "validators", "bls-change", one, "--validator-index", 7, "--to-address", TO,
        "--mnemonic-file", mnemonic, "--index", 3, "--data", data,
    )  # fmt: skip
    assert state.words == [WORDS.encode()]


# --- slashing-history -------------------------------------------------------------


def test_a_history_goes_in_and_comes_out(
    cli: Any, data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    marks = {f"0x{number:096x}": (number, 1, 2 + number) for number in range(600)}
    file = history_file(tmp_path, fake, marks)
    ran = cli("slashing-history", "import", file, "--data", data, "--json")
    assert ran.json == {"validators": 600, "blocks": 1200, "attestations": 600}
    # block 1 was signed too
    assert state.reached[f"0x{0:096x}"] == [1, 1, 2]
    out = tmp_path / "out.json"
    cli("slashing-history", "export", "--output", out, "--data", data)
    exported = json.loads(out.read_text())
    assert [entry["pubkey"] for entry in exported["data"]] == list(marks)
    printed = cli("slashing-history", "export", f"0x{5:096x}", "--data", data)
    assert json.loads(printed.out)["data"][0]["signed_blocks"] == [{"slot": "5"}]
    assert "disable them before they move" in printed.err
    shown = cli("slashing-history", "show", f"0x{5:096x}", "--data", data)
    assert shown.out.splitlines()[1].split() == [f"0x{5:096x}", "5", "1", "7"]
    # what came out goes in again, and moves nobody back
    state.reached[f"0x{5:096x}"] = [9, 9, 9]
    assert cli("slashing-history", "import", out, "--data", data).code == 0
    assert state.reached[f"0x{5:096x}"] == [9, 9, 9]


def untrusted(name: str) -> dict[str, Any]:
    return {
        "pubkey": name,
        "reason": "the stored watermark was not made by this deployment",
        "hint": "",
        "version": 3,
        "stored": "Z2FyYmFnZQ==",
        "claims": None,
    }


def test_what_cannot_be_trusted_is_named_and_not_exported(
    cli: Any, data: Path, tmp_path: Path, state: Any
) -> None:
    good, bad = "0x" + "11" * 48, "0x" + "22" * 48
    state.reached[good] = [1, 2, 3]
    state.untrusted[bad] = untrusted(bad)
    out = tmp_path / "out.json"
    ran = cli("slashing-history", "export", "--output", out, "--data", data)
    assert ran.code == 3
    assert f"{bad}: the stored watermark was not made" in ran.err
    assert "slashing-history repair" in ran.err
    assert [one["pubkey"] for one in json.loads(out.read_text())["data"]] == [good]
    shown = cli("slashing-history", "show", "--data", data)
    assert shown.code == 3
    assert good in shown.out
    assert bad not in shown.out


def test_every_record_is_exported_however_many_there_are(
    cli: Any, data: Path, state: Any
) -> None:
    state.reached |= {f"0x{number:096x}": [1, 2, 3] for number in range(1, 1200)}
    ran = cli("slashing-history", "export", "--data", data)
    assert ran.code == 0
    assert len(json.loads(ran.out)["data"]) == 1199


def test_a_record_is_repaired_only_with_a_history_that_has_a_vote(
    cli: Any, data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    name = "0x" + "22" * 48
    state.untrusted[name] = untrusted(name)
    other = history_file(tmp_path, fake, {"0x" + "33" * 48: (1, 2, 3)})
    ran = cli(
        "slashing-history", "repair", name, "--slashing-history", other,
        "--data", data,
    )  # fmt: skip
    assert ran.code == 2
    assert "no attestation of this validator" in ran.err
    assert state.untrusted
    file = history_file(tmp_path, fake, {name: (1, 2, 3), "0x" + "33" * 48: (4, 5, 6)})
    options = ("--slashing-history", file, "--data", data)
    ran = cli("slashing-history", "repair", name, *options)
    assert ran.code == 0
    assert "will be replaced" in ran.err
    assert "there was: version 3, claiming nothing readable; Z2FyYmFnZQ==" in ran.out
    assert "there is: 1, 2, 3" in ran.out
    assert state.reached == {name: [1, 2, 3]}
    again = cli("slashing-history", "repair", name, *options)
    assert again.code == 3
    assert "in order" in again.err


def test_a_history_may_come_through_a_pipe(
    cli: Any, data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    text = history_file(tmp_path, fake, {"0x" + "11" * 48: (1, 2, 3)}).read_bytes()
    ran = cli("slashing-history", "import", "-", "--data", data, stdin=text)
    assert ran.code == 0
    assert state.reached == {"0x" + "11" * 48: [1, 2, 3]}


def test_of_a_malformed_history_nothing_is_sent(
    cli: Any, data: Path, tmp_path: Path, fake: Any, signer: Any, state: Any
) -> None:
    marks = {f"0x{number:096x}": (number, 1, 2) for number in range(2000)}
    file = history_file(tmp_path, fake, marks)
    file.write_text(file.read_text().replace('"1999"', '"x"'))
    ran = cli("slashing-history", "import", file, "--data", data, "--json")
    assert (ran.code, state.reached) == (2, {})
    assert all(seen.method == "GET" for seen in signer.seen)


def test_a_history_of_another_chain_is_refused(
    cli: Any, data: Path, tmp_path: Path, fake: Any, signer: Any
) -> None:
    file = history_file(tmp_path, fake, {}, chain="0x" + "00" * 32)
    ran = cli("slashing-history", "import", file, "--data", data, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (3, "wrong_chain")
    assert "0x" + "00" * 32 in ran.json["error"]["hint"]
    assert all(seen.method == "GET" for seen in signer.seen)


def test_a_history_fits_whatever_the_manifest_allows(
    cli: Any, data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    state.max_request = 3000
    marks = {f"0x{number:096x}": (number, 1, 2) for number in range(300)}
    file = history_file(tmp_path, fake, marks)
    ran = cli("slashing-history", "import", file, "--data", data, "--json")
    assert ran.json["validators"] == 300
    assert len(state.reached) == 300


def test_a_history_that_was_stopped_says_how_far_it_came(
    cli: Any, data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    marks = {f"0x{number:096x}": (number, 1, 2) for number in range(600)}
    file = history_file(tmp_path, fake, marks)
    state.fail_after = 1
    ran = cli("slashing-history", "import", file, "--data", data)
    assert ran.code == 4
    assert "250 of 600 validators are in" in ran.err
    state.fail_after = None
    again = cli("slashing-history", "import", file, "--data", data, "--json")
    assert again.json["validators"] == 600


def test_a_hundred_megabytes_are_imported_in_bounded_memory(
    data: Path, tmp_path: Path, fake: Any, state: Any
) -> None:
    file = tmp_path / "big.json"
    votes = ",".join(
        f'{{"source_epoch":"{epoch}","target_epoch":"{epoch + 1}",'
        f'"signing_root":"0x{epoch:064x}"}}'
        for epoch in range(3500)
    )
    head = json.dumps(
        {
            "metadata": {
                "interchange_format_version": "5",
                "genesis_validators_root": fake.CHAIN,
            },
            "data": [],
        }
    )
    with file.open("w") as out:
        out.write(head.removesuffix("]}"))
        for number in range(230):
            out.write("," if number else "")
            out.write(
                f'{{"pubkey":"0x{number:096x}","signed_blocks":[],'
                f'"signed_attestations":[{votes}]}}'
            )
        out.write("]}")
    assert file.stat().st_size > 100_000_000
    child = (
        "import sys\n"
        "from nitrosigner.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        # Not getrusage: that knows the memory of whoever started this program, too.
        "status = open('/proc/self/status').read()\n"
        "peak = status.partition('VmHWM:')[2].split()[0]\n"
        "print(code, peak, file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [
            sys.executable, "-c", child, "slashing-history", "import", file,
            "--data", data, "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    code, peak = map(int, ran.stderr.splitlines()[-1].split())
    assert code == 0, ran.stderr
    assert json.loads(ran.stdout)["attestations"] == 230 * 3500
    assert state.reached[f"0x{229:096x}"] == [-1, 3499, 3500]
    assert "reading" in ran.stderr
    assert "50 %" in ran.stderr
    # kB; the program itself, with TLS and its tables, takes most of it
    assert peak < 150_000


# --- invoke -----------------------------------------------------------------------


def test_the_references_events_are_answered_here_too(
    cli: Any, data: Path, one: str
) -> None:
    def ask(operation: str) -> Any:
        event = json.dumps({"operation": operation}).encode()
        ran = cli("invoke", "validator", "--data", data, stdin=event)
        return ran.code, json.loads(ran.out)

    assert ask("web3signer_status") == (0, "OK")
    assert ask("web3signer_public_keys") == (0, [one])
    code, tls = ask("set_tls_key")
    assert (code, tls["attested"], tls["emulated"]) == (0, True, True)
    code, started = ask("start")
    assert (code, started["error"]["code"]) == (4, "local_stack")
    assert "nitrosigner up" in started["error"]["hint"]
    assert ask("nonsense")[0] == 2


# --- tls export -------------------------------------------------------------------


def test_the_authority_comes_as_pem(
    cli: Any, data: Path, signer: Any, tmp_path: Path, options: list[Any]
) -> None:
    assert cli("tls", "export", "--data", data).out.encode() == signer.ca.pem
    file = tmp_path / "ca.pem"
    ran = cli("tls", "export", "--output", file, *options)
    assert file.read_bytes() == signer.ca.pem
    for line in (
        f"root_certificate_path: {file}",
        f"CAfile = {file}",
        "checkHost = localhost",
        f"--validators-external-signer-ca-cert={file}",
    ):
        assert line in ran.out
    assert f"https://signer:TOKEN@localhost:{signer.port}" in ran.out


def test_the_authority_comes_as_javas_trust_store(
    cli: Any, data: Path, signer: Any, tmp_path: Path
) -> None:
    file, identity = tmp_path / "trust.p12", tmp_path / "me.p12"
    ran = cli(
        "tls", "export", "--format", "pkcs12", "--output", file,
        "--identity", identity, "--data", data, "--json",
    )  # fmt: skip
    assert ran.code == 0
    password = tmp_path / "trust.p12.password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert identity.stat().st_mode & 0o777 == 0o600
    text = password.read_text().strip()
    assert text not in ran.out + ran.err
    assert f"--validators-external-signer-truststore={file}" in str(ran.json)
    assert f"--validators-external-signer-keystore={identity}" in str(ran.json)
    for store in (file, identity):
        seen = subprocess.run(
            ["openssl", "pkcs12", "-in", store, "-passin", f"file:{password}", "-nokeys"],
            capture_output=True,
            text=True,
            check=True,
        )  # fmt: skip
        assert "BEGIN CERTIFICATE" in seen.stdout
        if store == file:
            # without this attribute Java finds a store with nothing in it
            assert "2.16.840.1.113894.746875.1.1" in seen.stdout


def test_java_trusts_what_is_in_the_store(cli: Any, data: Path, tmp_path: Path) -> None:
    import shutil

    keytool = shutil.which("keytool")
    if keytool is None:
        pytest.skip("there is no Java here")
    file = tmp_path / "trust.p12"
    ran = cli("tls", "export", "--format", "pkcs12", "--output", file, "--data", data)
    # Without a certificate it is told of the token, which it sends when it is asked.
    assert "--validators-external-signer-url=https://signer:TOKEN@" in ran.out
    password = (tmp_path / "trust.p12.password").read_text().strip()
    seen = subprocess.run(
        [keytool, "-list", "-keystore", file, "-storepass", password],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "trustedCertEntry" in seen.stdout


def test_an_authority_that_did_not_issue_the_certificate_is_not_written(
    cli: Any, data: Path, signer: Any, tmp_path: Path, options: list[Any], fakes: Any
) -> None:
    signer.named_authority = fakes.make_certificate("another", ca=True).pem
    for arguments in (["--data", data], options):
        ran = cli("tls", "export", "--output", tmp_path / "ca.pem", *arguments)
        assert ran.code == 3
    assert not (tmp_path / "ca.pem").exists()


@pytest.mark.parametrize("job", ["wallet", "validator"])
def test_an_event_that_is_no_json_is_answered_with_one_of_the_jobs_own(
    cli: Any, job: Any
) -> None:
    ran = cli("invoke", job, stdin=b"xx")
    assert ran.code == 2
    ((event, named),) = re.findall(r"echo '(.*)' \| nitrosigner invoke (\w+)", ran.err)
    assert named == job
    assert json.loads(event)["operation"]
