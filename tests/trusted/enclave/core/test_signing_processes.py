"""Validators' keys are opened in processes of their own, and never without them."""

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ckzg
import msgspec
import pytest

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators import duty_signing, signing_process
from nitrosigner.trusted.enclave.validators.duty_signing import DutySigning
from nitrosigner.trusted.enclave.validators.signing_process import (
    HASH,
    HASHED,
    HEAD,
    JOBS,
    KEY,
    Job,
    Outcome,
)
from nitrosigner.trusted.enclave.vault.sealed_records import Slot as SealedSlot
from nitrosigner.trusted.enclave.vault.vault import VaultKey
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.manifest_validators import Validators

BLS = Bls12381(ckzg.__file__)
ROOT = b"\x05" * 32
WAIT = 30.0


@pytest.fixture
def vp(lab: Any) -> Any:
    return lab.parent(lab.sign(lab.wanted(validators=Validators(network="mainnet"))))


def processes(running: Any) -> list[Any]:
    found: list[Any] = running.validators._signing._processes
    return found


def is_there(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


def test_two_sign_and_end_with_the_enclave(lab: Any, vp: Any) -> None:
    pids: list[int] = []

    async def work(running: Any) -> None:
        pids.extend(one.pid for one in processes(running))
        name = (await running.validators.create()).name
        outcomes = await running.validators.sign_many([Permit(name, ROOT)] * 40)
        assert len({bytes(one) for one in outcomes}) == 1
        assert running.checks["signing"]

    lab.booted(vp, work)
    assert len({*pids, os.getpid()}) == 3
    assert not any(is_there(pid) for pid in pids)


def test_nothing_is_signed_after_one_ended_by_itself(lab: Any, vp: Any) -> None:
    async def work(running: Any) -> None:
        validators = running.validators
        name = (await validators.create()).name
        one, other = processes(running)
        # Held still, so that both owe signatures when one of them dies.
        for process in (one, other):
            os.kill(process.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(validators.sign_many([Permit(name, ROOT)] * 60))
        await until(lambda: bool(one.owed and other.owed))
        os.kill(one.pid, signal.SIGKILL)
        outcomes = await asyncio.wait_for(waiting, WAIT)
        assert len(outcomes) == 60
        for outcome in outcomes:
            assert isinstance(outcome, Undecided)
            assert outcome.code is Code.INTERNAL
        with pytest.raises(Undecided) as caught:
            await validators.sign(Permit(name, ROOT))
        assert "start the enclave again" in caught.value.hint
        assert not running.checks["signing"]
        assert validators.facts.waiting == 0
        # Whoever deletes the key waits for nobody.
        await asyncio.wait_for(validators.delete(name), WAIT)
        assert not is_there(other.pid)

    lab.booted(vp, work)


def test_a_process_holds_none_of_our_files(lab: Any, vp: Any) -> None:
    async def work(running: Any) -> None:
        for process in processes(running):
            folder = f"/proc/{process.pid}/fd"
            try:
                os.listdir(folder)
            except PermissionError:
                pytest.skip("its memory is guarded, and its files with it")
            # Three that lead nowhere, and the socket; the others go when it begins.
            await until(lambda folder=folder: len(os.listdir(folder)) == 4)  # type: ignore[misc]

    lab.booted(vp, work)


# --- what one of them does, without a fork ---


@pytest.fixture
def channel() -> Iterator[socket.socket]:
    """A socket with somebody who serves at the other end."""
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=_serve, args=(theirs,))
    serving.start()
    ours.settimeout(WAIT)
    yield ours
    ours.close()
    serving.join(WAIT)
    assert not serving.is_alive()


def _serve(theirs: socket.socket) -> None:
    with theirs, contextlib.suppress(OSError):
        signing_process.serve(theirs, Bls12381(ckzg.__file__))


class Sealed:
    """A key under a vault key, and the job to sign with it."""

    def __init__(self) -> None:
        self.vault_key = VaultKey(SecretBytes(bytearray(range(32))))
        self.secret = bytes(31) + b"\x07"
        with SecretBytes(bytearray(self.secret)) as secret:
            self.public_key = bytes(BLS.public_key(secret))
            self.signature = bytes(BLS.sign(secret, ROOT))
        sealed = self.vault_key.seal(bytearray(self.secret), b"header", os.urandom)
        self.job = Job(
            vault_key=self.vault_key.identifier,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
            header=b"header",
            public_key=self.public_key,
            check=True,
            message=ROOT,
        )

    def entrust(self, channel: socket.socket) -> None:
        channel.sendall(HEAD.pack(KEY, 32) + bytes(self.vault_key.secret.buffer))


def ask(channel: socket.socket, *jobs: Job) -> list[Outcome]:
    body = signing_process.encode(list(jobs))
    channel.sendall(HEAD.pack(JOBS, len(body)) + body)
    head = channel.recv(HEAD.size, socket.MSG_WAITALL)
    _, size = HEAD.unpack(head)
    return signing_process.outcomes_decoder.decode(
        channel.recv(size, socket.MSG_WAITALL)
    )


def replaced(job: Job, **changes: Any) -> Job:
    return msgspec.structs.replace(job, **changes)


def test_it_signs_what_opens_under_the_vault_key(channel: socket.socket) -> None:
    sealed = Sealed()
    sealed.entrust(channel)
    assert (
        ask(channel, sealed.job, replaced(sealed.job, check=False))
        == [Outcome(signature=sealed.signature)] * 2
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"header": b"another"},
        {"nonce": bytes(12)},
        {"ciphertext": bytes(48)},
        {"ciphertext": b""},
        {"public_key": bytes(48)},
    ],
    ids=str,
)
def test_it_does_not_sign_with_what_is_not_the_key(
    channel: socket.socket, changes: dict[str, Any]
) -> None:
    sealed = Sealed()
    sealed.entrust(channel)
    bad, good = ask(channel, replaced(sealed.job, **changes), sealed.job)
    assert not bad.signature
    assert "cannot be trusted" in bad.untrusted
    assert good.signature == sealed.signature


