"""`nitrosigner up` as a command: its promises to whoever types it or kills it."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.image import contents
from nitrosigner.verdicts import Refused, Undecided

UP = (sys.executable, "-I", "-m", "nitrosigner.cli.main", "up", "--json")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    return False


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def signs(client: SignerClient, key: str) -> bool:
    try:
        client.sign_message(key, "x")
    except (Undecided, Refused):
        return False
    return True


@pytest.fixture(scope="module")
def made(stack: RunningStack) -> str:
    with SignerClient.from_data(stack.folder.path) as client:
        client.create_key("survivor")
    return "survivor"


@pytest.mark.parametrize("name", ["hypervisor", "parent", "kms", "enclave"])
def test_a_killed_process_comes_back_and_no_key_is_lost(
    stack: RunningStack, signer: SignerClient, made: str, name: str
) -> None:
    before = {one.name: one.identity for one in signer.list_keys()}
    if name == "enclave":
        hypervisor = stack.now().pids["hypervisor"]
        (enclave,) = children(hypervisor)
        os.kill(enclave, signal.SIGKILL)
        wait_until(
            lambda: stack.now().pids.get("hypervisor", hypervisor) != hypervisor,
            "the hypervisor ends with its enclave and comes back",
        )
    else:
        stack.kill(name)
    wait_until(lambda: signs(signer, made), "it signs again")
    assert {one.name: one.identity for one in signer.list_keys()} == before


def test_keys_that_need_kms_sign_again_after_kms_was_killed(
    stack: RunningStack, signer: SignerClient, made: str
) -> None:
    stack.kill("kms")
    stack.kill("hypervisor")  # it boots: KMS must open the vault
    wait_until(lambda: signs(signer, made), "it signs again")


def test_no_secret_is_an_argument_or_in_an_environment(stack: RunningStack) -> None:
    state = stack.now()
    for pid in (*state.pids.values(), *children(state.pids["hypervisor"])):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0] for entry in environment if entry}
        assert names <= {b"LC_ALL", b"PATH", b"LC_CTYPE"}, names


def test_everything_in_the_folder_is_its_owners_alone(stack: RunningStack) -> None:
    root = stack.folder.path
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for name in ("key.pem", "token"):
        for path in root.rglob(name):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_ready_line_names_files_that_exist(stack: RunningStack) -> None:
    ready = stack.ready
    files = [ready.ca, ready.kms_ca, ready.trust_root_file]
    for client in ready.clients.values():
        files += [client.cert, client.key, client.token_file]
    assert all(Path(file).is_file() for file in files)
    assert {"default", "reader"} <= set(ready.clients)
    assert ready.emulated
    assert alive(ready.pid)


def test_two_stacks_cannot_use_one_folder(stack: RunningStack) -> None:
    done = subprocess.run(
        [*UP, "--data", str(stack.folder.path), "--port", "0"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    error = json.loads(done.stdout)["error"]
    assert done.returncode != 0
    assert str(stack.ready.pid) in error["message"]
    assert stack.now().pid == stack.ready.pid


def test_a_port_in_use_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*UP, "--data", str(tmp_path / "data"), "--port", str(port)],
            capture_output=True,
            timeout=30,
            check=False,
        )
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert str(port) in error["message"]
    assert "--port" in error["hint"]


def test_a_stack_survives_a_restart_and_a_kill_of_its_supervisor(
    tmp_path: Path,
) -> None:
    first = RunningStack.start(tmp_path / "data")
    with SignerClient.from_data(first.folder.path) as client:
        address = client.create_key("kept").identity
    pids = [*first.now().pids.values(), *children(first.now().pids["hypervisor"])]
    os.kill(first.ready.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "its children end with it")
    first.stop()

    second = RunningStack.start(tmp_path / "data")
    with SignerClient.from_data(second.folder.path) as client:
        assert client.key("kept").identity == address
        client.sign_message("kept", "x")
    pids = list(second.now().pids.values())
    assert second.ready.administrator == first.ready.administrator
    assert second.ready.kms_key_arn == first.ready.kms_key_arn
    assert second.ready.manifest == first.ready.manifest
    assert Path(second.ready.ca).read_bytes() == Path(first.ready.ca).read_bytes()

    assert second.stop() == 0
    assert not any(map(alive, pids))
    assert not (second.folder.path / "run").exists()


def test_a_folder_with_somebodys_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [*UP, "--data", str(tmp_path), "--port", "0"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "something else" in json.loads(done.stdout)["error"]["message"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stack_that_is_stopped_while_it_starts_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    data = tmp_path / "data"
    with subprocess.Popen(
        [*UP, "--data", str(data), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until((data / "kms" / "kms.db").exists, "the emulated KMS has started")
        started = children(process.pid)
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert started
    wait_until(lambda: not any(map(alive, started)), "nothing is left running")


SCRIPT = """
import asyncio, sys
from pathlib import Path
from nitrosigner.emulator import commands, local_stack

options = local_stack.Options(data=Path(sys.argv[1]), port=0, source=Path(sys.argv[2]))
asyncio.run(local_stack.run(options, commands._announcements(as_json=True)))
"""


def test_a_changed_source_is_rolled_out_loudly_and_keeps_the_keys(
    tmp_path: Path,
) -> None:
    first = RunningStack.start(tmp_path / "data")
    with SignerClient.from_data(first.folder.path) as client:
        address = client.create_key("kept").identity
    first.stop()
    tree = tmp_path / "tree"
    contents.gather_source(contents.source_root(), tree)
    with (tree / "nitrosigner/trusted/__init__.py").open("a") as file:
        file.write("# another release\n")
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SCRIPT, str(first.folder.path), str(tree)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            ready = json.loads(process.stdout.readline())
            assert ready["pcr0"] != first.ready.pcr0
            assert ready["kms_key_arn"] == first.ready.kms_key_arn
            with SignerClient.from_data(first.folder.path) as client:
                assert client.key("kept").identity == address
                client.sign_message("kept", "x")
        finally:
            process.send_signal(signal.SIGTERM)
            told = process.stderr.read() if process.stderr else b""
            assert process.wait(20) == 0
    assert b"ROLLOUT" in told
