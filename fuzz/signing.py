"""
Random mutation of everything that the signing room reads from strangers.

    python fuzz/signing.py --seconds 60 --seed 7

Each target takes good input, spoils it, and checks what must always be true: a verdict
or a result, never another exception; what was read encodes back to what was written.
A failure prints the input and the seed that makes it again; exit code 1.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

import msgspec
import rlp

from nitrosigner.trusted.signing import (
    addresses,
    ethereum_transactions,
    transaction_fields,
    typed_data,
)
from nitrosigner.trusted.signing.addresses import Address
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.verdicts import Malformed, Verdict

Json: TypeAlias = Any

VECTORS: Final = Path(__file__).parents[1] / "tests/trusted/signing/vectors"
MAX_SECONDS_FOR_ONE: Final = 2.0

SENDER: Final = Address(20 * b"\x11")
TO: Final = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"
DYNAMIC: Final[dict[str, Any]] = {
    "type": "0x2",
    "chainId": 4,
    "nonce": "0x0",
    "gas": "100000",
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": "0xb2d05e00",
    "to": TO,
    "value": "0x2386f26fc10000",
    "data": "0xa9059cbb",
    "accessList": [{"address": TO, "storageKeys": ["0x" + 64 * "0"]}],
    "from": "0x" + 40 * "1",
}
TRANSACTIONS: Final[tuple[dict[str, Any], ...]] = (
    {"nonce": 1, "gas": 21000, "gasPrice": 7, "to": TO, "chainId": 1},
    {"nonce": 1, "gas": 21000, "gasPrice": 7, "data": "0x60"},
    DYNAMIC,
    DYNAMIC
    | {
        "type": 3,
        "maxFeePerBlobGas": 1,
        "blobVersionedHashes": ["0x01" + 62 * "a"],
    },
    DYNAMIC
    | {
        "type": 4,
        "authorizationList": [
            {"chainId": 0, "address": TO, "nonce": 0, "yParity": 1, "r": 1, "s": "0x2"}
        ],
    },
)
ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**53, 2**63, 2**64, 2**255, 2**256, 2**300, 0.1),
    *(
        1e18,
        "",
        "0x",
        "0x0",
        "0x00",
        "0x1_0",
        " 1",
        "-1",
        "1e3",
        "٣",
        "\x00",
        "x" * 300,
    ),
    *("0x" + 64 * "f", "0x" + 40 * "0", TO, TO.lower(), TO.upper(), [], {}, [[]]),
    *([{}], {"": None}, "uint256", "Mail[]", "Person", "EIP712Domain", "bytes32", "$"),
)
TOKENS: Final = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"0x",
    b"null",
    b"1e9",
    b"\\u",
    b"  ",
)


def _paths(value: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, inner in items:
        yield from _paths(inner, (*path, name))


def spoil_value(random: Random, value: Json) -> Json:
    """Return a copy of *value* with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 2, 3))):
        path = random.choice(list(_paths(value)))
        if not path:
            continue
        parent = value
        for name in path[:-1]:
            parent = parent[name]
        last = path[-1]
        action = random.randrange(5)
        if action == 0:
            del parent[last]
        elif action == 1 and isinstance(parent, dict):
            parent[random.choice(("x", "Type", str(last) + " ", "s", "v"))] = parent[
                last
            ]
        elif action == 2 and isinstance(parent, list):
            parent.extend(random.choice((1, 3, 70)) * [parent[last]])
        elif action == 3 and isinstance(parent[last], str):
            parent[last] = spoil_bytes(random, parent[last].encode()).decode(
                errors="replace"
            )
        else:
            parent[last] = copy.deepcopy(random.choice(ODD))
    return value


def spoil_bytes(random: Random, data: bytes) -> bytes:
    """Return *data* with one to three changes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(changed) + 1)
        action = random.randrange(5)
        if action == 0:
            changed[place : place + 1] = bytes((random.randrange(256),))
        elif action == 1:
            changed[place:place] = random.choice(TOKENS)
        elif action == 2:
            del changed[place : place + random.choice((1, 2, 8))]
        elif action == 3:
            changed[place:place] = changed[: random.randrange(len(changed) + 1)]
        else:
            del changed[place:]
    return bytes(changed)


def spoil_json(random: Random, value: Json) -> Json:
    """Return *value* spoiled as JSON text or as a value; None if it is no JSON now."""
    if random.random() < 0.8:
        value = spoil_value(random, value)
        return msgspec.json.decode(msgspec.json.encode(value))
    try:
        return msgspec.json.decode(spoil_bytes(random, msgspec.json.encode(value)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def try_transaction(random: Random) -> Json:
    """Transactions: a verdict, or one whose raw form holds what was read."""
    fields = spoil_json(random, random.choice(TRANSACTIONS))
    try:
        read = transaction_fields.parse(fields, sender=SENDER)
    except Verdict:
        return fields
    digest = ethereum_transactions.signing_hash(read)
    raw = ethereum_transactions.signed(read, Signature(64 * b"\x01" + b"\x00")).raw
    items = rlp.decode(raw if raw[0] >= 0xC0 else raw[1:])
    number = read.value.to_bytes((read.value.bit_length() + 7) // 8)
    if len(digest) != 32 or not {read.to or b"", number, read.data} <= {
        each for each in items if isinstance(each, bytes)
    }:
        raise AssertionError(fields)
    return fields


def try_typed_data(random: Random) -> Json:
    """Typed data: Malformed, or a digest that the order of members does not change."""
    good = random.choice(DOCUMENTS)
    document = spoil_json(random, good)
    try:
        digest = typed_data.digest(typed_data.parse(document))
    except Malformed:
        return document
    turned = dict(reversed(document.items()))
    turned["message"] = dict(reversed(document["message"].items()))
    if typed_data.digest(typed_data.parse(turned)) != digest:
        raise AssertionError(document)
    return document


def try_address(random: Random) -> str:
    """Addresses: Malformed, or the 20 bytes that the digits say."""
    text = spoil_bytes(random, random.choice((TO, TO.lower())).encode()).decode(
        errors="replace"
    )
    try:
        read = addresses.parse(text)
    except Malformed:
        return text
    if read.hex() != text[2:].lower() or len(text) != 42:
        raise AssertionError(text)
    return text


DOCUMENTS: Final = [
    vector["document"]
    for vector in msgspec.json.decode((VECTORS / "eip_712_metamask.json").read_bytes())[
        "vectors"
    ]
]
TARGETS: Final[dict[str, Callable[[Random], Any]]] = {
    "transaction": try_transaction,
    "typed-data": try_typed_data,
    "address": try_address,
}


def run(target: str, seed: int, *, seconds: float, cases: int) -> int:
    """Try *target* until the time or the cases are over; return how many were tried."""
    end = time.monotonic() + seconds
    number = 0
    while number < cases and time.monotonic() < end:
        state = f"{seed}/{target}/{number}"
        began = time.monotonic()
        try:
            TARGETS[target](Random(state))
        except Exception:
            sys.stderr.write(f"failed: seed {state}\n")
            raise
        if time.monotonic() - began > MAX_SECONDS_FOR_ONE:
            msg = f"one case took more than {MAX_SECONDS_FOR_ONE} s: seed {state}"
            raise AssertionError(msg)
        number += 1
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description="Spoil what the signing room reads.")
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--cases", type=int, default=10**9, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, action="append")
    options = parser.parse_args()
    for target in options.target or TARGETS:
        tried = run(target, options.seed, seconds=options.seconds, cases=options.cases)
        print(f"{target}: {tried} cases")


if __name__ == "__main__":
    main()
