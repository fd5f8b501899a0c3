"""
A process that unseals, signs and wipes, and does nothing else.

Two of them sign for the enclave program, one for each core. They are processes and not
threads because every signature of a thread asks for the interpreter several times while
the program works in it: at two cores under load that cost as much as a third of a
signature. It also means that private keys of validators are unsealed where nothing of a
caller's is ever parsed.

It is forked while the program starts, before a caller can be heard, and has one socket,
whose other end the program holds. It is sent vault keys and jobs, and ends when that
socket does. A job says what the program has judged; nothing is judged in here.
"""

import gc
import os
import signal
import socket
import struct
import warnings
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from nitrosigner.trusted.enclave.memory import guard_memory
from nitrosigner.trusted.enclave.vault.vault import KEY_SIZE, VaultKey, untrusted
from nitrosigner.trusted.signing.algorithms import Algorithm, HashesFirst
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed, Refused

HEAD: Final = struct.Struct(">cI")
"""What follows, and how many bytes of it."""
KEY: Final = b"K"
"""A vault key, 32 bytes: as bytes on a socket, so that it is never an object here."""
JOBS: Final = b"J"
"""Jobs in MessagePack, as are their outcomes, which follow in the same order."""
HASH: Final = b"H"
"""A message that many keys will sign. The answer is its hash, for the other process."""
HASHED: Final = b"P"
"""A message and its hash, as another process gave it."""
MAX_FRAME: Final = 1 << 20
_FIRST_FILE: Final = 3
_MANY_FILES: Final = 1 << 16


class Job(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One signature."""

    vault_key: bytes
    """Its identifier."""
    nonce: bytes
    ciphertext: bytes
    header: bytes
    public_key: bytes
    check: bool
    """Derive the public key and compare (decision 0016)."""
    message: bytes


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of a job. Without anything in it: we are at fault."""

    signature: bytes = b""
    untrusted: str = ""
    """Instead: why the key's record cannot be trusted."""


encode: Final = msgspec.msgpack.Encoder().encode
jobs_decoder: Final = msgspec.msgpack.Decoder(list[Job])
outcomes_decoder: Final = msgspec.msgpack.Decoder(list[Outcome])


def outcomes(answer: bytes, count: int) -> list[Outcome]:
    """Return what became of *count* jobs. Raises ValueError if it isn't said."""
    found = outcomes_decoder.decode(answer)
    if len(found) != count:
        msg = "a signing process answered something else"
        raise ValueError(msg)
    return found


def start(algorithm: HashesFirst) -> tuple[int, socket.socket]:
    """Fork one; return its pid and the end of its socket that we keep."""
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings():
        # Later Pythons warn of threads that a child might wait for. Ours idle, and the
        # child calls nothing that one of them could be inside of.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _become(theirs, algorithm)
    theirs.close()
    return pid, ours


def _become(channel: socket.socket, algorithm: HashesFirst) -> NoReturn:
    status = 1
    try:
        gc.disable()  # what we inherited is not ours to collect
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _keep_only(channel.fileno())
        channel.setblocking(True)
        guard_memory()
        serve(channel, algorithm)
        status = 0
    finally:
        # Nothing of the program's is to be finished by us, not even its exceptions.
        os._exit(status)


def _keep_only(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(_FIRST_FILE):
        os.dup2(nowhere, standard)
    os.closerange(_FIRST_FILE, descriptor)
    os.closerange(descriptor + 1, _MANY_FILES)


def serve(channel: socket.socket, algorithm: HashesFirst) -> None:
    """Do what comes on *channel* until it ends."""
    vault_keys: dict[bytes, VaultKey] = {}
    head = bytearray(HEAD.size)
    while _filled(channel, head):
        kind, size = HEAD.unpack(head)
        if size > MAX_FRAME:
            return
        if kind == KEY:
            secret = SecretBytes.zeros(KEY_SIZE)
            _filled(channel, secret.buffer)
            key = VaultKey(secret)
            vault_keys[key.identifier] = key
            continue
        body = bytearray(size)
        if not _filled(channel, body):
            return
        if kind == HASHED:
            size = algorithm.message_size
            algorithm.remember(bytes(body[:size]), bytes(body[size:]))
            continue
        if kind == HASH:
            done = algorithm.hashed(bytes(body))
        else:
            done = encode(_outcomes(jobs_decoder.decode(body), vault_keys, algorithm))
        channel.sendall(HEAD.pack(kind, len(done)) + done)


def _filled(channel: socket.socket, buffer: bytearray) -> bool:
    """Fill *buffer*; return whether there was enough."""
    with memoryview(buffer) as view:
        at = 0
        while at < len(view):
            count = channel.recv_into(view[at:])
            if not count:
                return False
            at += count
    return True


def _outcomes(
    jobs: Sequence[Job], vault_keys: dict[bytes, VaultKey], algorithm: Algorithm
) -> list[Outcome]:
    return [_outcome(job, vault_keys, algorithm) for job in jobs]


def _outcome(
    job: Job, vault_keys: dict[bytes, VaultKey], algorithm: Algorithm
) -> Outcome:
    try:
        with SecretBytes.zeros(algorithm.secret_size) as secret:
            vault_keys[job.vault_key].open_into(
                job.nonce, job.ciphertext, job.header, secret.buffer
            )
            if job.check and algorithm.public_key(secret) != job.public_key:
                raise untrusted("its public key is another one's")  # noqa: TRY301
            return Outcome(signature=algorithm.sign(secret, job.message))
    except Malformed:
        return Outcome(untrusted=untrusted("there is no private key in it").message)
    except Refused as verdict:
        return Outcome(untrusted=verdict.message)
    except Exception:  # noqa: BLE001 - this process's accept loop; see STYLE 6
        return Outcome()
