"""
Two threads that unseal, sign and wipe, while the loop goes on with its connections.

blst lets go of the interpreter for the long part of a signature, so two cores sign at
once. A private key exists in the clear in one buffer of one thread, from its unsealing
to the end of the one signature that it was unsealed for.
"""

import asyncio
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final, Protocol

import msgspec

from nitrosigner.trusted.enclave.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.permit import Permit
from nitrosigner.trusted.enclave.sealed_records import Slot, require_own_public_key
from nitrosigner.trusted.signing.algorithms import Algorithm, Signature
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Undecided, Verdict

THREADS: Final = 2
MAX_WAITING: Final = 16_384
"""Signatures that wait for a thread: one batch and what comes beside it, some 3 s."""
BUSY: Final = 8
"""Signatures that keep the threads at work for a millisecond or more."""
_SWITCH: Final = 0.0001
"""Seconds after which a thread that wants the interpreter is given it. A signature
needs it a few times for microseconds; at Python's 5 ms it would wait longer for that
than it takes to sign. With a busy loop this value signs half as many again as five
times it (measured)."""

Outcome = Signature | Verdict


class _Sink(Protocol):
    """Where an outcome goes, on the loop's thread."""

    def put(self, position: int, outcome: Outcome) -> None:
        """Take the outcome of one job."""
        ...


class _Job(msgspec.Struct, frozen=True, gc=False):
    slot: Slot
    message: bytes
    sink: _Sink
    position: int


class _One:
    """One signature's caller."""

    __slots__ = ("answer",)

    def __init__(self, answer: "asyncio.Future[Signature]") -> None:
        self.answer = answer

    def put(self, position: int, outcome: Outcome) -> None:
        del position
        if self.answer.done():
            return
        if isinstance(outcome, Verdict):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class _Many:
    """A batch's caller: one future, however many signatures."""

    __slots__ = ("_left", "_outcomes", "answer")

    def __init__(
        self, outcomes: list[Outcome | None], answer: "asyncio.Future[list[Outcome]]"
    ) -> None:
        self._outcomes = outcomes
        self._left = outcomes.count(None)
        self.answer = answer
        self._look()

    def put(self, position: int, outcome: Outcome) -> None:
        self._outcomes[position] = outcome
        self._left -= 1
        self._look()

    def _look(self) -> None:
        if not self._left and not self.answer.done():
            self.answer.set_result(
                [each for each in self._outcomes if each is not None]
            )


class DutySigning:
    """Signs permits of validators' keys."""

    def __init__(self, lookup: KeyLookup, algorithm: Algorithm) -> None:
        """Start the threads. They end with `close`."""
        self._lookup = lookup
        self._algorithm = algorithm
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[_Job, Outcome]] = deque()
        self._told = False
        self._under_way: Counter[str] = Counter()
        self._ends: dict[str, asyncio.Future[None]] = {}
        """Who waits for the last signature of a key."""
        self._checked: dict[str, Slot] = {}
        self.waiting = 0
        """Signatures under way or queued."""
        self.signatures = 0
        """Since boot."""
        sys.setswitchinterval(_SWITCH)
        self._threads = [
            threading.Thread(target=self._work, name=f"signing-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    async def sign(self, permit: Permit) -> Signature:
        """Sign. See `ValidatorKeys.sign`."""
        slot = self._ready(permit)
        answer: asyncio.Future[Signature] = self._loop.create_future()
        self._submit(_Job(slot, permit.message, _One(answer), 0))
        return await answer

    async def sign_many(self, permits: Sequence[Permit]) -> list[Outcome]:
        """Sign many. See `ValidatorKeys.sign_many`."""
        ready: list[Slot | None] = []
        outcomes: list[Outcome | None] = []
        for ahead, permit in enumerate(permits):
            try:
                ready.append(self._ready(permit, ahead))
                outcomes.append(None)
            except Verdict as verdict:
                ready.append(None)
                outcomes.append(verdict)
        answer: asyncio.Future[list[Outcome]] = self._loop.create_future()
        sink = _Many(outcomes, answer)
        for position, slot in enumerate(ready):
            if slot is not None:
                self._submit(_Job(slot, permits[position].message, sink, position))
        return await answer

    def busy(self) -> bool:
        """Return whether the threads have work for a while, whatever is written now."""
        return self.waiting > BUSY

    async def quiet(self, name: str) -> None:
        """Wait until no signature of the key called *name* is under way."""
        if name in self._under_way:
            ended = self._ends.get(name)
            if ended is None:
                ended = self._ends[name] = self._loop.create_future()
            await asyncio.shield(ended)

    async def close(self) -> None:
        """Finish what was begun, and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    # --- on the loop's thread ---

    def _ready(self, permit: Permit, ahead: int = 0) -> Slot:
        slot = self._lookup.ready(permit.key)
        if self.waiting + ahead >= MAX_WAITING:
            raise Undecided(
                Code.OVERLOADED,
                "too many signatures wait for a processor",
                "ask again; spread validators over more signers",
            )
        return slot

    def _submit(self, job: _Job) -> None:
        self.waiting += 1
        self._under_way[job.slot.name] += 1
        self._jobs.put(job)

    def _tell(self) -> None:
        # Before the deque is emptied: what is added from here on is told of again.
        self._told = False
        while self._done:
            job, outcome = self._done.popleft()
            self.waiting -= 1
            name = job.slot.name
            left = self._under_way[name] - 1
            if left:
                self._under_way[name] = left
            else:
                del self._under_way[name]
                if name in self._ends:
                    self._ends.pop(name).set_result(None)
            if not isinstance(outcome, Verdict):
                self.signatures += 1
            job.sink.put(job.position, outcome)

    # --- in the threads ---

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome: Outcome
            try:
                outcome = self._signed(job)
            except Verdict as verdict:
                outcome = verdict
            except Exception:  # noqa: BLE001 - a thread's accept loop; see STYLE 6
                outcome = Undecided(Code.INTERNAL, "the signer failed; nothing signed")
            self._done.append((job, outcome))
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._tell)

    def _signed(self, job: _Job) -> Signature:
        slot = job.slot
        with SecretBytes(bytearray(self._algorithm.secret_size)) as secret:
            slot.vault_key.open_into(
                slot.nonce, slot.ciphertext, slot.header, secret.buffer
            )
            if self._checked.get(slot.name) is not slot:
                require_own_public_key(slot, secret, self._algorithm)
                self._checked[slot.name] = slot
            return self._algorithm.sign(secret, job.message)
