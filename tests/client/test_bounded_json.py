"""JSON whose depth is bounded, whatever the process's recursion limit is."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.client.bounded_json import MAX_DEPTH, RepeatedName, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_it_reads_what_json_reads(value: object, ascii_only: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_brackets_in_strings_are_no_depth() -> None:
    text = "[{" * 1000 + '\\"' + "["
    assert read_json(json.dumps([text]).encode()) == [text]


def test_the_deepest_is_read_and_one_more_is_not() -> None:
    read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="deep"):
        read_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "data",
    [
        b'{"to": 1, "to": 1}',
        b'[{"a": {"to": 1, "b": 2, "to": 3}}]',
        b'{"to": 1, "\\u0074o": 2}',
    ],
)
def test_a_name_that_stands_twice_is_refused(data: bytes) -> None:
    with pytest.raises(RepeatedName):
        read_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"]" * 100,
        b'"[[',
        b"NaN",
        b"[Infinity]",
        b"\xff",
        b"",
        b"]" * 9 + b"[" * 200_000,
    ],
)
def test_nonsense_is_no_json_and_no_crash(data: bytes) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(ValueError):
            read_json(data)
    finally:
        sys.setrecursionlimit(limit)
