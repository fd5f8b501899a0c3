"""A local stack for a benchmark, and what its processes have used."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "nitrosigner"
_TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def stack(*options: str, data: Path | None = None) -> Iterator[dict[str, Any]]:
    """Start `nitrosigner up`, yield its ready line, stop it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = data or Path(temporary) / "data"
        process = subprocess.Popen(
            [
                *(COMMAND, "up", "--json", "--data", folder),
                *("--port", str(free_port()), *options),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                msg = "nitrosigner up ended before it was ready"
                raise SystemExit(msg)
            yield {**json.loads(line), "data": str(folder)}
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[n]) for n in (11, 12)) / _TICKS


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    msg = f"process {pid} has no resident memory"
    raise LookupError(msg)


def children(pid: int) -> Iterator[int]:
    """Yield the pids of a process's children."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def descendants(pid: int, besides: Collection[int] = ()) -> Iterator[int]:
    """Yield the pids of a process's children and theirs, but for those in *besides*."""
    for child in children(pid):
        if child not in besides:
            yield child
            yield from descendants(child, besides)


def private_mib(pid: int) -> float:
    """Return the memory that a process shares with no other, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return (
        sum(int(one.split()[1]) for one in lines if one.startswith("Private_")) / 1024
    )


def tree_cpu(pids: Mapping[str, int]) -> dict[str, float]:
    """Return processor seconds by name, with descendants that have no name."""
    named = set(pids.values())
    return {
        name: cpu_seconds(pid)
        + sum(cpu_seconds(one) for one in descendants(pid, named))
        for name, pid in pids.items()
    }
