"""The supervisor, with real processes: they come back, and none outlives it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nitrosigner.emulator.bounded_log import MAX_LOG, BoundedLog
from nitrosigner.emulator.supervisor import Death, Program, Supervisor


def program(tmp_path: Path, name: str, source: str) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-I", "-S", "-c", source),
        environment={},
        log=tmp_path / "logs" / f"{name}.log",
    )


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    return False


FOREVER = "import signal; print('here', flush=True); signal.pause()"


def test_a_killed_program_comes_back_and_its_death_is_told(tmp_path: Path) -> None:
    told: list[Death] = []

    async def scene() -> None:
        supervisor = Supervisor(told.append, lambda: None)
        supervisor.start(program(tmp_path, "a", FOREVER))
        await until(lambda: "a" in supervisor.pids)
        first = supervisor.pids["a"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pids.get("a", first) != first)
        await supervisor.stop_all()
        assert supervisor.pids == {}

    asyncio.run(scene())
    assert [(d.name, d.status, d.times) for d in told] == [("a", -signal.SIGKILL, 1)]


def test_each_quick_death_doubles_the_wait(tmp_path: Path) -> None:
    told: list[Death] = []

    async def scene() -> None:
        supervisor = Supervisor(told.append, lambda: None)
        supervisor.start(program(tmp_path, "a", "raise SystemExit(3)"))
        await until(lambda: len(told) == 3)
        await supervisor.stop_all()

    asyncio.run(scene())
    assert [d.delay for d in told] == [0.1, 0.2, 0.4]
    assert {d.status for d in told} == {3}


def test_a_program_that_ignores_the_request_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrosigner.emulator.supervisor.TERM_DEADLINE", 0.3)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER

    async def scene() -> int:
        supervisor = Supervisor(lambda death: None, lambda: None)
        supervisor.start(program(tmp_path, "deaf", deaf + "; signal.pause()"))
        log = tmp_path / "logs" / "deaf.log"
        await until(lambda: log.exists() and "here" in log.read_text())
        pid = supervisor.pids["deaf"]
        await supervisor.stop_all()
        return pid

    assert not alive(asyncio.run(scene()))


def test_what_a_program_started_dies_with_it(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys, signal\n"
        "c = subprocess.Popen([sys.executable, '-I', '-S', '-c', "
        "'import signal; signal.pause()'])\n"
        "print(c.pid, flush=True); signal.pause()"
    )

    async def scene() -> None:
        supervisor = Supervisor(lambda death: None, lambda: None)
        supervisor.start(program(tmp_path, "a", source))
        log = tmp_path / "logs" / "a.log"
        await until(lambda: log.exists() and log.read_text().endswith("\n"))
        grandchild = int(log.read_text())
        assert alive(grandchild)
        os.kill(supervisor.pids["a"], signal.SIGKILL)
        await until(lambda: not alive(grandchild))
        await supervisor.stop_all()

    asyncio.run(scene())


def test_children_end_when_the_supervisor_itself_is_killed(tmp_path: Path) -> None:
    source = f"""
import asyncio, sys
from pathlib import Path

import pytest
from nitrosigner.emulator.supervisor import Program, Supervisor

async def main():
    supervisor = Supervisor(lambda death: None, lambda: None)
    supervisor.start(Program("a", (sys.executable, "-I", "-S", "-c", {FOREVER!r}),
        {{}}, Path({str(tmp_path)!r}) / "a.log"))
    while "here" not in (Path({str(tmp_path)!r}) / "a.log").read_text():
        await asyncio.sleep(0.01)
    print(supervisor.pids["a"], flush=True)
    await asyncio.Event().wait()

Path({str(tmp_path)!r}, "a.log").touch()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert alive(child)
        supervisor.kill()
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline


def test_a_program_stopped_while_it_waits_to_be_restarted_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrosigner.emulator.supervisor.FIRST_DELAY", 90.0)
    monkeypatch.setattr("nitrosigner.emulator.supervisor.LAST_DELAY", 90.0)
    told: list[Death] = []

    async def scene() -> None:
        supervisor = Supervisor(told.append, lambda: None)
        supervisor.start(program(tmp_path, "a", "raise SystemExit(1)"))
        await until(lambda: len(told) == 1)
        async with asyncio.timeout(8):  # after 10 s whatever hangs is killed
            await supervisor.stop("a")
        assert supervisor.pids == {}

    asyncio.run(scene())


def test_programs_stop_in_the_opposite_order_of_their_start(tmp_path: Path) -> None:
    note = tmp_path / "order"
    source = (
        "import signal, sys\n"
        f"def end(*_): open({str(note)!r}, 'a').write(NAME); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('here', flush=True)\nwhile True: signal.pause()"
    )

    async def scene() -> None:
        supervisor = Supervisor(lambda death: None, lambda: None)
        for name in "abc":
            supervisor.start(program(tmp_path, name, f"NAME = {name!r}\n{source}"))
            log = tmp_path / "logs" / f"{name}.log"
            await until(lambda log=log: log.exists() and "here" in log.read_text())
        await supervisor.stop_all()

    asyncio.run(scene())
    assert note.read_text() == "cba"


def test_a_log_never_grows_past_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = BoundedLog(path, limit=1000)
    for number in range(500):
        log.write(b"line %d\n" % number)
    log.write(b"x" * 5000)
    log.close()
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert MAX_LOG <= 1 << 20


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    told: list[Death] = []
    absent = Program("a", ("/nonexistent/program",), {}, tmp_path / "a.log")

    async def scene() -> None:
        supervisor = Supervisor(told.append, lambda: None)
        supervisor.start(absent)
        await until(lambda: len(told) == 2)
        await supervisor.stop_all()

    asyncio.run(scene())
    assert all(death.status != 0 for death in told)


PRINTING = """
import os, subprocess, sys
from pathlib import Path
from nitrosigner.emulator.bounded_log import printed_into

with printed_into(Path(sys.argv[1])):
    print("from us", flush=True)
    subprocess.run(["/bin/echo", "from a child"])
    os.write(2, b"x" * (3 << 20))
    print("the last words")
print("not in the log")
"""


def test_what_a_program_and_its_children_print_goes_into_its_own_log(
    tmp_path: Path,
) -> None:
    log = tmp_path / "logs" / "own.log"
    done = subprocess.run(
        [sys.executable, "-c", PRINTING, str(log)],
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == b""
    assert log.stat().st_size <= MAX_LOG
    assert log.read_text().endswith("the last words\n")


def test_a_programs_own_log_holds_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    source = PRINTING.replace("3 << 20", "3")
    subprocess.run([sys.executable, "-c", source, str(log)], timeout=30, check=True)
    assert log.read_text().split() == [
        "from",
        "us",
        "from",
        "a",
        "child",
        "xxxthe",
        "last",
        "words",
    ]
