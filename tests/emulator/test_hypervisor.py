"""
The hypervisor measures exactly what it runs, and runs nothing but that.

The enclave here is a probe: a copy of the real source tree in which the enclave
program is replaced by one that reports about itself to the parent's port.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.attestation.verify import Attestation, Expectations, verify
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.vsock import UnixVsock
from nitrosigner.image import contents
from nitrosigner.image.source_measurement import emulated_pcr0

DEADLINE = 30.0
PROBE = """
import importlib.util, json, os, pkgutil, signal, sys, time

def broken_modules():
    import nitrosigner.trusted, nitrosigner.wire
    broken = []
    for package in (nitrosigner.trusted, nitrosigner.wire):
        prefix = package.__name__ + "."
        for found in pkgutil.walk_packages(package.__path__, prefix, broken.append):
            try:
                importlib.import_module(found.name)
            except Exception as error:
                broken.append(f"{found.name}: {error!r}")
    return broken

async def run(world):
    asked = ["boto3", "click", "pytest", "pip", "nitrosigner.attestation",
             "nitrosigner.client", "nitrosigner.emulator.hypervisor", "pycparser",
             "cbor2", "cryptography", "msgspec", "sha3", "coincurve", "httptools",
             "nitrosigner.trusted.signing", "nitrosigner.wire.manifest"]
    report = {
        "document": world.nsm.attest(nonce=b"probe").hex(),
        "random": len(world.nsm.random(300)),
        "importable": [n for n in asked if importlib.util.find_spec(n)],
        "broken": broken_modules(),
        "file": __file__,
        "path": sys.path,
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "pid": os.getpid(),
    }
    with world.vsock.connect(7001) as parent:
        parent.sendall(json.dumps(report).encode() + b"\\n")
        status = parent.recv(10)
    if status == b"wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))
        with world.vsock.connect(7001) as parent:
            parent.sendall(b"waiting\\n")
        time.sleep(600)
    sys.exit(int(status))
