"""Validators out of the AWS reference's table: which go in, and what is said of others."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

TABLE = "ValidatorKeyTable"
STACK = "arn:aws:cloudformation:eu-west-1:111122223333:stack/v/f97f"
REGION = "eu-west-1"
MAINNET = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"


@pytest.fixture
def state(signer: Any) -> Any:
    return signer.validators


@pytest.fixture
def fake(fakes: Any) -> Any:
    return fakes.validators


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    with mock_aws():
        resource = boto3.resource("dynamodb", region_name=REGION)
        yield resource.create_table(
            TableName=TABLE,
            KeySchema=[
                {"AttributeName": "web3signer_uuid", "KeyType": "HASH"},
                {"AttributeName": "pubkey", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "S"}
                for name in ("web3signer_uuid", "pubkey")
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        resource.meta.client.close()


Put = Callable[..., str]


@pytest.fixture
def put(table: Any, fake: Any) -> Put:
    """Write an item as the reference's load_validator_keys.py does; return its key."""

    def write(number: int, ciphertext: bytes | None = None, **changes: Any) -> str:
        secret = fake.secret_of(number)
        name: str = fake.public_key(secret)
        blob = b"kms:" + secret if ciphertext is None else ciphertext
        item = {
            "web3signer_uuid": STACK,
            # Without 0x, as the reference writes it.
            "pubkey": name[2:],
            "chain": "holesky",
            "active": True,
            "datetime": "2025-08-15T10:00:00",
            "encrypted_key_password_mnemonic_b64": base64.b64encode(blob).decode(),
            "deposit_json_b64": base64.b64encode(b"[{}]").decode(),
        }
        table.put_item(Item=item | changes)
        return name

    return write


@pytest.fixture
def run(cli: Any, data: Path, table: Any) -> Callable[..., Any]:
    def go(*more: Any, chain: str = "holesky", region: str | None = REGION) -> Any:
        where = () if region is None else ("--region", region)
        return cli(
            "validators", "import-reference", "--table", TABLE, "--stack", STACK,
            "--chain", chain, *where, "--data", data, *more,
        )  # fmt: skip

    return go


@pytest.fixture(autouse=True)
def holesky(state: Any) -> None:
    """The fake signs for the chain that the table's items are for."""
    state.chain = "0x9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1"


def test_what_may_sign_goes_in_and_what_may_not_is_named(
    run: Any, put: Put, state: Any, fake: Any
) -> None:
    names = sorted(put(number) for number in range(12))
    off = put(20, active=False)
    elsewhere = put(21, chain="mainnet")
    put(22, web3signer_uuid="another stack")
    ran = run("--json")
    assert ran.code == 0
    assert ran.json["imported"] == names
    assert sorted(state.secrets) == names
    assert state.secrets[names[0]] in [fake.secret_of(number) for number in range(12)]
    reasons = {one["public_key"]: one["reason"] for one in ran.json["left_out"]}
    assert reasons == {
        off[2:]: "it is switched off",
        elsewhere[2:]: "it is for another chain than holesky",
    }
    assert f"left out: {off[2:]}: it is switched off" in ran.err
    assert "12 of 12 validators come without a slashing history" in ran.err


def test_what_is_here_already_stays_as_it_is(run: Any, put: Put, state: Any) -> None:
    names = [put(number) for number in range(3)]
    assert run().code == 0
    state.keys[names[0]]["state"] = "disabled"
    ran = run("--json")
    assert (ran.code, ran.json["imported"]) == (0, [])
    assert ran.json["already_here"] == sorted(names)
    assert state.keys[names[0]]["state"] == "disabled"


def test_a_history_travels_with_its_key(
    run: Any, put: Put, state: Any, tmp_path: Path
) -> None:
    name, other = put(1), put(2)
    file = history_file(tmp_path, state, name)
    ran = run("--slashing-history", file, "--json")
    assert (ran.code, ran.json["histories"]) == (0, 1)
    assert state.reached == {name: [9, 2, 3], other: [-1, -1, -1]}
    assert "1 of 2 validators come without a slashing history" in ran.err


