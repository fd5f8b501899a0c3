"""
What the operating system may do with our memory: not dump it, not swap it out.

Also the one place that overwrites `bytes` objects. Python says they never change; we
do it only to results that a C library handed to us, that nobody else has seen.
"""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14

_BYTES_HEADER: Final = bytes.__basicsize__ - 1
"""CPython's bytes object: a header, then the data, then one zero byte."""


class MemoryGuards(msgspec.Struct, frozen=True):
    """Which guards hold. None of them is a promise that no copy exists."""

    core_dumps_off: bool
    undumpable: bool
    """No other process of our user may read our memory (ptrace, /proc/PID/mem)."""
    locked: bool
    """Our pages never reach a swap device. An enclave has none; a laptop does."""


def guard_memory() -> MemoryGuards:
    """Switch off core dumps and debuggers, lock the memory where we may."""
    libc = ctypes.CDLL(None, use_errno=True)
    return MemoryGuards(
        core_dumps_off=_no_core_dumps(),
        undumpable=libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0,
        locked=_may_lock()
        and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0,
    )


def _no_core_dumps() -> bool:
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def _may_lock() -> bool:
    # Below an unlimited allowance MCL_FUTURE is a trap: it succeeds now, and the
    # allocation that passes the limit later fails. ONFAULT, because without it every
    # thread's whole stack would be made resident.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or _has_capability(_CAP_IPC_LOCK)


def _has_capability(number: int) -> bool:
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def take_bytes(secret: bytes) -> bytearray:
    """
    Return a copy of *secret* that can be wiped, and overwrite *secret* itself.

    For results of C functions that can only return `bytes` (an RSA decryption, an HPKE
    opening). Sound because such an object is fresh: the library keeps no reference,
    lengths of 0 and 1 (which CPython shares) are left alone, it was never hashed or
    used as a key of a dict, and the caller holds the only name. Never a literal.

    Raises:
        ValueError: Somebody else holds *secret*; overwriting would change their value.
    """
    taken = bytearray(secret)
    # At most: the caller's name, our argument, getrefcount's own.
    if sys.getrefcount(secret) > 3:
        msg = "this object is shared"
        raise ValueError(msg)
    if len(secret) > 1:
        ctypes.memset(id(secret) + _BYTES_HEADER, 0, len(secret))
    return taken
