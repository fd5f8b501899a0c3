"""
The few system calls that Python has no name for.

Each raises OSError with a sentence of its own: before the program runs, the console
is the only place where anybody could read what went wrong.
"""

import ctypes
import fcntl
import os
import struct
from typing import Final

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_RDONLY: Final = 1
_RB_AUTOBOOT: Final = 0x01234567
_PR_SET_NO_NEW_PRIVS: Final = 38
_RNDADDENTROPY: Final = 0x40085203
"""_IOW('R', 3, int[2]), linux/random.h"""


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """
    Mount a file system. One that is mounted there already is no error.

    Raises:
        OSError: The kernel would not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(
        source.encode(),
        target.encode(),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    if done != 0:
        raise _failed(f"mounting {target}")


def restart() -> None:
    """End the machine, as AWS's init does: the hypervisor then ends the enclave."""
    os.sync()
    ctypes.CDLL(None, use_errno=True).reboot(_RB_AUTOBOOT)


def no_new_privileges() -> None:
    """
    Let nothing that this process starts have more rights than it has.

    Raises:
        OSError: The kernel would not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failed("giving up privileges")


def credit_entropy(seed: bytes) -> None:
    """
    Mix *seed* into the kernel's generator, and count every bit of it.

    Raises:
        OSError: The kernel would not.
    """
    request = struct.pack("@ii", len(seed) * 8, len(seed)) + seed
    descriptor = os.open("/dev/random", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, request)
    finally:
        os.close(descriptor)


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
