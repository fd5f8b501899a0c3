"""A configuration is whole and valid, or it is refused with what to mend."""

import json
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.untrusted.parent import configuration
from nitrosigner.untrusted.parent.configuration import (
    DynamoDb,
    KernelMode,
    SecretsManager,
    Sqlite,
    SqliteWatermarks,
    UnixMode,
)
from nitrosigner.untrusted.parent.egress_proxy import Destination
from nitrosigner.verdicts import Malformed


def told(**changes: Any) -> bytes:
    return json.dumps(
        {
            "listen": {"address": "127.0.0.1", "port": 0},
            "vsock": {"kind": "unix", "run": "/run/n"},
            "region": "eu-west-1",
            "store": {"kind": "sqlite", "path": "/data/store.db"},
            "audit": {"path": "/data/audit.jsonl"},
            "state": "/data/state.json",
        }
        | changes
    ).encode()


def test_the_smallest_configuration_has_safe_defaults() -> None:
    read = configuration.parse(told())
    assert read.vsock == UnixMode(run="/run/n", enclave_cid=16)
    assert read.store == Sqlite(path="/data/store.db")
    assert read.imds_endpoint == "http://169.254.169.254/"
    assert Destination("kms.eu-west-1.amazonaws.com", 443) in read.allowed()
    assert len(read.allowed()) == 2
    assert read.pins() == {}
    assert read.watermarks is None


def test_watermarks_lie_in_a_store_of_their_own() -> None:
    read = configuration.parse(
        told(watermarks={"kind": "sqlite", "path": "/data/watermarks.db"})
    )
    assert read.watermarks == SqliteWatermarks(path="/data/watermarks.db")


def test_records_and_watermarks_may_lie_in_dynamodb() -> None:
    records = {"kind": "dynamodb", "table": "records", "deployment": "prod"}
    read = configuration.parse(
        told(
            store=records,
            watermarks=records | {"table": "marks", "endpoint": "http://127.0.0.1:1"},
        )
    )
    assert read.store == DynamoDb(table="records", deployment="prod")
    assert read.watermarks == DynamoDb(
        table="marks", deployment="prod", endpoint="http://127.0.0.1:1"
    )
    with pytest.raises(Malformed, match="one file or table"):
        configuration.parse(told(store=records, watermarks=records))


def test_a_real_vsock_and_secrets_manager() -> None:
    read = configuration.parse(
        told(
            vsock={"kind": "vsock", "enclave_cid": 20},
            store={"kind": "secrets_manager", "prefix": "nitro/prod/"},
        )
    )
    assert read.vsock == KernelMode(enclave_cid=20)
    assert read.store == SecretsManager(prefix="nitro/prod/")


def test_a_host_may_be_pinned_and_added() -> None:
    kms = "kms.eu-west-1.amazonaws.com:443"
    read = configuration.parse(
        told(
            egress={
                "also_allowed": ["Sts.eu-west-1.amazonaws.com:443"],
                "pins": {kms: "127.0.0.1:4711"},
            }
        )
    )
    assert Destination("sts.eu-west-1.amazonaws.com", 443) in read.allowed()
    assert read.pins() == {Destination.parse(kms): Destination("127.0.0.1", 4711)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"listen": {"port": 70_000}}, "listen.port"),
        ({"listen": {"port": "443"}}, "listen.port"),
        ({"vsock": {"kind": "pipe"}}, "vsock"),
        ({"vsock": {"kind": "vsock", "enclave_cid": 3}}, "enclave_cid"),
        ({"vsock": {"kind": "unix"}}, "run"),
        ({"region": "eu-west"}, "region"),
        ({"region": "x.evil.example#-1"}, "region"),
        ({"store": {"kind": "sqlite"}}, "path"),
        ({"store": {"kind": "secrets_manager", "prefix": "no-slash"}}, "prefix"),
        ({"store": {"kind": "secrets_manager", "prefix": "a/", "recovery_days": 1}}, "recovery"),
        ({"watermarks": {"kind": "sqlite"}}, "path"),
        ({"store": {"kind": "dynamodb", "table": "t" * 3}}, "deployment"),
        ({"store": {"kind": "dynamodb", "table": "t", "deployment": "d"}}, "table"),
        ({"store": {"kind": "dynamodb", "table": "ttt", "deployment": "a#b"}}, "deployment"),
        ({"watermarks": {"kind": "secrets_manager", "prefix": "a/"}}, "watermarks"),
        ({"watermarks": {"kind": "sqlite", "path": "/data/store.db"}}, "watermarks"),
        ({"unknown": 1}, "unknown"),
        ({"audit": {"path": ""}}, "audit.path"),
        ({"egress": {"pins": {"evil.example:443": "127.0.0.1:1"}}}, "evil.example:443"),
        ({"egress": {"pins": {"kms.eu-west-1.amazonaws.com:443": "nowhere"}}}, "host:port"),
        ({"egress": {"also_allowed": ["evil.example"]}}, "host:port"),
        ({"limits": {"relay": {"max_connections": 0}}}, "max_connections"),
        ({"limits": {"services": {"request_seconds": -1.0}}}, "request_seconds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: Any, named: str) -> None:
    with pytest.raises(Malformed, match=named):
        configuration.parse(told(**changes))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 60_000])
def test_what_is_no_configuration_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        configuration.parse(data)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (configuration.MAX_CONFIGURATION + 1))
    with pytest.raises(Malformed, match="at most"):
        configuration.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"nothing\.json"):
        configuration.read(tmp_path / "nothing.json")
