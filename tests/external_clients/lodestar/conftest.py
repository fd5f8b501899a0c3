"""
Beacon nodes and validator clients as processes (Lodestar), and a witness before ours.

Everything listens on 127.0.0.1, and each process is ended by its own id: this Lodestar
hangs on SIGTERM every now and then, and is killed then.
"""

import datetime as dt
import hashlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from py_ecc.bls import G2ProofOfPossession
from py_ecc.optimized_bls12_381 import curve_order

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.client import verification
from nitrosigner.client.import_validator import import_validator
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.nitro_pki import stored_trust_anchor
from nitrosigner.emulator.running_stack import RunningStack

HERE = Path(__file__).parent
VALIDATORS = 16
SLOT_SECONDS = 3
_LEADS = (24, 60, 120)
"""Seconds from a node's start to its genesis: the first, and on a busy machine more."""
_FEE_RECIPIENT = "0x" + "11" * 20
_FORKS = (
    *("--params.SECONDS_PER_SLOT", str(SLOT_SECONDS)),
    *("--params.ALTAIR_FORK_EPOCH", "0"),
    *("--params.BELLATRIX_FORK_EPOCH", "1"),
    *("--params.CAPELLA_FORK_EPOCH", "2"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(
    condition: Callable[[], object],
    what: str,
    seconds: float,
    story: Callable[[], str] = lambda: "",
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}\n{story()}", False)
        time.sleep(0.2)


class Process:
    """One Lodestar, its log, its end."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], **environment: str
    ) -> None:
        folder.mkdir()
        self.log_file = folder / "log"
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("node", "--require", str(HERE / "polyfill.cjs")),
                    str(HERE / "node_modules/.bin/lodestar"),
                    *arguments,
                ],
                cwd=folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(folder),
                    # BLS in JavaScript: no native module to be built.
                    "NODE_BACKEND": "js",
                    "LODESTAR_PRESET": "minimal",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def check(self) -> None:
        assert self._process.poll() is None, f"Lodestar ended:\n{self.log[-3000:]}"

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class BeaconNode(Process):
    """An isolated chain: no peers, one genesis for all who are given the same time."""

    def __init__(self, folder: Path, genesis: int) -> None:
        self.rest, p2p = free_port(), free_port()
        self._genesis = genesis
        self.url = f"http://127.0.0.1:{self.rest}"
        super().__init__(
            folder,
            [
                *("dev", "--dataDir", "./data", "--reset"),
                *("--genesisValidators", str(VALIDATORS)),
                *("--genesisTime", str(genesis), *_FORKS),
                *("--rest", "--rest.address", "127.0.0.1"),
                *("--rest.port", str(self.rest), "--rest.namespace", "*"),
                *("--listenAddress", "127.0.0.1", "--port", str(p2p)),
                *("--discoveryPort", str(p2p)),
                *("--network.connectToDiscv5Bootnodes", "false"),
            ],
        )

    @property
    def slot(self) -> int:
        return int(time.time() - self._genesis) // SLOT_SECONDS

    def get(self, path: str) -> Any:
        """Return `data` of an answer; None while there is none."""
        self.check()
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return json.load(response)["data"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def blocks(self, up_to: int) -> list[dict[str, Any]]:
        """The signed blocks of the canonical chain."""
        found = [
            self.get(f"/eth/v2/beacon/blocks/{slot}") for slot in range(1, up_to + 1)
        ]
        return [block for block in found if block is not None]

    @property
    def head(self) -> int:
        headers = self.get("/eth/v1/beacon/headers")
        return int(headers[0]["header"]["message"]["slot"]) if headers else 0

    @property
    def justified(self) -> int:
        found = self.get("/eth/v1/beacon/states/head/finality_checkpoints")
        return int(found["current_justified"]["epoch"]) if found else 0


class ValidatorClient(Process):
    """Fetches its keys from the signer, and has everything signed there."""

    def __init__(
        self, folder: Path, node: BeaconNode, signer: str, **environment: str
    ) -> None:
        super().__init__(
            folder,
            [
                *("validator", "--network", "dev", "--dataDir", "./data", *_FORKS),
                *("--server", node.url),
                *("--externalSigner.url", signer, "--externalSigner.fetch"),
                *("--suggestedFeeRecipient", _FEE_RECIPIENT),
                *("--graffiti", folder.name),
            ],
            **environment,
        )


class Asked(NamedTuple):
    """One signing request and what came back."""

    public_key: str
    body: dict[str, Any]
    status: int
    answer: str


class Witness:
    """Stands before the signer, passes everything on, and writes it down."""

    def __init__(self, signer: str) -> None:
        self.asked: list[Asked] = []
        witness, port = self, int(signer.rpartition(":")[2])

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None: ...

            def setup(self) -> None:
                super().setup()
                self.onward = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

            def finish(self) -> None:
                self.onward.close()
                super().finish()

            def do_GET(self) -> None:
                self.pass_on(None)

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                self.pass_on(self.rfile.read(size))

            def pass_on(self, body: bytes | None) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                headers["host"] = "localhost"
                self.onward.request(self.command, self.path, body, headers)
                response = self.onward.getresponse()
                answer = response.read()
                if body is not None:
                    key = self.path.rpartition("/")[2]
                    text = answer.decode()
                    witness.asked.append(
                        Asked(key, json.loads(body), response.status, text)
                    )
                self.send_response(response.status)
                kind = response.getheader("content-type", "")
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def signed(self, kind: str) -> list[Asked]:
        return [
            one for one in self.asked if one.status == 200 and one.body["type"] == kind
        ]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def interop_key(index: int) -> bytes:
    """The key that everybody knows (consensus-specs, interop)."""
    digest = hashlib.sha256(index.to_bytes(32, "little")).digest()
    return (int.from_bytes(digest, "little") % curve_order).to_bytes(32, "big")


def import_interop_keys(stack: RunningStack) -> list[str]:
    anchor: EmulatedRoot = stored_trust_anchor(stack.folder.emulator)
    names = []
    with SignerClient.from_data(stack.folder.path) as client:
        proof = verification.verify(
            client,
            now=dt.datetime.now(dt.UTC),
            anchors=[anchor],
            pcrs={0: bytes.fromhex(stack.ready.pcr0)},
        )
        for index in range(VALIDATORS):
            secret = interop_key(index)
            public = G2ProofOfPossession.SkToPk(int.from_bytes(secret, "big"))
            made = import_validator(client, proof, bytearray(secret), public)
            names.append(made.name)
    return names


class Setting(NamedTuple):
    """All that a test needs."""

    stack: RunningStack
    keys: list[str]
    folder: Path
    witness: Witness
    nodes: list[BeaconNode]
    clients: list[ValidatorClient]

    def audit(self) -> list[dict[str, Any]]:
        text = (self.stack.folder.parent / "audit.jsonl").read_text()
        # The last line may be half written yet.
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [event for event in map(json.loads, lines) if event.get("duty")]


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


@pytest.fixture
def start_client(setting: Setting) -> Callable[..., ValidatorClient]:
    """Starts a validator client that is stopped with the rest."""

    def start(
        name: str, node: BeaconNode, signer: str, **environment: str
    ) -> ValidatorClient:
        made = ValidatorClient(setting.folder / name, node, signer, **environment)
        setting.clients.append(made)
        return made

    return start


def start_nodes(folder: Path, started: list[Process]) -> list[BeaconNode]:
    """
    Return two nodes well before their genesis.

    One that is behind by an epoch waits for peers, which it will never have, and its
    clients wait with it: there must be time left for them to start, too.
    """
    for lead in _LEADS:
        genesis = int(time.time()) + lead
        nodes = [
            BeaconNode(folder / f"node-{name}-{lead}", genesis) for name in ("a", "b")
        ]
        started += nodes
        for node in nodes:
            until(lambda: node.get("/eth/v1/beacon/genesis"), "a node answers", 120)  # noqa: B023 - within this turn
        if genesis - time.time() > lead / 3:
            return nodes
        for node in nodes:
            node.kill()
    pytest.fail(f"this machine starts no node in {_LEADS[-1] * 2 // 3} s")


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """Two beacon nodes on one genesis that do not know each other, and our signer."""
    stack = RunningStack.start(
        tmp_path / "data",
        options=("--preset", "minimal", "--plain-http-loopback", "0"),
    )
    started: list[Process] = []
    clients: list[ValidatorClient] = []
    witness = Witness(stack.ready.plain_http)
    try:
        keys = import_interop_keys(stack)
        nodes = start_nodes(tmp_path, started)
        yield Setting(stack, keys, tmp_path, witness, nodes, clients)
    finally:
        for process in (*clients, *started):
            process.stop()
        witness.stop()
        stack.stop()
