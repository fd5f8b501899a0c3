"""Roots against remerkleable, over generated values of every kind."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remerkleable.basic import boolean, uint64, uint256
from remerkleable.bitfields import Bitlist, Bitvector
from remerkleable.byte_arrays import ByteList, ByteVector
from remerkleable.complex import Container, List, Vector

from nitrosigner.trusted.signing import ssz
from nitrosigner.verdicts import Malformed


class Inner(Container):  # type: ignore[misc]
    number: uint64
    key: ByteVector[48]


class Outer(Container):  # type: ignore[misc]
    flag: boolean
    fee: uint256
    signature: ByteVector[96]
    bits: Bitlist[2048]
    fixed: Bitvector[12]
    extra: ByteList[1000]
    numbers: List[uint64, 100]
    inners: List[Inner, 16]
    pair: Vector[Inner, 3]


INNER = ssz.Container(number=ssz.Uint64(), key=ssz.ByteVector(48))
OUTER = ssz.Container(
    flag=ssz.Boolean(),
    fee=ssz.Uint256(),
    signature=ssz.ByteVector(96),
    bits=ssz.Bitlist(2048),
    fixed=ssz.Bitvector(12),
    extra=ssz.ByteList(1000),
    numbers=ssz.Uint64List(100),
    inners=ssz.List(INNER, 16),
    pair=ssz.Vector(INNER, 3),
)


def hexed(data: bytes) -> str:
    return "0x" + data.hex()


inners = st.fixed_dictionaries(
    {
        "number": st.integers(0, 2**64 - 1).map(str),
        "key": st.binary(min_size=48, max_size=48).map(hexed),
    }
)
outers = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "fee": st.integers(0, 2**256 - 1).map(str),
        "signature": st.binary(min_size=96, max_size=96).map(hexed),
        "bits": st.lists(st.booleans(), max_size=600),
        "fixed": st.lists(st.booleans(), min_size=12, max_size=12),
        "extra": st.binary(max_size=1000).map(hexed),
        "numbers": st.lists(st.integers(0, 2**64 - 1).map(str), max_size=100),
        "inners": st.lists(inners, max_size=16),
        "pair": st.lists(inners, min_size=3, max_size=3),
    }
)


def oracle_inner(value: dict[str, Any]) -> Inner:
    return Inner(
        number=int(value["number"]),
        key=ByteVector[48](bytes.fromhex(value["key"][2:])),
    )


@settings(max_examples=150, deadline=None)
@given(outers)
def test_every_kind_has_remerkleables_root(value: dict[str, Any]) -> None:
    bits, fixed = Bitlist[2048](value["bits"]), Bitvector[12](value["fixed"])
    oracle = Outer(
        flag=value["flag"],
        fee=int(value["fee"]),
        signature=ByteVector[96](bytes.fromhex(value["signature"][2:])),
        bits=bits,
        fixed=fixed,
        extra=ByteList[1000](bytes.fromhex(value["extra"][2:])),
        numbers=[int(n) for n in value["numbers"]],
        inners=[oracle_inner(inner) for inner in value["inners"]],
        pair=[oracle_inner(inner) for inner in value["pair"]],
    )
    as_json = {
        **value,
        "bits": hexed(bits.encode_bytes()),
        "fixed": hexed(fixed.encode_bytes()),
    }
    assert OUTER.root(as_json, "outer") == bytes(oracle.hash_tree_root())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ssz.Uint64(), "-1"),
        (ssz.Uint64(), str(2**64)),
        (ssz.Uint64(), 2**64),
        (ssz.Uint64(), "9" * 5000),
        (ssz.Uint64(), "0x10"),
        (ssz.Uint64(), "١"),
        (ssz.Uint64(), 1.0),
        (ssz.Uint64(), True),
        (ssz.Uint64(), None),
        (ssz.Uint256(), str(2**256)),
        (ssz.Uint256(), 5),
        (ssz.Boolean(), "true"),
        (ssz.Boolean(), 1),
        (ssz.ByteVector(4), "0x010203"),
        (ssz.ByteVector(4), "01020304"),
        (ssz.ByteVector(4), "0x0102030g"),
        (ssz.ByteVector(4), "0x01 0203 "),
        (ssz.ByteVector(4), 1),
        (ssz.ByteList(2), "0x010203"),
        (ssz.Bitvector(4), "0x10"),
        (ssz.Bitvector(4), "0x"),
        (ssz.Bitlist(8), "0x"),
        (ssz.Bitlist(8), "0x00"),
        (ssz.Bitlist(8), "0xff02"),
        (ssz.Uint64List(1), ["1", "2"]),
        (ssz.Uint64List(1), "1"),
        (ssz.List(INNER, 1), {}),
        (ssz.Vector(INNER, 1), []),
        (INNER, {"number": "1"}),
        (INNER, {"number": "1", "key": "0x" + "00" * 48, "more": "1"}),
        (INNER, []),
    ],
)
def test_what_is_no_value_of_its_kind_is_malformed(
    kind: ssz.Kind, value: object
) -> None:
    with pytest.raises(Malformed):
        kind.root(value, "field")


def test_the_sentence_names_the_field() -> None:
    value = {"number": "1", "key": "0x00"}
    with pytest.raises(Malformed, match=r"duty\.list\[0\]\.key: expected 48 bytes"):
        ssz.Container(list=ssz.List(INNER, 4)).root({"list": [value]}, "duty")
