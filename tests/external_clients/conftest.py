"""A real node and a real stack. Nothing here skips: what is missing is an error."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nitrosigner.client.signer_client import SignerClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = ROOT / ".venv/bin/nitrosigner"
Rpc = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[str], patience: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


@pytest.fixture(scope="session")
def node_url() -> Iterator[str]:
    anvil = HERE / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
    port = free_port()
    process = subprocess.Popen(
        [anvil, "--port", str(port), "--host", "127.0.0.1", "--silent"],
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "anvil ended"
                assert time.monotonic() < deadline, "anvil does not listen"
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process, 5)


@pytest.fixture(scope="session")
def rpc(node_url: str) -> Rpc:
    def ask(method: str, *params: Any) -> Any:
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        )
        request = urllib.request.Request(
            node_url, body.encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    return ask


@pytest.fixture(scope="session")
def ready_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    data = tmp_path_factory.mktemp("stack") / "data"
    process = subprocess.Popen(
        [COMMAND, "up", "--data", data, "--port", str(free_port()), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "nitrosigner up ended before it was ready"
        yield {**json.loads(line), "data": str(data)}
    finally:
        stop(process, 20)


@pytest.fixture(scope="session")
def signer(ready_line: dict[str, Any]) -> SignerClient:
    return SignerClient.from_data(Path(ready_line["data"]))


@pytest.fixture
def funded_key(
    signer: SignerClient, rpc: Rpc, request: pytest.FixtureRequest
) -> tuple[str, str]:
    """The name and address of a new key with 100 ether on the node."""
    name = request.node.name.lower().replace("_", "-")[:50].strip("-[]")
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in name)
    key = signer.create_key(name)
    rpc("anvil_setBalance", key.identity, hex(100 * 10**18))
    return name, key.identity
