"""
The validator job through its HTTPS port, beside bare blst on the same cores.

    python bench/validator.py [--seconds 3] [--keys 20000] [--json]

Every signature has its watermark on disk before it exists. The load generator shares
the machine, so the figure that carries over is efficiency: signatures for each second
of processor time that enclave, relay and store spend together, beside bare blst
signatures for each second of processor time, measured in the same run.

Which bare blst? Under load both cores are at work, so the ratios that are judged take
the rate of bare blst on *both* cores at once (`bare_blst`), measured before, between
and after the loads; the median counts, of it and of each kind of load. The ratio to one
bare process on an idle machine stands beside it, and is not judged. The batch is judged
by elapsed time, beside twice the bare rate of a core: that is what two cores nobody
else uses would give, so a busy machine makes our figure worse and never better.

How many requests are under way decides how much of the work is done for several at
once, so it is said: what is judged has as many as a slot brings to a signer of some
8,000 keys, and fewer are shown beside it. Connections stand before the clock starts.

A key's first signature after a boot derives its public key first (decision 0016). It is
not part of the rates; the batch shows its first time and the later ones apart, and the
median of the later ones is judged.
"""

import argparse
import json
import random
import ssl
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare_blst
import load
from bare_blst import Bare, Rate
from stack import (
    children,
    descendants,
    private_mib,
    resident_mib,
    stack,
    tree_cpu,
)

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS

CONNECTIONS = 256
"""Of 8,000 keys 250 attest in each slot, and validator clients ask for all at once:
each request under way has a connection."""
FEWER = (16, 64)
ROUNDS = 3
"""Windows of each judged kind of load, in turns."""
MIN_DISTINCT = 0.65
MIN_SAME = 0.45
MIN_SAME_RATE = 2500.0
MAX_BATCH_RATIO = 1.3
MAX_BOOT = 5.0
MAX_MEMORY = 350.0
MAX_P99 = 25.0
BATCH_KEYS = 10_000
BATCHES = 3
"""Of which each is of all keys, after the first one."""
HALF_RATE_SECONDS = 5.0
BARE_SECONDS = 0.7


