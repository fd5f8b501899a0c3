"""
Tells the parent the counters every few seconds. A report that fails is not repeated:
the next one says more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from nitrosigner.verdicts import Verdict
from nitrosigner.wire.validator_api import Metrics

EVERY: Final = 5.0
"""Seconds. Prometheus asks every 15 or 30."""


async def report_metrics(
    snapshot: Callable[[], Metrics], report: Callable[[Metrics], Awaitable[None]]
) -> None:
    """Report until cancelled."""
    while True:
        with contextlib.suppress(Verdict):
            await report(snapshot())
        await asyncio.sleep(EVERY)
