"""
The validator's Lambda operations through `nitrosigner invoke validator`, on a stack
that a real watchdog keeps: the reference's four as they were, and the four it lacked.
"""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import attestation
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.verdicts import Verdict

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")
UNDECIDED = 4


def run(stack: RunningStack, operation: str) -> tuple[int, Any]:
    """Return the exit code, and what the function returns: any JSON."""
    done = subprocess.run(
        [*COMMAND, "invoke", "validator", "--data", str(stack.folder.path), "--json"],
        input=json.dumps({"operation": operation}).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def invoke(stack: RunningStack, operation: str) -> Any:
    status, answer = run(stack, operation)
    assert status == 0, answer
    return answer


def is_up(stack: RunningStack) -> bool:
    return run(stack, "web3signer_status") == (0, "OK")


def hypervisor(stack: RunningStack) -> int:
    return stack.now().pids.get("hypervisor", 0)


@pytest.fixture
def running(chain: RunningStack) -> Iterator[RunningStack]:
    """The shared chain; it runs again when a test is done with it."""
    wait_until(lambda: is_up(chain), "it is up")
    yield chain
    run(chain, "start")
    wait_until(lambda: is_up(chain), "it is up again")


def test_the_references_operations_answer_as_the_reference_does(
    running: RunningStack, fresh_keys: Callable[[int], list[str]]
) -> None:
    """Compared with its handler's replies: facts of the reference, operation by one."""
    (key,) = fresh_keys(1)
    assert invoke(running, "web3signer_status") == "OK"
    listed = invoke(running, "web3signer_public_keys")
    assert key in listed
    assert all(re.fullmatch(r"0x[0-9a-f]{96}", each) for each in listed)
    # One base64 string. The reference's held a key that its role could open; ours
    # holds what a client must trust.
    pem = base64.b64decode(invoke(running, "get_tls_key"), validate=True)
    assert pem == Path(running.ready.ca).read_bytes()
    # An object: the reference's was DynamoDB's reply about a key that it had made.
    shown = invoke(running, "set_tls_key")
    assert shown["attested"] is True
    assert shown["pcr0"] == running.ready.pcr0
    x509.load_pem_x509_certificate(shown["certificate_pem"].encode())
    status, answer = run(running, "decrypt_tls_key")
    assert (status, answer["error"]["code"]) == (3, "not_allowed")


def test_reload_and_healthcheck_say_what_the_signer_says(running: RunningStack) -> None:
    health = invoke(running, "healthcheck")
    assert (health["status"], health["outcome"]) == ("UP", "UP")
    assert all(health["checks"].values()), health["checks"]
    assert health["keys_loaded"] >= 0
    reloaded = invoke(running, "reload")
    assert reloaded["status"] in {"running", "completed"}


def test_stop_ends_the_enclave_until_start_and_status_tells_the_truth(
    running: RunningStack,
    client: SignerClient,
    fresh_keys: Callable[[int], list[str]],
    refused_as: Any,
) -> None:
    (key,) = fresh_keys(1)
    signature = client.sign_duty(key, attestation(3, 4))
    before = hypervisor(running)

    stopped = invoke(running, "stop")
    assert stopped["operation"] == "stop"
    assert stopped["status"] == "Success"
    assert stopped["watchdog"]["phase"] == "stopped"
    assert stopped["watchdog"]["wanted"] is False
    assert not Path("/proc", str(before)).exists()
    wait_until(lambda: hypervisor(running) == 0, "the stack's file knows it")
    for operation in ("web3signer_status", "web3signer_public_keys", "healthcheck"):
        status, answer = run(running, operation)
        assert status == UNDECIDED, operation
        assert answer["error"]["code"] == "signer_unreachable"
        assert answer["error"]["hint"]
    with pytest.raises(Verdict):
        client.sign_duty(key, attestation(4, 5))

    started = invoke(running, "start")
    assert started["operation"] == "start"
    assert started["status"] == "InProgress"
    assert started["watchdog"]["wanted"] is True
    wait_until(lambda: is_up(running), "it is up")
    assert hypervisor(running) not in {0, before}
    assert client.sign_duty(key, attestation(3, 4)) == signature
    assert refused_as(client, key, attestation(3, 4, "bb")) == "slashable"


def test_an_enclave_that_was_killed_comes_back_by_itself(running: RunningStack) -> None:
    before = hypervisor(running)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: hypervisor(running) not in {0, before}, "it runs again")
    wait_until(lambda: is_up(running), "it is up")


def test_an_order_to_stop_outlives_the_watchdog_that_took_it(
    running: RunningStack,
) -> None:
    invoke(running, "stop")
    running.kill("watchdog")

    def said() -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            path = running.folder.parent / "watchdog-status.json"
            return dict(json.loads(path.read_bytes()))
        return {}

    watchdog = running.now().pids["watchdog"]
    wait_until(lambda: said().get("pid") == watchdog, "the next one has looked")
    assert said()["phase"] == "stopped"
    assert hypervisor(running) == 0
    assert run(running, "web3signer_status")[0] == UNDECIDED


def test_a_watchdog_that_was_killed_takes_its_enclave_along_and_both_come_back(
    running: RunningStack,
) -> None:
    before = hypervisor(running)
    running.kill("watchdog")
    wait_until(lambda: not Path("/proc", str(before)).exists(), "it is gone")
    wait_until(lambda: hypervisor(running) not in {0, before}, "another one runs")
    wait_until(lambda: is_up(running), "it is up")


def test_without_a_stack_start_says_what_to_do(
    running: RunningStack, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "emulator").symlink_to(running.folder.emulator)
    described = running.now()
    (data / "stack.json").write_bytes(
        running.folder.stack.read_bytes().replace(
            described.control.encode(), str(tmp_path / "nobody.sock").encode()
        )
    )
    done = subprocess.run(
        [*COMMAND, "invoke", "validator", "--data", str(data), "--json"],
        input=b'{"operation": "start"}',
        capture_output=True,
        timeout=60,
        check=False,
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (UNDECIDED, "local_stack")
    assert "nitrosigner up" in error["hint"]
