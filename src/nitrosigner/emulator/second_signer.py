"""
A second signer on one store: another parent and another enclave, beside a stack's own.

What a deployment has on two hosts runs here as processes: the same records, the same
watermarks, the same KMS key; its own port, sockets and audit log. Nothing but the store
stands between the two.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.emulator.data_folder import replace
from nitrosigner.emulator.local_stack import StackFailed, free_port
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.emulator.stack_programs import IMAGE_SOURCE, PARENT_ROLE
from nitrosigner.emulator.supervisor import tethered
from nitrosigner.untrusted.parent import configuration, enclave_health
from nitrosigner.untrusted.parent.configuration import UnixMode

READY_DEADLINE: Final = 60.0
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
_POLL: Final = 0.05
_END: Final = 5.0


@contextlib.contextmanager
def second_signer(stack: RunningStack) -> Iterator[str]:
    """
    Run another signer on *stack*'s store, and yield its URL when it is ready.

    Raises:
        StackFailed: It did not become ready.
    """
    theirs = configuration.read(stack.folder.parent / "config.json")
    # A socket's path is short; so is this.
    with tempfile.TemporaryDirectory(prefix="nitrosigner-") as temporary:
        run = Path(temporary)
        port = free_port()
        ours = msgspec.structs.replace(
            theirs,
            listen=msgspec.structs.replace(theirs.listen, port=port),
            vsock=UnixMode(run=str(run)),
            audit=msgspec.structs.replace(
                theirs.audit, path=str(stack.folder.parent / "audit-second.jsonl")
            ),
            state=str(run / "state.json"),
            metrics=None,
            control=None,
        )
        config = run / "config.json"
        replace(config, msgspec.json.encode(ours))
        source = Path(stack.ready.run) / IMAGE_SOURCE
        programs = (
            ("nitrosigner.untrusted.parent", "--config", str(config)),
            (
                "nitrosigner.emulator.hypervisor",
                *("--data", str(stack.folder.path), "--run", str(run)),
                *("--tree", str(source), "--role-arn", PARENT_ROLE),
            ),
        )
        with contextlib.ExitStack() as running:
            log = running.enter_context(
                (stack.folder.logs / "second.log").open("ab", buffering=0)
            )
            for module, *arguments in programs:
                process = subprocess.Popen(
                    tethered((sys.executable, "-I", "-m", module, *arguments)),
                    env=_ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                running.callback(_end, process)
            _wait_until_ready(port, stack)
            yield f"https://localhost:{port}"


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
