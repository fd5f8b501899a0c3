"""
Sealed records in a DynamoDB table, one item for each.

The partition is the deployment and the sort key is collection + "#" + name, so a
collection's records lie in the order of their names' bytes and a page is one query.
Every write is conditional on the version that it replaces, and every read is strongly
consistent, pages included. Deployments may share a table.
"""

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from nitrosigner.untrusted.parent.dynamodb_client import (
    DynamoDb,
    Table,
    condition_failed,
    errors_named,
    some_bytes,
    unavailable,
    whole_number,
)
from nitrosigner.untrusted.parent.record_store import (
    HEADROOM,
    check_expected,
    check_page,
    check_read,
    check_write,
    cut_page,
)
from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire import services
from nitrosigner.wire.services import Conflict, Page, Stored, StoredRecord

PARTITION_KEY: Final = "deployment"
SORT_KEY: Final = "record"
"""The table's keys, both strings."""
PARALLEL: Final = 8
_CHANGED_MEANWHILE: Final = 4
"""How often a write is tried whose condition failed although it holds again."""
_AFTER_NAME: Final = "!"
"""Sorts before every character of a name: name + this comes right after name."""
_AFTER_COLLECTION: Final = "$"
"""Comes right after "#"."""


class DynamoDbStore:
    """A `RecordStore` in a table."""

    threads = PARALLEL

    def __init__(self, client: DynamoDb, *, table: str, deployment: str) -> None:
        """
        Use *table*'s items of *deployment*.

        Args:
            client: Needs DescribeTable, GetItem, Query, PutItem and DeleteItem.
            table: Its name. Its keys are `deployment` and `record`, both strings.
            deployment: Letters, digits, dots, underscores and dashes.
        """
        self._client = client
        self._table = Table(client, table, (PARTITION_KEY, SORT_KEY))
        self._deployment = deployment

    def get(self, collection: str, name: str) -> StoredRecord | None:
        """Return a record, or None."""
        check_read(collection, name)
        self._table.check()
        return self._get(collection, name)

    def page(self, collection: str, after: str, limit: int) -> Page:
        """Return a page in name order."""
        check_page(collection, after, limit)
        self._table.check()
        first = f"{collection}#{after}{_AFTER_NAME}" if after else f"{collection}#"
        records: list[StoredRecord] = []
        size = 0
        start: dict[str, object] = {}
        with errors_named():
            while len(records) <= limit and size <= services.MAX_PAGE_BYTES:
                answer = self._client.query(
                    TableName=self._table.name,
                    ConsistentRead=True,
                    Limit=limit + HEADROOM - len(records),
                    KeyConditionExpression="#p = :p AND #s BETWEEN :first AND :end",
                    ExpressionAttributeNames={"#p": PARTITION_KEY, "#s": SORT_KEY},
                    ExpressionAttributeValues={
                        ":p": {"S": self._deployment},
                        ":first": {"S": first},
                        ":end": {"S": collection + _AFTER_COLLECTION},
                    },
                    **start,
                )
                for item in answer["Items"]:
                    name = item[SORT_KEY]["S"].removeprefix(f"{collection}#")
                    records.append(self._record(collection, name, item))
                    size += len(records[-1].data)
                # A query ends after a megabyte, whatever its limit.
                if "LastEvaluatedKey" not in answer:
                    break
                start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return cut_page(records, limit)

    def put(
        self, collection: str, name: str, expected: int, data: bytes
    ) -> Stored | Conflict:
        """Write a record if its version is the expected one."""
        check_write(collection, name, expected, data)
        self._table.check()
        item = {
            **self._key(collection, name),
            "version": {"N": str(expected + 1)},
            "data": {"B": data},
        }
        for _ in range(_CHANGED_MEANWHILE):
            if self._written("put_item", {"Item": item}, expected):
                return Stored(version=expected + 1)
            held = self._get(collection, name)
            version = held.version if held else 0
            if held and (version, held.data) == (expected + 1, data):
                return Stored(version=version)
            if version != expected:
                return Conflict(version=version)
        raise unavailable("shows a record that others keep changing")

    def remove(self, collection: str, name: str, expected: int) -> Stored | Conflict:
        """Remove a record if its version is the expected one."""
        check_read(collection, name)
        check_expected(expected)
        self._table.check()
        key: dict[str, object] = {"Key": self._key(collection, name)}
        for _ in range(_CHANGED_MEANWHILE):
            if expected and self._written("delete_item", key, expected):
                return Stored(version=0)
            held = self._get(collection, name)
            version = held.version if held else 0
            if expected == version == 0:
                return Stored(version=0)
            if version != expected:
                return Conflict(version=version)
        raise unavailable("shows a record that others keep changing")

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def _get(self, collection: str, name: str) -> StoredRecord | None:
        with errors_named():
            item = self._client.get_item(
                TableName=self._table.name,
                Key=self._key(collection, name),
                ConsistentRead=True,
            ).get("Item")
            return self._record(collection, name, item) if item else None

    def _written(
        self, operation: str, arguments: dict[str, object], expected: int
    ) -> bool:
        condition: dict[str, object] = (
            {
                "ConditionExpression": "#version = :expected",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": {":expected": {"N": str(expected)}},
            }
            if expected
            else {
                "ConditionExpression": "attribute_not_exists(#key)",
                "ExpressionAttributeNames": {"#key": SORT_KEY},
            }
        )
        call = (
            self._client.put_item
            if operation == "put_item"
            else self._client.delete_item
        )
        with errors_named():
            try:
                call(TableName=self._table.name, **arguments, **condition)
            except ClientError as error:
                if condition_failed(error):
                    return False
                raise
        return True

    def _key(self, collection: str, name: str) -> dict[str, object]:
        return {
            PARTITION_KEY: {"S": self._deployment},
            SORT_KEY: {"S": f"{collection}#{name}"},
        }

    def _record(
        self, collection: str, name: str, item: Mapping[str, Any]
    ) -> StoredRecord:
        version, data = whole_number(item, "version"), some_bytes(item, "data")
        if (
            version is None
            or not 1 <= version <= services.MAX_VERSION
            or data is None
            or len(data) > services.MAX_RECORD
        ):
            raise Refused(
                Code.RECORD_UNTRUSTED,
                f"the item {collection}#{name} of the DynamoDB table {self._table.name}"
                " was not written by nitrosigner, or edited since",
                "restore it from a backup, or give the store a table of its own",
            )
        return StoredRecord(name=name, version=version, data=data)
