"""`nitrosigner demo --json`: what others build on, and that it says no when it should."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from hexbytes import HexBytes

from nitrosigner.emulator.demo_steps import Script, Skipped, Step, StepFailed, need
from nitrosigner.emulator.demo_wallet import EXAMPLE_KEY
from nitrosigner.verdicts import Code, Refused

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main", "demo", "--json")


def waited() -> float:
    """For how many seconds something on this machine has waited for a processor."""
    try:
        line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(line.rpartition("total=")[2]) / 1e6


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    before = waited()
    done = subprocess.run(COMMAND, capture_output=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return {**answer, "waited": waited() - before}


def test_every_step_ends_well_and_says_what_it_proves(shown: dict[str, Any]) -> None:
    names = [step["name"] for step in shown["steps"]]
    assert names == [
        "stack",
        "attestation",
        "create",
        "import",
        "set_key",
        "sign_transaction",
        "independent_check",
        "nothing_outside",
        "attack_swapped_record",
        "attack_altered_enclave",
        "attack_forbidden_client",
        "broadcast",
        "validators_import",
        "attestation_duty",
        "slashable_refused",
        "two_signers_race",
        "slashing_history",
    ]
    for step in shown["steps"]:
        assert step["ok"] is True, step
        assert step["detail"], step
        assert step["proves"], step


def test_it_is_emulated_and_says_so(shown: dict[str, Any]) -> None:
    assert shown["emulated"] is True
    first = shown["steps"][0]["detail"]
    assert f"PCR0 {shown['pcr0']} (EMULATED)" in first


def test_the_transaction_is_the_source_documents_own(shown: dict[str, Any]) -> None:
    transaction = shown["transaction"]
    account = Account.from_key(EXAMPLE_KEY)
    assert set(transaction) == {"raw", "hash", "from"}
    assert transaction["from"] == account.address
    assert Account.recover_transaction(HexBytes(transaction["raw"])) == account.address


def test_the_attacks_are_refused_by_those_who_should(shown: dict[str, Any]) -> None:
    details = {step["name"]: step["detail"] for step in shown["steps"]}
    assert "[record_untrusted]" in details["attack_swapped_record"]
    assert "AccessDenied" in details["attack_altered_enclave"]
    assert "403" in details["attack_forbidden_client"]


def test_the_private_key_is_not_in_what_the_demo_prints(shown: dict[str, Any]) -> None:
    assert EXAMPLE_KEY not in json.dumps(shown)


def test_it_takes_less_than_half_a_minute(shown: dict[str, Any]) -> None:
    # On a machine that has nothing else to do.
    assert shown["seconds"] - shown["waited"] < 30


@pytest.fixture
def ended() -> list[Step]:
    return []


@pytest.fixture
def script(ended: list[Step]) -> Script:
    return Script(lambda number, title: None, ended.append)


@pytest.mark.parametrize(
    "failure",
    [
        StepFailed("it was signed"),
        TimeoutError("not within 30 seconds: it boots"),
        Refused(Code.NOT_ALLOWED, "no"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_step_that_fails_ends_the_demo_and_is_told(
    script: Script, ended: list[Step], failure: Exception
) -> None:
    with pytest.raises(StepFailed), script.step("a", "A", "nothing"):
        raise failure
    (step,) = ended
    assert not step.ok
    assert step.detail.startswith("FAILED: ")


def test_a_step_that_cannot_be_shown_here_is_skipped_and_says_why(
    script: Script, ended: list[Step]
) -> None:
    with script.step("a", "A", "nothing") as lines:
        need(True, "never")
        lines.append("so far")
        raise Skipped("no EVM node is installed")
    (step,) = ended
    assert step.ok
    assert step.skipped
    assert step.detail == "so far\nno EVM node is installed"


def test_what_is_not_seen_fails_the_step(script: Script, ended: list[Step]) -> None:
    with pytest.raises(StepFailed), script.step("a", "A", "nothing"):
        need(False, "the enclave signed")
    assert "the enclave signed" in ended[0].detail
