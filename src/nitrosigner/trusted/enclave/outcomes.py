"""
Outcomes that somebody else hears of, on the loop's thread: one by one, or all together.

An outcome is a result or a verdict, and is heard exactly once. Whoever listens must not
raise: it is called in the middle of other people's work.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from nitrosigner.verdicts import Verdict

_T = TypeVar("_T")


class Outcomes(Generic[_T]):
    """What becomes of many, in the order in which they were asked for."""

    def __init__(self, count: int) -> None:
        """Wait for *count* outcomes. Make it within a running loop."""
        self._found: list[_T | Verdict | None] = [None] * count
        self._left = count
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, position: int, outcome: _T | Verdict) -> None:
        """Take the outcome of the one at *position*."""
        self._found[position] = outcome
        self._left -= 1
        if not self._left and not self._all.done():
            self._all.set_result(None)

    async def every(self) -> list[_T | Verdict]:
        """Wait until all are there."""
        if self._left:
            await self._all
        return [one for one in self._found if one is not None]


def answering(answer: "asyncio.Future[_T]") -> Callable[[_T | Verdict], None]:
    """Return what puts an outcome into *answer*, unless its caller went away."""

    def put(outcome: _T | Verdict) -> None:
        if answer.done():
            return
        if isinstance(outcome, Verdict):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    return put
