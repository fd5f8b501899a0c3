"""Every key of the reference's table is found, and only those that may sign."""

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrosigner.untrusted.gateway.reference_tables import (
    LeftOut,
    ReferenceValidator,
    read_validators,
    reference_client,
    stacks,
)
from nitrosigner.verdicts import Undecided

TABLE = "ValidatorKeyTable"
STACK = "arn:aws:cloudformation:eu-west-1:111122223333:stack/v/f97f"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        resource = boto3.resource("dynamodb", region_name="eu-west-1")
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


def public_key(number: int) -> str:
    return f"{0x80 + number % 64:02x}" + f"{number:094x}"


def put(table: Any, pubkey: str, **changes: Any) -> None:
    """Write an item as the reference's load_validator_keys.py does."""
    ciphertext = base64.b64encode(b"kms:" + pubkey.encode()).decode()
    item = {
        "web3signer_uuid": STACK,
        "pubkey": pubkey,
        "chain": "holesky",
        "active": True,
        "datetime": "2025-08-15T10:00:00",
        "encrypted_key_password_mnemonic_b64": ciphertext,
        "deposit_json_b64": base64.b64encode(b"[{}]").decode(),
    }
    table.put_item(Item={k: v for k, v in (item | changes).items() if v is not None})


def read(chain: str = "holesky") -> tuple[list[ReferenceValidator], list[LeftOut]]:
    client = reference_client("eu-west-1")
    found = list(read_validators(client, TABLE, stack=STACK, chain=chain))
    return (
        [one for one in found if isinstance(one, ReferenceValidator)],
        [one for one in found if isinstance(one, LeftOut)],
    )


def test_a_key_is_found_with_its_ciphertext(table: Any) -> None:
    put(table, public_key(1))
    expected = bytes.fromhex(public_key(1))
    assert read() == (
        [ReferenceValidator(expected, b"kms:" + public_key(1).encode())],
        [],
    )


def test_every_key_of_a_table_of_many_pages_is_found(table: Any) -> None:
    # 600 items of 6 kB: with the reference's loader most of them would be missing.
    padding = base64.b64encode(bytes(4000)).decode()
    for number in range(600):
        prefix = "0x" if number % 3 == 0 else ""
        put(table, prefix + public_key(number), deposit_json_b64=padding)
    found, left_out = read()
    assert left_out == []
    assert {one.public_key for one in found} == {
        bytes.fromhex(public_key(number)) for number in range(600)
    }
    assert len(found) == 600


def test_pages_are_followed_within_each_range(table: Any) -> None:
    for number in range(60):
        put(table, public_key(64 * number))  # all in one range
    client = reference_client("eu-west-1")
    pages: list[int] = []

    class Small:
        def query(self, **arguments: Any) -> Any:
            answer = client.query(Limit=7, **arguments)
            pages.append(len(answer["Items"]))
            return answer

        def scan(self, **arguments: Any) -> Any:
            return client.scan(Limit=7, **arguments)

    found = list(read_validators(Small(), TABLE, stack=STACK, chain="holesky"))
    assert len(found) == 60
    assert max(pages) == 7
    assert stacks(Small(), TABLE) == {STACK: 60}


def test_the_chain_and_the_switch_are_honoured(table: Any) -> None:
    put(table, public_key(1))
    put(table, public_key(2), active=False)
    put(table, public_key(3), chain="mainnet")
    put(table, public_key(4), active=None)
    put(table, public_key(5), active="true")
    put(table, public_key(6), chain=None)
    put(table, public_key(7), chain="Holesky")
    found, left_out = read()
    assert {one.public_key for one in found} == {
        bytes.fromhex(public_key(number)) for number in (1, 7)
    }
    reasons = {one.public_key: one.reason for one in left_out}
    assert reasons == {
        public_key(2): "it is switched off",
        public_key(3): "it is for another chain than holesky",
        public_key(4): "`active` is not true",
        public_key(5): "`active` is not true",
        public_key(6): "it is for another chain than holesky",
    }


@pytest.mark.parametrize(
    "bad",
    [None, "", "no base64!", "Zg", 7, base64.b64encode(bytes(9000)).decode(), b"raw"],
)
def test_an_item_without_a_ciphertext_is_left_out_and_named(
    table: Any, bad: object
) -> None:
    put(table, public_key(1))
    put(table, public_key(2), encrypted_key_password_mnemonic_b64=bad)
    found, (left_out,) = read()
    assert len(found) == 1
    assert left_out.public_key == public_key(2)
    assert "encrypted_key_password_mnemonic_b64" in left_out.reason


@pytest.mark.parametrize(
    "name", ["a361", "0x", "zz" * 48, public_key(1) + "00", "~", "0xzz", "\u00e9"]
)
def test_an_item_whose_name_is_no_public_key_is_left_out(table: Any, name: str) -> None:
    put(table, public_key(1))
    put(table, name)
    found, left_out = read()
    assert len(found) == 1
    assert [one.public_key for one in left_out] == [name]


def test_one_key_written_in_two_ways_comes_once(table: Any) -> None:
    put(table, public_key(0xAB))
    put(table, "0x" + public_key(0xAB).upper())
    found, left_out = read()
    assert (len(found), len(left_out)) == (1, 1)
    assert "twice" in left_out[0].reason


def test_another_stacks_keys_are_not_read(table: Any) -> None:
    put(table, public_key(1))
    put(table, public_key(2), web3signer_uuid="another")
    put(table, public_key(3), web3signer_uuid="another")
    assert stacks(reference_client("eu-west-1"), TABLE) == {STACK: 1, "another": 2}
    found, left_out = read()
    assert [one.public_key for one in found] == [bytes.fromhex(public_key(1))]
    assert left_out == []


class Failing:
    """DynamoDB that fails after a while."""

    def __init__(self, error: Exception, good: int) -> None:
        self.error, self.good = error, good

    def query(self, **arguments: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            raise self.error
        return {"Items": []}

    scan = query


@pytest.mark.parametrize("good", [0, 5, 30])
@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDeniedException"}}, "Query"),
        ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "Query"),
        ClientError({"Error": {"Code": "ThrottlingException"}}, "Query"),
        EndpointConnectionError(endpoint_url="CANARY"),
    ],
)
def test_a_table_that_cannot_be_read_to_its_end_is_undecided(
    error: Exception, good: int
) -> None:
    client = Failing(error, good)
    with pytest.raises(Undecided) as caught:
        list(read_validators(client, TABLE, stack=STACK, chain="holesky"))
    assert "CANARY" not in str(caught.value) + caught.value.hint
    with pytest.raises(Undecided):
        stacks(client, TABLE)
