"""
Numbers and bytes as Ethereum's clients write them into JSON.

Python's own readers take more than that: `int` takes `1_000`, ` 7 ` and digits of other
scripts, `bytes.fromhex` takes spaces. What is signed must be what the caller wrote, so
the characters are looked at first. Floats are never taken, not even whole ones: what
passes 2^53 has been rounded already, before it got here.
"""

from typing import Final

from nitrosigner.verdicts import Code, Malformed

MAX_DIGITS: Final = 80
"""Characters in a number: 2^256 has 78 decimal digits."""

MAX_HEX_BYTES: Final = 256 * 1024
"""Longest byte string that is read at all; each use has a limit of its own."""

_SHOWN: Final = 48
"""Characters of the caller's own text that an error repeats."""


def integer(value: object, name: str, code: Code) -> int:
    """
    Return the whole number that *value* stands for.

    Args:
        value: A JSON integer, a string of decimal digits, or `0x` and hex digits.
            Only the JSON integer can be negative.
        name: What the caller knows it as.
        code: What to call it when it is wrong.

    Raises:
        Malformed: It is something else.
    """
    # bool is a subclass of int, and true is not the number one.
    if type(value) is int:
        return value
    if type(value) is str and len(value) <= MAX_DIGITS and value.isascii():
        if value.isdigit():
            return int(value)
        if value[:2] == "0x" and value[2:].isalnum():
            try:
                return int(value, 16)
            except ValueError:
                pass
    raise _no_integer(value, name, code)


def hex_bytes(value: object, name: str, code: Code) -> bytes:
    """
    Return the bytes that *value* stands for: `0x` and an even number of hex digits.

    Raises:
        Malformed: It is something else, or longer than `MAX_HEX_BYTES`.
    """
    if type(value) is str and value[:2] == "0x":
        if len(value) > 2 * MAX_HEX_BYTES + 2:
            raise Malformed(
                Code.TOO_LARGE, f"{name} is longer than {MAX_HEX_BYTES} bytes"
            )
        try:
            data = bytes.fromhex(value[2:])
        except ValueError:
            pass
        else:
            # Shorter than the text says: there were spaces, which fromhex skips.
            if 2 * len(data) == len(value) - 2:
                return data
    raise Malformed(
        code,
        f"{name} is not bytes in hex",
        f"write {name} as 0x and two hex digits for each byte",
    )


def quoted(name: object) -> str:
    """Return a caller's *name* for something, short and printable, for an error."""
    text = ascii(name) if type(name) is str else "(not a string)"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…'"


def _no_integer(value: object, name: str, code: Code) -> Malformed:
    if type(value) is float:
        return Malformed(
            code,
            f"{name} is a float",
            f"write {name} as a whole number; a large one as a decimal or 0x string, "
            "since floats are rounded",
        )
    return Malformed(
        code,
        f"{name} is not a whole number",
        f"write {name} as an integer, a decimal string or 0x and hex digits",
    )