"""


@dataclass
class Stage:
    data: Path
    run: Path
    tree: Path
    listener: socket.socket

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "nitrosigner.emulator.hypervisor"),
                *("--data", str(self.data), "--run", str(self.run)),
                *("--tree", str(self.tree), *options),
            ],
            env={"SECRET_CANARY": "do not inherit", "PYTHONPATH": "/nowhere"},
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def __post_init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def report(self, then: bytes) -> dict[str, Any]:
        """What the enclave says of itself; it then goes on with *then*."""
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            said = json.loads(lines.readline())
            connection.sendall(then)
        assert isinstance(said, dict)
        return said

    def await_waiting(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            assert lines.readline() == b"waiting\n"

    def verified(self, report: dict[str, Any], **expected: Any) -> Attestation:
        return verify(
            bytes.fromhex(report["document"]),
            anchors=[stored_trust_anchor(self.data / "emulator")],
            now=datetime.now(UTC),
            expectations=Expectations(nonce=b"probe", **expected),
        )


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    # Short: UNIX sockets lie in it.
    run = Path(tempfile.mkdtemp(prefix="ns-"))
    tree = tmp_path / "tree"
    contents.gather_source(contents.source_root(), tree)
    (tree / "nitrosigner/trusted/enclave/assembly.py").write_text(PROBE)
    listener = UnixVsock(run, 3).listen(7001)
    listener.settimeout(DEADLINE)
    stage = Stage(tmp_path / "data", run, tree, listener)
    try:
        yield stage
    finally:
        for process in stage.started:
            process.kill()
            process.wait(DEADLINE)
            if process.stderr:
                process.stderr.close()
        listener.close()
        shutil.rmtree(run)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_document_measures_the_tree_that_runs(stage: Stage) -> None:
    process = stage.start()
    report = stage.report(b"0")
    pcr0 = emulated_pcr0(stage.tree)
    attestation = stage.verified(report, pcrs={0: pcr0})
    assert not attestation.debug
    assert attestation.emulated
    assert attestation.pcrs[3] == bytes(48)
    assert pcr0 != emulated_pcr0(), "the altered tree measures like ours"
    assert report["random"] == 300
    assert process.wait(DEADLINE) == 0


def test_the_role_is_measured_when_it_is_given(stage: Stage) -> None:
    stage.start("--role-arn", "arn:aws:iam::000000000000:role/r")
    assert stage.verified(stage.report(b"0")).pcrs[3] != bytes(48)


def test_a_debug_enclave_measures_nothing(stage: Stage) -> None:
    stage.start("--debug")
    attestation = stage.verified(stage.report(b"0"), allow_debug=True)
    assert attestation.debug
    assert all(attestation.pcrs[index] == bytes(48) for index in range(3))


def test_only_what_ships_can_be_imported(stage: Stage) -> None:
    stage.start()
    report = stage.report(b"0")
    assert report["importable"] == [
        "cbor2",
        "cryptography",
        "msgspec",
        "sha3",
        "coincurve",
        "httptools",
        "nitrosigner.trusted.signing",
        "nitrosigner.wire.manifest",
    ]
    assert report["broken"] == [], "is contents.toml complete?"
    image = report["path"][0]
    assert Path(report["file"]).is_relative_to(image)
    assert not any("site-packages" in path for path in report["path"])


def test_the_enclave_inherits_nothing_but_its_nsm(stage: Stage) -> None:
    stage.start()
    report = stage.report(b"0")
    # The interpreter itself may add LC_CTYPE; the caller's variables are gone.
    assert report["environment"].keys() <= {"LC_ALL", "LC_CTYPE"}
    assert report["blocked"] == []
    # 0, 1, 2, the NSM, and the folder that the probe is just listing.
    assert len([n for n in report["descriptors"] if n > 2]) <= 5
    assert not any("key" in argument for argument in report["arguments"])


def test_what_changes_after_the_measurement_does_not_run(stage: Stage) -> None:
    process = stage.start()
    report = stage.report(b"0")
    (image,) = stage.run.glob("image-*") if process.poll() is None else (None,)
    assert Path(report["file"]).is_relative_to(stage.run)
    assert not Path(report["file"]).is_relative_to(stage.tree)
    assert image is None or image.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("status", [0, 1, 42])
def test_it_ends_with_the_enclaves_status_and_leaves_nothing(
    stage: Stage, status: int
) -> None:
    process = stage.start()
    stage.report(str(status).encode())
    assert process.wait(DEADLINE) == status
    assert not list(stage.run.glob("image-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_is_passed_on(stage: Stage, number: signal.Signals) -> None:
    process = stage.start()
    stage.report(b"wait")
    stage.await_waiting()
    process.send_signal(number)
    assert process.wait(DEADLINE) == 43
    assert not list(stage.run.glob("image-*"))


def test_an_enclave_that_is_killed_ends_its_hypervisor(stage: Stage) -> None:
    process = stage.start()
    report = stage.report(b"wait")
    stage.await_waiting()
    os.kill(report["pid"], signal.SIGKILL)
    assert process.wait(DEADLINE) == 128 + signal.SIGKILL


def test_a_killed_hypervisor_takes_its_enclave_along(stage: Stage) -> None:
    process = stage.start()
    report = stage.report(b"wait")
    stage.await_waiting()
    process.kill()
    process.wait(DEADLINE)
    _until(lambda: not _runs(report["pid"]))
    # Its image stays behind, until the next one starts.
    (left,) = stage.run.glob("image-*")
    second = stage.start()
    stage.report(b"0")
    assert second.wait(DEADLINE) == 0
    assert not left.exists()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_trust_anchor_survives_a_restart(stage: Stage) -> None:
    stage.start()
    first = stage.verified(stage.report(b"0"))
    stage.start()
    second = stage.verified(stage.report(b"0"))
    assert first.anchor == second.anchor
    assert first.pcrs == second.pcrs
    assert first.module_id != second.module_id


def test_a_tree_that_lacks_what_ships_is_refused(stage: Stage) -> None:
    (stage.tree / "nitrosigner/verdicts.py").unlink()
    process = stage.start()
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert b"nitrosigner/verdicts.py is missing" in said
    assert not list(stage.run.glob("image-*"))


def test_a_link_in_the_tree_is_refused(stage: Stage) -> None:
    (stage.tree / "nitrosigner/wire/extra.py").symlink_to("/etc/hostname")
    process = stage.start()
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert b"neither a file nor a folder" in said
