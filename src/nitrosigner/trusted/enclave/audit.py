"""
The audit trail: one line for each verdict, chained, durable before an answer leaves.

A signature that is not on record has not been given: its answer waits until the parent
has written the event, and if that fails the signature is thrown away. Events that come
while a batch is being written go together in the next one, so waiting costs each caller
one write and the disk far less than one for each signature.

An event has a closed set of fields: `Facts`, and its place in the chain. None of them
can hold a body, a credential, an exception's text, or anything that a caller sent and
that was not first understood.

The chain shows that lines were removed or altered between others. The parent stores
it and could rewrite all of it: see THREAT_MODEL.
"""

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import msgspec

from nitrosigner.trusted.enclave.ports import Clock
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.services import MAX_AUDIT_BATCH

MAX_WAITING: Final = 4096
"""Events not yet written. Then nothing more is signed."""
MAX_BATCH_BYTES: Final = 512 * 1024
"""A frame holds twice as much."""
APPEND_TIME: Final = 2.0
"""Seconds in which the parent must say that a batch is written."""
RETRY_FIRST: Final = 0.05
RETRY_MOST: Final = 2.0
STRANGERS_PER_SECOND: Final = 10
"""Events about callers without a credential. The rest is only counted, so that nobody
fills the disk from outside."""

GATHER: Final = 0.002
"""Seconds to let more events come, while the processors have other work anyway."""
GATHERS: Final = 4
"""So often at most, for one batch."""
GATHERED: Final = 48
"""Events that are enough for one write."""

MAX_KEYS: Final = 32
"""In one event: their names have about 100 characters, an event at most 4 KiB."""

Outcome = Literal["signed", "done", "begun", "malformed", "refused", "undecided"]
Done = Callable[[bool], None]
"""Called once: True when the event is durable, False when it may not be."""


_ZEROS: Final = "0" * 64


def _done() -> Outcome:
    return "done"


class Facts(msgspec.Struct, omit_defaults=True, gc=False):
    """
    What is known of one operation so far, and what is said of it in the audit log.

    Filled in as it is understood. Empty fields are left out of the line.
    """

    operation: str
    client: str = ""
    # With a factory, because what has a default is left out where it has its value.
    outcome: Outcome = msgspec.field(default_factory=_done)
    code: str = ""
    key: str = ""
    address: str = ""
    chain_id: int | None = None
    to: str = ""
    value: str = ""
    """Wei."""
    digest: str = ""
    """What was signed."""
    duty: str = ""
    """A validator's: which kind of message."""
    slot: int | None = None
    source: int | None = None
    """Epoch."""
    target: int | None = None
    """Epoch."""
    keys: tuple[str, ...] = ()
    """Instead of `key`: many that one verdict was spoken over."""
    count: int = 0
    """With `keys`: over how many. More than are named: the others are none of ours."""
    hash: str = ""
    """Of the signed transaction."""
    at: str = ""
    """For `internal`: the exception's type and our line of code, never its text."""


_encode: Final = msgspec.json.Encoder().encode


def about_many(facts: Facts, names: Sequence[str]) -> list[Facts]:
    """
    Return *facts* about many keys, in as many events as it takes.

    Args:
        facts: What holds of all of them.
        names: The keys'; empty where a caller named none of ours.
    """
    some = [names[start : start + MAX_KEYS] for start in range(0, len(names), MAX_KEYS)]
    return [
        msgspec.structs.replace(facts, keys=tuple(filter(None, few)), count=len(few))
        for few in some
    ]


