"""One real local stack for all tests of a session that need one; how Hypothesis tries."""

import datetime as dt
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.running_stack import START_DEADLINE, RunningStack

# A busy machine is slow in places; that is no property of the code under test.
settings.register_profile(
    "local", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# The same examples for the same tests, so that nobody's change fails by what another's
# luck found: luck is for the other two profiles.
settings.register_profile(
    "ci",
    settings.get_profile("local"),
    derandomize=True,
    database=None,
    print_blob=True,
)
# --hypothesis-profile=long, where a test does not count its examples itself
settings.register_profile("long", settings.get_profile("local"), max_examples=1000)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--image",
        metavar="FILE",
        help="boot this enclave image in a virtual machine for the shared stack",
    )


def _module(path: Path) -> ModuleType:
    """Return the module in *path*: once, so that its classes are the same for all."""
    name = f"nitrosigner_tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def company_pki() -> ModuleType:
    """The module company_pki.py."""
    return _module(Path(__file__).with_name("company_pki.py"))


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module tests/client/fake_signer.py."""
    return _module(Path(__file__).with_name("client") / "fake_signer.py")


@pytest.fixture(scope="session")
def pki() -> NitroPki:
    return NitroPki.new(dt.datetime.now(dt.UTC))


@pytest.fixture
def fake_signer(pki: NitroPki, tmp_path: Path, fakes: ModuleType) -> Iterator[Any]:
    """A signer that is not one, and may lie; three folders call it `signer`."""
    folder = tmp_path / "fake"
    folder.mkdir(mode=0o700)
    fake = fakes.FakeSigner(pki, folder)
    yield fake
    fake.stop()


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    """
    `nitrosigner up` on a free port: emulated KMS, parent and enclave as processes; with
    --image the enclave is a virtual machine.

    Shared: leave it as it was found. Key names are your test's own; whoever stops or
    breaks something mends it before the test ends.
    """
    image = request.config.getoption("--image")
    running = RunningStack.start(
        tmp_path_factory.mktemp("stack") / "data",
        options=(
            ("--vm", "--image", image, "--memory", "256", "--preset", "minimal")
            if image
            else ()
        ),
        deadline=200 if image else START_DEADLINE,
    )
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def signer(stack: RunningStack) -> Iterator[SignerClient]:
    """The client `default` of the shared stack."""
    with SignerClient.from_data(stack.folder.path) as client:
        yield client
