"""
The validators' keys that the AWS reference keeps in DynamoDB, read to be moved here.

Only ciphertext passes through: each item holds a keystore, its password and a mnemonic,
encrypted by KMS. The enclave opens it by an attested Decrypt and drops the mnemonic.

The reference's own loader stops after the first megabyte and looks at neither `active`
nor `chain`. Here every page is read, and what is not to be signed with, or not for this
chain, is left out and named: a key that was switched off there must not wake up here.
"""

import base64
import binascii
import itertools
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from nitrosigner.verdicts import Code, Undecided

MAX_CIPHERTEXT: Final = 8 * 1024
"""Bytes. KMS Encrypt takes 4 KiB and adds less than as much again."""
PARALLEL: Final = 8
"""Pages at a time; a page is at most a megabyte."""
_PUBLIC_KEY: Final = re.compile(r"(?:0x)?([0-9a-f]{96})\Z", re.IGNORECASE)
_CIPHERTEXT: Final = "encrypted_key_password_mnemonic_b64"
_FIELDS: Final = ("pubkey", "chain", "active", _CIPHERTEXT)
# Compressed public keys begin with 8 to b. Partitions of sorted names, read side by
# side: each from its own bound up to the next.
_BOUNDS: Final = (
    "\0",
    *(f"{prefix}{first}{second}" for prefix in ("0x", "") for first in "89ab"
      for second in "048c"),
    "\U0010ffff",
)  # fmt: skip


class DynamoDb(Protocol):
    """The calls that we make."""

    def query(self, **arguments: object) -> dict[str, Any]:
        """Read items of one partition in order, up to a megabyte."""
        ...

    def scan(self, **arguments: object) -> dict[str, Any]:
        """Read items of any partition, up to a megabyte."""
        ...


@dataclass(frozen=True, slots=True)
class ReferenceValidator:
    """A key to import, as it lies there."""

    public_key: bytes
    """48 bytes; what the item claims. The enclave compares it with the key."""
    ciphertext: bytes
    """KMS Encrypt, without encryption context, of keystore, password and mnemonic."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An item that is not imported."""

    public_key: str
    """As it is written in the table."""
    reason: str
    """A sentence for a person."""


class _Range(NamedTuple):
    first: str
    last: str
    start: Mapping[str, Any] | None


def reference_client(region: str, endpoint: str | None = None) -> DynamoDb:
    """Return a client that slows down to the little that the table is provisioned."""
    client = boto3.client(
        "dynamodb",
        region_name=region,
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"mode": "adaptive", "total_max_attempts": 10},
            max_pool_connections=PARALLEL,
            user_agent_extra="nitrosigner-import",
        ),
    )
    return cast("DynamoDb", client)


def stacks(client: DynamoDb, table: str) -> dict[str, int]:
    """
    Return whose keys lie in *table*: `web3signer_uuid` (a CloudFormation stack's id)
    and how many items it has.

    Raises:
        Undecided: The table cannot be read.
    """
    with ThreadPoolExecutor(PARALLEL, "reference") as threads, _errors_named():
        counts = threads.map(
            lambda segment: _segment(client, table, segment), range(PARALLEL)
        )
        found: dict[str, int] = {}
        for count in counts:
            for stack, number in count.items():
                found[stack] = found.get(stack, 0) + number
    return found


def read_validators(
    client: DynamoDb, table: str, *, stack: str, chain: str
) -> Iterator[ReferenceValidator | LeftOut]:
    """
    Yield *stack*'s keys for *chain* that are active, and what is left out and why.

    In no order; at most `PARALLEL` pages are in memory. Each key comes once.

    Raises:
        Undecided: The table cannot be read to its end.
    """
    seen: set[bytes] = set()
    with _errors_named():
        for item in _items(client, table, stack):
            found = _judge(item, chain)
            if isinstance(found, ReferenceValidator):
                if found.public_key in seen:
                    name = _text(item, "pubkey")
                    yield LeftOut(name, "the table names this key twice")
                    continue
                seen.add(found.public_key)
            yield found


