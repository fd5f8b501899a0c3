"""
The demo's script: named steps, each with what it proves, each ends well or badly.

A step that fails ends the demo: what comes after would prove nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, final

import msgspec

from nitrosigner.verdicts import Verdict


class Step(msgspec.Struct, kw_only=True):
    """One step, as `nitrosigner demo --json` lists it."""

    name: str
    title: str
    proves: str
    ok: bool
    detail: str
    seconds: float
    skipped: bool = False


class StepFailed(Exception):
    """What should have been seen was not. The text is a sentence for a person."""


class Skipped(Exception):
    """The step needs something that is not installed. The text says how to get it."""


def need(seen: bool, otherwise: str) -> None:
    """Raise `StepFailed` with the sentence *otherwise* unless it was *seen*."""
    if not seen:
        raise StepFailed(otherwise)


@final
class Script:
    """Runs steps and keeps what came of them."""

    def __init__(
        self, begun: Callable[[int, str], None], ended: Callable[[Step], None]
    ) -> None:
        self.steps: Final[list[Step]] = []
        self._begun = begun
        self._ended = ended

    @contextlib.contextmanager
    def step(self, name: str, title: str, proves: str) -> Iterator[list[str]]:
        """
        Run one step; yield the list that its lines of detail go to.

        Raises:
            StepFailed: It failed, and has been told.
        """
        self._begun(len(self.steps) + 1, title)
        lines: list[str] = []
        step = Step(
            name=name, title=title, proves=proves, ok=False, detail="", seconds=0.0
        )
        began = time.monotonic()
        try:
            yield lines
            step.ok = True
        except Skipped as reason:
            step.ok, step.skipped = True, True
            lines.append(str(reason))
        except (StepFailed, TimeoutError) as failure:
            lines.append(f"FAILED: {failure}")
        except Verdict as verdict:
            lines.append(f"FAILED: {verdict.message} [{verdict.code}] {verdict.hint}")
        step.seconds = round(time.monotonic() - began, 3)
        step.detail = "\n".join(lines)
        self.steps.append(step)
        self._ended(step)
        if not step.ok:
            raise StepFailed(name)
