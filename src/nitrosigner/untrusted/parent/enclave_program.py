"""
An enclave that is a process of this machine: for development, and nowhere else.

The emulated hypervisor is such a program; it ends with its enclave.
"""

import asyncio
import os
from typing import Annotated, Final, final

import msgspec

from nitrosigner.untrusted.parent.enclave_runner import RunnerFailed, end_group

STOP_SECONDS: Final = 10.0
PID: Final = "{pid}"
"""In an argument: the watchdog's process id, for a program that ends with it."""


class ProgramEnclave(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="kind",
    tag="program",
):
    """What to run."""

    command: Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
    environment: dict[str, str] = {}
    """The whole of it: nothing of the watchdog's own is passed on."""


@final
class Program:
    """The port `EnclaveRunner`."""

    def __init__(self, what: ProgramEnclave) -> None:
        self._what = what
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 if there is none."""
        process = self._process
        return process.pid if process and process.returncode is None else 0

    async def ended(self) -> None:
        """Return once it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def adopt(self) -> bool:
        """Return whether it runs. A process of somebody else is never ours."""
        return self.pid != 0

    async def running(self) -> bool:
        """Return whether it runs."""
        return self.pid != 0

    async def start(self) -> None:
        """Start it."""
        await self.stop()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(part.replace(PID, str(os.getpid())) for part in self._what.command),
                env=self._what.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"{self._what.command[0]} cannot be run: {error.strerror}"
            raise RunnerFailed(msg) from error

    async def stop(self) -> None:
        """End it and all that it started."""
        process, self._process = self._process, None
        if process is not None:
            await end_group(process, STOP_SECONDS)
