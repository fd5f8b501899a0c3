"""Commands that the watchdog runs: bounded, and ended whatever they do."""

import asyncio
import os
import signal
import sys
import time

import pytest

from nitrosigner.untrusted.parent import enclave_runner
from nitrosigner.untrusted.parent.enclave_runner import (
    RunnerFailed,
    end_group,
    run_command,
)


async def started(source: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", source),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


def test_one_that_prints_more_than_anybody_reads_ends_when_killed() -> None:
    async def main() -> None:
        process = await started("print('x' * (3 << 20))")
        assert process.stdout is not None
        deadline = time.monotonic() + 60
        while not process.stdout._paused:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await end_group(process, 0)
        assert process.returncode == -signal.SIGKILL

    asyncio.run(main())


def test_output_that_somebody_else_holds_open_is_a_failure_and_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enclave_runner, "KILL_SECONDS", 0.2)
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )

    async def main() -> None:
        process = await started(source)
        assert process.stdout is not None
        two = [int(await process.stdout.readline()) for _ in range(2)]
        (other,) = {*two} - {process.pid}
        try:
            with pytest.raises(RunnerFailed, match="does not end"):
                await end_group(process, 0)
        finally:
            os.kill(other, signal.SIGKILL)
        await process.stdout.read()
        await process.wait()

    asyncio.run(main())


def test_a_flood_is_cut_off_and_said() -> None:
    flood = [sys.executable, "-I", "-S", "-c", "while True: print('x' * 9999)"]
    with pytest.raises(RunnerFailed, match="more than it should"):
        asyncio.run(run_command(flood, 60))
