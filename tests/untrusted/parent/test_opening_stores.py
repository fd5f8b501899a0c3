"""Which store opens is what the configuration says, and nothing is asked on the way."""

import json
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent import configuration
from nitrosigner.untrusted.parent.dynamodb_store import DynamoDbStore
from nitrosigner.untrusted.parent.dynamodb_watermarks import DynamoDbWatermarks
from nitrosigner.untrusted.parent.parent import open_store, open_watermarks
from nitrosigner.untrusted.parent.secrets_manager_store import SecretsManagerStore
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks

NOBODY = "http://127.0.0.1:1"
TABLE = {"kind": "dynamodb", "table": "ttt", "deployment": "d", "endpoint": NOBODY}


def read(folder: Path, **changes: Any) -> configuration.Configuration:
    whole = {
        "vsock": {"kind": "unix", "run": str(folder)},
        "region": "eu-west-1",
        "store": {"kind": "sqlite", "path": str(folder / "store.db")},
        "audit": {"path": str(folder / "audit.jsonl")},
        "state": str(folder / "state.json"),
    }
    return configuration.parse(json.dumps(whole | changes).encode())


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, SqliteStore),
        (
            {"store": {"kind": "secrets_manager", "prefix": "a/", "endpoint": NOBODY}},
            SecretsManagerStore,
        ),
        ({"store": TABLE}, DynamoDbStore),
    ],
)
def test_records_open_where_the_configuration_says(
    tmp_path: Path, log: Any, changes: Any, kind: type
) -> None:
    store = open_store(read(tmp_path, **changes), log)
    assert type(store) is kind
    store.close()


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"kind": "sqlite", "path": "watermarks.db"}, SqliteWatermarks),
        (TABLE, DynamoDbWatermarks),
    ],
)
def test_watermarks_open_where_the_configuration_says(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch, told: Any, kind: type
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_watermarks(read(tmp_path, watermarks=told), log)
    assert store is not None
    assert type(store) is kind
    store.close()


def test_no_watermarks_open_where_none_are_named(tmp_path: Path, log: Any) -> None:
    assert open_watermarks(read(tmp_path), log) is None


def test_a_watermark_file_that_others_could_read_is_told(
    tmp_path: Path, log: Any
) -> None:
    path = tmp_path / "watermarks.db"
    SqliteWatermarks(path).close()
    path.chmod(0o644)
    told = {"kind": "sqlite", "path": str(path)}
    store = open_watermarks(read(tmp_path, watermarks=told), log)
    assert store is not None
    store.close()
    assert log.events == ["store_permissions_mended"]
