"""The fake signer of tests/client, here too."""

import datetime as dt
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nitrosigner.emulator.nitro_pki import NitroPki

NAME = "nitrosigner_tests_fake_signer"


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module tests/client/fake_signer.py."""
    if NAME not in sys.modules:
        path = Path(__file__).parents[2] / "client/fake_signer.py"
        spec = importlib.util.spec_from_file_location(NAME, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def pki() -> NitroPki:
    return NitroPki.new(dt.datetime.now(dt.UTC))


@pytest.fixture
def signer(pki: NitroPki, tmp_path: Path, fakes: ModuleType) -> Iterator[Any]:
    folder = tmp_path / "fake"
    folder.mkdir(mode=0o700)
    fake = fakes.FakeSigner(pki, folder)
    yield fake
    fake.stop()