class AuditTrail:
    """Takes events in order and gets them written."""

    def __init__(
        self,
        append: Callable[[list[bytes]], Awaitable[None]],
        clock: Clock,
        boot: str,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Make a trail that writes with *append*.

        Args:
            append: Writes lines durably and in order, or raises a verdict.
            clock: For the events' times.
            boot: A random name for this life of the enclave.
            busy: Whether the processors have work anyway, so that waiting a little
                for more events delays nobody and saves a write.
        """
        self._append = append
        self._busy = busy
        self._clock = clock
        self._boot = boot
        self._sequence = 0
        self._previous = _ZEROS
        self._unrecorded = 0
        self._second = 0.0
        self._strangers = 0
        self._waiting: deque[tuple[bytes, Done | None]] = deque()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.healthy = True
        """Whether the last attempt to write went well."""

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._write(), name="audit")

    async def close(self) -> None:
        """Stop. What was not written stays unwritten; nobody was told otherwise."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def demand(self) -> None:
        """
        Make sure that something may be signed at all.

        Raises:
            Undecided: Events cannot be written now (AUDIT_UNAVAILABLE).
        """
        if not self.healthy or len(self._waiting) >= MAX_WAITING:
            raise unavailable()

    def record(self, request: str, facts: Facts, done: Done | None = None) -> bool:
        """
        Take an event in; *done* hears when it is durable.

        Returns:
            False: there is no room; it is dropped, and counted. True: it is written
            before everything that is taken in later.
        """
        if len(self._waiting) >= MAX_WAITING:
            self._unrecorded += 1
            if done is not None:
                asyncio.get_running_loop().call_soon(done, False)
            return False
        self._sequence += 1
        line = self._line(request, facts)
        self._unrecorded = 0
        self._previous = hashlib.sha256(line).hexdigest()
        self._waiting.append((line, done))
        self._more.set()
        return True

    def _line(self, request: str, facts: Facts) -> bytes:
        """
        Return *facts* as a line of JSON, with its place in the chain before them.

        That is `time` (Unix seconds, by the clock that the parent gives us), `boot`
        (random for each boot, in which `sequence` begins again), `previous` (SHA-256 of
        the line before, zeros for the first of a boot), `request`, and in `unrecorded`
        how many verdicts about strangers since the last line were counted only. None
        of them holds what JSON would have to escape.
        """
        head = (
            f'{{"time":{self._clock.now():.3f},"boot":"{self._boot}",'
            f'"sequence":{self._sequence},"previous":"{self._previous}",'
        )
        if request:
            head += f'"request":"{request}",'
        if self._unrecorded:
            head += f'"unrecorded":{self._unrecorded},'
        return head.encode() + _encode(facts)[1:]

    def record_stranger(self, request: str, facts: Facts) -> None:
        """Take in an event about a caller without a credential, within a rate."""
        second = self._clock.monotonic() // 1.0
        if second != self._second:
            self._second, self._strangers = second, 0
        self._strangers += 1
        if self._strangers > STRANGERS_PER_SECOND:
            self._unrecorded += 1
        else:
            self.record(request, facts)

    async def durable(self, request: str, facts: Facts) -> None:
        """
        Record an event and wait until it is written.

        Raises:
            Undecided: It may not have been (AUDIT_UNAVAILABLE).
        """
        self.demand()
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.record(
            request,
            facts,
            lambda ok: None if written.done() else written.set_result(ok),
        )
        if not await written:
            raise unavailable()

    async def _write(self) -> None:
        pause = RETRY_FIRST
        try:
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                await self._gather()
                if await self._write_batch():
                    pause = RETRY_FIRST
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_MOST)
        finally:
            # However this ends, nothing may be signed after it.
            self.healthy = False
            self._fail_all()

    async def _gather(self) -> None:
        for _ in range(GATHERS):
            if len(self._waiting) >= GATHERED or not self._busy():
                return
            await asyncio.sleep(GATHER)

    async def _write_batch(self) -> bool:
        batch = self._batch()
        try:
            async with asyncio.timeout(APPEND_TIME):
                await self._append([line for line, _ in batch])
        except (Verdict, TimeoutError, OSError):
            # The lines stay in the chain and are sent again until they are written;
            # one that the parent did write appears twice, with one sequence number.
            # Whoever waits is told now: later is for later.
            self.healthy = False
            self._fail_all()
            return False
        self.healthy = True
        for _ in batch:
            self._waiting.popleft()
        _tell_soon(batch, durable=True)
        return True

    def _batch(self) -> list[tuple[bytes, Done | None]]:
        batch: list[tuple[bytes, Done | None]] = []
        size = 0
        for entry in self._waiting:
            size += len(entry[0])
            if len(batch) >= MAX_AUDIT_BATCH or (batch and size > MAX_BATCH_BYTES):
                break
            batch.append(entry)
        return batch

    def _fail_all(self) -> None:
        entries = list(self._waiting)
        self._waiting.clear()
        self._waiting.extend((line, None) for line, _ in entries)
        _tell_soon(entries, durable=False)


def _tell_soon(entries: Sequence[tuple[bytes, Done | None]], *, durable: bool) -> None:
    """Tell whoever waits for *entries*: not from here, and none by another's fault."""
    loop = asyncio.get_running_loop()
    waiting = [done for _, done in entries if done is not None]

    def tell() -> None:
        for done in waiting:
            try:
                done(durable)
            except Exception as error:  # noqa: BLE001 - as the loop would have
                loop.call_exception_handler(
                    {"message": "telling of an audit event failed", "exception": error}
                )

    loop.call_soon(tell)


def unavailable() -> Undecided:
    """Return the verdict that nothing is done unrecorded."""
    return Undecided(
        Code.AUDIT_UNAVAILABLE,
        "the audit log cannot be written, and nothing is signed without it",
        "look at the parent's disk; ask again",
    )
