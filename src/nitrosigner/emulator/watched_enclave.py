"""
What a stack's watchdog says of the enclave that it runs: its status file, followed.

The stack keeps the watchdog running and the watchdog the enclave, as on an instance.
So the enclave's process is not the stack's child, and its ends are told here only.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import msgspec

from nitrosigner.untrusted.parent.watchdog import Status

LOOK_EVERY: Final = 0.1
"""Seconds between looks at the file."""


@final
class WatchedEnclave:
    """The enclave of one watchdog, as of the last look."""

    def __init__(
        self,
        status: Path,
        on_change: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """
        Follow the file *status*, which a watchdog that has ended may have left.

        Args:
            status: The file.
            on_change: Called when another process runs, or none.
            say: Takes sentences for people.
        """
        self._path = status
        self._on_change = on_change
        self._say = say
        self._seen = (0, 0)
        self._last: Status | None = None
        # An order to stop was given to a stack that is gone.
        status.unlink(missing_ok=True)

    def pid(self, watchdog: int) -> int:
        """Return the process (the hypervisor) that *watchdog* runs; 0 for none."""
        last = self._last
        # One that was killed took its enclave along, whatever it wrote before.
        return last.enclave_pid if last is not None and last.pid == watchdog else 0

    @property
    def failures(self) -> int:
        """Ends and failed starts in a row."""
        return self._last.failures if self._last is not None else 0

    async def follow(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Take over what stands in the file now."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns)
            if seen == self._seen:
                return
            now = msgspec.json.decode(self._path.read_bytes(), type=Status)
        except (OSError, ValueError):
            return
        self._seen = seen
        before, self._last = self._last, now
        if before is None or now.pid != before.pid:
            before = Status(pid=now.pid)
        if now.restarts > before.restarts:
            self._say(f"the enclave: {now.message}; starting it again")
        if now.wanted is not before.wanted:
            self._say(
                "the enclave was told to start"
                if now.wanted
                else "the enclave was told to stop, and stays so until it is told to "
                "start: nitrosigner invoke validator"
            )
        self._on_change()
