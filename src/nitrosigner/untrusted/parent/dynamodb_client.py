"""
DynamoDB as our stores use it: retries with jitter, errors as verdicts, tables checked.

A call that got no answer may have been carried out. A call that is made again, by us or
by the SDK, is conditional, so it can find its own first attempt; it never writes twice.
"""

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.verdicts import Code, Refused, Undecided

ATTEMPTS: Final = 3
"""Of one call that is throttled or gets no answer, farther and farther apart."""
CONNECT_SECONDS: Final = 1.0
READ_SECONDS: Final = 1.0
"""Per attempt. The enclave waits four seconds for a watermark, then gives up."""
FIRST_PAUSE: Final = 0.025
LONGEST_PAUSE: Final = 0.4
"""Seconds, before what a batch left over is asked for again."""


class DynamoDb(Protocol):
    """The calls that we make. boto3's own types for them are no package we install."""

    def get_item(self, **arguments: object) -> dict[str, Any]:
        """Read one item."""
        ...

    def put_item(self, **arguments: object) -> dict[str, Any]:
        """Write one item."""
        ...

    def delete_item(self, **arguments: object) -> dict[str, Any]:
        """Remove one item."""
        ...

    def query(self, **arguments: object) -> dict[str, Any]:
        """Read items of one partition in order, up to a megabyte."""
        ...

    def batch_get_item(self, **arguments: object) -> dict[str, Any]:
        """Read up to a hundred items."""
        ...

    def scan(self, **arguments: object) -> dict[str, Any]:
        """Read items of all partitions, up to a megabyte."""
        ...

    def describe_table(self, **arguments: object) -> dict[str, Any]:
        """Tell a table's keys and replicas."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def dynamodb_client(
    region: str,
    endpoint: str | None = None,
    *,
    parallel: int,
    attempts: int = ATTEMPTS,
) -> DynamoDb:
    """Return a client whose throttled calls are repeated, with jitter."""
    client = boto3.client(
        "dynamodb",
        region_name=region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=parallel,
            tcp_keepalive=True,
            user_agent_extra="nitrosigner-parent",
        ),
    )
    return cast("DynamoDb", client)


class Table:
    """One table, looked at before its first use."""

    def __init__(self, client: DynamoDb, name: str, keys: tuple[str, ...]) -> None:
        """Use the table called *name*, with *keys*: all strings, partition first."""
        self.name = name
        self._client = client
        self._keys = keys
        self._lock = threading.Lock()
        self._checked = False

    def check(self) -> None:
        """
        See that a condition on this table holds everywhere, once.

        Raises:
            Refused: The table has other keys, or is copied between regions in a way
                that lets two of them accept the same condition.
            Undecided: It cannot be found out now.
        """
        with self._lock:
            if not self._checked:
                with errors_named():
                    self._look()
                self._checked = True

    def _look(self) -> None:
        table = self._client.describe_table(TableName=self.name)["Table"]
        schema = {one["KeyType"]: one["AttributeName"] for one in table["KeySchema"]}
        found = tuple(schema[kind] for kind in ("HASH", "RANGE") if kind in schema)
        types = {
            one["AttributeName"]: one["AttributeType"]
            for one in table["AttributeDefinitions"]
        }
        if found != self._keys or any(types.get(key) != "S" for key in self._keys):
            raise Refused(
                Code.RECORD_UNTRUSTED,
                f"the DynamoDB table {self.name} has other keys than this store's",
                f"its keys must be strings called: {', '.join(self._keys)}",
            )
        if table.get("Replicas") and table.get("MultiRegionConsistency") != "STRONG":
            raise Refused(
                Code.RECORD_UNTRUSTED,
                f"the DynamoDB table {self.name} is copied to other regions, where the"
                " same condition could be accepted twice",
                "use a table of one region, or a global table with multi-region strong"
                " consistency",
            )


def error_code(error: ClientError) -> str:
    """Return what DynamoDB calls *error*."""
    return str(error.response.get("Error", {}).get("Code", ""))


def condition_failed(error: ClientError) -> bool:
    """Return whether *error* only says that a write's condition did not hold."""
    return error_code(error) == "ConditionalCheckFailedException"


def pauses() -> Iterator[float]:
    """Yield seconds to wait between attempts, with jitter, for about two seconds."""
    pause = FIRST_PAUSE
    for _ in range(8):
        yield pause * (0.5 + random.random() / 2)
        pause = min(2 * pause, LONGEST_PAUSE)


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn what boto3 raises into `Undecided`, without its text."""
    try:
        yield
    except ClientError as error:
        match error_code(error):
            case "AccessDeniedException" | "UnrecognizedClientException":
                raise Undecided(
                    Code.STORAGE_UNAVAILABLE,
                    "DynamoDB refuses the parent's role",
                    "allow it the store's operations on the table, and its KMS key",
                ) from error
            case "ResourceNotFoundException":
                raise Undecided(
                    Code.STORAGE_UNAVAILABLE,
                    "there is no such DynamoDB table",
                    "make it, or mend the table's name and region",
                ) from error
            case _:
                raise unavailable("did not do what it was asked") from error
    except BotoCoreError as error:
        raise unavailable("cannot be reached") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise unavailable("answers without what the answer is for") from error


def unavailable(what: str) -> Undecided:
    """Return what to raise when DynamoDB *what*, e.g. "cannot be reached"."""
    return Undecided(
        Code.STORAGE_UNAVAILABLE,
        f"DynamoDB {what}",
        "check its endpoint, the network and the table's capacity, and ask again",
    )


def whole_number(item: Mapping[str, Any], name: str) -> int | None:
    """Return the number that *item* holds as *name*, or None if it holds none."""
    value = item.get(name, {}).get("N")
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 16:
        return None
    return int(value)


def some_bytes(item: Mapping[str, Any], name: str) -> bytes | None:
    """Return the bytes that *item* holds as *name*, or None if it holds none."""
    value = item.get(name, {}).get("B")
    return value if isinstance(value, bytes) and value else None
