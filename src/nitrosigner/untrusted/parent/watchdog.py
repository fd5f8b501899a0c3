"""
Runs the enclave, watches its real health, and runs it again.

    python -m nitrosigner.untrusted.parent.watchdog --config FILE [COMMAND]

Without a command it stays, until SIGTERM or SIGINT; then callers are let in no more,
answers under way may finish, and the enclave is ended. With `status`, `start`, `stop`,
`restart` or `reload` it tells the one that stays.

A process that exists is not health: the enclave is asked over HTTPS, as callers ask,
and what it reports of its boot is heard. Nothing here can make it sign twice: two
enclaves, or an old one that would not die, are held apart by the watermark store.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, final

import msgspec

from nitrosigner.untrusted.parent import control_socket, state, watchdog_configuration
from nitrosigner.untrusted.parent.control_socket import ControlSocket
from nitrosigner.untrusted.parent.enclave_health import probe
from nitrosigner.untrusted.parent.enclave_program import Program, ProgramEnclave
from nitrosigner.untrusted.parent.enclave_runner import EnclaveRunner, RunnerFailed
from nitrosigner.untrusted.parent.event_log import Event, EventLog
from nitrosigner.untrusted.parent.nitro_cli import NitroCli, NitroCliEnclave
from nitrosigner.untrusted.parent.vigil import Phase, Reason, Restart, Vigil
from nitrosigner.untrusted.parent.watchdog_configuration import WatchdogConfiguration
from nitrosigner.verdicts import Code, Malformed, Verdict

COMMANDS: Final = ("status", "start", "stop", "restart", "reload")


class Status(msgspec.Struct, kw_only=True):
    """What `status` answers, and what the status file holds."""

    pid: int
    enclave_pid: int = 0
    """Where the enclave is a program of this machine: its process, while it runs."""
    wanted: bool = True
    """False after `stop`, until `start`: through a kill of the watchdog too. A watchdog
    that was ended in order forgets it; whoever starts that wants an enclave."""
    phase: Phase = Phase.STOPPED
    since: float = 0
    """Unix seconds, of the phase."""
    health: str = ""
    """The state that the enclave itself last named; empty until it has named one."""
    restarts: int = 0
    failures: int = 0
    """In a row, since it last was steady."""
    reason: Reason = Reason.NONE
    """Of the last restart."""
    message: str = ""
    """Our own sentence about the last failure."""


@final
class Watchdog:
    """The program, without its entry."""

    def __init__(
        self,
        read: Callable[[], WatchdogConfiguration],
        log: EventLog,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Make one.

        Args:
            read: Reads the configuration; asked again on `reload`.
            log: For events.
            chance: From 0 up to 1, for the jitter.

        Raises:
            Malformed: The configuration is none.
        """
        self._read = read
        self._log = log
        self._chance = chance
        self._told = read()
        self._runner = _runner(self._told)
        self._next: EnclaveRunner | None = None
        self.status: Final = Status(pid=os.getpid(), since=time.time())
        self.status.wanted = _was_wanted(Path(self._told.status))
        self._wanted = asyncio.Event()
        if self.status.wanted:
            self._wanted.set()
        self._interrupt = asyncio.Event()
        """Set whenever a command wants the watch to look up."""
        self._restart_asked = False
        self._settled = asyncio.Event()
        """Set when a command has been acted upon."""

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the enclave running until *stop* is set; then end it in order."""
        control = ControlSocket(Path(self._told.control), self.command)
        await control.start()
        keeping = asyncio.ensure_future(self._keep())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({keeping, stopping}, return_when="FIRST_COMPLETED")
            if keeping.done():
                keeping.result()
        finally:
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.gather(keeping, stopping, return_exceptions=True)
            await control.stop()
            self.status.wanted = True
            await self._end()
            self._log(Event.STOPPED)

    async def command(self, command: str) -> dict[str, Any]:
        """
        Do what an operator asks, and return the status afterwards.

        Raises:
            Malformed: There is no such command, or no such configuration.
        """
        match command:
            case "status":
                pass
            case "start":
                self.status.wanted = True
                self._wanted.set()
            case "stop":
                self.status.wanted = False
                self._wanted.clear()
                # Remembered before anything is ended: a kill must not undo the order.
                self._write_status()
                await self._look_up()
            case "restart":
                self._restart_asked = True
                self.status.wanted = True
                self._wanted.set()
                await self._look_up()
            case "reload":
                await self._reload()
            case _:
                raise Malformed(
                    Code.MALFORMED_REQUEST,
                    "there is no such command",
                    f"commands: {', '.join(COMMANDS)}",
                )
        return dict(msgspec.to_builtins(self.status))

    async def _reload(self) -> None:
        told = self._read()
        if told.enclave != self._told.enclave:
            # What runs now is ended by the runner that started it.
            self._next = _runner(told)
            self._restart_asked = True
            self._told = told
            await self._look_up()
        self._told = told

    async def _look_up(self) -> None:
        """Have the watch act on what was changed, and wait until it has begun to."""
        self._settled.clear()
        self._interrupt.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._told.drain_seconds + 90):
                await self._settled.wait()

    # --- the watch ---

    async def _keep(self) -> None:
        adopted = False
        with contextlib.suppress(RunnerFailed):
            adopted = await self._runner.adopt()
        while True:
            if not self._wanted.is_set():
                await self._end()
                adopted = False
                self._settled.set()
                self._interrupt.clear()
                await self._wanted.wait()
            try:
                if not adopted:
                    await self._start()
                adopted = False
                await self._watch()
            except Restart as why:
                await self._again(why)

    async def _start(self) -> None:
        self._phase(Phase.STARTING)
        self._restart_asked = False
        self._interrupt.clear()
        try:
            await self._runner.start()
        except RunnerFailed as failure:
            raise Restart(Reason.START_FAILED, str(failure)) from None

    async def _watch(self) -> None:
        """Watch until it must be started again, or is no longer wanted."""
        self._phase(Phase.BOOTING)
        await self._tell_parent("resume")
        self._settled.set()
        began = time.monotonic()
        vigil = Vigil(self._told.probe, began)
        while self._wanted.is_set():
            if self._restart_asked:
                raise Restart(Reason.ASKED, "an operator asked for it")
            told = self._told.probe
            health = await probe(told.address, told.port, told.answer_seconds)
            await self._check_process()
            reports = not health.reached and await self._boot_reports(since=began)
            self.status.health = health.state
            now = time.monotonic()
            phase = vigil.judge(now, health, reports=reports)
            if phase is not self.status.phase:
                self._phase(phase)
            if vigil.ready_for(now) > self._told.back_off.steady_seconds:
                self.status.failures = 0
            await self._pause(told.every_seconds, self._runner.ended())

    async def _check_process(self) -> None:
        try:
            if await self._runner.running():
                return
        except RunnerFailed as failure:
            # Nobody can tell; the enclave's own answers decide.
            self._log(Event.WATCHDOG_UNSURE, message=str(failure))
            return
        raise Restart(Reason.ENDED, "it does not run any more")

    async def _boot_reports(self, since: float) -> bool:
        """Return whether the enclave has reported of its boot lately."""
        if self._told.parent_state is None:
            return False
        try:
            found = await asyncio.to_thread(state.read, Path(self._told.parent_state))
        except (OSError, ValueError):
            return False
        # A report of the enclave before this one is none.
        age = time.time() - found.enclave.reported
        fresh = min(self._told.probe.boot_seconds, time.monotonic() - since)
        return found.enclave.connections > 0 and 0 <= age < fresh

    async def _again(self, why: Restart) -> None:
        """End what is left and wait before the next start."""
        status = self.status
        status.restarts += 1
        status.reason, status.message = why.reason, why.message
        self._log(Event.WATCHDOG_RESTART, code=why.reason, message=why.message)
        if why.planned:
            await self._drain()
        await self._stop_enclave()
        if self._next is not None:
            self._runner, self._next = self._next, None
        if why.planned:
            return
        back_off = self._told.back_off
        whole = min(
            back_off.first_seconds * 2.0 ** min(status.failures, 32),
            back_off.last_seconds,
        )
        status.failures += 1
        self._phase(Phase.BACKING_OFF)
        self._settled.set()
        # Never less than half of it, so that a failing start cannot spin.
        await self._pause(whole * (0.5 + self._chance() / 2))

    async def _end(self) -> None:
        await self._drain()
        await self._stop_enclave()
        self._phase(Phase.STOPPED)

    async def _drain(self) -> None:
        """Let nobody in, and wait for the answers that are under way."""
        if self.status.phase is Phase.STOPPED or self._told.parent_control is None:
            return
        self._phase(Phase.DRAINING)
        deadline = time.monotonic() + self._told.drain_seconds
        answer = await self._tell_parent("drain")
        while answer.get("unanswered") and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            answer = await self._tell_parent("status")

    async def _tell_parent(self, command: str) -> dict[str, Any]:
        if self._told.parent_control is None:
            return {}
        try:
            return await control_socket.ask(
                Path(self._told.parent_control), command, seconds=5
            )
        except Verdict:
            return {}  # without a parent nobody comes in either

    async def _stop_enclave(self) -> None:
        self.status.health = ""
        try:
            await self._runner.stop()
        except (RunnerFailed, TimeoutError) as failure:
            self._log(Event.WATCHDOG_UNSURE, message=str(failure))
            self.status.message = str(failure)

    async def _pause(self, seconds: float, *sooner: Awaitable[None]) -> None:
        """Wait, but not longer than until a command, or one of *sooner*."""
        reasons = {
            asyncio.ensure_future(each) for each in (self._interrupt.wait(), *sooner)
        }
        try:
            await asyncio.wait(
                reasons, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for reason in reasons:
                reason.cancel()
        self._interrupt.clear()

    def _phase(self, phase: Phase) -> None:
        self.status.phase = phase
        self.status.since = round(time.time(), 3)
        self._log(Event.WATCHDOG, state=phase, count=self.status.restarts)
        self._write_status()

    def _write_status(self) -> None:
        self.status.enclave_pid = self._runner.pid
        path = Path(self._told.status)
        fresh = path.with_name(path.name + ".new")
        with contextlib.suppress(OSError):  # a full disk does not stop the watch
            fresh.write_bytes(msgspec.json.encode(self.status) + b"\n")
            fresh.replace(path)


def _was_wanted(path: Path) -> bool:
    """Return False if the watchdog before this one was told `stop` and then killed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status).wanted
    except (OSError, ValueError):
        return True


