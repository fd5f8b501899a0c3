"""
What a validator's key is called: its public key, `0x` and 96 lower-case hex digits.

Clients leave `0x` out and use capitals. There is one name for each key in here, or a
policy that speaks of it could be walked around.
"""

from typing import Final

_HEX: Final = frozenset("0123456789abcdef")
_DIGITS: Final = 96


def validator_name(identifier: str) -> str:
    """Return the name that *identifier* means; what is no public key stays as it is."""
    name = "0x" + identifier.lower().removeprefix("0x")
    return name if is_validator_name(name) else identifier


def is_validator_name(name: str) -> bool:
    """Return whether *name* is what a validator's key is called."""
    return (
        len(name) == _DIGITS + 2 and name.startswith("0x") and _HEX.issuperset(name[2:])
    )
