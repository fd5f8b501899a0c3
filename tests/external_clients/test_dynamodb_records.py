"""The record stores' contract, on a DynamoDB at the other end of a wire."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client
from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore
from nitrosigner.untrusted.parent.record_store import RecordStore

PARENT = Path(__file__).parents[1] / "untrusted/parent"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_contract", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


contract = module(PARENT / "test_record_stores.py")
tests = {name: one for name, one in vars(contract).items() if name.startswith("test_")}
assert len(tests) > 10
globals().update(tests, store=contract.store)


@pytest.fixture
def memory_store() -> Any:
    return module(PARENT / "conftest.py").MemoryStore()


@pytest.fixture
def open_store(
    dynamodb_tables: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[], RecordStore]]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    opened: list[DynamoDbStore] = []
    deployment = f"test-{abs(hash(request.node.name))}"

    def open_one() -> RecordStore:
        client = dynamodb_client("eu-west-1", dynamodb_tables, parallel=8)
        opened.append(DynamoDbStore(client, table="records", deployment=deployment))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()
