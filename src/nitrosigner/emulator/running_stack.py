"""
A local stack seen from outside: started as a command, read through its ready line.

The demo and the tests use it as a stranger would, with nothing but the folder and
process ids. If whoever started it dies, the stack ends too.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self, final

import msgspec

from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.local_stack import Ready, StackFailed
from nitrosigner.emulator.supervisor import tethered

START_DEADLINE: Final = 90.0
STOP_DEADLINE: Final = 20.0
CHANGE_DEADLINE: Final = 30.0
_POLL: Final = 0.05
_COMMAND: Final = (sys.executable, "-I", "-m", "nitrosigner.cli.main", "up")


@final
class RunningStack:
    """One `nitrosigner up`, with what it said when it was ready."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", folder: DataFolder, ready: Ready
    ) -> None:
        self._process = process
        self.folder: Final = folder
        self.ready: Final = ready

    @classmethod
    def start(
        cls,
        data: Path,
        port: int = 0,
        *,
        options: Sequence[str] = (),
        deadline: float = START_DEADLINE,
    ) -> Self:
        """
        Start a stack in *data* and return when it is ready.

        Args:
            data: Its folder.
            port: Where it listens; 0 for any free one.
            options: More options of `nitrosigner up`.
            deadline: Seconds.

        Raises:
            StackFailed: It did not become ready; it has ended.
        """
        folder = DataFolder(data.absolute())
        folder.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        messages = folder.logs / "up.log"
        with messages.open("ab") as file:
            arguments = ("--data", str(folder.path), "--port", str(port), "--json")
            process = subprocess.Popen(
                tethered((*_COMMAND, *arguments, *options)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        try:
            line = _line(process, deadline)
            ready = msgspec.json.decode(line, type=Ready)
        except (ValueError, TimeoutError):
            _end(process)
            raise StackFailed(
                "the local stack did not start", f"read {messages}"
            ) from None
        except BaseException:
            _end(process)
            raise
        return cls(process, folder, ready)

    def now(self) -> Ready:
        """Return what stack.json says now: the process ids change."""
        return msgspec.json.decode(self.folder.stack.read_bytes(), type=Ready)

    def stop(self) -> int:
        """Ask the stack to end as Ctrl-C would, and return its exit status."""
        return _end(self._process)

    def kill(self, name: str) -> None:
        """Kill -9 one program (`kms`, `parent`, `hypervisor`); await its successor."""
        old = self.now().pids[name]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.now().pids.get(name, old) != old, "it comes back")


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float = CHANGE_DEADLINE
) -> None:
    """
    Wait for *condition*.

    Raises:
        TimeoutError: It did not come true in time; *what* is the sentence.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            msg = f"not within {seconds:.0f} seconds: {what}"
            raise TimeoutError(msg)
        time.sleep(_POLL)


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
    output = process.stdout
    if output is None:  # pragma: no cover  # asked for
        raise RuntimeError
    gathered = b""
    deadline = time.monotonic() + seconds
    while not gathered.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([output], [], [], left)[0]:
            raise TimeoutError
        part = os.read(output.fileno(), 1 << 16)
        if not part:
            break
        gathered += part
    return gathered


def _end(process: "subprocess.Popen[bytes]") -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            # Its children die with it.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return process.returncode
