"""Nothing slashable leaves, whatever dies, restarts, races or is turned back."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import attestation
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.emulator.second_signer import SecondSigner, second_signer
from nitrosigner.untrusted.parent import control_socket
from nitrosigner.verdicts import Undecided, Verdict

# ssl.SSLSocket._create leaves its socket to the garbage collector when the peer has
# reset the connection before the handshake (Python 3.11), as our relay does when the
# enclave is away.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket")

FreshKeys = Callable[[int], list[str]]


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def kill(stack: RunningStack, name: str) -> None:
    if name != "enclave":
        stack.kill(name)
        return
    hypervisor = stack.now().pids["hypervisor"]
    (enclave,) = children(hypervisor)
    os.kill(enclave, signal.SIGKILL)
    wait_until(
        lambda: stack.now().pids.get("hypervisor", hypervisor) != hypervisor,
        "the hypervisor comes back",
    )


def signed_when_well(client: SignerClient, key: str, duty: dict[str, Any]) -> str:
    signatures: list[str] = []

    def attempt() -> bool:
        with contextlib.suppress(Undecided):
            signatures.append(client.sign_duty(key, duty))
        return bool(signatures)

    wait_until(attempt, "it signs again")
    return signatures[0]


@pytest.mark.parametrize("name", ["parent", "hypervisor", "enclave", "kms"])
def test_what_was_signed_is_remembered_through_a_kill(  # noqa: PLR0917 - fixtures
    chain: RunningStack,
    client: SignerClient,
    fresh_keys: FreshKeys,
    refused_as: Any,
    proposal: Any,
    name: str,
) -> None:
    (key,) = fresh_keys(1)
    vote = client.sign_duty(key, attestation(3, 4))
    block = client.sign_duty(key, proposal(40))
    kill(chain, name)
    assert signed_when_well(client, key, attestation(3, 4)) == vote
    assert client.sign_duty(key, proposal(40)) == block
    assert refused_as(client, key, attestation(3, 4, "bb")) == "slashable"
    assert refused_as(client, key, attestation(2, 5)) == "slashable"
    assert refused_as(client, key, proposal(40, "bb")) == "slashable"
    assert client.sign_duty(key, attestation(4, 5))


@pytest.mark.parametrize("name", ["parent", "enclave"])
def test_kills_in_the_midst_of_contradicting_requests_sign_nothing_twice(
    chain: RunningStack,
    fresh_keys: FreshKeys,
    asker: Any,
    proposal: Any,
    name: str,
) -> None:
    keys = fresh_keys(3)
    end = threading.Event()

    def ask(head: str) -> int:
        asked = 0
        with SignerClient.from_data(chain.folder.path, "validator") as mine:
            while not end.is_set() or asked < 5:
                for key in keys:
                    asker(mine, key, attestation(asked + 1, asked + 2, head))
                    asker(mine, key, proposal(asked + 1, head))
                asked += 1
        return asked

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(ask, head) for head in ("aa", "bb")]
        try:
            wait_until(lambda: len(asker.signed) > 20, "they are under way")
            for _ in range(2):
                before = len(asker.signed)
                kill(chain, name)
                wait_until(lambda: len(asker.signed) > before + 20, "it signs on")  # noqa: B023 - within this turn
        finally:
            end.set()
        assert all(one.result() for one in running)


@pytest.fixture
def second(chain: RunningStack) -> Iterator[SecondSigner]:
    with second_signer(chain) as other:
        yield other


@pytest.fixture
def other_client(
    chain: RunningStack, second: SecondSigner
) -> Iterator[Callable[[str], SignerClient]]:
    made: list[SignerClient] = []

    def make(name: str) -> SignerClient:
        files = chain.ready.clients[name]
        made.append(
            SignerClient(
                second.url, ca=chain.ready.ca, certificate=files.cert, key=files.key
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_two_signers_on_one_store_never_both_sign(  # noqa: PLR0917 - fixtures
    chain: RunningStack,
    fresh_keys: FreshKeys,
    asker: Any,
    proposal: Any,
    other_client: Callable[[str], SignerClient],
    second: SecondSigner,
) -> None:
    keys = fresh_keys(3)
    other_client("operator").reload()  # the second one runs already
    rounds = range(1, 26)
    barrier = threading.Barrier(2, timeout=60)

    def ask(client: SignerClient, head: str) -> None:
        for number in rounds:
            barrier.wait()
            for key in keys:
                asker(client, key, attestation(number, number + 1, head))
                asker(client, key, proposal(number, head))

    with (
        SignerClient.from_data(chain.folder.path, "validator") as mine,
        ThreadPoolExecutor(2) as threads,
    ):
        theirs = other_client("validator")

        def knows() -> bool:
            return set(keys) <= set(theirs.validator_public_keys())

        wait_until(knows, "the second signer has the keys")
        jobs = [threads.submit(ask, mine, "aa"), threads.submit(ask, theirs, "bb")]
        for job in jobs:
            job.result()
    assert len(asker.signed) > len(rounds) * len(keys)
    signed = [
        line for line in second.audit.read_text().splitlines() if '"signed"' in line
    ]
    assert signed, "the second signer took no part"


async def _ask(path: Path, command: str) -> dict[str, Any]:
    return await control_socket.ask(path, command)


def test_a_watchdogs_enclave_comes_back_and_remembers(
    chain: RunningStack,
    fresh_keys: FreshKeys,
    other_client: Callable[[str], SignerClient],
    second: SecondSigner,
    refused_as: Any,
) -> None:
    def tell(command: str) -> dict[str, Any]:
        return asyncio.run(_ask(second.control, command))

    theirs = other_client("validator")
    (key,) = fresh_keys(1)
    other_client("operator").reload()
    wait_until(lambda: key in theirs.validator_public_keys(), "it has the key")
    theirs.sign_duty(key, attestation(3, 4))

    watchdog = tell("status")["pid"]
    (hypervisor,) = children(watchdog)
    os.kill(hypervisor, signal.SIGKILL)
    wait_until(lambda: tell("status")["restarts"] == 1, "it is started again")
    wait_until(lambda: tell("status")["phase"] == "serving", "it serves")
    assert refused_as(theirs, key, attestation(3, 4, "bb")) == "slashable"

    tell("stop")
    with pytest.raises(Verdict):
        theirs.sign_duty(key, attestation(4, 5))
    tell("start")
    wait_until(lambda: tell("status")["phase"] == "serving", "it serves")
    assert theirs.sign_duty(key, attestation(4, 5))


def test_a_store_turned_back_under_a_running_enclave_signs_nothing(
    chain: RunningStack,
    client: SignerClient,
    fresh_keys: FreshKeys,
    tmp_path: Path,
) -> None:
    (key,) = fresh_keys(1)
    client.sign_duty(key, attestation(3, 4))
    store = chain.folder.parent / "watermarks.db"
    earlier, now = tmp_path / "earlier.db", tmp_path / "now.db"
    copy(store, earlier)
    client.sign_duty(key, attestation(4, 5))
    copy(store, now)

    def exchange(other: Path) -> None:
        """As a host could: the parent is stopped for a moment."""
        parent = chain.now().pids["parent"]
        os.kill(parent, signal.SIGSTOP)
        for suffix in ("-wal", "-shm"):
            store.with_name(store.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(other, store)
        chain.kill("parent")

    exchange(earlier)
    try:
        answers: list[str] = []

        def decided() -> bool:
            try:
                client.sign_duty(key, attestation(4, 5, "bb"))
                answers.append("SIGNED")
            except Undecided:
                return False
            except Verdict as verdict:
                answers.append(verdict.code)
            return True

        wait_until(decided, "the enclave answers")
        assert answers[0] in {"slashable", "record_untrusted"}
        for vote in (attestation(4, 5, "cc"), attestation(3, 6), attestation(5, 6)):
            with pytest.raises(Verdict):
                client.sign_duty(key, vote)
    finally:
        exchange(now)
    assert signed_when_well(client, key, attestation(5, 6))


def copy(store: Path, to: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(store)) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


def test_a_stack_that_is_started_again_remembers(
    tmp_path: Path, bring_in: Any, refused_as: Any
) -> None:
    first = RunningStack.start(tmp_path / "data", options=("--preset", "minimal"))
    try:
        (key,) = bring_in(first, range(1))
        with SignerClient.from_data(first.folder.path, "validator") as client:
            vote = client.sign_duty(key, attestation(3, 4))
    finally:
        first.stop()
    second = RunningStack.start(tmp_path / "data")  # the folder knows its chain
    try:
        assert second.ready.beacon_network == "minimal"
        with SignerClient.from_data(second.folder.path, "validator") as client:
            assert client.validator_public_keys() == [key]
            assert client.sign_duty(key, attestation(3, 4)) == vote
            assert refused_as(client, key, attestation(3, 4, "bb")) == "slashable"
    finally:
        second.stop()
