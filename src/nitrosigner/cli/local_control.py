"""
`start` and `stop` of a local stack's enclave: an order to the watchdog that runs it.

On AWS the same two operations reach the same program through Systems Manager. Here its
socket lies in the stack's folder, and only the stack's owner can open it.
"""

import json
import socket
from pathlib import Path
from typing import Any, Final

from nitrosigner.client.answers import printable
from nitrosigner.untrusted.gateway.instance_control import Wanted
from nitrosigner.verdicts import Code, Undecided

SECONDS: Final = 150.0
"""The watchdog answers a `stop` when the enclave has ended: after its drain."""
MAX_ANSWER: Final = 64 * 1024
_OF_THE_STATUS: Final = ("phase", "wanted", "health", "restarts", "reason", "message")


class LocalWatchdog:
    """The port `InstanceControl`, over a watchdog's socket."""

    def __init__(self, path: Path, hint: str) -> None:
        """Speak to the watchdog that listens on *path*; *hint* helps if none does."""
        self._path = path
        self._hint = hint

    def order(self, wanted: Wanted) -> dict[str, Any]:
        """See `InstanceControl`."""
        answer = self._ask(wanted)
        done = wanted == "stop" and answer.get("phase") == "stopped"
        return {
            "operation": wanted,
            # As Systems Manager says it: an order that was taken up may take a while.
            "status": "Success" if done else "InProgress",
            "document": f"watchdog {wanted}",
            "watchdog": {name: answer.get(name) for name in _OF_THE_STATUS},
        }

    def _ask(self, command: str) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(SECONDS)
                connection.connect(str(self._path))
                connection.sendall(json.dumps({"command": command}).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    answer = json.loads(stream.readline(MAX_ANSWER))
        except (OSError, ValueError):
            raise Undecided(
                Code.LOCAL_STACK,
                "the watchdog of this stack does not answer",
                self._hint,
            ) from None
        error = answer.get("error") if isinstance(answer, dict) else {}
        if error is not None:
            raise Undecided(
                Code.LOCAL_STACK,
                "the watchdog did not take the order",
                printable(str(error.get("message", ""))) or self._hint,
            )
        return dict(answer)
