"""Hexadecimal text, read strictly: `bytes.fromhex` would skip white space inside."""

from typing import Final

_DIGITS: Final = frozenset("0123456789abcdefABCDEF")


def bytes_of_hex(text: str) -> bytes | None:
    """Return the bytes that *text* (with or without 0x) stands for; None if none."""
    digits = text.removeprefix("0x").removeprefix("0X")
    if len(digits) % 2 or not _DIGITS.issuperset(digits):
        return None
    return bytes.fromhex(digits)
