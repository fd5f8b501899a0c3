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
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.outcomes import Outcomes, answering
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
PARTS: Final = 4
"""Into which what comes at once is cut for the threads, so that they end together."""
MAX_PART: Final = 8
"""Signatures of one part: some 2 ms of one thread. Handing over, and waking the loop
for the outcomes, costs as much as a tenth of a signature."""
_SWITCH: Final = 0.0001
"""Seconds after which a thread that wants the interpreter is given it. A signature
needs it a few times for microseconds; at Python's 5 ms it would wait longer for that
than it takes to sign. With a busy loop this value signs half as many again as five
times it (measured)."""

Outcome = Signature | Verdict


Then = Callable[[Outcome], None]
"""Hears the outcome of one permit, once, on the loop's thread. Must not raise."""


class _Job(msgspec.Struct, frozen=True, gc=False):
    slot: Slot
    message: bytes
    then: Then


class DutySigning:
    """Signs permits of validators' keys."""

    def __init__(self, lookup: KeyLookup, algorithm: Algorithm) -> None:
        """Start the threads. They end with `close`."""
        self._lookup = lookup
        self._algorithm = algorithm
        self._loop = asyncio.get_running_loop()
        self._fresh: list[_Job] = []
        """What came in this turn of the loop."""
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._done: deque[list[tuple[_Job, Outcome]]] = deque()
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

    def sign_soon(self, permit: Permit, then: Then) -> None:
        """As `sign`, for whoever waits without a task: *then* hears the outcome."""
        try:
            slot = self._ready(permit)
        except Verdict as verdict:
            then(verdict)
        else:
            self._submit(_Job(slot, permit.message, then))

    async def sign(self, permit: Permit) -> Signature:
        """Sign. See `ValidatorKeys.sign`."""
        answer: asyncio.Future[Signature] = self._loop.create_future()
        self.sign_soon(permit, answering(answer))
        return await answer

    async def sign_many(self, permits: Sequence[Permit]) -> list[Outcome]:
        """Sign many. See `ValidatorKeys.sign_many`."""
        many = Outcomes[Signature](len(permits))
        for position, permit in enumerate(permits):
            self.sign_soon(permit, partial(many.put, position))
        return await many.every()

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

    def _ready(self, permit: Permit) -> Slot:
        slot = self._lookup.ready(permit.key)
        if self.waiting >= MAX_WAITING:
            raise Undecided(
                Code.OVERLOADED,
                "too many signatures wait for a processor",
                "ask again; spread validators over more signers",
            )
        return slot

    def _submit(self, job: _Job) -> None:
        self.waiting += 1
        name = job.slot.name
        self._under_way[name] = self._under_way.get(name, 0) + 1
        if not self._fresh:
            self._loop.call_soon(self._hand_over)
        self._fresh.append(job)

    def _hand_over(self) -> None:
        """Give the threads what came: in few parts, but no thread too large a one."""
        fresh, self._fresh = self._fresh, []
        size = max(1, min(MAX_PART, len(fresh) // PARTS))
        for start in range(0, len(fresh), size):
            self._jobs.put(fresh[start : start + size])

    def _tell(self) -> None:
        # Before the deque is emptied: what is added from here on is told of again.
        self._told = False
        while self._done:
            for job, outcome in self._done.popleft():
                self._settled(job.slot.name)
                if not isinstance(outcome, Verdict):
                    self.signatures += 1
                job.then(outcome)

    def _settled(self, name: str) -> None:
        self.waiting -= 1
        left = self._under_way[name] - 1
        if left:
            self._under_way[name] = left
        else:
            del self._under_way[name]
            if name in self._ends:
                self._ends.pop(name).set_result(None)

    # --- in the threads ---

    def _work(self) -> None:
        while (part := self._jobs.get()) is not None:
            self._done.append([(job, self._outcome(job)) for job in part])
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._tell)

    def _outcome(self, job: _Job) -> Outcome:
        try:
            return self._signed(job)
        except Verdict as verdict:
            return verdict
        except Exception:  # noqa: BLE001 - a thread's accept loop; see STYLE 6
            return Undecided(Code.INTERNAL, "the signer failed; nothing signed")

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