class Signer:
    """A running stack, and the requests that a validator client would send."""

    def __init__(self, line: dict[str, Any]) -> None:
        self.line = line
        self.data = Path(line["data"])
        self.client = SignerClient.from_data(self.data)
        self.port = int(line["url"].rsplit(":", 1)[1].strip("/"))
        self.ca = Path(line["ca"])
        clients = line["clients"]
        self.token = Path(clients["default"]["token_file"]).read_text().strip()
        self.duties = Path(clients["validator"]["token_file"]).read_text().strip()
        self.epoch = 10
        manifest = json.loads((self.data / "manifest.payload.json").read_text())
        network = PUBLIC_NETWORKS[manifest["validators"]["network"]]
        root = network.genesis_validators_root.hex()
        newest = list(network.fork_versions.values())[-1].hex()
        self.fork_info = {
            "fork": {
                "previous_version": "0x" + newest,
                "current_version": "0x" + newest,
                "epoch": "0",
            },
            "genesis_validators_root": "0x" + root,
        }

    def keys(self) -> list[str]:
        request = urllib.request.Request(
            f"https://localhost:{self.port}/api/v1/eth2/publicKeys",
            headers={"authorization": f"Bearer {self.duties}"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            found: list[str] = json.load(answer)
        return found

    def create(self, count: int) -> float:
        begun = time.perf_counter()
        while (missing := count - len(self.keys())) > 0:
            post = load.post("/api/v1/validators", b"{}", self.token)
            load.drive(
                self.port,
                self.ca,
                [post],
                connections=8,
                seconds=min(5.0, 0.5 + missing / 1000),
            )
        return count / (time.perf_counter() - begun)

    def attestation(self, target: int, block_root: bytes) -> dict[str, Any]:
        return {
            "type": "ATTESTATION",
            "fork_info": self.fork_info,
            "attestation": {
                "slot": str(target * 32),
                "index": "0",
                "beacon_block_root": "0x" + block_root.hex(),
                "source": {"epoch": str(target - 1), "root": "0x" + "aa" * 32},
                "target": {"epoch": str(target), "root": "0x" + "bb" * 32},
            },
        }

    def requests(self, keys: list[str], rounds: int, *, same: bool) -> list[bytes]:
        """Return attestations that no rule forbids: each round is a further epoch."""
        source = random.Random(self.epoch)
        made = []
        for _ in range(rounds):
            self.epoch += 1
            shared = source.randbytes(32)
            for key in keys:
                root = shared if same else source.randbytes(32)
                body = json.dumps(self.attestation(self.epoch, root)).encode()
                path = f"/api/v1/eth2/sign/{key}"
                made.append(load.post(path, body, self.duties))
        return made

    def cpu(self) -> "Cpu":
        used = tree_cpu(self.line["pids"])
        return Cpu(enclave=used["hypervisor"], parent=used["parent"])


@dataclass(frozen=True)
class Cpu:
    """Processor seconds of what makes a signature. The KMS has no part in it."""

    enclave: float
    parent: float
    """Relay and stores."""

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.enclave - other.enclave, self.parent - other.parent)

    @property
    def both(self) -> float:
        return self.enclave + self.parent

    def shares(self, signed: int, client: float) -> dict[str, float]:
        """Return microseconds for each of *signed* signatures."""
        return {
            "enclave": 1e6 * self.enclave / signed,
            "parent": 1e6 * self.parent / signed,
            "together": 1e6 * self.both / signed,
            "load_generator": 1e6 * client / signed,
        }


@dataclass(frozen=True)
class Saturated:
    shown: load.Load
    cpu: Cpu

    @property
    def signed(self) -> int:
        return self.shown.requests - self.shown.failed

    @property
    def rate(self) -> float:
        return self.signed / self.shown.seconds

    def figures(self, bare: Rate) -> dict[str, Any]:
        efficient = self.signed / self.cpu.both
        return {
            "per_second": self.rate,
            "failed": self.shown.failed,
            "failures": self.shown.failures,
            "p50_ms": self.shown.p50,
            "p99_ms": self.shown.p99,
            "cpu_us_for_each": self.cpu.shares(self.signed, self.shown.own_cpu_seconds),
            "signatures_per_cpu_second": efficient,
            "efficiency": efficient / bare.both,
            "efficiency_beside_one_idle_core": efficient / bare.alone,
        }


def saturated(
    signer: Signer,
    keys: list[str],
    seconds: float,
    *,
    same: bool,
    connections: int = CONNECTIONS,
) -> Saturated:
    rounds = max(1, int(seconds * 10_000 / len(keys)) + 1)
    requests = signer.requests(keys, rounds, same=same)
    used: list[Cpu] = []
    shown = load.drive(
        signer.port,
        signer.ca,
        requests,
        connections=connections,
        seconds=seconds,
        around=lambda: used.append(signer.cpu()),
    )
    return Saturated(shown, used[1] - used[0])


def middle(windows: list[Saturated]) -> Saturated:
    """Return the window whose efficiency is the median."""
    return sorted(windows, key=lambda one: one.signed / one.cpu.both)[len(windows) // 2]


def with_fewer(
    signer: Signer, keys: list[str], seconds: float, bare: Callable[[], None]
) -> dict[int, tuple[Saturated, Saturated]]:
    """Load with fewer requests under way; return distinct roots, and one root."""
    found = {}
    for connections in FEWER:
        found[connections] = (
            saturated(signer, keys, seconds, same=False, connections=connections),
            saturated(signer, keys, seconds, same=True, connections=connections),
        )
        bare()
    return found


def half_rate(signer: Signer, keys: list[str], rate: float) -> dict[str, Any]:
    """Measure single attestations that come by chance, half as many as can be."""
    rounds = max(1, int(HALF_RATE_SECONDS * rate / len(keys)) + 1)
    requests = signer.requests(keys, rounds, same=False)
    used: list[Cpu] = []
    shown = load.drive(
        signer.port,
        signer.ca,
        requests,
        connections=CONNECTIONS,
        seconds=HALF_RATE_SECONDS,
        rate=rate / 2,
        around=lambda: used.append(signer.cpu()),
    )
    signed = shown.requests - shown.failed
    return {
        "asked_per_second": rate / 2,
        "per_second": shown.rate,
        "failed": shown.failed,
        "failures": shown.failures,
        "p50_ms": shown.p50,
        "p99_ms": shown.p99,
        "slowest_ms": shown.slowest,
        **(used[1] - used[0]).shares(signed, shown.own_cpu_seconds),
    }


@dataclass(frozen=True)
class Batch:
    keys: int
    signed: int
    seconds: float
    cpu: Cpu


def batch(signer: Signer, keys: list[str]) -> Batch:
    """Have all *keys* attest one slot in one request."""
    signer.epoch += 1
    body = json.dumps(
        {
            "identifiers": keys,
            "signing_request": signer.attestation(signer.epoch, b"\x05" * 32),
        }
    ).encode()
    request = urllib.request.Request(
        f"https://localhost:{signer.port}/api/v1/eth2/sign",
        body,
        {
            "authorization": f"Bearer {signer.duties}",
            "content-type": "application/json",
        },
    )
    context = ssl.create_default_context(cafile=str(signer.ca))
    cpu, begun = signer.cpu(), time.perf_counter()
    with urllib.request.urlopen(request, context=context, timeout=120) as answer:
        text = answer.read()
    took, cpu = time.perf_counter() - begun, signer.cpu() - cpu
    signed = sum("signature" in one for one in json.loads(text))
    return Batch(len(keys), signed, took, cpu)


def batched(first: Batch, later: list[Batch], bare: Rate) -> dict[str, Any]:
    """Return what batches of the same keys took, beside bare blst on two cores."""

    def ratio(seconds: float) -> float:
        return seconds * bare_blst.CORES * bare.both / first.keys

    taken = [one.seconds for one in later]
    return {
        "keys": first.keys,
        "not_signed": sum(one.keys - one.signed for one in (first, *later)),
        "first_seconds": first.seconds,
        "later_seconds": taken,
        "bare_seconds_on_two_cores": first.keys / bare.both / bare_blst.CORES,
        "bare_seconds_as_elapsed_here": first.keys / bare.both_elapsed,
        "cpu_us_for_each": statistics.median(
            1e6 * one.cpu.both / one.keys for one in later
        ),
        "first_ratio": ratio(first.seconds),
        "ratio": ratio(statistics.median(taken)),
    }


def boot(data: Path) -> dict[str, float]:
    with stack(data=data) as line:
        health = SignerClient.from_data(data).health()
        (enclave,) = children(line["pids"]["hypervisor"])
        return {
            "keys": health.keys_loaded,
            "seconds": sum(step.milliseconds for step in health.steps) / 1000,
            "kms_calls": health.kms_calls,
            # The program, and what its signing processes do not share with it.
            "enclave_mib": resident_mib(enclave)
            + sum(private_mib(one) for one in descendants(enclave)),
        }


def measure(seconds: float, count: int, data: Path) -> dict[str, Any]:
    bares: list[Bare] = []

    def bare() -> None:
        bares.append(bare_blst.measure(BARE_SECONDS))

    bare()
    with stack("--preset", "mainnet", data=data) as line:
        signer = Signer(line)
        signer.create(1000)
        some = signer.keys()[:1000]
        batch(signer, some)
        windows: list[tuple[Saturated, Saturated]] = []
        for _ in range(ROUNDS):
            windows.append(
                (
                    saturated(signer, some, seconds, same=False),
                    saturated(signer, some, seconds, same=True),
                )
            )
            bare()
        fewer = with_fewer(signer, some, seconds, bare)
        distinct = middle([one for one, _ in windows])
        same = middle([one for _, one in windows])
        calm = half_rate(signer, some, distinct.rate)
        signer.create(min(count, BATCH_KEYS))
        many = signer.keys()[:BATCH_KEYS]
        first = batch(signer, many)
        later = [batch(signer, many) for _ in range(BATCHES)]
        bare()
        created = signer.create(count)
    reference = bare_blst.median(bares)
    return {
        "bare_blst": bare_blst.shown(reference),
        "distinct_roots": distinct.figures(reference.new_roots),
        "same_root": same.figures(reference.same_root),
        "every_window": {
            "distinct_roots": [
                one.figures(reference.new_roots)["efficiency"] for one, _ in windows
            ],
            "same_root": [
                one.figures(reference.same_root)["efficiency"] for _, one in windows
            ],
        },
        "with_fewer_requests_under_way": {
            str(connections): {
                "distinct_roots": one.figures(reference.new_roots),
                "same_root": other.figures(reference.same_root),
            }
            for connections, (one, other) in fewer.items()
        },
        "half_rate": calm,
        "batch": batched(first, later, reference.same_root),
        "keys_created_per_second": created,
        "boot": boot(data),
    }


def limits(found: dict[str, Any]) -> dict[str, bool]:
    """Return what issue 3 asks for, sentence by sentence, and whether it holds."""
    distinct, same, calm = (
        found["distinct_roots"],
        found["same_root"],
        found["half_rate"],
    )
    batch, boot = found["batch"], found["boot"]
    failed = distinct["failed"] + same["failed"] + calm["failed"] + batch["not_signed"]
    distinct_root, one_root = distinct["efficiency"], same["efficiency"]
    return {
        f"distinct roots: efficiency {distinct_root:.3f}, at least {MIN_DISTINCT}"
        " (of bare blst on both cores)": distinct_root >= MIN_DISTINCT,
        f"one root: efficiency {one_root:.3f}, at least {MIN_SAME}"
        " (of bare blst on both cores, hashed before)": one_root >= MIN_SAME,
        f"one root: {same['per_second']:.0f} a second, at least {MIN_SAME_RATE:.0f}": (
            same["per_second"] >= MIN_SAME_RATE
        ),
        f"batch of {batch['keys']}: {batch['ratio']:.2f} x bare blst on two cores,"
        f" at most {MAX_BATCH_RATIO}": batch["ratio"] <= MAX_BATCH_RATIO,
        f"half rate: p99 {calm['p99_ms']:.1f} ms, under {MAX_P99:.0f}": (
            calm["p99_ms"] < MAX_P99
        ),
        f"{boot['keys']} keys: ready in {boot['seconds']:.2f} s,"
        f" under {MAX_BOOT:.0f}": boot["seconds"] < MAX_BOOT,
        f"{boot['keys']} keys: {boot['kms_calls']} KMS call, exactly 1": (
            boot["kms_calls"] == 1
        ),
        f"{boot['keys']} keys: {boot['enclave_mib']:.0f} MiB,"
        f" under {MAX_MEMORY:.0f}": boot["enclave_mib"] < MAX_MEMORY,
        f"{failed} failed, none allowed": failed == 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window")
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="JSON and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.seconds, options.keys, Path(folder) / "data")
    found["limits"] = limits(found)
    print(json.dumps(found, indent=2))
    if not options.json:
        for sentence, holds in found["limits"].items():
            print(f"{'ok  ' if holds else 'MISS'} {sentence}")


if __name__ == "__main__":
    main()
