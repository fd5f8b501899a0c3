"""One encoding for each value, and nothing that a second reader could see otherwise."""

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.attestation import strict_cbor
from nitrosigner.attestation.errors import MalformedDocument

REFUSED = {
    "nothing at all": ("", "ends too early"),
    "a byte after the end": ("0000", "1 bytes too many"),
    "a duplicate key": ("a201010102", "same key twice"),
    "a duplicate text key": ("a2616101616102", "same key twice"),
    "a duplicate key in an inner map": ("a101a201010102", "same key twice"),
    "an indefinite array": ("9f01ff", "indefinite"),
    "an indefinite map": ("bf0101ff", "indefinite"),
    "indefinite bytes": ("5f4101ff", "indefinite"),
    "indefinite text": ("7f6161ff", "indefinite"),
    "a lone break": ("ff", "simple value"),
    "a small number in a byte": ("1817", "longer than it needs"),
    "a byte in two": ("1900ff", "longer than it needs"),
    "two bytes in four": ("1a0000ffff", "longer than it needs"),
    "four bytes in eight": ("1b00000000ffffffff", "longer than it needs"),
    "a long length of bytes": ("580141", "longer than it needs"),
    "a long count of a map": ("b8010101", "longer than it needs"),
    "a reserved length": ("1c", "reserved"),
    "true": ("f5", "simple value"),
    "undefined": ("f7", "simple value"),
    "null in two bytes": ("f8f6", "simple value"),
    "a float": ("fb3ff0000000000000", "simple value"),
    "a tag": ("c100", "tag"),
    "a null key": ("a1f601", "neither integer nor text"),
    "a key of bytes": ("a1410101", "neither integer nor text"),
    "an array as key": ("a1800101", "nested too deeply"),
    "text that is not UTF-8": ("61ff", "UTF-8"),
    "bytes cut short": ("4201", "ends too early"),
    "a length cut short": ("19ff", "ends too early"),
    "an array cut short": ("820101"[:-2], "ends too early"),
    "a map without its last value": ("a2010102", "ends too early"),
    "an array that promises the earth": ("9b7fffffffffffffff", "ends too early"),
    "a map that promises the earth": ("bbffffffffffffffff0000", "ends too early"),
    "bytes that promise the earth": ("5b7fffffffffffffff", "ends too early"),
    "four arrays inside each other": ("81818180", "nested too deeply"),
}


@pytest.mark.parametrize(("encoded", "reason"), REFUSED.values(), ids=REFUSED)
def test_refuses(encoded: str, reason: str) -> None:
    with pytest.raises(MalformedDocument, match=reason):
        strict_cbor.decode(bytes.fromhex(encoded), "it")


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1bffffffffffffffff", (1 << 64) - 1),
        ("20", -1),
        ("3822", -35),
        ("40", b""),
        ("60", ""),
        ("80", ()),
        ("a0", {}),
        ("f6", None),
        ("818180", (((),),)),
        ("a1013822", {1: -35}),
    ],
)
def test_reads(encoded: str, value: Any) -> None:
    assert strict_cbor.decode(bytes.fromhex(encoded), "it") == value


def test_a_deep_nest_costs_no_recursion() -> None:
    with pytest.raises(MalformedDocument, match="nested too deeply"):
        strict_cbor.decode(b"\x81" * 100_000 + b"\x00", "it")


_SCALARS = (
    st.none()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=300)
    | st.text(max_size=30)
)
_KEYS = st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=5)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=30) | st.dictionaries(_KEYS, inner, max_size=30)


_VALUES = _SCALARS | _containers(_SCALARS | _containers(_SCALARS))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | str | int | None):
        return value
    return {key: _plain(item) for key, item in value.items()}


@given(_VALUES)
def test_reads_what_another_library_writes(value: Any) -> None:
    assert _plain(strict_cbor.decode(cbor2.dumps(value), "it")) == _plain(value)


@given(st.binary(max_size=40) | _VALUES.map(cbor2.dumps))
def test_whatever_is_read_has_this_one_encoding(encoded: bytes) -> None:
    try:
        value = _plain(strict_cbor.decode(encoded, "it"))
    except MalformedDocument:
        return
    assert cbor2.dumps(value) == encoded


@given(st.binary(max_size=65_535))
def test_writes_byte_strings_as_another_library_does(data: bytes) -> None:
    assert strict_cbor.byte_string(data) == cbor2.dumps(data)


@pytest.mark.parametrize("length", [0, 23, 24, 255, 256, 65_535])
def test_byte_strings_change_their_form_where_the_standard_says(length: int) -> None:
    assert strict_cbor.byte_string(bytes(length)) == cbor2.dumps(bytes(length))


def test_bytes_that_no_document_could_hold_are_not_written() -> None:
    with pytest.raises(ValueError, match="longer than any document"):
        strict_cbor.byte_string(bytes(65_536))
