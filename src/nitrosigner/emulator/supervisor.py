"""
Keeps the programs of the local stack running: starts them, brings back the dead.

No child outlives its supervisor, however that dies: the kernel kills the children of
a supervisor that was killed (see `tether`), and every child leads a process group of
its own that is killed with it, so that its children go too. Only processes that were
started here are ever signalled, by the id that we hold a descriptor for.

What the programs print goes to bounded files, never to our own output.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from nitrosigner.emulator.bounded_log import BoundedLog

FIRST_DELAY: Final = 0.1
"""Seconds before a dead program is started again; doubles with each quick death."""
LAST_DELAY: Final = 5.0
STEADY_AFTER: Final = 10.0
"""Seconds of life after which a program's past deaths are forgotten."""
TERM_DEADLINE: Final = 5.0
"""Seconds that a program is given to end itself before it is killed."""
_CHUNK: Final = 1 << 16
_TETHER: Final = Path(__file__).with_name("tether.py")


@dataclass(frozen=True, slots=True)
class Program:
    """Something to keep running. The first word of *command* is an absolute path."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


@dataclass(frozen=True, slots=True)
class Death:
    """A program ended without being asked to. *status* is negative for a signal."""

    name: str
    status: int
    times: int
    """How often it has died since it last was steady."""
    delay: float
    """Seconds until it is started again."""


@dataclass(slots=True)
class _Kept:
    program: Program
    task: "asyncio.Task[None] | None" = None
    process: "subprocess.Popen[bytes] | None" = None
    """Set from its start until it is reaped: as long as its id is ours to signal."""
    deaths: int = 0
    started: float = 0.0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


@final
class Supervisor:
    """Starts programs in order, keeps them, stops them in the opposite order."""

    def __init__(
        self,
        on_death: Callable[[Death], None],
        on_start: Callable[[], None],
    ) -> None:
        self._kept: dict[str, _Kept] = {}
        self._on_death = on_death
        self._on_start = on_start

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each program that runs now."""
        return {
            name: kept.process.pid
            for name, kept in self._kept.items()
            if kept.process is not None
        }

    def deaths(self, name: str) -> int:
        """Return how often a program has died since it last was steady."""
        return self._kept[name].deaths

    def start(self, program: Program) -> None:
        """Start *program* and keep it running from now on."""
        kept = _Kept(program)
        self._kept[program.name] = kept
        kept.task = asyncio.get_running_loop().create_task(
            self._keep(kept), name=f"keep {program.name}"
        )

    async def stop(self, name: str) -> None:
        """End a program: asked first, killed when the deadline has passed."""
        kept = self._kept.pop(name, None)
        if kept is None or kept.task is None:
            return
        kept.stopping.set()
        if kept.process is not None:
            # Not Popen.send_signal: that reaps, and then the id is no longer ours.
            os.kill(kept.process.pid, signal.SIGTERM)
        _, late = await asyncio.wait({kept.task}, timeout=TERM_DEADLINE)
        if late:
            if kept.process is not None:
                _kill_group(kept.process)
            await asyncio.wait({kept.task}, timeout=TERM_DEADLINE)

    async def stop_all(self) -> None:
        """End everything, the last started first."""
        for name in reversed(list(self._kept)):
            await self.stop(name)

    async def _keep(self, kept: _Kept) -> None:
        log = BoundedLog(kept.program.log)
        try:
            while not kept.stopping.is_set():
                status = await self._run_once(kept, log)
                if kept.stopping.is_set():
                    return
                if time.monotonic() - kept.started > STEADY_AFTER:
                    kept.deaths = 0
                kept.deaths += 1
                delay = min(FIRST_DELAY * 2 ** (kept.deaths - 1), LAST_DELAY)
                self._on_death(Death(kept.program.name, status, kept.deaths, delay))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await kept.stopping.wait()
        finally:
            log.close()

    async def _run_once(self, kept: _Kept, log: BoundedLog) -> int:
        loop = asyncio.get_running_loop()
        kept.started = time.monotonic()
        try:
            process = _spawn(kept.program)
        except OSError:  # no process, no memory: later there may be
            return -1
        kept.process = process
        self._on_start()
        output = process.stdout
        if output is None:  # pragma: no cover  # _spawn asks for a pipe
            raise RuntimeError
        os.set_blocking(output.fileno(), False)
        ended = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        loop.add_reader(descriptor, ended.set)
        loop.add_reader(output.fileno(), _drain, output.fileno(), log)
        try:
            await ended.wait()
            # What it started dies with it; then nothing can hold the pipe open.
            _kill_group(process)
            kept.process = None
            status = process.wait()
            _drain(output.fileno(), log)
            return status
        finally:
            loop.remove_reader(descriptor)
            loop.remove_reader(output.fileno())
            os.close(descriptor)
            output.close()


def tethered(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return *command* so that it dies with the thread that starts it."""
    tether = (sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()))
    return (*tether, *command)


def _spawn(program: Program) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        tethered(program.command),
        env=dict(program.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C reaches the whole group of a terminal: the children are not in it,
        # because they are stopped by us and in order.
        start_new_session=True,
        close_fds=True,
    )


def _drain(descriptor: int, log: BoundedLog) -> None:
    """Move what waits in the pipe to the log; at its end there is nothing to do."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, _CHUNK):
            log.write(data)
        with contextlib.suppress(RuntimeError):
            # At end of file the descriptor stays readable: stop looking at it.
            asyncio.get_running_loop().remove_reader(descriptor)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    # The group's id stays taken until its leader is reaped, which only we do.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
