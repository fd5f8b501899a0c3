"""
Two processes that unseal, sign and wipe, while the loop goes on with its connections.

They are told what to sign in parts, which bounds what waits in a socket and lets both
end together. A private key exists in the clear in one buffer of one of them, from its
unsealing to the end of the one signature that it was unsealed for.

A signing process that ends by itself is a fault that nobody should go on after, as a
thread's would have been: nothing more is signed, and the enclave is started again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.outcomes import Outcomes, answering
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators import signing_process
from nitrosigner.trusted.enclave.validators.process_channel import (
    Hashing,
    Outcome,
    ProcessChannel,
    Then,
    Wanted,
)
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.trusted.enclave.vault.vault import untrusted
from nitrosigner.trusted.signing.algorithms import HashesFirst, Signature
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict

PROCESSES: Final = 2
MAX_WAITING: Final = 16_384
"""Signatures that wait for a process: one batch and what comes beside it, some 3 s."""
BUSY: Final = 16
"""Signatures that keep the processes at work for some two milliseconds."""
AHEAD: Final = 2
"""Parts that one process is sent before it has answered: one in work, one waiting."""
PART: Final = 16
"""Signatures of one part: 3 ms of one process, or 6 if each has a root of its own."""
MAX_PART: Final = 64
"""Where many wait. The program is woken for each part: with 16 a large batch took 5 %
longer."""
PATIENCE: Final = 2.0
"""Seconds that a signature may wait for its turn. Only batches beside batches make it
wait at all; by then a vote is late, and it is safe to ask again."""
MAX_HASHES: Final = 512
"""Messages whose hash is known in here. A process knows more."""
_SHARES: Final = 2
"""Into which what waits is cut, so that the processes end together."""
_SHARES_OF_MANY: Final = 4


class DutySigning:
    """Signs permits of validators' keys."""

    def __init__(self, lookup: KeyLookup, algorithm: HashesFirst) -> None:
        """Fork the processes. They end with `close`, or with us."""
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Wanted] = deque()
        self._sending = False
        self._under_way: dict[str, int] = {}
        self._ends: dict[str, asyncio.Future[None]] = {}
        """Who waits for the last signature of a key."""
        self._checked: dict[str, Slot] = {}
        self._hashes: dict[bytes, bytes] = {}
        """By message: what one process gave and the others are told."""
        self._hashing: dict[bytes, asyncio.Future[None]] = {}
        """What is being hashed, and who waits for it."""
        self._to_hash: deque[Hashing] = deque()
        self.waiting = 0
        """Signatures under way or queued."""
        self.signatures = 0
        """Since boot."""
        self.healthy = True
        """Whether every process is there. False: nothing is signed any more."""
        self._processes = [ProcessChannel(algorithm) for _ in range(PROCESSES)]
        for process in self._processes:
            self._loop.add_reader(process.channel, self._readable, process)

    def sign_soon(self, permit: Permit, then: Then) -> None:
        """As `sign`, for whoever waits without a task: *then* hears the outcome."""
        try:
            slot = self._ready(permit)
        except Verdict as verdict:
            then(verdict)
        else:
            late = self._loop.time() + PATIENCE
            self._submit(Wanted(slot, permit.message, then, late))

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

    async def hash_once(self, message: bytes) -> None:
        """
        Have *message* hashed in one process, for all of them, before many keys sign it.

        A fault is for those who sign to find.
        """
        if message in self._hashes or not self.healthy:
            return
        made = self._hashing.get(message)
        if made is None:
            made = self._hashing[message] = self._loop.create_future()
            self._to_hash.append(Hashing(message, made))
            self._send_soon()
        await asyncio.shield(made)

    def busy(self) -> bool:
        """Return whether there is work for a while, whatever is written now."""
        return self.waiting > BUSY

    async def quiet(self, name: str) -> None:
        """Wait until no signature of the key called *name* is under way."""
        if name in self._under_way:
            ended = self._ends.get(name)
            if ended is None:
                ended = self._ends[name] = self._loop.create_future()
            await asyncio.shield(ended)

    async def close(self) -> None:
        """Finish what was begun, and end the processes."""
        for name in list(self._under_way):
            await self.quiet(name)
        self._end_processes()

    def _ready(self, permit: Permit) -> Slot:
        slot = self._lookup.ready(permit.key)
        if not self.healthy:
            raise _ended()
        if self.waiting >= MAX_WAITING:
            raise Undecided(
                Code.OVERLOADED,
                "too many signatures wait for a processor",
                "ask again; spread validators over more signers",
            )
        return slot

    def _submit(self, one: Wanted) -> None:
        self.waiting += 1
        name = one.slot.name
        self._under_way[name] = self._under_way.get(name, 0) + 1
        self._queue.append(one)
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._sending:
            # At this turn's end, so that what comes together is sent together.
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Give the processes what they have room for: the idler one first."""
        self._sending = False
        queue, to_hash = self._queue, self._to_hash
        while (queue or to_hash) and self.healthy:
            process = min(self._processes, key=lambda one: len(one.owed))
            if len(process.owed) >= AHEAD:
                return
            try:
                if to_hash:
                    process.hash(to_hash.popleft())
                else:
                    self._send_part(process)
            except OSError:
                self._fail()

    def _send_part(self, process: ProcessChannel) -> None:
        queue = self._queue
        many = min(MAX_PART, len(queue) // _SHARES_OF_MANY)
        size = max(1, min(len(queue) // _SHARES, max(PART, many)))
        part = [queue.popleft() for _ in range(size)]
        if part[0].late < self._loop.time():
            part = self._in_time(part)
        if part:
            try:
                process.send(part, self._checked, self._hashes)
            except OSError:
                queue.extendleft(reversed(part))
                raise

    def _in_time(self, part: list[Wanted]) -> list[Wanted]:
        """Turn those away that waited too long; return the others."""
        now = self._loop.time()
        for one in part:
            if one.late < now:
                self._tell(one, _too_late())
        return [one for one in part if one.late >= now]

    def _readable(self, process: ProcessChannel) -> None:
        try:
            done = process.answers()
            outcomes = [
                (owed, signing_process.outcomes(answer, len(owed)))
                for owed, answer in done
                if not isinstance(owed, Hashing)
            ]
        except BlockingIOError:
            return
        except (OSError, IndexError):
            self._fail()
            return
        except ValueError:
            process.owed.extend(owed for owed, _ in done)
            self._fail()
            return
        for owed, answer in done:
            if isinstance(owed, Hashing):
                self._hashed(owed, answer)
        self._send()
        for owed, answers in outcomes:
            for one, outcome in zip(owed, answers, strict=True):
                self._settle(one, outcome)

    def _hashed(self, hashing: Hashing, answer: bytes) -> None:
        if len(self._hashes) >= MAX_HASHES:
            oldest = next(iter(self._hashes))
            del self._hashes[oldest]
            for process in self._processes:
                process.forget(oldest)
        self._hashes[hashing.message] = answer
        del self._hashing[hashing.message]
        hashing.made.set_result(None)

    def _settle(self, one: Wanted, outcome: signing_process.Outcome) -> None:
        if outcome.signature:
            self._checked[one.slot.name] = one.slot
            self.signatures += 1
            self._tell(one, Signature(outcome.signature))
        elif outcome.untrusted:
            hint = untrusted("").hint
            self._tell(one, Refused(Code.RECORD_UNTRUSTED, outcome.untrusted, hint))
        else:
            self._tell(
                one, Undecided(Code.INTERNAL, "the signer failed; nothing signed")
            )

    def _tell(self, one: Wanted, outcome: Outcome) -> None:
        self.waiting -= 1
        name = one.slot.name
        left = self._under_way[name] - 1
        if left:
            self._under_way[name] = left
        else:
            del self._under_way[name]
            if name in self._ends:
                self._ends.pop(name).set_result(None)
        one.then(outcome)

    def _end_processes(self) -> None:
        self.healthy = False
        for process in self._processes:
            self._loop.remove_reader(process.channel)
            process.end()
        self._processes = []

    def _fail(self) -> None:
        """Sign nothing any more; tell everybody who waits."""
        owed = [
            one
            for each in self._processes
            for part in each.owed
            if not isinstance(part, Hashing)
            for one in part
        ]
        self._end_processes()
        for made in self._hashing.values():
            made.set_result(None)
        self._hashing.clear()
        self._to_hash.clear()
        owed += self._queue
        self._queue.clear()
        for one in owed:
            self._tell(one, _ended())


def _ended() -> Undecided:
    return Undecided(
        Code.INTERNAL,
        "a signing process has ended; nothing is signed any more",
        "start the enclave again; if this repeats, look at its memory and its console",
    )


def _too_late() -> Undecided:
    return Undecided(
        Code.OVERLOADED,
        f"the signature waited longer than {PATIENCE:g} seconds for a processor",
        "ask again; the same message is signed again without harm",
    )
