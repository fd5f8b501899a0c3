"""The oracle of the duties, for the signing room's tests and for the front's."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


def _load(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FUZZ / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """fuzz/beacon_oracle.py: every message, built a second time."""
    return _load("beacon_oracle")


@pytest.fixture(scope="session")
def spellings(oracle: ModuleType) -> ModuleType:
    """fuzz/beacon_duties.py: how clients ask, and how their requests are compared."""
    assert oracle.__name__ == "beacon_oracle"  # which it imports by name
    return _load("beacon_duties")
