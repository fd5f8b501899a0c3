"""A few of the kills of `fuzz/killed_processes.py`: two signers, one store, no mercy."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import attestation
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.verdicts import Refused, Undecided

FUZZ = Path(__file__).parents[3] / "fuzz/killed_processes.py"
# See test_slashing_protection.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed_processes", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_whatever_is_killed_nothing_that_left_could_be_punished(
    chain: RunningStack, fuzz: ModuleType, client: SignerClient
) -> None:
    outcome = fuzz.play(chain, seed=11, kills=4)
    assert outcome.slashable_pairs == 0
    assert outcome.broken_orders == []
    assert sum(outcome.kills.values()) == 4
    # What was thrown away, or was on its way when somebody died, is on record too.
    assert outcome.on_record >= outcome.received > 20
    assert outcome.refused > 20

    def mended() -> bool:
        try:
            client.sign_duty(fuzz.interop_name(), attestation(900, 901))
        except Undecided:
            return False
        except Refused:
            pass  # the operator was interrupted between two orders
        return True

    wait_until(mended, "the stack serves the next test")


def test_its_oracle_sees_what_two_signers_would_have_done(fuzz: ModuleType) -> None:
    oracle = fuzz._simulation().Oracle()
    one, two = "0x" + "aa" * 96, "0x" + "bb" * 96
    for signature in (one, one):
        oracle.signed(b"k" * 48, fuzz.message_of(attestation(3, 4), signature))
    assert oracle.pairs == 0
    oracle.signed(b"k" * 48, fuzz.message_of(attestation(3, 4), two))
    assert oracle.pairs == 1
    oracle.signed(b"k" * 48, fuzz.message_of(attestation(2, 5), two))
    assert oracle.pairs == 3
