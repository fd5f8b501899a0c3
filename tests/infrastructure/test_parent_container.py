"""The parent as a container: what it is given, and that it is given nothing else."""

import ctypes
import ctypes.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSTANCE = Path(__file__).parents[2] / "src/nitrosigner/infrastructure/instance"
PROFILE = INSTANCE / "seccomp.json"
STACK = "prodNitroWalletEth"


@pytest.fixture(scope="module")
def unit(node: None, tmp_path_factory: pytest.TempPathFactory, choose: Any) -> str:
    """The drop-in that turns the parent's unit into a container's."""
    del node
    made = choose(
        tmp_path_factory.mktemp("container"),
        {STACK: {"administrator": "a1" * 32, "parent": "container"}},
    )
    data = made.only(STACK, "AWS::EC2::LaunchTemplate")["Properties"]
    parts = data["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Join"][1]
    text = "".join(one if isinstance(one, str) else "REFERENCE" for one in parts)
    deployed = text.split("deployed.json <<'EOF'\n")[1].split("\nEOF\n")[0]
    conf: str = json.loads(deployed)["container.conf"]
    return conf


def test_the_container_gets_what_it_needs_and_nothing_else(unit: str) -> None:
    (command,) = re.findall("^ExecStart=(/usr/bin/docker run .*)$", unit, re.MULTILINE)
    *words, image = command.removeprefix("/usr/bin/docker run ").split()
    assert "REFERENCE" in image
    given: set[tuple[str, ...]] = set()
    while words:
        option = words.pop(0)
        alone = option in ("--rm", "--read-only")
        given.add((option,) if alone else (option, words.pop(0)))
    # Whatever is added here has to be argued for in `parent_container.OPTIONS`.
    assert given == {
        ("--rm",),
        ("--name", "nitrosigner-parent"),
        ("--network", "host"),
        ("--volume", "/etc/nitrosigner:/etc/nitrosigner:ro"),
        ("--volume", "/var/lib/nitrosigner:/var/lib/nitrosigner"),
        ("--volume", "/var/log/nitrosigner:/var/log/nitrosigner"),
        ("--user", "${CONTAINER_USER}"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--security-opt", "seccomp=/etc/nitrosigner/seccomp.json"),
        ("--read-only",),
        ("--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=16m"),
        ("--pids-limit", "256"),
        ("--ulimit", "nofile=65536:65536"),
        ("--ulimit", "core=0:0"),
        ("--ipc", "private"),
        ("--log-driver", "none"),
        ("--pull", "never"),
    }


def test_it_runs_as_the_services_user_and_never_as_root(unit: str) -> None:
    install = (INSTANCE / "install.sh").read_text()
    assert "EnvironmentFile=/etc/nitrosigner/container.env" in unit
    assert re.search(
        r'"CONTAINER_USER=\$\(id -u nitrosigner\):\$\(id -g nitrosigner\)" '
        r'>"\$settings/container\.env"',
        install,
    )
    assert '"$here/seccomp.json" "$settings/seccomp.json"' in install
    # Else systemd would hand the parent's state to root.
    assert "\nStateDirectory=\n" in unit
    dockerfile = (INSTANCE / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):", dockerfile, re.MULTILINE)
    assert int(user) > 0
    assert dockerfile.index("USER") < dockerfile.index("ENTRYPOINT")


def test_it_has_time_to_drain_before_systemd_kills(unit: str) -> None:
    from nitrosigner.infrastructure.deployed_settings import DRAIN_SECONDS

    (stops,) = re.findall(r"^ExecStop=.*--time (\d+) ", unit, re.MULTILINE)
    service = (INSTANCE / "nitrosigner-parent.service").read_text()
    (killed,) = re.findall(r"^TimeoutStopSec=(\d+)", service, re.MULTILINE)
    assert DRAIN_SECONDS < int(stops) < int(killed)


# the filter of system calls, in a kernel


FILTERED = r"""
import ctypes, errno, json, os, socket, subprocess, sys, threading

library = ctypes.CDLL(sys.argv[1], use_errno=True)
library.seccomp_init.restype = ctypes.c_void_p
class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int),
                ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
library.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
    ctypes.POINTER(Comparison)]
library.seccomp_load.argtypes = [ctypes.c_void_p]
OPERATORS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
profile = json.load(open(sys.argv[2]))
assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
context = library.seccomp_init(ctypes.c_uint32(0x7FFF0000))
unknown = []
for rule in profile["syscalls"]:
    assert rule["action"] == "SCMP_ACT_ERRNO"
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            unknown.append(name)
            continue
        compared = [Comparison(one["index"], OPERATORS[one["op"]], one["value"],
                               one.get("valueTwo", 0)) for one in rule.get("args", [])]
        array = (Comparison * max(1, len(compared)))(*compared)
        added = library.seccomp_rule_add_array(
            context, 0x00050000 | rule["errnoRet"], number, len(compared), array)
        assert added == 0 or added == -errno.EDOM or number < 0, (name, added)
assert library.seccomp_load(context) == 0

def outcome(do):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    def do():
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), "")
    return outcome(do)

found = {"unknown": unknown}
for family in (1, 2, 10, 16, 40, 17, 38, 3, 31, 44):
    kind = socket.SOCK_STREAM if family != 16 else socket.SOCK_RAW
    found[f"socket {family}"] = outcome(lambda: socket.socket(family, kind).close())
found["unshare"] = call("unshare", 0x10000000)
found["ptrace"] = call("ptrace", 2, 0, 0, 0)
found["mount"] = call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)
found["chroot"] = outcome(lambda: os.chroot("/"))
found["mknod"] = outcome(lambda: os.mknod("/tmp/nitrosigner-never-made"))
worked = []
thread = threading.Thread(target=lambda: worked.append(1)); thread.start(); thread.join()
found["thread"] = worked == [1]
found["process"] = subprocess.run([sys.executable, "-c", "print(1)"]).returncode
# What the container runs, up to its settings, which are not there.
sys.argv = ["parent", "--config", "/nonexistent"]
import runpy
try:
    runpy.run_module("nitrosigner.untrusted.parent", run_name="__main__")
except SystemExit as left:
    found["parent"] = left.code
print(json.dumps(found))
"""


def test_the_filter_lets_a_server_serve_and_nothing_beyond() -> None:
    library = ctypes.util.find_library("seccomp")
    if library is None or not sys.platform.startswith("linux"):
        pytest.skip("libseccomp is not installed")
    done = subprocess.run(
        [sys.executable, "-c", FILTERED, library, str(PROFILE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # Old names that this machine's library has forgotten, if any.
    assert set(found["unknown"]) <= {"create_module", "quotactl_fd", "pidfd_getfd"}
    for family in (1, 2, 16):
        assert found[f"socket {family}"] == "done"
    # The kernel may know none of these; the filter would say EAFNOSUPPORT as well.
    assert found["socket 40"] in ("done", "EAFNOSUPPORT", "ENODEV")
    for family in (17, 38, 3, 31, 44):
        assert found[f"socket {family}"] == "EAFNOSUPPORT"
    for refused in ("unshare", "ptrace", "mount", "chroot", "mknod"):
        assert found[refused] == "EPERM", refused
    assert found["thread"] is True
    assert found["process"] == 0
    assert found["parent"] not in (0, None)
    assert "configuration_refused" in done.stderr
