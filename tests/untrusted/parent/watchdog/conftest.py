"""A watchdog as a process, with a nitro-cli that fails as a test says."""

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
MODULE = ("-W", "error", "-m", "nitrosigner.untrusted.parent.watchdog")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


class Kennel:
    """The folder that fakes, watchdog and test share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "port").write_text(str(self.port))
        self.config: dict[str, Any] = {
            "enclave": {
                "kind": "nitro_cli",
                "image": "/opt/enclave.eif",
                "command": [
                    *(sys.executable, "-I", "-S"),
                    str(HERE / "fake_nitro_cli.py"),
                    str(folder),
                ],
            },
            "probe": {
                "port": self.port,
                "every_seconds": 0.1,
                # A busy machine is no silent enclave: few tests wait for these.
                "answer_seconds": 4.0,
                "silent_times": 3,
                "boot_seconds": 60.0,
            },
            "back_off": {"first_seconds": 0.1, "last_seconds": 0.4},
            "control": str(folder / "control.sock"),
            "status": str(folder / "status.json"),
            "drain_seconds": 5,
        }

    def write(self) -> None:
        (self.folder / "watchdog.json").write_text(json.dumps(self.config))

    def behave(self, **behaviour: object) -> None:
        self._replace("behaviour.json", behaviour)

    def health(self, mode: str, **more: object) -> None:
        self._replace("health.json", {"mode": mode, **more})

    def _replace(self, name: str, value: object) -> None:
        fresh = self.folder / (name + ".fresh")
        fresh.write_text(json.dumps(value))
        fresh.replace(self.folder / name)

    def start(self) -> None:
        self.write()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *MODULE, "--config", self.folder / "watchdog.json"],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def tell(self, command: str) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(sys.executable, *MODULE, "--config"),
                *(self.folder / "watchdog.json", command),
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(
                (self.folder / "status.json").read_text()
            )
            return found
        return {}

    def phase(self) -> str:
        return str(self.status().get("phase", ""))

    def enclaves(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / "enclaves.json").read_text())
            return [one for one in found if alive(one["ProcessID"])]
        return []

    def calls(self, command: str) -> list[list[str]]:
        with contextlib.suppress(OSError):
            lines = (self.folder / "calls").read_text().splitlines()
            return [call for call in map(json.loads, lines) if call[0] == command]
        return []

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def until(
        self, condition: Callable[[], object], what: str, seconds: float = 60
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (what, self.status(), self.log()[-8:])
            assert self.process is None or self.process.poll() is None, self.log()
            time.sleep(0.02)

    def until_phase(self, phase: str) -> None:
        self.until(lambda: self.phase() == phase, f"it is {phase}")

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for one in self.enclaves():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one["ProcessID"], signal.SIGKILL)


def server_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(pem)


@pytest.fixture
def kennel(tmp_path: Path) -> Iterator[Kennel]:
    (tmp_path / "server.pem").write_bytes(server_pem())
    made = Kennel(tmp_path)
    try:
        yield made
    finally:
        made.close()