@pytest.mark.parametrize("changes", [{"vault_key": b"unknown."}, {"message": b"short"}])
def test_a_fault_of_ours_signs_nothing(
    channel: socket.socket, changes: dict[str, Any]
) -> None:
    sealed = Sealed()
    sealed.entrust(channel)
    bad, good = ask(channel, replaced(sealed.job, **changes), sealed.job)
    assert not bad.signature
    assert good.signature == sealed.signature


def test_it_hashes_a_message_for_the_other_process(channel: socket.socket) -> None:
    channel.sendall(HEAD.pack(HASH, len(ROOT)) + ROOT)
    kind, size = HEAD.unpack(channel.recv(HEAD.size, socket.MSG_WAITALL))
    assert kind == HASH
    assert channel.recv(size, socket.MSG_WAITALL) == BLS.hashed(ROOT)


def test_it_takes_over_what_the_other_process_hashed(channel: socket.socket) -> None:
    sealed = Sealed()
    sealed.entrust(channel)
    other = b"\x06" * 32
    told = other + BLS.hashed(ROOT)  # another root's, so that its use shows
    channel.sendall(HEAD.pack(HASHED, len(told)) + told)
    (outcome,) = ask(channel, replaced(sealed.job, message=other))
    assert outcome.signature == sealed.signature


def test_it_serves_nobody_who_sends_too_much(channel: socket.socket) -> None:
    channel.sendall(HEAD.pack(JOBS, signing_process.MAX_FRAME + 1))
    assert channel.recv(1) == b""


def test_a_verdict_of_a_process_reaches_the_caller(lab: Any, vp: Any) -> None:
    async def work(running: Any) -> None:
        validators = running.validators
        name = (await validators.create()).name
        index = validators._index
        slot = index.named(name)
        index.put(msgspec.structs.replace(slot, public_key=slot.public_key[::-1]))
        with pytest.raises(Verdict) as caught:
            await validators.sign(Permit(name, ROOT))
        assert caught.value.code is Code.RECORD_UNTRUSTED
        assert "backup" in caught.value.hint

    lab.booted(vp, work)


# --- both of them, and how often they hash ---


class Lookup:
    """One key that is always ready."""

    def __init__(self) -> None:
        sealed = Sealed()
        self.signature = sealed.signature
        self.slot = SealedSlot(
            name="key",
            algorithm="bls12-381",
            kind="vault",
            public_key=sealed.public_key,
            identity="key",
            state="enabled",
            version=1,
            created=0,
            purge_after=0,
            header=sealed.job.header,
            nonce=sealed.job.nonce,
            ciphertext=sealed.job.ciphertext,
            vault_key=sealed.vault_key,
        )

    def ready(self, name: str) -> SealedSlot:
        del name
        return self.slot


