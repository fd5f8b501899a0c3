"""
`/reload`: one at a time, in the background, and its outcome for whoever asks later.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.trusted.enclave.validators.validator_keys_port import Reloaded
from nitrosigner.verdicts import Verdict
from nitrosigner.wire.validator_api import ReloadStatus


class Reloading:
    """Runs reloads, and remembers the last."""

    def __init__(self, reload: Callable[[], Awaitable[Reloaded]], clock: Clock) -> None:
        """Reload by *reload*, which changes everything or nothing."""
        self._reload: Final = reload
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._state: Literal["idle", "completed", "completed_with_errors", "failed"] = (
            "idle"
        )
        self._finished: str | None = None
        self._error: str | None = None
        self.also: Callable[[], Awaitable[None]] | None = None
        """What else is taken over from the store."""

    @property
    def status(self) -> ReloadStatus:
        """How the reload that runs, or the last one, stands."""
        running = self._task is not None and not self._task.done()
        return ReloadStatus(
            status="running" if running else self._state,
            last_operation_time=self._finished,
            last_error=self._error,
        )

    def begin(self) -> bool:
        """Begin a reload; False if one runs already."""
        if self._task is not None and not self._task.done():
            return False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="reload")
        # A fault of ours is told as such by `status`; its text goes nowhere.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return True

    async def close(self) -> None:
        """Wait for the one that runs."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        self._state, error = "failed", "the signer failed"
        try:
            reloaded = await self._reload()
            if self.also is not None:
                await self.also()
        except Verdict as verdict:
            error = verdict.message
        else:
            rejected = reloaded.rejected
            self._state = "completed_with_errors" if rejected else "completed"
            error = f"{rejected} stored records cannot be used" if rejected else ""
        finally:
            self._error = error or None
            now = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
            self._finished = now.isoformat(timespec="seconds").replace("+00:00", "Z")
