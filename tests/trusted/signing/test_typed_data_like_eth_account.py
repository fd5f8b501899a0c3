"""
Every document that we hash, eth-account hashes to the same; where it reads one in
another way than we do, the difference is written down here as a test.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from eth_account._utils.encode_typed_data.encoding_and_hashing import (
    hash_domain,
    hash_struct,
)
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import addresses, typed_data
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.verdicts import Malformed

CASES = 3000
DOMAIN = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
ATOMS = (
    *("address", "bool", "string", "bytes", "uint", "int"),
    *(f"uint{8 * n}" for n in (1, 2, 16, 31, 32)),
    *(f"int{8 * n}" for n in (1, 2, 16, 31, 32)),
    *(f"bytes{n}" for n in (1, 4, 31, 32)),
)


def types_of(random: Random) -> dict[str, list[dict[str, str]]]:
    """Return types in which each may refer to itself and to those after it."""
    names = random.sample(
        ["Order", "Person", "Asset", "A", "a", "_x", "y9", "Tree", "Z9"],
        random.randint(1, 5),
    )
    types: dict[str, list[dict[str, str]]] = {}
    for place, name in enumerate(names):
        members = []
        for number in range(random.randint(0, 5)):
            base = (
                random.choice(names[place:])
                if random.random() < 0.4
                else random.choice(ATOMS)
            )
            dimensions = "".join(
                random.choice(("[]", "[]", "[1]", "[2]", "[3]"))
                for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3)))
            )
            members.append({"name": f"field{number}", "type": base + dimensions})
        types[name] = members
    return types


def value_of(random: Random, types: dict[str, Any], kind: str, depth: int) -> Any:
    if kind.endswith("]"):
        base, _, length = kind[:-1].rpartition("[")
        count = int(length) if length else random.choice((0, 1, 2, 3))
        if depth <= 0 and not length:
            count = 0
        return [value_of(random, types, base, depth - 1) for _ in range(count)]
    if kind in types:
        if depth <= 0 or random.random() < 0.1:
            return None
        return {
            member["name"]: value_of(random, types, member["type"], depth - 1)
            for member in types[kind]
        }
    return atom_of(random, kind)


def atom_of(random: Random, kind: str) -> Any:
    if kind == "address":
        address = addresses.Address(random.randbytes(20))
        text = addresses.checksummed(address)
        return random.choice((text, text.lower()))
    if kind == "bool":
        return random.random() < 0.5
    if kind == "string":
        return "".join(random.choices('ab \n"\\é漢💥{}0x', k=random.randrange(9)))
    if kind.startswith("bytes"):
        size = int(kind[5:]) if kind[5:] else random.choice((0, 1, 31, 32, 33, 200))
        return "0x" + random.randbytes(size).hex()
    bits = int(kind.lstrip("uint") or "256")
    least, most = (
        (0, 2**bits - 1)
        if kind[0] == "u"
        else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    number = random.choice((least, most, 0, 1, random.randint(least, most)))
    if number < 0:
        return random.choice((number, str(number)))
    return random.choice((number, str(number), hex(number)))


def document_of(random: Random) -> dict[str, Any]:
    types = types_of(random)
    primary = next(iter(types))
    used = [name for name in DOMAIN if random.random() < 0.7]
    domain = {name: atom_of(random, DOMAIN[name]) for name in used}
    declared = {"EIP712Domain": [{"name": n, "type": DOMAIN[n]} for n in used]}
    message = {
        member["name"]: value_of(random, types, member["type"], 4)
        for member in types[primary]
    }
    return {
        "types": types | (declared if random.random() < 0.8 else {}),
        "primaryType": primary,
        "domain": domain,
        "message": message,
    }


def ours(document: dict[str, Any]) -> bytes:
    decoded = msgspec.json.decode(msgspec.json.encode(document))
    return typed_data.digest(typed_data.parse(decoded))


def theirs(document: dict[str, Any]) -> bytes:
    # Not `encode_typed_data`: it takes no primary type that refers to itself or that
    # does not follow from the types.
    types = {k: v for k, v in document["types"].items() if k != "EIP712Domain"}
    message = hash_struct(document["primaryType"], types, document["message"])
    return keccak_256(b"\x19\x01" + hash_domain(document["domain"]) + message)


def test_eth_account_has_the_same_digests() -> None:
    random = Random(712)
    for _ in range(CASES):
        document = document_of(random)
        assert ours(document) == theirs(document), json.dumps(document)


@given(st.randoms(use_true_random=False))
def test_whatever_hypothesis_finds_is_the_same_too(random: Random) -> None:
    document = document_of(random)
    assert ours(document) == theirs(document)


MAIL: dict[str, Any] = msgspec.json.decode(
    (Path(__file__).parent / "vectors" / "eip_712_mail.json").read_bytes()
)


def test_its_public_function_agrees() -> None:
    expected = _hash_eip191_message(encode_typed_data(full_message=MAIL))
    assert ours(MAIL) == bytes(expected)


def with_field(kind: str, value: Any) -> dict[str, Any]:
    return {
        "types": {"T": [{"name": "x", "type": kind}]},
        "primaryType": "T",
        "domain": {"chainId": 1},
        "message": {"x": value},
    }


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", None),  # theirs: 32 zero bytes
        ("bytes", None),
        ("bool", "false"),  # theirs: false; MetaMask's: true
        ("bool", 1),
        ("bool", "true"),
        ("bytes4", "0x12"),  # padded
        ("bytes", "text"),  # its UTF-8
        ("bytes4", 5),
        ("string", 5),
        ("uint8[2]", [1]),  # any length
        ("uint8[2]", [1, 2, 3]),
    ],
)
def test_what_they_convert_we_refuse(kind: str, value: Any) -> None:
    assert theirs(with_field(kind, value))
    with pytest.raises(Malformed):
        ours(with_field(kind, value))


def test_what_they_leave_out_we_refuse() -> None:
    document = with_field("uint8", 1)
    document["message"]["y"] = 2
    assert theirs(document) == theirs(with_field("uint8", 1))
    with pytest.raises(Malformed, match="'y'"):
        ours(document)


def test_they_order_the_domain_and_we_take_it_as_declared_like_metamask() -> None:
    document = with_field("uint8", 1)
    document["domain"] = {"name": "n", "chainId": 1}
    fields = [
        {"name": "chainId", "type": "uint256"},
        {"name": "name", "type": "string"},
    ]
    document["types"]["EIP712Domain"] = fields[::-1]
    assert ours(document) == theirs(document)
    document["types"]["EIP712Domain"] = fields
    assert ours(document) != theirs(document)
    separator = hash_struct(
        "EIP712Domain", {"EIP712Domain": fields}, document["domain"]
    )
    assert typed_data.parse(document).domain_separator == separator
