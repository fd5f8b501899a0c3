"""
An EVM node that takes a signed transaction for real, where one is installed.

It is Foundry's anvil from the npm registry: a local chain with id 31337 on which
anybody's balance can be set.
"""

import contextlib
import itertools
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final

from nitrosigner.emulator.demo_steps import Skipped, StepFailed
from nitrosigner.emulator.local_stack import free_port
from nitrosigner.emulator.running_stack import wait_until
from nitrosigner.emulator.supervisor import tethered

CHAIN_ID: Final = 31337
_ANVIL: Final = Path("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
_CHECKOUT: Final = Path(__file__).resolve().parents[3]
_HOW: Final = "to see it broadcast: npm install @foundry-rs/anvil, and run this again"


def find_anvil() -> Path:
    """
    Return an installed anvil: of this folder, of the checkout, or on the path.

    Raises:
        Skipped: There is none.
    """
    places = (Path.cwd(), _CHECKOUT, _CHECKOUT / "tests/external_clients")
    for place in places:
        if (place / _ANVIL).is_file():
            return place / _ANVIL
    found = shutil.which("anvil")
    if found is None:
        raise Skipped(f"no EVM node is installed; {_HOW}")
    return Path(found)


@final
class Node:
    """A JSON-RPC client of one node."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self._ids = itertools.count(1)

    def __call__(self, method: str, *parameters: Any) -> Any:  # noqa: ANN401  # JSON
        """
        Call *method*.

        Raises:
            StepFailed: The node refused.
            OSError: It did not answer.
        """
        call = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        request = urllib.request.Request(  # noqa: S310  # our own node's address
            self.url,
            json.dumps({**call, "params": parameters}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body = json.load(answer)
        if "error" in body:
            raise StepFailed(f"the node refused {method}: {body['error']['message']}")
        return body["result"]

    def receipt(self, sent: str) -> dict[str, Any]:
        """Wait until the transaction with this hash is mined; return its receipt."""
        ask = "eth_getTransactionReceipt"
        wait_until(lambda: self(ask, sent) is not None, "the EVM node mines it")
        found: dict[str, Any] = self(ask, sent)
        return found


@contextlib.contextmanager
def running_node(anvil: Path) -> Iterator[Node]:
    """Run a node for as long as the block lasts."""
    port = free_port()
    command = (str(anvil), "--host", "127.0.0.1", "--port", str(port), "--silent")
    with subprocess.Popen(
        tethered(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            node = Node(f"http://127.0.0.1:{port}")
            wait_until(lambda: _answers(node), "the EVM node answers")
            yield node
        finally:
            process.kill()


def _answers(node: Node) -> bool:
    try:
        return bool(node("eth_chainId") == hex(CHAIN_ID))
    except OSError:
        return False
