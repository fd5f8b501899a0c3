"""
How an enclave is started and ended: the port, and its failures.

Whoever implements it is believed about processes only. Whether the enclave can sign is
asked of the enclave itself; what it is, its attestation says.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

KILL_SECONDS: Final = 5.0
MAX_OUTPUT: Final = 1 << 20


class RunnerFailed(Exception):
    """It could not be done, or nobody can tell. The text is a sentence, for the log."""


class EnclaveRunner(Protocol):
    """
    Runs one enclave at most.

    `start` returns when the enclave's process exists; it may be long from ready. Where
    one of ours runs already, whoever started it, `adopt` says so, and it is kept.
    """

    @property
    def pid(self) -> int:
        """Of the process that was started here; 0 if there is none, or none of ours."""
        ...

    async def ended(self) -> None:
        """Return once it has ended. Where nobody tells of an end, never."""
        ...

    async def adopt(self) -> bool:
        """Return whether an enclave of ours runs already, as it should be."""
        ...

    async def start(self) -> None:
        """Start it. What is in its place is ended first. Raise `RunnerFailed`."""
        ...

    async def running(self) -> bool:
        """Return whether it runs. Raise `RunnerFailed` if nobody can tell."""
        ...

    async def stop(self) -> None:
        """End it, and return when it has ended. Raise `RunnerFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    status: int
    output: bytes


async def run_command(command: Sequence[str], seconds: float) -> Finished:
    """
    Run *command* with a deadline, its output bounded.

    Raises:
        RunnerFailed: It cannot be started, takes too long or says too much. It has
            been killed with all that it started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        msg = f"{command[0]} cannot be run: {error.strerror}"
        raise RunnerFailed(msg) from error
    name = " ".join(command[:2])
    try:
        async with asyncio.timeout(seconds):
            output = await _bounded(process, name)
            status = await process.wait()
    except TimeoutError:
        msg = f"{name} took longer than {seconds:.0f} seconds"
        raise RunnerFailed(msg) from None
    finally:
        await end_group(process, 0)
    return Finished(status, output)


async def _bounded(process: asyncio.subprocess.Process, name: str) -> bytes:
    output = b""
    while process.stdout is not None:
        part = await process.stdout.read(1 << 16)
        if not part:
            break
        output += part
        if len(output) > MAX_OUTPUT:
            msg = f"{name} printed more than it should"
            raise RunnerFailed(msg)
    return output


async def end_group(process: asyncio.subprocess.Process, seconds: float) -> None:
    """
    End a process that leads its group: asked first, killed after *seconds*.

    Raises:
        RunnerFailed: It does not end, or something else holds its output open.
    """
    if process.returncode is None:
        if seconds > 0:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS):
                # asyncio tells of an end only once all that was printed is read.
                while process.stdout is not None and await process.stdout.read(1 << 16):
                    pass
                await process.wait()
        except TimeoutError:
            msg = f"process {process.pid} does not end when killed"
            raise RunnerFailed(msg) from None
