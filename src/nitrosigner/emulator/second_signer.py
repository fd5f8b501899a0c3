"""
A second signer on one store: another parent and another enclave, beside a stack's own.

What a deployment has on two hosts runs here as processes: the same records, the same
watermarks, the same KMS key; its own port, sockets and audit log. Nothing but the store
stands between the two. Its enclave is run by the production watchdog.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.emulator.data_folder import replace
from nitrosigner.emulator.local_stack import StackFailed, free_port
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.emulator.stack_programs import (
    IMAGE_SOURCE,
    PARENT_ROLE,
    tethered_enclave,
)
from nitrosigner.emulator.supervisor import Program, tethered
from nitrosigner.untrusted.parent import configuration, enclave_health
from nitrosigner.untrusted.parent.configuration import UnixMode
from nitrosigner.untrusted.parent.watchdog_configuration import (
    BackOff,
    Probe,
    WatchdogConfiguration,
)

_PARENT: Final = "nitrosigner.untrusted.parent"
READY_DEADLINE: Final = 60.0
CHECK_SECONDS: Final = 0.2
"""Between the watchdog's questions: nobody here wants to wait."""
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
_POLL: Final = 0.05
_END: Final = 20.0


@dataclass(frozen=True, slots=True)
class SecondSigner:
    """Where it is."""

    url: str
    control: Path
    """The watchdog's: `control_socket.ask`."""
    audit: Path


@contextlib.contextmanager
def second_signer(stack: RunningStack) -> Iterator[SecondSigner]:
    """
    Run another signer on *stack*'s store, and yield it when it is ready.

    Raises:
        StackFailed: It did not become ready.
    """
    theirs = configuration.read(stack.folder.parent / "config.json")
    # A socket's path is short; so is this.
    with tempfile.TemporaryDirectory(prefix="nitrosigner-") as temporary:
        run = Path(temporary)
        port = free_port()
        audit = stack.folder.parent / "audit-second.jsonl"
        parent = msgspec.structs.replace(
            theirs,
            listen=msgspec.structs.replace(theirs.listen, port=port),
            vsock=UnixMode(run=str(run)),
            audit=msgspec.structs.replace(theirs.audit, path=str(audit)),
            state=str(run / "state.json"),
            metrics=None,
            control=str(run / "parent.sock"),
        )
        watchdog = WatchdogConfiguration(
            enclave=tethered_enclave(_hypervisor(stack, run)),
            probe=Probe(port=port, every_seconds=CHECK_SECONDS),
            back_off=BackOff(first_seconds=CHECK_SECONDS),
            control=str(run / "watchdog.sock"),
            status=str(run / "watchdog.json"),
            parent_control=parent.control,
            parent_state=parent.state,
            drain_seconds=5,
        )
        with contextlib.ExitStack() as running:
            log = running.enter_context(
                (stack.folder.logs / "second.log").open("ab", buffering=0)
            )
            for module, told in ((_PARENT, parent), (f"{_PARENT}.watchdog", watchdog)):
                config = run / f"{module}.json"
                replace(config, msgspec.json.encode(told))
                command = (sys.executable, "-I", "-m", module)
                process = subprocess.Popen(
                    tethered((*command, "--config", str(config))),
                    env=_ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                running.callback(_end, process)
            _wait_until_ready(port, stack)
            yield SecondSigner(
                f"https://localhost:{port}", Path(watchdog.control), audit
            )


def _hypervisor(stack: RunningStack, run: Path) -> Program:
    log = stack.folder.logs / "second-hypervisor.log"
    return Program(
        name="hypervisor",
        command=(
            *(sys.executable, "-I", "-m", "nitrosigner.emulator.hypervisor"),
            *("--data", str(stack.folder.path), "--run", str(run)),
            *("--tree", str(Path(stack.ready.run) / IMAGE_SOURCE)),
            *("--role-arn", PARENT_ROLE, "--log", str(log)),
        ),
        environment=_ENVIRONMENT,
        log=log,
    )


def _wait_until_ready(port: int, stack: RunningStack) -> None:
    deadline = time.monotonic() + READY_DEADLINE
    while not asyncio.run(enclave_health.probe("127.0.0.1", port, 2)).ready:
        if time.monotonic() > deadline:
            raise StackFailed(
                "the second signer did not become ready",
                f"read {stack.folder.logs / 'second.log'}",
            )
        time.sleep(_POLL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
