"""
Python values as the API's JSON takes them.

Wei and 256-bit numbers do not survive other languages' JSON numbers, so integers of a
transaction go as hex and big ones of typed data as decimal strings. Nothing is
rounded: a float is refused, because no caller means one.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from nitrosigner.verdicts import Code, Malformed

_SAFE_INTEGER: Final = 1 << 53
MAX_DEPTH: Final = 64


def transaction_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a transaction's *fields* (ints, bytes, hex) as JSON values.

    Raises:
        Malformed: A field holds something that no transaction has.
    """
    return {
        name: _json(value, Code.MALFORMED_TRANSACTION, hex_integers=True)
        for name, value in fields.items()
        # web3.py writes an absent field as None.
        if value is not None
    }


def typed_data_json(message: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return an EIP-712 *message* (types, primaryType, domain, message) as JSON values.

    Raises:
        Malformed: A value has no place in typed data.
    """
    return {
        name: _json(value, Code.MALFORMED_TYPED_DATA, hex_integers=False)
        for name, value in message.items()
    }


def _json(value: Any, code: Code, *, hex_integers: bool, depth: int = 0) -> Any:  # noqa: ANN401  # JSON is any
    def inner(item: Any) -> Any:  # noqa: ANN401  # as above
        return _json(item, code, hex_integers=hex_integers, depth=depth + 1)

    if depth > MAX_DEPTH:
        raise Malformed(code, f"nested more than {MAX_DEPTH} levels deep")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if hex_integers:
            return hex(value)
        return value if abs(value) < _SAFE_INTEGER else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(name): inner(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: inner(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if hasattr(value, "model_dump"):
        # eth-account's SignedSetCodeAuthorization is a pydantic model.
        return inner(value.model_dump(by_alias=True))
    if isinstance(value, Iterable):
        return [inner(item) for item in value]
    raise Malformed(
        code,
        f"a value of type {type(value).__name__} has no place here",
        "amounts are integers in wei",
    )
