"""What stakers hold against us: ethstaker-deposit-cli's own derivation and checks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ethstaker_deposit.credentials import Credential
from ethstaker_deposit.settings import ALL_CHAINS
from ethstaker_deposit.utils.validation import (
    validate_bls_to_execution_change,
    validate_deposit,
    validate_keystore_file,
    validate_signed_exit,
)

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import RunningStack

COMMAND = Path(sys.executable).parent / "nitrosigner"
MNEMONIC = "legal winner thank year wave sausage worth useful legal winner thank yellow"
PASSPHRASE = "trezor \N{SNOWMAN}"
TO = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
MAINNET = ALL_CHAINS["mainnet"]
FIRST = 3
# Whoever signs duties may not end validators or move their withdrawals.
OPERATOR = ("--client", "operator")


def credential(number: int, *, compounding: bool = False) -> Credential:
    return Credential(
        mnemonic=MNEMONIC,
        mnemonic_password=PASSPHRASE,
        index=FIRST + number,
        amount=32 * 10**9,
        chain_setting=MAINNET,
        hex_withdrawal_address=TO,
        compounding=compounding,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    running = RunningStack.start(
        tmp_path_factory.mktemp("deposit") / "data", options=("--preset", "mainnet")
    )
    try:
        yield running.folder.path
    finally:
        running.stop()


def nitrosigner(data: Path, *arguments: str) -> Any:
    """Run the command as a staker would; return what it printed, as JSON."""
    ran = subprocess.run(
        [COMMAND, "validators", *arguments, "--data", data, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def phrase(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("phrase")
    words, passphrase = folder / "words", folder / "passphrase"
    for file, text in ((words, MNEMONIC), (passphrase, PASSPHRASE)):
        file.touch(0o600)
        file.write_text(text + "\n")
    return ["--mnemonic-file", str(words), "--passphrase-file", str(passphrase)]


@pytest.fixture(scope="module")
def derived(data: Path, phrase: list[str]) -> list[str]:
    nitrosigner(data, "derive", *phrase, "--start", str(FIRST), "--count", "2")
    with SignerClient.from_data(data) as client:
        return sorted(key.name for key in client.list_validators())


def test_the_same_words_make_the_same_validators(derived: list[str]) -> None:
    expected = {"0x" + credential(number).signing_pk.hex() for number in (0, 1)}
    assert set(derived) == expected


@pytest.mark.parametrize("compounding", [False, True])
def test_the_tool_accepts_our_deposits(
    data: Path, derived: list[str], *, compounding: bool
) -> None:
    extra = ("--compounding",) if compounding else ()
    deposits = nitrosigner(
        data, "deposit-data", *derived, "--withdrawal-address", TO, *extra
    )
    known = {
        one.signing_pk.hex(): one
        for one in (credential(number, compounding=compounding) for number in (0, 1))
    }
    assert len(deposits) == len(known)
    for deposit in deposits:
        assert validate_deposit(deposit, MAINNET, known[deposit["pubkey"]])
        assert deposit["network_name"] == "mainnet"
        altered = {**deposit, "amount": deposit["amount"] - 1}
        assert not validate_deposit(altered, MAINNET, known[deposit["pubkey"]])


def test_the_tool_accepts_our_exits(data: Path, derived: list[str]) -> None:
    made = nitrosigner(
        data,
        "exit",
        derived[0],
        *("--validator-index", "7", "--epoch", "9", "--yes", *OPERATOR),
    )
    told, signature = made["message"], made["signature"]
    key = derived[0].removeprefix("0x")

    def accepted(index: str) -> bool:
        return bool(validate_signed_exit(index, told["epoch"], signature, key, MAINNET))

    assert told == {"epoch": "9", "validator_index": "7"}
    assert accepted("7")
    assert not accepted("8")


def test_the_tool_accepts_our_changes_of_credentials(
    data: Path, derived: list[str], phrase: list[str]
) -> None:
    of_first = credential(0)
    name = "0x" + of_first.signing_pk.hex()
    assert name in derived
    made = nitrosigner(
        data,
        "bls-change",
        name,
        *("--validator-index", "7", "--to-address", TO, "--index", str(FIRST)),
        *(*phrase, "--yes", *OPERATOR),
    )
    (change,) = made

    def accepted(index: int) -> bool:
        return bool(
            validate_bls_to_execution_change(
                change,
                of_first,
                input_validator_index=index,
                input_withdrawal_address=TO,
                chain_setting=MAINNET,
            )
        )

    assert accepted(7)
    assert not accepted(8)


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_the_tools_keystores_come_in(data: Path, tmp_path: Path, kdf: str) -> None:
    made = Credential(
        mnemonic=MNEMONIC,
        mnemonic_password=PASSPHRASE,
        index=40 if kdf == "scrypt" else 41,
        amount=32 * 10**9,
        chain_setting=MAINNET,
        hex_withdrawal_address=TO,
        use_pbkdf2=kdf == "pbkdf2",
    )
    file = made.save_signing_keystore("correct horse", str(tmp_path), 1700000000.0)
    assert validate_keystore_file(file).crypto.kdf.function == kdf
    password = tmp_path / "password.txt"
    password.write_text("correct horse\n")
    nitrosigner(
        data, "import", "--keystores", str(tmp_path), "--password-file", str(password)
    )
    with SignerClient.from_data(data) as client:
        names = [key.name for key in client.list_validators()]
    assert "0x" + made.signing_pk.hex() in names
