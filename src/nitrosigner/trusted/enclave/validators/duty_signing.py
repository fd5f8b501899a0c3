"""
Two processes that unseal, sign and wipe, while the loop goes on with its connections.

They are told what to sign in parts, which bounds what waits in a socket and lets both
end together. A private key exists in the clear in one buffer of one of them, from its
unsealing to the end of the one signature that it was unsealed for.

A signing process that ends by itself is a fault that nobody should go on after, as a
thread's would have been: nothing more is signed, and the enclave is started again.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.keys.key_lookup import KeyLookup
from nitrosigner.trusted.enclave.outcomes import Outcomes, answering
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators import signing_process
from nitrosigner.trusted.enclave.validators.signing_process import HEAD, JOBS, KEY, Job
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.trusted.enclave.vault.vault import VaultKey, untrusted
from nitrosigner.trusted.signing.algorithms import Algorithm, Signature
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
_SHARES: Final = 2
"""Into which what waits is cut, so that the processes end together."""
_SHARES_OF_MANY: Final = 4
_READ: Final = 64 * 1024

Outcome = Signature | Verdict
Then = Callable[[Outcome], None]
"""Hears the outcome of one permit, once, on the loop's thread. Must not raise."""


class _Wanted(msgspec.Struct, frozen=True, gc=False):
    slot: Slot
    message: bytes
    then: Then


class _Process:
    """One signing process, and what it owes us."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.pid, self.channel = signing_process.start(algorithm)
        self.channel.setblocking(False)
        self.owed: deque[list[_Wanted]] = deque()
        self._vault_keys: set[bytes] = set()
        self._read = bytearray()

    def send(self, part: list[_Wanted], checked: dict[str, Slot]) -> None:
        """
        Have *part* signed.

        Raises:
            OSError: The process has ended.
        """
        for one in part:
            self._entrust(one.slot.vault_key)
        jobs = signing_process.encode(
            [
                Job(
                    slot.vault_key.identifier,
                    slot.nonce,
                    slot.ciphertext,
                    slot.header,
                    slot.public_key,
                    checked.get(slot.name) is not slot,
                    one.message,
                )
                for one in part
                for slot in (one.slot,)
            ]
        )
        self._write(HEAD.pack(JOBS, len(jobs)) + jobs)
        self.owed.append(part)

    def _entrust(self, key: VaultKey) -> None:
        if key.identifier not in self._vault_keys:
            self._write(HEAD.pack(KEY, len(key.secret)))
            self._write(key.secret.buffer)
            self._vault_keys.add(key.identifier)

    def _write(self, data: bytes | bytearray) -> None:
        # Few and small parts are under way, so there is room unless nobody reads.
        if self.channel.send(data) != len(data):
            msg = "a signing process does not read"
            raise OSError(msg)

    def answers(self) -> list[tuple[_Wanted, signing_process.Outcome]]:
        """
        Return what has been done, after the socket became readable.

        Raises:
            OSError: The process has ended, or says what cannot be.
        """
        data = self.channel.recv(_READ)
        if not data:
            msg = "a signing process has ended"
            raise OSError(msg)
        self._read += data
        done: list[tuple[_Wanted, signing_process.Outcome]] = []
        while len(self._read) >= HEAD.size:
            _, size = HEAD.unpack_from(self._read)
            end = HEAD.size + size
            if len(self._read) < end:
                break
            outcomes = signing_process.outcomes_decoder.decode(
                bytes(self._read[HEAD.size : end])
            )
            del self._read[:end]
            done += zip(self.owed.popleft(), outcomes, strict=True)
        return done

    def end(self) -> None:
        """Be sure that it is gone."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class DutySigning:
    """Signs permits of validators' keys."""

    def __init__(self, lookup: KeyLookup, algorithm: Algorithm) -> None:
        """Fork the processes. They end with `close`, or with us."""
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Wanted] = deque()
        self._sending = False
        self._under_way: Counter[str] = Counter()
        self._ends: dict[str, asyncio.Future[None]] = {}
        """Who waits for the last signature of a key."""
        self._checked: dict[str, Slot] = {}
        self.waiting = 0
        """Signatures under way or queued."""
        self.signatures = 0
        """Since boot."""
        self.healthy = True
        """Whether every process is there. False: nothing is signed any more."""
        self._processes = [_Process(algorithm) for _ in range(PROCESSES)]
        for process in self._processes:
            self._loop.add_reader(process.channel, self._readable, process)

    def sign_soon(self, permit: Permit, then: Then) -> None:
        """As `sign`, for whoever waits without a task: *then* hears the outcome."""
        try:
            slot = self._ready(permit)
        except Verdict as verdict:
            then(verdict)
        else:
            self._submit(_Wanted(slot, permit.message, then))

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

    def _submit(self, one: _Wanted) -> None:
        self.waiting += 1
        name = one.slot.name
        self._under_way[name] = self._under_way.get(name, 0) + 1
        self._queue.append(one)
        if not self._sending:
            # At this turn's end, so that what comes together is sent together.
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Give the processes what they have room for: the idler one first."""
        self._sending = False
        queue = self._queue
        while queue:
            process = min(self._processes, key=lambda one: len(one.owed))
            if len(process.owed) >= AHEAD:
                return
            many = min(MAX_PART, len(queue) // _SHARES_OF_MANY)
            size = max(1, min(len(queue) // _SHARES, max(PART, many)))
            part = [queue.popleft() for _ in range(size)]
            try:
                process.send(part, self._checked)
            except OSError:
                queue.extendleft(reversed(part))
                self._fail()
                return

    def _readable(self, process: _Process) -> None:
        try:
            done = process.answers()
        except BlockingIOError:
            return
        except (OSError, ValueError, IndexError):
            self._fail()
            return
        self._send()
        for one, outcome in done:
            self._settle(one, outcome)

    def _settle(self, one: _Wanted, outcome: signing_process.Outcome) -> None:
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

    def _tell(self, one: _Wanted, outcome: Outcome) -> None:
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
        owed = [one for each in self._processes for part in each.owed for one in part]
        self._end_processes()
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
