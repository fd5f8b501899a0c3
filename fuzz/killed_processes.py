"""
Real processes, killed at any moment, under contradicting duties: nothing twice.

    python fuzz/killed_processes.py --kills 100 [--seed N]

Two signers on one store, each a parent and an enclave of its own. Clients ask both of
them for duties that contradict each other, throw answers away, and send requests twice;
an operator disables and enables keys. Meanwhile whatever runs is killed with signal 9:
parent, enclave, hypervisor, KMS. All that was signed, received or only on record in an
audit log, is judged by the consensus specification's definition of a slashable pair.

`never_slashable.py` plays a million duties against the guard alone, with stores that
lie; here are fewer duties, and everything around the guard.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nitrosigner.cli.bls import bls12_381
from nitrosigner.client import verification
from nitrosigner.client.import_validator import import_validator
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.demo_validator import FORK_INFO, attestation, interop_key
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.emulator.second_signer import SecondSigner, second_signer
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposal,
    SigningRoot,
    Slot,
    Vote,
)
from nitrosigner.untrusted.parent import configuration, control_socket
from nitrosigner.verdicts import Refused, Undecided, Verdict

FIRST_KEY = 3000
"""An interop key that no other test uses."""
PATIENCE = 120.0
ROOT = SigningRoot(bytes(32))


def _simulation() -> ModuleType:
    """The oracle is that of `never_slashable.py`, written from the specification."""
    file = Path(__file__).with_name("never_slashable.py")
    spec = importlib.util.spec_from_file_location("never_slashable", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Outcome:
    """What a run did."""

    asked: int = 0
    received: int = 0
    refused: int = 0
    undecided: int = 0
    thrown_away: int = 0
    on_record: int = 0
    orders: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    slashable_pairs: int = 0
    broken_orders: list[str] = field(default_factory=list)


class Play:
    """One run."""

    def __init__(self, stack: RunningStack, second: SecondSigner, seed: int) -> None:
        self.stack, self.second = stack, second
        self.seed = seed
        self.outcome = Outcome()
        self.names: list[str] = []
        self.end = threading.Event()
        self.turn = 0
        self._lock = threading.Lock()
        self._received: list[tuple[str, dict[str, Any], str]] = []

    # --- clients ---

    def client(self, name: str, signer: int) -> SignerClient:
        if signer == 0:
            return SignerClient.from_data(self.stack.folder.path, name)
        files = self.stack.ready.clients[name]
        return SignerClient(
            self.second.url, ca=self.stack.ready.ca,
            certificate=files.cert, key=files.key,
        )  # fmt: skip

    def bring_in(self, count: int) -> None:
        bls = bls12_381()
        with SignerClient.from_data(self.stack.folder.path) as client:
            proof = verification.verify(
                client,
                now=dt.datetime.now(dt.UTC),
                anchors=[stored_trust_anchor(self.stack.folder.emulator)],
                pcrs={0: bytes.fromhex(self.stack.ready.pcr0)},
            )
            for number in range(FIRST_KEY, FIRST_KEY + count):
                secret = bytearray(interop_key(number))
                with SecretBytes(bytearray(secret)) as held:
                    public = bls.public_key(held)
                self.names.append(import_validator(client, proof, secret, public).name)

    def ask(self, number: int) -> None:
        """Ask one of the signers until the end, as a client that knows no shame."""
        source = random.Random(self.seed * 1000 + number)
        with self.client("validator", number % 2) as client:
            while not self.end.is_set():
                duty = self._duty(source)
                key = source.choice(self.names)
                for _ in range(1 + (source.random() < 0.1)):  # sent twice
                    self._ask(source, client, key, duty)

    def _duty(self, source: random.Random) -> dict[str, Any]:
        with self._lock:
            self.turn += 1
            now = self.turn // 40
        head = source.choice(("aa", "bb", "cc"))
        low, high = sorted(max(0, now + source.randrange(-3, 6)) for _ in range(2))
        if source.random() < 0.7:
            return attestation(low, high, head)
        return {
            "type": "BLOCK_V2",
            "fork_info": FORK_INFO,
            "beacon_block": {
                "version": "FULU",
                "block_header": {
                    "slot": str(high),
                    "proposer_index": "1",
                    "parent_root": "0x" + "11" * 32,
                    "state_root": "0x" + head * 32,
                    "body_root": "0x" + "33" * 32,
                },
            },
        }

    def _ask(
        self,
        source: random.Random,
        client: SignerClient,
        key: str,
        duty: dict[str, Any],
    ) -> None:
        self.outcome.asked += 1
        try:
            signature = client.sign_duty(key, duty)
        except Refused:
            self.outcome.refused += 1
        except Verdict:
            self.outcome.undecided += 1
            time.sleep(0.02)
        else:
            if source.random() < 0.1:
                # Lost on the way: on record in the signer's log all the same.
                self.outcome.thrown_away += 1
                return
            with self._lock:
                self._received.append((key, duty, signature))

    # --- the operator ---

    def order(self) -> None:
        """Disable a key at one signer; from the answer on neither votes with it."""
        source = random.Random(self.seed + 7)
        with contextlib.ExitStack() as clients:
            operators = [
                clients.enter_context(self.client("operator", n)) for n in (0, 1)
            ]
            voters = [
                clients.enter_context(self.client("validator", n)) for n in (0, 1)
            ]
            while not self.end.wait(0.3):
                key = source.choice(self.names)
                if self._repeated(operators, source, "disable_validator", key):
                    with self._lock:
                        far = self.turn // 40 + 50
                    for voter in voters:
                        with contextlib.suppress(Verdict):
                            voter.sign_duty(key, attestation(far - 1, far))
                            self.outcome.broken_orders.append(f"{key} voted {far}")
                    self.outcome.orders += 1
                while not self._repeated(operators, source, "enable_validator", key):
                    if self.end.is_set():
                        return

    def _repeated(
        self, operators: list[SignerClient], source: random.Random, what: str, key: str
    ) -> bool:
        """Give an order to one or the other until it is carried out."""
        for _ in range(50):
            try:
                getattr(source.choice(operators), what)(key)
            except Undecided:
                time.sleep(0.1)
            else:
                return True
        return False

    # --- death ---

    def kill(self, source: random.Random) -> None:
        """Kill one process, at once."""
        targets = dict(self.stack.now().pids)
        targets.pop("up", None)
        for name, pid in list(targets.items()):
            if name == "hypervisor":
                for child in children(pid):
                    targets["enclave"] = child
        with contextlib.suppress(Verdict, OSError, KeyError):
            watchdog = asyncio.run(control_socket.ask(self.second.control, "status"))
            for hypervisor in children(watchdog["pid"]):
                targets["second hypervisor"] = hypervisor
                for child in children(hypervisor):
                    targets["second enclave"] = child
        name = source.choice(sorted(targets))
        with contextlib.suppress(ProcessLookupError):
            os.kill(targets[name], signal.SIGKILL)
            self.outcome.kills[name] = self.outcome.kills.get(name, 0) + 1

    def run(self, kills: int, askers: int) -> Outcome:
        source = random.Random(self.seed)
        with ThreadPoolExecutor(askers + 1) as threads:
            jobs = [threads.submit(self.ask, number) for number in range(askers)]
            jobs.append(threads.submit(self.order))
            try:
                for _ in range(kills):
                    before = len(self._received)
                    time.sleep(source.random() * 2)
                    self.kill(source)
                    if source.random() < 0.7:
                        # Else once more while it is still down, or coming up.
                        wait_until(
                            lambda: len(self._received) > before + 5,  # noqa: B023
                            "something is signed again",
                            PATIENCE,
                        )
            finally:
                self.end.set()
            for job in jobs:
                job.result()
        return self._judged()

    # --- judgement ---

    def _judged(self) -> Outcome:
        oracle = _simulation().Oracle()
        roots: dict[str, set[bytes]] = {}
        for key, message in self._recorded():
            oracle.signed(bytes.fromhex(key[2:]), message)
            self.outcome.on_record += 1
            roots.setdefault(key, set()).add(message.signing_root)
        self.outcome.slashable_pairs = oracle.pairs
        # And by what clients hold in their hands, whatever the logs say.
        held = _simulation().Oracle()
        for key, duty, signature in self._received:
            # Equal signatures are of equal messages: BLS signs deterministically.
            held.signed(bytes.fromhex(key[2:]), message_of(duty, signature))
        self.outcome.received = len(self._received)
        self.outcome.slashable_pairs += held.pairs
        return self.outcome

    def _recorded(self) -> Iterator[tuple[str, Vote | Proposal]]:
        config = configuration.read(self.stack.folder.parent / "config.json")
        for log in (Path(config.audit.path), self.second.audit):
            for line in log.read_bytes().splitlines():
                event = json.loads(line)
                if (
                    event.get("outcome") != "signed"
                    or event.get("key") not in self.names
                ):
                    continue
                root = SigningRoot(bytes.fromhex(event["digest"]))
                if event.get("slot") is not None and event["duty"] == "BLOCK_V2":
                    yield (
                        event["key"],
                        Proposal(slot=Slot(event["slot"]), signing_root=root),
                    )
                elif event["duty"] == "ATTESTATION":
                    yield (
                        event["key"],
                        Vote(
                            source=Epoch(event["source"]),
                            target=Epoch(event["target"]),
                            signing_root=root,
                        ),
                    )


def message_of(duty: dict[str, Any], signature: str) -> Vote | Proposal:
    """Return what was signed; the signature stands for its root."""
    root = SigningRoot(bytes.fromhex(signature[2:66]))
    if duty["type"] == "ATTESTATION":
        data = duty["attestation"]
        return Vote(
            source=Epoch(int(data["source"]["epoch"])),
            target=Epoch(int(data["target"]["epoch"])),
            signing_root=root,
        )
    slot = int(duty["beacon_block"]["block_header"]["slot"])
    return Proposal(slot=Slot(slot), signing_root=root)


def interop_name() -> str:
    """Return the name of a key that a play leaves enabled or disabled, but there."""
    with SecretBytes(bytearray(interop_key(FIRST_KEY))) as held:
        return "0x" + bls12_381().public_key(held).hex()


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def play(
    stack: RunningStack, seed: int, kills: int, keys: int = 4, askers: int = 4
) -> Outcome:
    """Play one run on *stack*, beside which a second signer is started."""
    with second_signer(stack) as second:
        playing = Play(stack, second, seed)
        playing.bring_in(keys)
        return playing.run(kills, askers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="nitrosigner-fuzz-") as folder:
        stack = RunningStack.start(
            Path(folder) / "data", options=("--preset", "minimal")
        )
        try:
            outcome = play(stack, options.seed, options.kills)
        finally:
            stack.stop()
    print(f"seed {options.seed}: {outcome}, {time.perf_counter() - began:.0f} s")
    return 1 if outcome.slashable_pairs or outcome.broken_orders else 0


if __name__ == "__main__":
    sys.exit(main())
