"""
JSON from a file or a pipe, read without trusting how deep it is, nor two readers alike.

`py_ecc`, which eth-account and eth-keyfile bring, raises Python's recursion limit to
100,000 for the whole process. With it any JSON parser in C can be driven off the end
of the stack by a file that is nothing but brackets. So depth is measured first.

A name that stands twice in one object is refused: readers differ in which of the two
they take, and so might whoever looked at the file before it was sent to be signed.
"""

import json
import re
from typing import Any, Final

MAX_DEPTH: Final = 64
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NOT_A_BRACKET: Final = re.compile(rb"[^\[\]{}]+")


class RepeatedName(ValueError):
    """A name stands twice in one object. It is not said which: it may be secret."""


def read_json(data: bytes) -> Any:  # noqa: ANN401  # any JSON
    """
    Return what *data* says, in UTF-8.

    Raises:
        RepeatedName: A name stands twice in one object.
        ValueError: It is not JSON, or nested more than `MAX_DEPTH` levels deep.
    """
    brackets = _NOT_A_BRACKET.sub(b"", _STRING.sub(b"", data))
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            msg = "nested too deep"
            raise ValueError(msg)
    return json.loads(
        data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_once
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise RepeatedName
    return read


def _refuse(constant: str) -> Any:  # noqa: ANN401  # json's signature
    msg = f"{constant} is not JSON"
    raise ValueError(msg)
