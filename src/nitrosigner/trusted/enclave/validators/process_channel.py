"""
A signing process, as the program sees it: what it was sent, and what it owes.

Its answers come in the order in which it was asked, so what is owed is a queue.
"""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.validators import signing_process
from nitrosigner.trusted.enclave.validators.signing_process import (
    HASH,
    HASHED,
    HEAD,
    JOBS,
    KEY,
    Job,
)
from nitrosigner.trusted.enclave.vault.sealed_records import Slot
from nitrosigner.trusted.enclave.vault.vault import VaultKey
from nitrosigner.trusted.signing.algorithms import HashesFirst, Signature
from nitrosigner.verdicts import Verdict

_READ: Final = 64 * 1024

Outcome = Signature | Verdict
Then = Callable[[Outcome], None]
"""Hears the outcome of one permit, once, on the loop's thread. Must not raise."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A signature that somebody waits for."""

    slot: Slot
    message: bytes
    then: Then
    late: float
    """From when on, on the loop's clock, nobody needs it any more."""


class Hashing(msgspec.Struct, frozen=True, gc=False):
    """A hash that somebody waits for."""

    message: bytes
    made: asyncio.Future[None]


class ProcessChannel:
    """One signing process, and what it owes us."""

    def __init__(self, algorithm: HashesFirst) -> None:
        """Fork it."""
        self.pid, self.channel = signing_process.start(algorithm)
        self.channel.setblocking(False)
        self.owed: deque[list[Wanted] | Hashing] = deque()
        self._vault_keys: set[bytes] = set()
        self._hashes: set[bytes] = set()
        """Of which messages it knows the hash."""
        self._read = bytearray()

    def send(
        self,
        part: list[Wanted],
        checked: dict[str, Slot],
        hashes: Mapping[bytes, bytes],
    ) -> None:
        """
        Have *part* signed.

        Raises:
            OSError: The process has ended.
        """
        # One write for all: many small ones fill a socket sooner.
        told = bytearray()
        for one in part:
            self._entrust(one.slot.vault_key)
            if one.message in hashes and one.message not in self._hashes:
                self._hashes.add(one.message)
                hashed = one.message + hashes[one.message]
                told += HEAD.pack(HASHED, len(hashed)) + hashed
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
        self._write(told + HEAD.pack(JOBS, len(jobs)) + jobs)
        self.owed.append(part)

    def hash(self, hashing: Hashing) -> None:
        """Have a message hashed. Raises as `send`."""
        self._write(HEAD.pack(HASH, len(hashing.message)) + hashing.message)
        self.owed.append(hashing)
        self._hashes.add(hashing.message)

    def forget(self, message: bytes) -> None:
        """Say nothing of a message's hash any more."""
        self._hashes.discard(message)

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

    def answers(self) -> list[tuple[list[Wanted] | Hashing, bytes]]:
        """
        Return what was owed, with its answer, after the socket became readable.

        Raises:
            OSError: The process has ended, or says what cannot be.
        """
        data = self.channel.recv(_READ)
        if not data:
            msg = "a signing process has ended"
            raise OSError(msg)
        self._read += data
        done: list[tuple[list[Wanted] | Hashing, bytes]] = []
        while len(self._read) >= HEAD.size:
            _, size = HEAD.unpack_from(self._read)
            end = HEAD.size + size
            if len(self._read) < end:
                break
            done.append((self.owed.popleft(), bytes(self._read[HEAD.size : end])))
            del self._read[:end]
        return done

    def end(self) -> None:
        """Be sure that it is gone."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
