"""The image that is tested, and what can be done to the machine that runs it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.emulator.stack_programs import PARENT_ROLE
from nitrosigner.emulator.supervisor import tethered
from nitrosigner.emulator.vsock import socket_path
from nitrosigner.wire.addresses import EGRESS_PORT, PARENT_CID, SERVICES_PORT


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Path:
    """The built image; `measurements.json` lies beside it."""
    given = request.config.getoption("--image")
    assert given, "run it as make test-vm, or with --image FILE"
    return Path(given).absolute()


@pytest.fixture(scope="session")
def measured(image: Path) -> dict[str, Any]:
    """What the build says of the image."""
    return dict(json.loads(image.with_name("measurements.json").read_bytes()))


def qemu_of(stack: RunningStack) -> int:
    """The process id of the machine that runs now."""
    log = stack.folder.logs / "hypervisor.log"
    said = re.findall(rb"hypervisor: QEMU is process (\d+)", log.read_bytes())
    return int(said[-1])


@pytest.fixture
def qemu(stack: RunningStack) -> Callable[[], int]:
    return lambda: qemu_of(stack)


@pytest.fixture
def kill_now() -> Callable[[int], None]:
    return lambda pid: os.kill(pid, signal.SIGKILL)


@pytest.fixture
def kms_events(stack: RunningStack) -> Callable[[str], list[dict[str, Any]]]:
    """What KMS's own trail says of an enclave with this PCR0."""

    def events(pcr0: str) -> list[dict[str, Any]]:
        found = []
        for line in (stack.folder.kms / "cloudtrail.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # it is being written
                event = json.loads(line)
                recipient = event.get("additionalEventData", {}).get("recipient", {})
                if recipient.get("attestationDocumentEnclaveImageDigest") == pcr0:
                    found.append(event)
        return found

    return events


@pytest.fixture
def beside(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], contextlib.AbstractContextManager[Path]]:
    """Boot another image with the same parent; yields the run folder of its own."""

    @contextlib.contextmanager
    def boot(other: Path) -> Iterator[Path]:
        run = Path(f"/tmp/nitrosigner-beside-{os.getpid()}")
        for port in (SERVICES_PORT, EGRESS_PORT):
            link = socket_path(run, PARENT_CID, port)
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.symlink_to(socket_path(Path(stack.ready.run), PARENT_CID, port))
        log = tmp_path_factory.mktemp("beside") / "hypervisor.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                tethered(
                    (
                        *(sys.executable, "-I", "-m", "nitrosigner.emulator.vm"),
                        *("--data", str(stack.folder.path), "--run", str(run)),
                        *("--image", str(other), "--memory", "256"),
                        *("--role-arn", PARENT_ROLE),
                    )
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield run
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            shutil.rmtree(run, ignore_errors=True)

    return boot
