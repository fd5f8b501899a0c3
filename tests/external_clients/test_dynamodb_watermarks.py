"""The watermark stores' contract, on a DynamoDB at the other end of a wire."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client
from nitrosigner.untrusted.parent.dynamodb_watermarks import DynamoDbWatermarks
from nitrosigner.untrusted.parent.watermark_store import WatermarkStore

CONTRACT = Path(__file__).parents[1] / "untrusted/parent/test_watermark_stores.py"
spec = importlib.util.spec_from_file_location("watermark_contract", CONTRACT)
assert spec is not None
assert spec.loader is not None
contract = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contract)
tests = {name: one for name, one in vars(contract).items() if name.startswith("test_")}
assert len(tests) > 10
globals().update(tests, store=contract.store)

RACER = """
import random, sys
from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client
from nitrosigner.untrusted.parent.dynamodb_watermarks import DynamoDbWatermarks
from nitrosigner.wire.services import WatermarkChange
endpoint, me = sys.argv[1:]
choose = random.Random(me)
client = dynamodb_client("eu-west-1", endpoint, parallel=8)
store = DynamoDbWatermarks(client, table="watermarks", deployment="race")
keys = [bytes([n]) * 48 for n in range(4)]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(30):
    some = choose.sample(keys, 3)
    seen = {item.public_key: item.version for item in store.read(some).result(60)}
    changes = [WatermarkChange(k, seen.get(k, 0), f"{me} {turn}".encode()) for k in some]
    for change, done in zip(changes, store.advance(changes).result(60)):
        if done:
            print(change.public_key[0], change.expected, me, turn)
store.close()
"""


@pytest.fixture
def open_store(
    dynamodb_tables: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[], WatermarkStore]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    opened: list[DynamoDbWatermarks] = []
    # A deployment of its own for each test: nothing is ever removed.
    deployment = f"test-{abs(hash(request.node.name))}"

    def open_one() -> WatermarkStore:
        client = dynamodb_client("eu-west-1", dynamodb_tables, parallel=8)
        opened.append(
            DynamoDbWatermarks(client, table="watermarks", deployment=deployment)
        )
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def test_of_several_processes_one_wins_each_version(
    dynamodb_tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, dynamodb_tables, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=100)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 3
    assert all(outputs)
    wins = [line.split() for output in outputs for line in output.splitlines()]
    taken = {(int(key), int(expected)): (me, turn) for key, expected, me, turn in wins}
    assert len(taken) == len(wins)  # no version was won twice
    client = dynamodb_client("eu-west-1", dynamodb_tables, parallel=8)
    store = DynamoDbWatermarks(client, table="watermarks", deployment="race")
    for item in store.read([bytes([n]) * 48 for n in range(4)]).result(30):
        number = item.public_key[0]
        mine = sorted(expected for key, expected in taken if key == number)
        assert mine == list(range(item.version))
        assert item.data == " ".join(taken[number, item.version - 1]).encode()
    store.close()
