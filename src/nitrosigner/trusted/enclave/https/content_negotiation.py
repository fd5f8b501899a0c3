"""
JSON or text? As Web3Signer's clients ask for it, and some do not ask at all.

Source: Web3Signer answers JSON to `application/json` and to `*/*`, text to everybody
else. Lodestar sends `*/*` and parses JSON; whoever sends nothing gets text.
"""

from functools import lru_cache
from typing import Final

MAX_RANGES: Final = 16
"""Media ranges that are looked at."""

_JSON: Final = {b"application/json": 2, b"application/*": 1, b"*/*": 0}
_TEXT: Final = {b"text/plain": 2, b"text/*": 1, b"*/*": 0}


@lru_cache(64)
def wants_json(accept: bytes | None) -> bool:
    """Return whether JSON is to be answered to this Accept header."""
    if accept is None:
        return False
    ranges = _ranges(accept)
    json = _preference(ranges, _JSON)
    return json[0] > 0 and json >= _preference(ranges, _TEXT)


def _preference(
    ranges: dict[bytes, float], known: dict[bytes, int]
) -> tuple[float, int]:
    """Return the weight of the most specific range that names it, and how specific."""
    specific, weight = max(
        ((known[name], weight) for name, weight in ranges.items() if name in known),
        default=(-1, 0.0),
    )
    return weight, specific


def _ranges(accept: bytes) -> dict[bytes, float]:
    found: dict[bytes, float] = {}
    for one in accept.lower().split(b",")[:MAX_RANGES]:
        name, *parameters = one.split(b";")
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"q":
                weight = _weight(value.strip())
        found.setdefault(name.strip(), weight)
    return found


def _weight(value: bytes) -> float:
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0
