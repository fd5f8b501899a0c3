"""
PID 1 of the enclave. Does what AWS's init does, seeds the kernel, and starts the
program as a user without rights.

Whatever fails here ends the machine: an enclave that is half set up must not sign.
What is said goes to the console, which on Nitro nobody can read unless the enclave
was started in debug mode; nothing secret exists yet.

Source: aws-nitro-enclaves-sdk-bootstrap, init/init.c.
"""

import contextlib
import os
import resource
import socket
import stat
import sys
import time
from typing import Final

from nitrosigner.trusted.enclave import main as program
from nitrosigner.trusted.enclave.attested.clock_check import hypervisor_time
from nitrosigner.trusted.enclave.attested.nsm import NsmClient, NsmDevice
from nitrosigner.trusted.init import system_calls, wall_clock
from nitrosigner.trusted.init.system_calls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
)
from nitrosigner.wire.addresses import HEARTBEAT_PORT, PARENT_CID

HEARTBEAT: Final = b"\xb7"
HEARTBEAT_TIMEOUT: Final = 30.0
"""Seconds for each step of the heartbeat."""
SEED_SIZE: Final = 512
"""Bytes of the NSM's randomness that the kernel's generator begins with."""
PROGRAM_USER: Final = 1000
OPEN_FILES: Final = 65_536
_DEVICE: Final = "/dev/nsm"
_PLAIN: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC


def main() -> None:
    """Set the machine up, run the program, end the machine when it ends."""
    try:
        _mount_everything()
        _say("Python runs")
        _exchange_heartbeat()
        _need_nsm()
        nsm = NsmClient(NsmDevice(_DEVICE))
        system_calls.credit_entropy(nsm.random(SEED_SIZE))
        _set_clock(nsm)
        _limits()
        _say("starting the program")
        child = os.fork()
        if child == 0:
            _become_program()
        _reap_until_end_of(child)
    # PID 1 must not end by an exception: the kernel would panic and wait.
    except BaseException as error:  # noqa: BLE001
        _say(f"failed: {type(error).__name__}: {error}")
    finally:
        system_calls.restart()


def _mount_everything() -> None:
    system_calls.mount("dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC)
    console = os.open("/dev/console", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)
    os.close(console)
    system_calls.mount("proc", "/proc", "proc", _PLAIN)
    system_calls.mount("sysfs", "/sys", "sysfs", _PLAIN)
    system_calls.mount("tmpfs", "/run", "tmpfs", _PLAIN, "size=1m,mode=0755")
    system_calls.mount("tmpfs", "/tmp", "tmpfs", _PLAIN, "size=1m")  # noqa: S108
    # The program's code cannot be changed while it runs.
    system_calls.mount("", "/", "", MS_REMOUNT | MS_RDONLY)


def _exchange_heartbeat() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
        connection.settimeout(HEARTBEAT_TIMEOUT)
        connection.connect((PARENT_CID, HEARTBEAT_PORT))
        connection.sendall(HEARTBEAT)
        if connection.recv(1) != HEARTBEAT:
            msg = "the parent did not return the heartbeat"
            raise OSError(msg)


def _need_nsm() -> None:
    if not stat.S_ISCHR(os.stat(_DEVICE).st_mode):  # noqa: PTH116  # no pathlib yet
        msg = f"{_DEVICE} is no device"
        raise OSError(msg)


def _set_clock(nsm: NsmClient) -> None:
    right = wall_clock.correction(time.time(), hypervisor_time(nsm))
    if right is not None:
        _say(f"the clock was off by {time.time() - right:.0f} seconds")
        time.clock_settime(time.CLOCK_REALTIME, right)


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    # The program locks its memory. It may only with an unlimited allowance.
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)


def _become_program() -> None:
    """Run the program in this process, a child of the first. Does not return."""
    status = 1
    try:
        os.chown(_DEVICE, PROGRAM_USER, PROGRAM_USER)
        os.chmod(_DEVICE, 0o600)  # noqa: PTH101
        os.setsid()
        os.setgroups([])
        os.setresgid(PROGRAM_USER, PROGRAM_USER, PROGRAM_USER)
        os.setresuid(PROGRAM_USER, PROGRAM_USER, PROGRAM_USER)
        system_calls.no_new_privileges()
        program.main()
        status = 0
    except BaseException as error:  # noqa: BLE001  # the last line of a process
        # The type alone: an exception's text may hold what the program worked on.
        _say(f"the program failed: {type(error).__name__}")
    finally:
        os._exit(status)


def _reap_until_end_of(child: int) -> None:
    while True:
        with contextlib.suppress(InterruptedError):
            ended, status = os.waitpid(-1, 0)
            if ended == child:
                _say(f"the program ended: {os.waitstatus_to_exitcode(status)}")
                return


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        sys.stdout.write(f"init: {uptime:.2f} s: {text}\n")
        sys.stdout.flush()
