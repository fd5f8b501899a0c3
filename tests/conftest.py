"""One real local stack for all tests of a session that need one."""

from collections.abc import Iterator

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import RunningStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """
    `nitrosigner up` on a free port: emulated KMS, parent and enclave as processes.

    Shared: leave it as it was found. Key names are your test's own; whoever stops or
    breaks something mends it before the test ends.
    """
    running = RunningStack.start(tmp_path_factory.mktemp("stack") / "data")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def signer(stack: RunningStack) -> Iterator[SignerClient]:
    """The client `default` of the shared stack."""
    with SignerClient.from_data(stack.folder.path) as client:
        yield client
