"""
Recursive length prefix (Ethereum yellow paper, appendix B).

Written only, item by item, by encoders that know their fields: nothing that is signed
here arrives as RLP, so nothing here reads it.
"""

from typing import Final

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


def _long_header(base: int, size: int) -> bytes:
    width = (size.bit_length() + 7) >> 3
    return bytes((base + width,)) + size.to_bytes(width, "big")
