"""
What the enclave program needs from the world, as ports.

`assembly` is handed one `World`: production passes the NSM device and the vsock, the
emulator its own, a test ones that fail on demand. There is no flag that tells them
apart, and nothing in here may ask.
"""

import socket
from dataclasses import dataclass
from typing import Protocol


class Nsm(Protocol):
    """
    The Nitro Security Module. Trusted: it measures us and vouches for us.

    Calls take a millisecond or two and block. Raise `Undecided` when it fails.
    """

    def attest(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return an attestation document (COSE_Sign1) that holds these values."""
        ...

    def random(self, size: int) -> bytes:
        """Return *size* random bytes (any size; the device gives 256 at a time)."""
        ...


class Vsock(Protocol):
    """The only way in and out. The other end is the parent: untrusted."""

    def connect(self, port: int) -> socket.socket:
        """
        Return a connected, blocking stream socket to the parent's *port*.

        Raises:
            OSError: Nobody listens there, or it timed out.
        """
        ...

    def listen(self, port: int) -> socket.socket:
        """Return a bound, listening stream socket of this enclave's *port*."""
        ...


class Clock(Protocol):
    """Two clocks. The wall clock is the parent's to lie about (see THREAT_MODEL)."""

    def now(self) -> float:
        """Return Unix seconds, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the program."""

    nsm: Nsm
    vsock: Vsock
    clock: Clock
