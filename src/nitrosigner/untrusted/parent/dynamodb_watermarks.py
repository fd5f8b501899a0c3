"""
Slashing watermarks in a DynamoDB table: one store for signers on several hosts.

Each item is written by a PutItem whose condition is the version it replaces. DynamoDB
serializes writes of one item, so of two signers that saw one version one is told no.
BatchWriteItem has no conditions and a transaction fails as a whole, so each change is a
call of its own, several at a time. Reads are strongly consistent. Listing scans the
table: it is for exports, and other deployments in the table are paid for as well.

A call that ends without an answer may have written. Then the whole request is
undecided, and the enclave reads again before it judges.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from botocore.exceptions import ClientError

from nitrosigner.untrusted.parent.dynamodb_client import (
    DynamoDb,
    Table,
    condition_failed,
    errors_named,
    pauses,
    some_bytes,
    unavailable,
    whole_number,
)
from nitrosigner.untrusted.parent.watermark_store import (
    check_advance,
    check_page,
    check_read,
)
from nitrosigner.verdicts import Verdict
from nitrosigner.wire import services
from nitrosigner.wire.services import StoredWatermark, WatermarkChange, WatermarkPage

PARTITION_KEY: Final = "validator"
"""The table's only key, a string: deployment + "#0x" + the public key as hex digits."""
PARALLEL: Final = 32
"""Calls at a time, over all requests."""
REQUESTS: Final = 8
"""Requests at a time; further ones wait."""
BATCH: Final = 100
"""Items in one BatchGetItem: the service's limit."""
_NOT_OURS: Final = b"\0"
"""Stands for bytes that somebody else put there. No enclave takes them for its own."""


