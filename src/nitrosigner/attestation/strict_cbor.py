"""
The part of CBOR that the Nitro Security Module writes, and nothing else.

Two readers that understand the same bytes differently are how a signature gets to
vouch for something else. So there is exactly one encoding of each value here:
integers, byte strings, text, arrays, maps and null, with definite lengths in their
shortest form (RFC 8949 §4.2.1, which all real documents keep to). Indefinite lengths,
longer forms than needed, duplicate map keys, tags, floats, booleans and bytes after
the end are refused.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from nitrosigner.attestation.errors import MalformedDocument

MAX_DEPTH: Final = 3
"""Arrays and maps inside each other. A document needs two."""

Key = int | str
Value = int | bytes | str | None | tuple["Value", ...] | Mapping[Key, "Value"]

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL: Final = 0xF6
_SMALLEST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The least number that needs one, two, four and eight further bytes."""


def decode(data: bytes, what: str) -> Value:
    """
    Return the one value that *data* holds. *what* names it in errors.

    Raises:
        MalformedDocument: It is not one value in the form described above.
    """
    reader = _Reader(data, what)
    value = reader.value(MAX_DEPTH)
    if reader.at != len(data):
        raise MalformedDocument(f"{what} has {len(data) - reader.at} bytes too many")
    return value


def byte_string(data: bytes) -> bytes:
    """Return *data*, at most 65,535 bytes, as a CBOR byte string."""
    length = len(data)
    if length < 24:
        return bytes([_BYTES << 5 | length]) + data
    for minor, size in ((24, 1), (25, 2)):
        if length < 1 << (8 * size):
            return bytes([_BYTES << 5 | minor]) + length.to_bytes(size, "big") + data
    msg = "longer than any document"
    raise ValueError(msg)


class _Reader:
    """Reads once, from front to back; every step consumes at least one byte."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.at = 0

    def _refuse(self, reason: str) -> MalformedDocument:
        return MalformedDocument(f"{self._what} is not strict CBOR: {reason}")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise self._refuse("it ends too early")
        taken = self._data[self.at : self.at + count]
        self.at += count
        return taken

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        if first == _NULL:
            return _SIMPLE, 0
        major, minor = first >> 5, first & 31
        if major in (_TAG, _SIMPLE):
            raise self._refuse("it holds a tag, a float, a boolean or a simple value")
        if minor < 24:
            return major, minor
        if minor == 31:
            raise self._refuse("it has an indefinite length")
        if minor > 27:
            raise self._refuse("it has a reserved length")
        number = int.from_bytes(self._take(1 << (minor - 24)), "big")
        if number < _SMALLEST[minor]:
            raise self._refuse("a number is longer than it needs to be")
        return major, number

    def value(self, depth: int) -> Value:
        major, number = self._head()
        match major:
            case 0:  # _UNSIGNED
                return number
            case 1:  # _NEGATIVE
                return -1 - number
            case 2:  # _BYTES
                return self._take(number)
            case 3:  # _TEXT
                return self._text(number)
            case 4:  # _ARRAY
                self._descend(depth)
                return tuple(self.value(depth - 1) for _ in range(number))
            case 5:  # _MAP
                self._descend(depth)
                return self._map(depth, number)
            case _:  # the only simple value that `_head` lets through
                return None

    def _descend(self, depth: int) -> None:
        # A count is a promise that nothing is reserved for: each item that isn't there
        # is found out when it is read.
        if depth == 0:
            raise self._refuse("it is nested too deeply")

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise self._refuse("a text is not UTF-8") from None

    def _map(self, depth: int, pairs: int) -> Mapping[Key, Value]:
        found: dict[Key, Value] = {}
        for _ in range(pairs):
            key = self.value(0)
            if not isinstance(key, int | str):
                raise self._refuse("a map key is neither integer nor text")
            if key in found:
                raise self._refuse("a map has the same key twice")
            found[key] = self.value(depth - 1)
        return MappingProxyType(found)