class Counting:
    """How often blst hashes, in every process that is forked from here."""

    def __init__(self) -> None:
        self.bls = Bls12381(ckzg.__file__)
        self._counts = mmap.mmap(-1, 1 << 16)
        hash_to_g2 = self.bls._blst.blst_hash_to_g2

        def counting(*arguments: Any) -> None:
            self._counts[os.getpid() % (1 << 16)] += 1
            hash_to_g2(*arguments)

        self.bls._blst.blst_hash_to_g2 = counting

    @property
    def hashes(self) -> int:
        return sum(self._counts[:])


def signing(test: Callable[[DutySigning, Lookup, Counting], Any]) -> None:
    async def main() -> None:
        lookup, counting = Lookup(), Counting()
        processes = DutySigning(lookup, counting.bls)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(WAIT):
                await test(processes, lookup, counting)
        finally:
            await processes.close()

    asyncio.run(main())


def test_what_many_keys_sign_is_hashed_once() -> None:
    async def work(processes: DutySigning, lookup: Lookup, counting: Counting) -> None:
        await asyncio.gather(*(processes.hash_once(ROOT) for _ in range(5)))
        outcomes = await processes.sign_many([Permit("key", ROOT)] * 200)
        assert outcomes == [lookup.signature] * 200
        assert counting.hashes == 1
        await processes.hash_once(ROOT)
        assert counting.hashes == 1

    signing(work)


def test_many_messages_are_hashed_once_each_and_the_oldest_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duty_signing, "MAX_HASHES", 4)
    roots = [bytes([number]) * 32 for number in range(40)]

    async def work(processes: DutySigning, lookup: Lookup, counting: Counting) -> None:
        await asyncio.gather(*(processes.hash_once(root) for root in roots))
        assert counting.hashes == 40
        assert len(processes._hashes) == 4
        outcomes = await processes.sign_many([Permit("key", root) for root in roots])
        for root, outcome in zip(roots, outcomes, strict=True):
            with SecretBytes(bytearray(31) + b"\x07") as secret:
                assert outcome == BLS.sign(secret, root)

    signing(work)


def test_nobody_waits_for_a_hash_that_nobody_makes() -> None:
    async def work(processes: DutySigning, lookup: Lookup, counting: Counting) -> None:
        for process in processes._processes:
            os.kill(process.pid, signal.SIGSTOP)
        waiting = [asyncio.ensure_future(processes.hash_once(ROOT)) for _ in range(3)]
        await until(lambda: any(one.owed for one in processes._processes))
        for process in list(processes._processes):
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*waiting)
        assert not processes.healthy
        await processes.hash_once(b"\x07" * 32)

    signing(work)


def test_what_waited_too_long_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(processes: DutySigning, lookup: Lookup, counting: Counting) -> None:
        monkeypatch.setattr(duty_signing, "PATIENCE", -1.0)
        late = asyncio.ensure_future(processes.sign_many([Permit("key", ROOT)] * 3))
        await asyncio.sleep(0)  # they are in the queue
        monkeypatch.setattr(duty_signing, "PATIENCE", 30.0)
        outcomes = await processes.sign_many([Permit("key", ROOT)] * 3)
        assert outcomes == [lookup.signature] * 3
        for outcome in await late:
            assert isinstance(outcome, Undecided)
            assert outcome.code is Code.OVERLOADED
        assert processes.waiting == 0

    signing(work)


@pytest.mark.parametrize("answer", [b"", b"\x90", b"\xc1", b"\x91\x90"])
def test_who_waits_is_told_when_a_process_answers_nonsense(answer: bytes) -> None:
    async def work(processes: DutySigning, lookup: Lookup, counting: Counting) -> None:
        for process in processes._processes:
            os.kill(process.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(processes.sign_many([Permit("key", ROOT)] * 60))
        await until(lambda: all(one.owed for one in processes._processes))
        one = processes._processes[0]
        one.answers = lambda: [(one.owed.popleft(), answer)]  # type: ignore[method-assign]
        processes._readable(one)
        for outcome in await waiting:
            assert isinstance(outcome, Undecided)
        assert not processes.healthy

    signing(work)