class DynamoDbWatermarks:
    """A `WatermarkStore` in a table. Deployments may share one."""

    def __init__(
        self,
        client: DynamoDb,
        *,
        table: str,
        deployment: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Use *table*'s items of *deployment*.

        Args:
            client: Needs DescribeTable, BatchGetItem, Scan and PutItem on the table.
            table: Its name. Its partition key is `validator`, a string; no sort key.
            deployment: Letters, digits, dots, underscores and dashes.
            sleep: How to wait.
        """
        self._client = client
        self._table = Table(client, table, (PARTITION_KEY,))
        self._deployment = deployment
        self._sleep = sleep
        self._requests = ThreadPoolExecutor(REQUESTS, "watermarks")
        self._calls = ThreadPoolExecutor(PARALLEL, "watermark-calls")

    def read(self, public_keys: Sequence[bytes]) -> Future[list[StoredWatermark]]:
        """Return the items of these validators; absent ones are left out."""
        answer: Future[list[StoredWatermark]] = Future()
        try:
            check_read(public_keys)
            return self._requests.submit(self._read, list(public_keys))
        except Verdict as verdict:
            answer.set_exception(verdict)
        except RuntimeError:
            answer.set_exception(unavailable("is not asked any more: we are closing"))
        return answer

    def page(self, after: bytes | None, limit: int) -> Future[WatermarkPage]:
        """Return up to *limit* items after that of *after*, in the table's order."""
        answer: Future[WatermarkPage] = Future()
        try:
            check_page(after, limit)
            return self._requests.submit(self._page, after, limit)
        except Verdict as verdict:
            answer.set_exception(verdict)
        except RuntimeError:
            answer.set_exception(unavailable("is not asked any more: we are closing"))
        return answer

    def advance(self, changes: Sequence[WatermarkChange]) -> Future[list[bool]]:
        """Write each change whose version is the stored one; say for each if it was."""
        answer: Future[list[bool]] = Future()
        try:
            check_advance(changes)
            return self._requests.submit(self._advance, list(changes))
        except Verdict as verdict:
            answer.set_exception(verdict)
        except RuntimeError:
            answer.set_exception(unavailable("is not asked any more: we are closing"))
        return answer

    def close(self) -> None:
        """Finish what has begun, and let go of threads and connections."""
        self._requests.shutdown(cancel_futures=True)
        self._calls.shutdown()
        self._client.close()

    def _read(self, public_keys: list[bytes]) -> list[StoredWatermark]:
        self._table.check()
        batches = [
            public_keys[i : i + BATCH] for i in range(0, len(public_keys), BATCH)
        ]
        return [
            item for found in self._calls.map(self._batch, batches) for item in found
        ]

    def _batch(self, public_keys: list[bytes]) -> list[StoredWatermark]:
        names = {self._name(key): key for key in public_keys}
        wanted: list[Any] = [self._key(key) for key in public_keys]
        found: list[StoredWatermark] = []
        with errors_named():
            for pause in pauses():
                answer = self._client.batch_get_item(
                    RequestItems={
                        self._table.name: {"Keys": wanted, "ConsistentRead": True}
                    }
                )
                for item in answer["Responses"].get(self._table.name, ()):
                    key = names.pop(item[PARTITION_KEY]["S"])
                    found.append(_watermark(key, item))
                # A batch is cut at 16 MB, or anywhere when the table is throttled.
                rest = answer.get("UnprocessedKeys") or {}
                if self._table.name not in rest:
                    return found
                wanted = rest[self._table.name]["Keys"]
                self._sleep(pause)
        raise unavailable("has no capacity left for the table")

    def _page(self, after: bytes | None, limit: int) -> WatermarkPage:
        self._table.check()
        found: list[StoredWatermark] = []
        # From any key on, in the order of the keys' hashes, which stays.
        start: dict[str, Any] = (
            {} if after is None else {"ExclusiveStartKey": self._key(after)}
        )
        while True:
            with errors_named():
                answer = self._client.scan(
                    TableName=self._table.name,
                    ConsistentRead=True,
                    Limit=limit,
                    FilterExpression="begins_with(#key, :ours)",
                    ExpressionAttributeNames={"#key": PARTITION_KEY},
                    ExpressionAttributeValues={
                        ":ours": {"S": f"{self._deployment}#0x"}
                    },
                    **start,
                )
            for item in answer["Items"]:
                key = self._public_key(item[PARTITION_KEY]["S"])
                if key is not None:
                    found.append(_watermark(key, item))
            last = answer.get("LastEvaluatedKey")
            if len(found) > limit or (len(found) == limit and last):
                return WatermarkPage(found[:limit], more=True)
            if not last:
                return WatermarkPage(found, more=False)
            start = {"ExclusiveStartKey": last}

    def _advance(self, changes: list[WatermarkChange]) -> list[bool]:
        self._table.check()
        return list(self._calls.map(self._put, changes))

    def _put(self, change: WatermarkChange) -> bool:
        condition: dict[str, object] = (
            {
                "ConditionExpression": "#version = :expected",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": {":expected": {"N": str(change.expected)}},
            }
            if change.expected
            else {
                "ConditionExpression": "attribute_not_exists(#key)",
                "ExpressionAttributeNames": {"#key": PARTITION_KEY},
            }
        )
        with errors_named():
            try:
                self._client.put_item(
                    TableName=self._table.name,
                    Item={
                        **self._key(change.public_key),
                        "version": {"N": str(change.expected + 1)},
                        "data": {"B": change.data},
                    },
                    **condition,
                )
            except ClientError as error:
                if condition_failed(error):
                    # Also when the SDK repeated a call that had written: the enclave
                    # then finds its own watermark when it reads.
                    return False
                raise
        return True

    def _key(self, public_key: bytes) -> dict[str, dict[str, str]]:
        return {PARTITION_KEY: {"S": self._name(public_key)}}

    def _public_key(self, name: str) -> bytes | None:
        """Return whose item is called *name*; None: nobody's, somebody put it there."""
        try:
            public_key = bytes.fromhex(name.removeprefix(f"{self._deployment}#0x"))
        except ValueError:
            return None
        ours = len(public_key) == services.PUBLIC_KEY_SIZE
        return public_key if ours and self._name(public_key) == name else None

    def _name(self, public_key: bytes) -> str:
        return f"{self._deployment}#0x{public_key.hex()}"


def _watermark(public_key: bytes, item: dict[str, Any]) -> StoredWatermark:
    version, data = whole_number(item, "version"), some_bytes(item, "data")
    if (
        version is None
        or not 1 <= version <= services.MAX_VERSION
        or data is None
        or len(data) > services.MAX_WATERMARK
    ):
        # Somebody edited it. Only this validator is to suffer, so it is handed on.
        return StoredWatermark(public_key, 1, _NOT_OURS)
    return StoredWatermark(public_key, version, data)