def _runner(told: WatchdogConfiguration) -> EnclaveRunner:
    match told.enclave:
        case NitroCliEnclave():
            return NitroCli(told.enclave)
        case ProgramEnclave():
            return Program(told.enclave)


async def _stay(path: Path) -> None:
    log = EventLog(sys.stderr)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    dog = Watchdog(lambda: watchdog_configuration.read(path), log)
    hang_ups: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with contextlib.suppress(Verdict):
            await dog.command("reload")

    def hang_up() -> None:
        task = loop.create_task(reload())
        hang_ups.add(task)
        task.add_done_callback(hang_ups.discard)

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    await dog.run(stop)


async def _tell(path: Path, command: str) -> int:
    told = watchdog_configuration.read(path)
    answer = await control_socket.ask(
        Path(told.control), command, seconds=told.drain_seconds + 120
    )
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


def main() -> int:
    """Run the watchdog, or tell the one that runs; return the exit code."""
    parser = argparse.ArgumentParser(prog="nitrosigner-watchdog")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    parser.add_argument("command", nargs="?", choices=COMMANDS)
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        if arguments.command is not None:
            return asyncio.run(_tell(arguments.config, arguments.command))
        asyncio.run(_stay(arguments.config))
    except Verdict as verdict:
        EventLog(sys.stderr)(
            Event.CONFIGURATION_REFUSED
            if isinstance(verdict, Malformed)
            else Event.START_FAILED,
            code=verdict.code,
            message=verdict.message,
            hint=verdict.hint,
        )
        return verdict.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
