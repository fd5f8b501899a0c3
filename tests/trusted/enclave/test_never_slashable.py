"""Some tens of thousands of the million operations of `fuzz/never_slashable.py`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[3] / "fuzz/never_slashable.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("never_slashable", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("signers", [2, 3, 4])
def test_nothing_that_was_permitted_could_be_punished(
    simulation: ModuleType, signers: int
) -> None:
    outcome = simulation.run(seed=signers, operations=15_000, signers=signers)
    assert outcome.slashable_pairs == 0
    assert outcome.late_permits == 0
    # The run was no walk-over: much was permitted, refused, and begun again.
    assert outcome.permitted > 200
    assert outcome.refused > 5_000
    assert outcome.restarts > 50
    assert outcome.orders > 40


def test_the_oracle_counts_what_could_be_punished(simulation: ModuleType) -> None:
    oracle = simulation.Oracle()
    key, one, two = b"k" * 48, b"1" * 32, b"2" * 32
    vote, proposal = simulation.Vote, simulation.Proposal
    oracle.signed(key, vote(source=1, target=4, signing_root=one))
    oracle.signed(key, vote(source=1, target=4, signing_root=one))
    oracle.signed(b"other" * 9, vote(source=1, target=4, signing_root=two))
    assert oracle.pairs == 0
    oracle.signed(key, vote(source=1, target=4, signing_root=two))  # double
    oracle.signed(key, vote(source=0, target=5, signing_root=two))  # surrounds both
    assert oracle.pairs == 3
    oracle.signed(key, proposal(slot=3, signing_root=one))
    oracle.signed(key, proposal(slot=3, signing_root=one))
    assert oracle.pairs == 3
    oracle.signed(key, proposal(slot=3, signing_root=two))
    assert oracle.pairs == 4
