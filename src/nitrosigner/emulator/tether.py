"""
Start a program that dies when its parent does. Run as a script, before an `exec`.

    python -I -S tether.py PARENT_PID PROGRAM ARGUMENTS…

The kernel forgets this wish at a fork, so it is asked for in the child itself; and a
parent that died before we asked is noticed by the parent's id. It stands in a file of
its own, without the package's imports, because it runs before every child of ours and
must not be done between a fork and an exec of a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit("tether: the kernel does not know PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit("tether: the parent is gone")
    os.execv(program[0], program)  # noqa: S606  # the supervisor's own argument list


if __name__ == "__main__":
    main(sys.argv[1:])
