"""
A UNIX socket on which whoever runs the host says what to do: one JSON line each way.

The socket is its owner's alone (mode 0600); the kernel keeps everybody else out, and
there is nothing that could be asked for which would open a key or sign.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from nitrosigner.verdicts import Code, Malformed, Undecided, Verdict

MAX_LINE: Final = 64 * 1024
SECONDS: Final = 5.0
"""For a command to arrive, and for its answer to be taken; not for doing it."""
Handler = Callable[[str], Awaitable[dict[str, Any]]]


class ControlSocket:
    """Listens, and hands each command to a handler."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """
        Listen. What a killed process left behind is replaced; a living one is not.

        Raises:
            Undecided: Somebody listens there, or nobody can.
        """
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(self._path)
            writer.close()
            raise Undecided(
                Code.INTERNAL,
                f"another process listens on {self._path}",
                "stop it first, or name another path",
            )
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # Nobody connects between bind and chmod: it does not listen yet.
            listener.bind(str(self._path))
            os.chmod(self._path, 0o600)  # noqa: PTH101 - a socket's path, not a file
            self._server = await asyncio.start_unix_server(
                self._take, sock=listener, limit=MAX_LINE
            )
        except OSError as error:
            raise Undecided(
                Code.INTERNAL,
                f"{self._path} cannot be listened on: {error.strerror}",
                "a socket's path has at most 107 bytes, in a folder that exists",
            ) from error

    async def stop(self) -> None:
        """Stop listening, and end what is under way."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(SECONDS):
                line = await reader.readline()
            answer = await self._answer(line)
            async with asyncio.timeout(SECONDS):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone, or does not speak
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            try:
                command = json.loads(line)["command"]
            except (ValueError, KeyError, TypeError, RecursionError):
                command = None
            if not isinstance(command, str):
                raise Malformed(
                    Code.MALFORMED_REQUEST,
                    "this is no command",
                    'send one line: {"command": "status"}',
                )
            return await self._handler(command)
        except Verdict as verdict:
            return {
                "error": {
                    "code": verdict.code,
                    "message": verdict.message,
                    "hint": verdict.hint,
                }
            }


async def ask(path: Path, command: str, seconds: float = 120.0) -> dict[str, Any]:
    """
    Send *command* and return the answer, an `error` object included.

    Raises:
        Undecided: Nobody listens at *path*, or there was no answer in time.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
            try:
                writer.write(json.dumps({"command": command}).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        raise Undecided(
            Code.INTERNAL,
            f"nobody answers on {path}",
            "is it running, as the user that you are?",
        ) from error
    if not isinstance(answer, dict):
        raise Undecided(Code.INTERNAL, f"{path} answered what is no answer")
    return answer
