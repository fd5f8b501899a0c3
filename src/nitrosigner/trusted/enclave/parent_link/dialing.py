"""
How a blocking vsock `connect` becomes a socket for asyncio, without leaking one.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from nitrosigner.trusted.enclave.ports import Vsock

GREETING_TIMEOUT: Final = 5.0
"""Seconds that the parent has for each read of what precedes the real protocol."""


async def dial(
    vsock: Vsock, port: int, greet: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """
    Return a connected, non-blocking socket to the parent's *port*.

    *greet* may talk on it first, blocking, in a thread of its own.

    Raises:
        OSError: Nobody listens there, it timed out, or *greet* raised it.
    """

    def connect() -> socket.socket:
        connection = vsock.connect(port)
        try:
            connection.settimeout(GREETING_TIMEOUT)
            if greet is not None:
                greet(connection)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection

    task = asyncio.get_running_loop().run_in_executor(None, connect)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The thread cannot be called back; whatever it still opens is closed.
        task.add_done_callback(_close_result)
        raise


def _close_result(task: "asyncio.Future[socket.socket]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