def test_a_history_that_comes_after_its_key_is_not_lost(
    run: Any, put: Put, state: Any, tmp_path: Path
) -> None:
    here = put(1)
    assert run().code == 0
    new, stranger = put(2), "0x" + "ab" * 48
    file = history_file(tmp_path, state, here, new, stranger)
    ran = run("--slashing-history", file, "--json")
    assert (ran.code, ran.json["already_here"]) == (0, [here])
    assert state.reached == {here: [9, 2, 3], new: [9, 2, 3]}
    assert ran.json["histories"] == 2
    assert "1 other" in ran.err


def history_file(folder: Path, state: Any, *names: str) -> Path:
    """Write a history of validators that have all come as far."""
    metadata = {
        "interchange_format_version": "5",
        "genesis_validators_root": state.chain,
    }
    entries = [
        {
            "pubkey": name,
            "signed_blocks": [{"slot": "9"}],
            "signed_attestations": [{"source_epoch": "2", "target_epoch": "3"}],
        }
        for name in names
    ]
    file = folder / "history.json"
    file.write_text(json.dumps({"metadata": metadata, "data": entries}))
    return file


def test_an_item_that_is_not_what_it_says_is_named_and_the_others_go_in(
    run: Any, put: Put, fake: Any
) -> None:
    good = [put(number) for number in range(3)]
    wrong = put(5, b"kms:" + fake.secret_of(6))
    ran = run("--json")
    assert ran.code == 3
    assert ran.json["imported"] == sorted(good)
    (failed,) = ran.json["failed"]
    assert (failed["public_key"], failed["code"]) == (wrong, "key_mismatch")
    assert f"failed: {wrong}: " in ran.err


def test_a_kms_key_that_does_not_admit_the_enclave_is_told_once(
    run: Any, put: Put, signer: Any
) -> None:
    for number in range(30):
        put(number, b"another key's ciphertext")
    ran = run("--json")
    assert ran.code == 3
    assert ran.json["error"]["code"] == "kms_refused"
    assert "reference_kms_key_arn" in ran.json["error"]["hint"]
    # Nobody waits for thousands of refusals.
    asked = [seen for seen in signer.seen if seen.path.endswith("import-reference")]
    assert len(asked) < 30


def test_an_import_that_was_stopped_goes_on(run: Any, put: Put, state: Any) -> None:
    for number in range(12):
        put(number)
    state.fail_after = 2
    ran = run()
    assert ran.code == 4
    assert "of 12 keys are in for certain; the same command again goes on" in ran.err
    state.fail_after = None
    ran = run("--json")
    assert ran.code == 0
    assert len(ran.json["already_here"]) == 2
    assert len(state.secrets) == 12


def test_another_chain_than_the_signers_is_refused_before_anything_is_sent(
    run: Any, put: Put, state: Any
) -> None:
    put(1, chain="mainnet")
    ran = run("--json", chain="mainnet")
    assert (ran.code, ran.json["error"]["code"]) == (3, "wrong_chain")
    assert state.secrets == {}
    state.chain = MAINNET
    assert run(chain="mainnet").code == 0


def test_who_may_not_see_histories_may_import_all_the_same(
    run: Any, put: Put, state: Any, tmp_path: Path
) -> None:
    name = put(1)
    state.denied = {"slashing-history"}
    assert run("--json").json["imported"] == [name]
    file = tmp_path / "history.json"
    file.write_text("{}")
    ran = run("--slashing-history", file, "--json")
    assert ran.json["error"]["code"] == "not_allowed"


def test_a_stack_without_keys_is_a_typing_error(run: Any, put: Put) -> None:
    put(1, web3signer_uuid="the right one")
    ran = run("--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    assert "the right one (1)" in ran.json["error"]["hint"]


def test_the_table_must_be_found(run: Any, cli: Any, data: Path) -> None:
    ran = run("--json", region=None)
    assert (ran.code, ran.json["error"]["message"]) == (2, "no AWS region is named")
    ran = run("--endpoint", "not a url", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    ran = cli(
        "validators", "import-reference", "--table", "other", "--stack", STACK,
        "--chain", "holesky", "--region", REGION, "--data", data, "--json",
    )  # fmt: skip
    assert (ran.code, ran.json["error"]["code"]) == (4, "storage_unavailable")
    assert "no such DynamoDB table" in ran.json["error"]["message"]
