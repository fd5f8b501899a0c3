"""
The atomic and dynamic values of EIP-712, each encoded into one word of 32 bytes.

Strict where wallets differ from each other: a text is never taken for bytes, a number
never for a text, `"false"` never for a bool, and a short `bytes4` is never padded. Of
two wallets that guess, one guesses wrong, and the signature is over something else.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from nitrosigner.trusted.signing import addresses, json_values
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.verdicts import Code, Malformed

_TRUE: Final = (1).to_bytes(32, "big")
_FALSE: Final = bytes(32)

_NO_ADDRESS_HIGH_BYTES: Final = bytes(12)


def malformed(message: str, hint: str = "") -> Malformed:
    """Return the verdict that is raised everywhere in EIP-712."""
    return Malformed(
        Code.MALFORMED_TYPED_DATA, message, hint or "see EIP-712 for the form"
    )


def _uint(value: object, name: str, *, bits: int) -> bytes:
    number = json_values.integer(value, name, Code.MALFORMED_TYPED_DATA)
    if not 0 <= number < 1 << bits:
        raise malformed(f"{name} does not fit into uint{bits}")
    return number.to_bytes(32, "big")


def _int(value: object, name: str, *, bits: int) -> bytes:
    code = Code.MALFORMED_TYPED_DATA
    if type(value) is str and value[:1] == "-" and value[1:].isdigit():
        number = -json_values.integer(value[1:], name, code)
    else:
        number = json_values.integer(value, name, code)
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise malformed(f"{name} does not fit into int{bits}")
    return number.to_bytes(32, "big", signed=True)


def _fixed_bytes(value: object, name: str, *, size: int) -> bytes:
    data = json_values.hex_bytes(value, name, Code.MALFORMED_TYPED_DATA)
    if len(data) != size:
        raise malformed(f"{name} is not {size} bytes")
    return data.ljust(32, b"\0")


def _bytes(value: object, name: str) -> bytes:
    return keccak_256(json_values.hex_bytes(value, name, Code.MALFORMED_TYPED_DATA))


def _string(value: object, name: str) -> bytes:
    if type(value) is not str:
        raise malformed(f"{name} is not a string")
    try:
        return keccak_256(value.encode())
    except UnicodeEncodeError:
        # Half of a surrogate pair: there is no UTF-8 for it.
        raise malformed(f"{name} is not valid Unicode") from None


def _bool(value: object, name: str) -> bytes:
    if type(value) is not bool:
        raise malformed(f"{name} is not true or false")
    return _TRUE if value else _FALSE


def _address(value: object, name: str) -> bytes:
    return _NO_ADDRESS_HIGH_BYTES + addresses.parse(
        value, Code.MALFORMED_TYPED_DATA, name
    )


ENCODERS: Final[Mapping[str, Callable[[object, str], bytes]]] = {
    "address": _address,
    "bool": _bool,
    "bytes": _bytes,
    "string": _string,
    # Not in the EIP, but every wallet takes them, and the text is signed as written.
    "int": partial(_int, bits=256),
    "uint": partial(_uint, bits=256),
    **{f"int{bits}": partial(_int, bits=bits) for bits in range(8, 257, 8)},
    **{f"uint{bits}": partial(_uint, bits=bits) for bits in range(8, 257, 8)},
    **{f"bytes{size}": partial(_fixed_bytes, size=size) for size in range(1, 33)},
}
"""Type → function of a JSON value and the field's name that returns 32 bytes."""
