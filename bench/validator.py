"""
The validator job through its HTTPS port, beside bare blst on the same cores.

    python bench/validator.py [--seconds 5] [--keys 20000]

Every signature has its watermark on disk before it exists. The load generator shares
the machine, so the figure that carries over is efficiency: signatures for each second
of processor time that enclave, relay and store spend together, beside bare blst
signatures for each second of processor time, measured in the same run.
"""

import argparse
import json
import os
import random
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ckzg
import load
from stack import children, resident_mib, stack, tree_cpu

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes

CONNECTIONS = 64
MIN_DISTINCT = 0.65
MIN_SAME = 0.45
MIN_SAME_RATE = 2500.0
MAX_BATCH_RATIO = 1.3
MAX_BOOT = 5.0
MAX_MEMORY = 350.0
MAX_P99 = 25.0
BATCH_KEYS = 10_000


def bare_blst(seconds: float) -> dict[str, float]:
    """Return bare signatures a second of one core: new roots, and one root."""
    bls = Bls12381(ckzg.__file__)
    secret = SecretBytes(bytearray(31) + bytearray(b"\x07"))

    def rate(next_root: Callable[[], bytes]) -> float:
        count, begun = 0, time.process_time()
        while time.process_time() - begun < seconds:
            bls.sign(secret, next_root())
            count += 1
        return count / (time.process_time() - begun)

    return {
        "new_roots_per_cpu_second": rate(lambda: os.urandom(32)),
        "same_root_per_cpu_second": rate(lambda: bytes(32)),
    }


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

    def cpu(self) -> float:
        used = tree_cpu(self.line["pids"])
        return sum(cpu for name, cpu in used.items() if name != "kms")


def saturated(
    signer: Signer, keys: list[str], seconds: float, bare: float, *, same: bool
) -> dict[str, float]:
    rounds = max(1, int(seconds * 6000 / len(keys)) + 1)
    requests = signer.requests(keys, rounds, same=same)
    before = signer.cpu()
    shown = load.drive(
        signer.port, signer.ca, requests, connections=CONNECTIONS, seconds=seconds
    )
    cpu = signer.cpu() - before
    signed = shown.requests - shown.failed
    return {
        "per_second": signed / shown.seconds,
        "failed": shown.failed,
        "p50_ms": shown.p50,
        "p99_ms": shown.p99,
        "signer_cpu_us": 1e6 * cpu / signed,
        "client_cpu_us": 1e6 * shown.own_cpu_seconds / signed,
        "signatures_per_cpu_second": signed / cpu,
        "efficiency": signed / cpu / bare,
    }


def half_rate(signer: Signer, keys: list[str], rate: float) -> dict[str, float]:
    requests = signer.requests(keys, max(1, int(6 * rate / len(keys)) + 1), same=False)
    shown = load.drive(
        signer.port,
        signer.ca,
        requests,
        connections=CONNECTIONS,
        seconds=5,
        rate=rate / 2,
    )
    return {
        "per_second": shown.rate,
        "failed": shown.failed,
        "p50_ms": shown.p50,
        "p99_ms": shown.p99,
    }


def batch(signer: Signer, keys: list[str], bare: float) -> dict[str, float]:
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
    begun = time.perf_counter()
    with urllib.request.urlopen(request, context=context, timeout=120) as answer:
        results = json.load(answer)
    took = time.perf_counter() - begun
    signed = sum("signature" in one for one in results)
    two_cores = len(keys) / bare / min(2, os.cpu_count() or 1)
    return {
        "keys": len(keys),
        "signed": signed,
        "seconds": took,
        "bare_seconds_on_two_cores": two_cores,
        "ratio": took / two_cores,
    }


def boot(data: Path) -> dict[str, float]:
    with stack(data=data) as line:
        health = SignerClient.from_data(data).health()
        (enclave,) = children(line["pids"]["hypervisor"])
        return {
            "keys": health.keys_loaded,
            "seconds": sum(step.milliseconds for step in health.steps) / 1000,
            "kms_calls": health.kms_calls,
            "enclave_mib": resident_mib(enclave),
        }


def measure(seconds: float, count: int, data: Path) -> dict[str, Any]:
    bare = bare_blst(min(seconds, 2.0))
    new, cached = bare["new_roots_per_cpu_second"], bare["same_root_per_cpu_second"]
    with stack("--preset", "mainnet", data=data) as line:
        signer = Signer(line)
        signer.create(1000)
        some = signer.keys()[:1000]
        # Each key's first signature also derives its public key: not part of the rate.
        batch(signer, some, cached)
        distinct = saturated(signer, some, seconds, new, same=False)
        same = saturated(signer, some, seconds, cached, same=True)
        calm = half_rate(signer, some, distinct["per_second"])
        signer.create(min(count, BATCH_KEYS))
        batched = batch(signer, signer.keys()[:BATCH_KEYS], cached)
        created = signer.create(count)
    return {
        "bare_blst": bare,
        "distinct_roots": distinct,
        "same_root": same,
        "half_rate": calm,
        "batch": batched,
        "keys_created_per_second": created,
        "boot": boot(data),
    }


def limits(found: dict[str, Any]) -> dict[str, bool]:
    """Return what issue 3 asks for, sentence by sentence, and whether it holds."""
    distinct, same = found["distinct_roots"], found["same_root"]
    return {
        "none failed": distinct["failed"] + same["failed"] == 0,
        f"efficiency with distinct roots at least {MIN_DISTINCT}": distinct[
            "efficiency"
        ]
        >= MIN_DISTINCT,
        f"efficiency with one root at least {MIN_SAME}": same["efficiency"] >= MIN_SAME,
        f"one root: at least {MIN_SAME_RATE:.0f} a second": same["per_second"]
        >= MIN_SAME_RATE,
        f"p99 at half rate under {MAX_P99:.0f} ms": found["half_rate"]["p99_ms"]
        < MAX_P99,
        f"batch at most {MAX_BATCH_RATIO} x bare": found["batch"]["ratio"]
        <= MAX_BATCH_RATIO,
        f"boot under {MAX_BOOT:.0f} s": found["boot"]["seconds"] < MAX_BOOT,
        "one KMS call in a boot": found["boot"]["kms_calls"] == 1,
        f"under {MAX_MEMORY:.0f} MiB": found["boot"]["enclave_mib"] < MAX_MEMORY,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.seconds, options.keys, Path(folder) / "data")
    print(json.dumps({**found, "limits": limits(found)}, indent=2))


if __name__ == "__main__":
    main()
