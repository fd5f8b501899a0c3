"""
Ether as the reference's events write it, in wei: exactly, or not at all.

JSON's 0.01 reaches Python as a binary float that is not 0.01. What the sender wrote is
the shortest decimal that names that float, and this is what `repr` gives back; from
there on it is integers.
"""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from nitrosigner.verdicts import Code, Malformed

WEI_PER_ETHER: Final = 10**18
MAX_WEI: Final = (1 << 256) - 1
_DECIMAL: Final = re.compile(r"[0-9]{1,60}(\.[0-9]{1,60})?\Z")
_HINT: Final = (
    "`value` is in ether, as a number or a decimal string with at most 18 places; "
    "`value_wei` takes wei"
)


def wei_from_ether(value: object) -> int:
    """
    Return *value* ether in wei.

    Raises:
        Malformed: It is not an exact, positive number of wei.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _malformed("`value` is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _malformed("`value` is not a number")
        exact = Fraction(Decimal(repr(value)))
    elif isinstance(value, int) or _DECIMAL.match(value):
        exact = Fraction(value)
    else:
        raise _malformed("`value` is not a decimal number")
    wei = exact * WEI_PER_ETHER
    if wei.denominator != 1:
        raise _malformed("`value` is not a whole number of wei")
    return _bounded(wei.numerator)


def wei(value: object) -> int:
    """
    Return *value*, an integer or a decimal or hexadecimal string, as wei.

    Raises:
        Malformed: It is none of these, or out of range.
    """
    if type(value) is int:
        return _bounded(value)
    if isinstance(value, str):
        if re.match(r"[0-9]{1,78}\Z", value):
            return _bounded(int(value))
        if re.match(r"0x[0-9a-fA-F]{1,64}\Z", value):
            return _bounded(int(value, 16))
    raise _malformed("`value_wei` is not a whole number")


def _bounded(amount: int) -> int:
    if not 0 <= amount <= MAX_WEI:
        raise _malformed("the amount is negative, or more than 256 bits hold")
    return amount


def _malformed(sentence: str) -> Malformed:
    return Malformed(Code.MALFORMED_TRANSACTION, sentence, _HINT)
