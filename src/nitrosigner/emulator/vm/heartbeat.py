"""
Where a booting image says that it lives, as nitro-cli waits for it.

Source: aws-nitro-enclaves-cli, src/enclave_proc/commands.rs: one byte, sent back.
"""

import contextlib
import socket
from typing import Final

HEARTBEAT: Final = b"\xb7"
_TIMEOUT: Final = 10.0


def serve(listener: socket.socket) -> None:
    """Answer heartbeats until *listener* is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_TIMEOUT)
            if connection.recv(1) == HEARTBEAT:
                connection.sendall(HEARTBEAT)
