"""
Recursive length prefix (Ethereum yellow paper, appendix B).

`encode` is the definition; `encode_integer` and `encode_bytes` are the same for one
item, for encoders that know their fields. `decode` takes the one canonical form of a
value and nothing else: two encodings of one transaction would have two hashes.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from nitrosigner.verdicts import Code, Malformed

Item: TypeAlias = "bytes | Sequence[Item]"

MAX_SIZE: Final = 256 * 1024
"""Bytes that `decode` looks at: twice the largest transaction that is signed here."""

MAX_DEPTH: Final = 8
"""Lists in lists. An access list, the deepest thing in a transaction, has four."""

_SHORT: Final = 55
"""The longest string or list whose length fits into its first byte."""

_SMALL: Final = (b"\x80", *(bytes((n,)) for n in range(1, 128)))
_STRING_HEADER: Final = tuple(bytes((0x80 + n,)) for n in range(_SHORT + 1))
_LIST_HEADER: Final = tuple(bytes((0xC0 + n,)) for n in range(_SHORT + 1))


def encode_integer(number: int) -> bytes:
    """Return the encoding of a *number* that is not negative; it has no zeros ahead."""
    if number < 128:
        return _SMALL[number]
    size = (number.bit_length() + 7) >> 3
    if size > _SHORT:
        return encode_bytes(number.to_bytes(size, "big"))
    return _STRING_HEADER[size] + number.to_bytes(size, "big")


def encode_bytes(data: bytes) -> bytes:
    """Return the encoding of a string."""
    size = len(data)
    if size == 1 and data[0] < 0x80:
        return data
    if size <= _SHORT:
        return _STRING_HEADER[size] + data
    return _long_header(0xB7, size) + data


def list_header(size: int) -> bytes:
    """Return what stands before the *size* bytes of a list's encoded items."""
    return _LIST_HEADER[size] if size <= _SHORT else _long_header(0xF7, size)


def encode(item: Item) -> bytes:
    """Return the encoding of a string, or of a list of strings and lists."""
    if isinstance(item, bytes):
        return encode_bytes(item)
    body = b"".join(map(encode, item))
    return list_header(len(body)) + body


def decode(data: bytes, *, max_size: int = MAX_SIZE) -> Item:
    """
    Return the item that *data* is the canonical encoding of.

    Raises:
        Malformed: It is too long, too deep, cut short, followed by something, or not
            in canonical form.
    """
    if len(data) > max_size:
        raise Malformed(Code.TOO_LARGE, f"this RLP is longer than {max_size} bytes")
    item, end = _decode(data, 0, len(data), MAX_DEPTH)
    if end != len(data):
        raise _malformed("has bytes after its end")
    return item


def _decode(data: bytes, start: int, limit: int, depth: int) -> tuple[Item, int]:
    """Return the item at *start*, and where it ends; nothing may pass *limit*."""
    if start >= limit:
        raise _malformed("is cut short")
    first = data[start]
    if first < 0x80:
        return data[start : start + 1], start + 1
    base = 0x80 if first < 0xC0 else 0xC0
    begin, size = start + 1, first - base
    if size > _SHORT:
        begin, size = _long_size(data, begin, size - _SHORT)
    end = begin + size
    if end > limit:
        raise _malformed("is cut short")
    if base == 0x80:
        if size == 1 and data[begin] < 0x80:
            raise _malformed("is not canonical: a byte below 128 stands for itself")
        return data[begin:end], end
    if depth == 0:
        raise _malformed(f"has lists in lists deeper than {MAX_DEPTH}")
    items: list[Item] = []
    while begin < end:
        item, begin = _decode(data, begin, end, depth - 1)
        items.append(item)
    return items, end


def _long_size(data: bytes, begin: int, width: int) -> tuple[int, int]:
    """Return where the content begins and its size, written in *width* bytes."""
    written = data[begin : begin + width]
    if len(written) < width:
        raise _malformed("is cut short")
    size = int.from_bytes(written, "big")
    if written[0] == 0 or size <= _SHORT:
        raise _malformed("is not canonical: a length has a shorter form")
    return begin + width, size


def _long_header(base: int, size: int) -> bytes:
    width = (size.bit_length() + 7) >> 3
    return bytes((base + width,)) + size.to_bytes(width, "big")


def _malformed(what: str) -> Malformed:
    return Malformed(Code.MALFORMED_TRANSACTION, f"this RLP {what}")
