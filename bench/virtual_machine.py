"""
The booted image: how long it takes to be ready, and how fast it signs.

    python bench/virtual_machine.py [--json] [--image FILE] [--memory MIB]

Apart from `make bench` (make bench-vm): under SOFTWARE EMULATION these figures say what
a developer waits for, and nothing about Nitro.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.verdicts import Verdict

READY_TARGET = 15.0
ROUNDS = 3
SIGNATURES = 300


def ready(client: SignerClient) -> bool:
    try:
        return client.upcheck()
    except Verdict:
        return False


def measure(image: Path, memory: int, data: Path) -> dict[str, object]:
    options = ("--vm", "--image", str(image), "--memory", str(memory))
    stack = RunningStack.start(data, options=options, deadline=200)
    log = stack.folder.logs / "hypervisor.log"
    boots = []

    def qemu() -> int:
        return int(re.findall(rb"QEMU is process (\d+)", log.read_bytes())[-1])

    try:
        with SignerClient.from_data(data) as client:
            key = client.create_key("bench").name
            for _ in range(ROUNDS):
                old = qemu()
                os.kill(old, signal.SIGKILL)
                wait_until(lambda old=old: qemu() != old, "QEMU is started again")
                started = time.monotonic()
                wait_until(lambda: ready(client), "it is ready", 120)
                boots.append(time.monotonic() - started)
            started = time.monotonic()
            for number in range(SIGNATURES):
                client.sign_message(key, f"message {number}")
            each = (time.monotonic() - started) / SIGNATURES
    finally:
        stack.stop()
    slowest = max(boots)
    return {
        "software_emulation": True,
        "memory_mib": memory,
        "image_bytes": image.stat().st_size,
        "kernel_to_ready_s": [round(boot, 2) for boot in boots],
        "signature_ms": round(each * 1000, 2),
        "target": f"ready within {READY_TARGET:.0f} s",
        "met": slowest <= READY_TARGET,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--image", type=Path, default=Path("build/image/enclave.eif"))
    parser.add_argument("--memory", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nitrosigner-") as folder:
        found = measure(options.image, options.memory, Path(folder) / "data")
    if options.json:
        print(json.dumps(found))
    else:
        print("SOFTWARE EMULATION (QEMU TCG): nothing here is a figure of Nitro")
        for name, value in found.items():
            print(f"  {name:20} {value}")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
