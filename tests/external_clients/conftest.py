"""A real node and a real stack. Nothing here skips: what is missing is an error."""

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.untrusted.parent import dynamodb_store, dynamodb_watermarks
from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client

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
def mined(rpc: Rpc) -> Callable[[str], dict[str, Any]]:
    """Sends a raw transaction and returns its receipt, which must say success."""

    def send(raw: str) -> dict[str, Any]:
        sent = rpc("eth_sendRawTransaction", raw)
        deadline = time.monotonic() + 10
        while (receipt := rpc("eth_getTransactionReceipt", sent)) is None:
            assert time.monotonic() < deadline, "the node does not mine it"
            time.sleep(0.02)
        assert receipt["status"] == "0x1", receipt
        return dict(receipt)

    return send


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


@contextmanager
def running(data: Path) -> Iterator[dict[str, Any]]:
    """A local stack on *data*, and its ready line."""
    process = subprocess.Popen(
        [COMMAND, "up", "--data", data, "--port", str(free_port()), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "nitrosigner up ended before it was ready"
        yield {**json.loads(line), "data": str(data)}
    finally:
        stop(process, 20)
        process.stdout.close()


@pytest.fixture(scope="session")
def ready_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    data = tmp_path_factory.mktemp("stack") / "data"
    with running(data):
        pass
    # What an administrator does: edit the manifest, sign it, restart. Transactions
    # without a chain id are refused unless somebody asks for them like this.
    payload = data / "manifest.payload.json"
    manifest = json.loads(payload.read_bytes())
    manifest["version"] += 1
    for client in manifest["clients"]:
        client["unprotected_legacy"] = client["name"] == "default"
    payload.write_text(json.dumps(manifest))
    key = data / "administrator/key.pem"
    command = [COMMAND, "manifest", "sign", payload, "--administrator-key", key]
    signed = data / "manifest.new.json"
    subprocess.run([*command, "--output", signed], check=True)
    signed.replace(data / "manifest.json")
    with running(data) as line:
        yield line


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


@pytest.fixture(scope="session")
def dynalite() -> Iterator[str]:
    """The endpoint of a DynamoDB that checks conditions for itself, over HTTP."""
    port = free_port()
    process = subprocess.Popen(
        ["node", HERE / "dynalite.cjs", "--port", str(port),
         "--host", "127.0.0.1", "--createTableMs", "0"],
        stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "dynalite ended"
                assert time.monotonic() < deadline, "dynalite does not listen"
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process, 5)


def make_tables(client: Any) -> None:
    for name, keys in {
        "records": (dynamodb_store.PARTITION_KEY, dynamodb_store.SORT_KEY),
        "watermarks": (dynamodb_watermarks.PARTITION_KEY,),
    }.items():
        client.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": key, "KeyType": kind}
                for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": "S"} for key in keys
            ],
            BillingMode="PAY_PER_REQUEST",
        )


@pytest.fixture(scope="session")
def dynamodb_tables(dynalite: str) -> str:
    """The endpoint, with the tables in place that an operator makes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", "test")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = dynamodb_client("eu-west-1", dynalite, parallel=1)
        make_tables(client)
        deadline = time.monotonic() + 20
        for table in ("records", "watermarks"):
            while (
                client.describe_table(TableName=table)["Table"]["TableStatus"]
                != "ACTIVE"
            ):
                assert time.monotonic() < deadline, "dynalite makes no tables"
                time.sleep(0.02)
        client.close()
    return dynalite
