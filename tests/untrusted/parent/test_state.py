"""The state file: written whole, one writer at a time, whoever is cancelled."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from nitrosigner.untrusted.parent import state
from nitrosigner.untrusted.parent.state import StateFile


class SlowStateFile(StateFile):
    """One whose disk waits for the test."""

    def __init__(self, path: Path, log: Any) -> None:
        super().__init__(path, log)
        self.disk = threading.Event()
        self.writers = 0
        self.most_writers = 0

    def _replace(self, data: bytes) -> None:
        self.writers += 1
        self.most_writers = max(self.most_writers, self.writers)
        assert self.disk.wait(20)
        super()._replace(data)
        self.writers -= 1


def test_a_cancelled_writer_is_waited_for(
    tmp_path: Path, log: Any, wait_for: Any
) -> None:
    path = tmp_path / "state.json"

    async def main() -> None:
        kept = SlowStateFile(path, log)
        keeping = asyncio.create_task(kept.keep())
        kept.enclave_connected(1)
        await wait_for(lambda: kept.writers == 1)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        kept.stopping()
        last = asyncio.create_task(kept.write())
        await asyncio.sleep(0)
        kept.disk.set()
        await last
        assert kept.most_writers == 1

    asyncio.run(main())
    shown = state.read(path)
    assert shown.stopping
    assert shown.enclave.connections == 1
    assert log.events == []
