"""
What a durable watermark costs, alone and in company, beside the disk's own floor.

    python bench/watermarks.py [--rounds 7] [--folder DIR] [--json]

The reference is `fdatasync` after an append of 4 KiB to a file in the same folder: no
store that keeps its word is faster for one write at a time. All are measured in turns,
so that a busy machine slows all; medians count. The folder must lie on a disk, not in
memory, or there is nothing to measure.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, Final

from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.wire.services import WatermarkChange

VALIDATORS: Final = 20_000
DATA: Final = os.urandom(330)
"""About what the enclave stores for one validator."""
LIMITS: Final = {
    "64 at once are 8 times as fast as one at a time": ("request_of_64", 8.0),
    "64 who ask for one each are 3 times as fast": ("64_waiting", 3.0),
}


class Writes:
    """Moves validators forward in turn, each by one version at a time."""

    def __init__(self, store: SqliteWatermarks) -> None:
        self.store = store
        self.keys = [os.urandom(48) for _ in range(VALIDATORS)]
        self.versions = [0] * VALIDATORS
        self.next = self._changes()
        while 0 in self.versions:
            self.request_of(256)

    def _changes(self) -> Iterator[WatermarkChange]:
        while True:
            for number, key in enumerate(self.keys):
                yield WatermarkChange(key, self.versions[number], DATA)
                self.versions[number] += 1

    def request_of(self, size: int) -> int:
        """Write *size* changes in one request."""
        changes = list(islice(self.next, size))
        assert all(self.store.advance(changes).result())
        return size

    def waiting(self, clients: int, count: int) -> int:
        """Write *count* changes, one in a request, while *clients* requests wait."""
        waiting: deque[Future[list[bool]]] = deque()
        for change in islice(self.next, count):
            if len(waiting) == clients:
                assert waiting.popleft().result() == [True]
            waiting.append(self.store.advance([change]))
        for one in waiting:
            assert one.result() == [True]
        return count


def floor(file: int) -> int:
    for _ in range(100):
        os.write(file, bytes(4096))
        os.fdatasync(file)
    return 100


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix="watermarks-", dir=folder))
    file = os.open(place / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    store = SqliteWatermarks(place / "watermarks.db")
    try:
        writes = Writes(store)
        sides: dict[str, Callable[[], int]] = {
            "fdatasync_floor": lambda: floor(file),
            "one_at_a_time": lambda: sum(writes.request_of(1) for _ in range(200)),
            "64_waiting": lambda: writes.waiting(64, 2000),
            "request_of_64": lambda: sum(writes.request_of(64) for _ in range(60)),
            "request_of_256": lambda: sum(writes.request_of(256) for _ in range(20)),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                began, spent = time.perf_counter(), time.process_time()
                count = side()
                rates[name].append(count / (time.perf_counter() - began))
                cpu[name].append((time.process_time() - spent) / count * 1e6)
    finally:
        store.close()
        os.close(file)
        shutil.rmtree(place)
    per_second = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "per_second": per_second,
        "cpu_microseconds": {n: statistics.median(found) for n, found in cpu.items()},
        "one_at_a_time_to_floor": per_second["one_at_a_time"]
        / per_second["fdatasync_floor"],
        "limits": {
            sentence: per_second[side] >= times * per_second["one_at_a_time"]
            for sentence, (side, times) in LIMITS.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.folder)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, rate in found["per_second"].items():
            spent = found["cpu_microseconds"][name]
            print(f"{name:18} {rate:10,.0f}/s {spent:8.1f} µs of CPU each")
        print(f"one at a time / floor: {found['one_at_a_time_to_floor']:.2f}")
        for sentence, holds in found["limits"].items():
            print(f"{'ok  ' if holds else 'MISS'} {sentence}")
    return 0 if all(found["limits"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
