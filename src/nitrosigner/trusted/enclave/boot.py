"""
The states that an enclave boots through, and what health and doctor are told of them.

Each state is reported to the parent when it is entered, each time it fails, and the
last one when all is done: before `tls` nothing listens, so the parent's word is all
that a person outside gets. Undecided is tried again in the same state; a refusal is
for a person to mend, and the boot starts again from the manifest at a slow pace.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.verdicts import Undecided, Verdict
from nitrosigner.wire import api

STATES: Final = (
    "nsm",
    "recipient_key",
    "manifest",
    "kms",
    "vault",
    "records",
    "tls",
    "ready",
)

_Result = TypeVar("_Result")


class Reporter(Protocol):
    """Who is told. May raise Undecided; then nobody was."""

    async def report_state(
        self, state: str, code: str = "", message: str = "", hint: str = ""
    ) -> None:
        """Say where the boot stands."""
        ...


class Pace(msgspec.Struct, frozen=True):
    """Pauses between attempts, in seconds; each is doubled up to the longest."""

    first: float = 0.1
    longest: float = 5.0
    refused: float = 2.0
    longest_refused: float = 30.0


class HealthSource(Protocol):
    """What `/healthcheck` shows, without asking anybody."""

    @property
    def state(self) -> str:
        """The boot state reached."""
        ...

    @property
    def steps(self) -> list[api.BootStep]:
        """Every state that was passed, with how long it took."""
        ...

    @property
    def checks(self) -> dict[str, bool]:
        """`storage`, `kms`, `keys`: whether the last use of each went well."""
        ...

    @property
    def clock_objection(self) -> Undecided | None:
        """What is wrong with the clock; None: nothing."""
        ...

    @property
    def clock_offset(self) -> float:
        """Seconds by which the clock is ahead of the hypervisor's."""
        ...

    @property
    def keys_loaded(self) -> int:
        """Keys in memory, deleted ones included."""
        ...

    @property
    def kms_calls(self) -> int:
        """KMS calls since boot."""
        ...


class Boot:
    """Where the boot stands."""

    def __init__(self, reporter: Reporter, clock: Clock, pace: Pace) -> None:
        self._reporter = reporter
        self._clock = clock
        self._pace = pace
        self._passed: dict[str, api.BootStep] = {}
        self._refusals = 0
        self.state = ""

    @property
    def steps(self) -> list[api.BootStep]:
        """The states passed, in order."""
        return list(self._passed.values())

    async def step(
        self, state: str, action: Callable[[], Awaitable[_Result]]
    ) -> _Result:
        """
        Run *action* as *state* until it is decided.

        Raises:
            Refused, Malformed: What a person must mend.
        """
        self.state = state
        self._passed.pop(state, None)
        await self.report()
        started = self._clock.monotonic()
        pause = self._pace.first
        while True:
            try:
                result = await action()
            except Undecided as verdict:
                await self.report(verdict)
            else:
                self._passed[state] = api.BootStep(
                    name=state,
                    ok=True,
                    milliseconds=round(1000 * (self._clock.monotonic() - started)),
                )
                return result
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(2 * pause, self._pace.longest)

    async def pause_after(self, verdict: Verdict) -> None:
        """Report a refusal, and wait before the boot is tried again."""
        self._passed[self.state] = api.BootStep(
            name=self.state, ok=False, milliseconds=0
        )
        await self.report(verdict)
        pause = min(self._pace.refused * 2**self._refusals, self._pace.longest_refused)
        self._refusals += 1
        await asyncio.sleep(pause * (0.5 + random.random() / 2))

    async def report(self, verdict: Verdict | None = None) -> None:
        """Tell the parent; if it cannot be told, so be it."""
        with contextlib.suppress(Undecided):
            if verdict is None:
                await self._reporter.report_state(self.state)
            else:
                await self._reporter.report_state(
                    self.state, verdict.code, verdict.message, verdict.hint
                )
