"""What fails around a running signer, what callers and `doctor` are told, and how it
mends. Nothing is lost, and nothing is signed that should not be."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.trusted.enclave.keys.key_changes import ANSWER_SECONDS
from nitrosigner.untrusted.parent import state as parent_state
from nitrosigner.verdicts import Undecided, Verdict

COMMAND = (sys.executable, "-I", "-m", "nitrosigner.cli.main")


@pytest.fixture(scope="module")
def key(stack: RunningStack) -> str:
    with SignerClient.from_data(stack.folder.path) as client:
        client.create_key("faults")
    return "faults"


def doctor(stack: RunningStack) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, "doctor", "--data", str(stack.folder.path), "--json"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def reported(stack: RunningStack) -> parent_state.EnclaveState:
    with contextlib.suppress(OSError, ValueError):
        return parent_state.read(stack.folder.parent / "state.json").enclave
    return parent_state.EnclaveState()


def signs(client: SignerClient, key: str) -> bool:
    try:
        client.sign_message(key, "x")
    except Verdict:
        return False
    return True


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process hang, which is worse than being dead."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_doctor_finds_nothing_wrong_with_a_good_stack(
    stack: RunningStack, signer: SignerClient, key: str
) -> None:
    wait_until(lambda: signs(signer, key), "the stack is well")
    assert doctor(stack)["ok"]


def test_with_kms_down_at_boot_doctor_names_the_step_and_it_mends_itself(
    stack: RunningStack, signer: SignerClient, key: str
) -> None:
    with stopped(stack.now().pids["kms"]):
        stack.kill("hypervisor")
        wait_until(lambda: reported(stack).state == "kms", "the boot waits for KMS")
        found = doctor(stack)
        assert not found["ok"]
        (boot,) = [one for one in found["checks"] if one["name"] == "boot"]
        assert not boot["ok"]
        assert "kms" in boot["detail"]
        assert boot["hint"]
        with pytest.raises(Undecided):
            signer.sign_message(key, "x")
    wait_until(lambda: signs(signer, key), "it boots when KMS is back")


def test_with_kms_down_keys_of_the_vault_sign_and_keys_of_kind_kms_do_not(
    stack: RunningStack, signer: SignerClient, key: str
) -> None:
    with stopped(stack.now().pids["kms"]):
        assert signs(signer, key)


@contextlib.contextmanager
def another_policy(stack: RunningStack) -> Iterator[None]:
    """Let the key's policy admit another measurement only."""
    ready = stack.ready
    places = Places(
        folder=stack.folder,
        run=Path(ready.run),
        source=Path(),
        port=0,
        kms_port=int(ready.kms_url.rpartition(":")[2]),
        metadata_port=0,
    )
    kms = kms_rollout.client(places, "administrator")
    arn = ready.kms_key_arn
    policy = kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
    other = policy.replace(ready.pcr0, "ab" * 48)
    assert other != policy
    kms.put_key_policy(KeyId=arn, PolicyName="default", Policy=other)
    try:
        yield
    finally:
        kms.put_key_policy(KeyId=arn, PolicyName="default", Policy=policy)


def test_a_key_policy_that_does_not_admit_the_enclave_is_named_as_the_reason(
    stack: RunningStack, signer: SignerClient, key: str
) -> None:
    with another_policy(stack):
        stack.kill("hypervisor")
        wait_until(lambda: reported(stack).code == "kms_refused", "KMS refuses")
        # It is started again now and then, and is at an earlier step for a moment.
        boot: dict[str, Any] = {}

        def named() -> bool:
            (found,) = [one for one in doctor(stack)["checks"] if one["name"] == "boot"]
            boot.update(found)
            return "kms_refused" in boot["detail"]

        wait_until(named, "doctor says that KMS refuses", 60)
        assert "policy" in boot["hint"] + boot["detail"]
    stack.kill("hypervisor")  # it would ask again by itself, in half a minute
    wait_until(lambda: signs(signer, key), "it boots when the policy is right again")


def test_a_store_that_cannot_be_written_makes_no_key_and_signs_with_the_old_ones(
    stack: RunningStack, signer: SignerClient, key: str
) -> None:
    store = sqlite3.connect(stack.folder.parent / "store.db", isolation_level=None)
    try:
        store.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(Undecided) as undecided:
            signer.create_key("faults-undecided")
        # It goes on for longer than that; whoever asked hears by then.
        assert time.monotonic() - began < 3 * ANSWER_SECONDS
        assert undecided.value.code == "storage_unavailable"
        assert undecided.value.status == 503
        signer.sign_message(key, "x")
    finally:
        store.execute("ROLLBACK")
        store.close()

    def made() -> bool:
        try:
            return bool(signer.create_key("faults-later").identity)
        except Undecided:
            return False

    wait_until(made, "keys are made again")
    assert signs(signer, key)


def test_a_parent_that_hangs_is_no_signature_and_no_loss(
    stack: RunningStack, key: str
) -> None:
    files = stack.ready.clients["default"]
    with SignerClient(
        stack.ready.url,
        ca=stack.ready.ca,
        certificate=files.cert,
        key=files.key,
        read_timeout=2,
    ) as hasty:
        with stopped(stack.now().pids["parent"]), pytest.raises(Undecided):
            hasty.sign_message(key, "x")
        wait_until(lambda: signs(hasty, key), "it signs when the parent goes on")
