"""One real local stack for all tests of a session that need one."""

from collections.abc import Iterator

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import START_DEADLINE, RunningStack


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--image",
        metavar="FILE",
        help="boot this enclave image in a virtual machine for the shared stack",
    )


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