def _judge(item: Mapping[str, Any], chain: str) -> ReferenceValidator | LeftOut:
    name = _text(item, "pubkey")
    public_key = _PUBLIC_KEY.match(name)
    if public_key is None:
        return LeftOut(name, "its name is no public key of 48 bytes in hexadecimal")
    active = item.get("active", {}).get("BOOL")
    if active is not True:
        # Absent or of another type is nobody's word that it may sign.
        return LeftOut(
            name, "it is switched off" if active is False else "`active` is not true"
        )
    if _text(item, "chain").lower() != chain.lower():
        return LeftOut(name, f"it is for another chain than {chain}")
    try:
        ciphertext = base64.b64decode(_text(item, _CIPHERTEXT), validate=True)
    except (binascii.Error, ValueError):
        ciphertext = b""
    if not 1 <= len(ciphertext) <= MAX_CIPHERTEXT:
        return LeftOut(name, f"`{_CIPHERTEXT}` is no KMS ciphertext in base64")
    return ReferenceValidator(bytes.fromhex(public_key[1]), ciphertext)


def _text(item: Mapping[str, Any], field: str) -> str:
    value = item.get(field, {}).get("S")
    return value if isinstance(value, str) else ""


def _items(client: DynamoDb, table: str, stack: str) -> Iterator[Mapping[str, Any]]:
    waiting = deque(
        _Range(first, last, None) for first, last in itertools.pairwise(_BOUNDS)
    )
    reading: dict[Future[dict[str, Any]], _Range] = {}
    with ThreadPoolExecutor(PARALLEL, "reference") as threads:
        while waiting or reading:
            while waiting and len(reading) < PARALLEL:
                part = waiting.popleft()
                page = threads.submit(_page, client, table, stack, part)
                reading[page] = part
            for page in wait(reading, return_when=FIRST_COMPLETED).done:
                part = reading.pop(page)
                answer = page.result()
                if "LastEvaluatedKey" in answer:
                    rest = part._replace(start=answer["LastEvaluatedKey"])
                    waiting.appendleft(rest)
                yield from answer["Items"]


def _page(client: DynamoDb, table: str, stack: str, part: _Range) -> dict[str, Any]:
    start = {"ExclusiveStartKey": part.start} if part.start else {}
    names = {f"#{number}": field for number, field in enumerate(_FIELDS)}
    return client.query(
        TableName=table,
        # What was switched off a moment ago is off.
        ConsistentRead=True,
        KeyConditionExpression="#stack = :stack AND #0 BETWEEN :first AND :last",
        ProjectionExpression=", ".join(names),
        ExpressionAttributeNames={"#stack": "web3signer_uuid", **names},
        ExpressionAttributeValues={
            ":stack": {"S": stack},
            ":first": {"S": part.first},
            # A bound is no whole key, so that no item lies in two ranges.
            ":last": {"S": part.last},
        },
        **start,
    )


def _segment(client: DynamoDb, table: str, segment: int) -> dict[str, int]:
    found: dict[str, int] = {}
    start: dict[str, Any] = {}
    while True:
        answer = client.scan(
            TableName=table,
            Segment=segment,
            TotalSegments=PARALLEL,
            ConsistentRead=True,
            ProjectionExpression="web3signer_uuid",
            **start,
        )
        for item in answer["Items"]:
            stack = _text(item, "web3signer_uuid")
            found[stack] = found.get(stack, 0) + 1
        if "LastEvaluatedKey" not in answer:
            return found
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "ResourceNotFoundException":
            what = "there is no such DynamoDB table in this account and region"
            hint = "the stack's output ValidatorKeysTableName names it"
        elif code in {"AccessDeniedException", "UnrecognizedClientException"}:
            what = "DynamoDB refuses these AWS credentials"
            hint = "they need dynamodb:Query and dynamodb:Scan on the table"
        else:
            what = "DynamoDB did not do what it was asked"
            hint = "ask again; what was imported already is not imported twice"
        raise Undecided(Code.STORAGE_UNAVAILABLE, what, hint) from error
    except BotoCoreError as error:
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            "DynamoDB cannot be reached",
            "check the region, the network and the AWS credentials",
        ) from error
