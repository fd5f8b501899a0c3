"""
After the wipe, no copy of a secret is left in the process: another process looks.

Python cannot promise it; this measures it, for each way that a secret takes.
"""

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.emulator.kms import envelope
from nitrosigner.wire import import_wrapping

MASK = 0x5A
SECRET = bytes((17 * index + 41) % 251 for index in range(32))
INFO = {"deployment": "d", "name": "n", "algorithm": "secp256k1", "identity": "0x0"}

START = """
import base64, gc, os, sys
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nitrosigner.trusted.enclave.attested.cms import open_envelope
from nitrosigner.trusted.enclave.keys.key_imports import unwrapped
from nitrosigner.trusted.enclave.keys.key_material import private_key
from nitrosigner.trusted.enclave.vault.vault import VaultKey
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
import ckzg, socket, threading
from nitrosigner.trusted.enclave.validators import signing_process
from nitrosigner.trusted.enclave.validators.signing_process import HEAD, JOBS, KEY, Job
from nitrosigner.trusted.signing.bls12_381 import Bls12381

def say(text): print(text, flush=True)
def hear(): return sys.stdin.readline().strip()
def unmasked():
    # Byte by byte into its place: a bytearray that grows leaves copies behind.
    masked, secret = bytes.fromhex(hear()), SecretBytes.zeros(32)
    for index in range(32):
        secret.buffer[index] = masked[index] ^ 0x5A
    return secret
algorithm = Secp256k1(os.urandom(32))
bls = Bls12381(ckzg.__file__)

def answered(channel):
    with channel.makefile("rb") as stream:
        kind, size = HEAD.unpack(stream.read(HEAD.size))
        return signing_process.outcomes_decoder.decode(stream.read(size))

def sign_as_validators_do(channel):
    # What the program sends to a process that signs.
    raw = os.urandom(32)
    key = VaultKey(SecretBytes(bytearray(raw)))
    with unmasked() as secret:
        public_key = bls.public_key(secret)
        sealed = key.seal(secret.buffer, b"about", os.urandom)
    channel.sendall(HEAD.pack(KEY, len(raw)) + raw)
    for number in range(50):
        jobs = [
            Job(key.identifier, sealed.nonce, sealed.ciphertext, b"about", public_key,
                check, bytes([number, check]) * 16)
            for check in (False, True)
        ]
        body = signing_process.encode(jobs)
        channel.sendall(HEAD.pack(JOBS, len(body)) + body)
        outcomes = answered(channel)
        assert [len(outcome.signature) for outcome in outcomes] == [96, 96], outcomes
"""
ROUTES = {
    "held": """
secret = unmasked()
""",
    "vault": """
key = VaultKey(SecretBytes(bytearray(os.urandom(32))))
with unmasked() as secret:
    sealed = key.seal(secret.buffer, b"about", os.urandom)
for _ in range(50):
    with SecretBytes(bytearray(32)) as secret:
        key.open_into(sealed.nonce, sealed.ciphertext, b"about", secret.buffer)
        algorithm.sign(secret, bytes(32))
""",
    "import": """
class Recipient:
    import_key = X25519PrivateKey.generate()
    import_public_key = import_key.public_key().public_bytes_raw()
say(base64.b64encode(Recipient.import_public_key).decode())
for _ in range(3):
    with unwrapped(hear(), recipient=Recipient, deployment="d", name="n",
                   algorithm=algorithm, identity="0x0") as secret:
        algorithm.public_key(secret)
""",
    "validators": """
# The very loop of a signing process, in a thread of a process that can be looked into.
ours, theirs = socket.socketpair()
thread = threading.Thread(target=signing_process.serve, args=(theirs, bls), daemon=True)
thread.start()
sign_as_validators_do(ours)
""",
    "signing process": """
pid, ours = signing_process.start(bls)
sign_as_validators_do(ours)
say(pid)
""",
    "kms": """
key = generate_private_key(65537, 2048)
spki = key.public_key().public_bytes(serialization.Encoding.DER,
    serialization.PublicFormat.SubjectPublicKeyInfo)
say(base64.b64encode(spki).decode())
for _ in range(3):
    with open_envelope(base64.b64decode(hear()), key) as opened:
        with private_key(opened, 32) as secret:
            algorithm.sign(secret, bytes(32))
""",
}
END = """
gc.collect()
say("done")
hear()
"""


def given(route: str, child: "subprocess.Popen[str]", secret: bytes) -> None:
    assert child.stdin is not None
    assert child.stdout is not None

    def tell(text: str) -> None:
        child.stdin.write(text + "\n")
        child.stdin.flush()

    if route not in {"import", "kms"}:
        tell(bytes(byte ^ MASK for byte in secret).hex())
        return
    public_key = base64.b64decode(child.stdout.readline())
    make: dict[str, Callable[[], bytes]] = {
        "import": lambda: import_wrapping.wrap(
            secret, public_key, import_wrapping.import_info(**INFO)
        ),
        "kms": lambda: envelope.seal(secret, public_key),
    }
    for _ in range(3):
        tell(base64.b64encode(make[route]()).decode())


def copies(pid: int, secret: bytes) -> int:
    """How often *secret* stands in the memory of *pid*, whole or a trailing half."""
    found = 0
    shapes = (secret, secret[::-1], secret.hex().encode(), secret[16:])
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not match or "[v" in line:
                continue
            start, end = (int(part, 16) for part in match.groups())
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError, ValueError):
                continue
            found += sum(data.count(shape) for shape in shapes)
    return found


def left(route: str, secret: bytes = SECRET) -> int:
    child: Any = subprocess.Popen(
        [sys.executable, "-c", START + ROUTES[route] + END],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            given(route, child, secret)
            looked_into = [child.pid]
            if route == "signing process":
                looked_into.append(int(child.stdout.readline()))
            assert child.stdout.readline() == "done\n"
            return sum(copies(pid, secret) for pid in looked_into)
        finally:
            child.stdin.close()
            child.wait(30)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_the_search_finds_what_is_there() -> None:
    assert left("held") > 0


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
@pytest.mark.parametrize("route", ["vault", "import", "kms"])
def test_no_copy_is_left_after_the_wipe(route: str) -> None:
    assert left(route) == 0


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_no_copy_of_hex_text_is_left_either() -> None:
    assert left("kms", SECRET.hex().encode()) == 0


# A validator's key must be below the group's order, which this one is.
SCALAR = bytes([0x11, *SECRET[1:]])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_no_copy_is_left_where_duties_are_signed() -> None:
    assert left("validators", SCALAR) == 0


def looks_into_guarded_processes() -> bool:
    """Whether we may read the memory of a process that allows it to nobody."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 19 & 1)  # CAP_SYS_PTRACE
    return False


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_no_copy_is_left_in_a_signing_process_itself() -> None:
    if not looks_into_guarded_processes():
        pytest.skip("its memory is nobody's to read; the loop is tested above")
    assert left("signing process", SCALAR) == 0
