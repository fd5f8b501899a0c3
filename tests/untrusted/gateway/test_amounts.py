"""Ether to wei: exact or refused."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.untrusted.gateway.amounts import MAX_WEI, wei, wei_from_ether
from nitrosigner.verdicts import Malformed


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.01", 10_000_000_000_000_000),
        ("0.1", 10**17),
        ("0.3", 3 * 10**17),
        ("0.30000000000000004", 300000000000000040),
        ("1e-18", 1),
        ("1", 10**18),
        ("1.0", 10**18),
        ("0", 0),
        ("-0.0", 0),
        ("1234567.891", 1234567891 * 10**15),
        ("1e22", 10**40),
        ('"0.000000000000000001"', 1),
        (
            '"12345678901234567890.123456789012345678"',
            12345678901234567890123456789012345678,
        ),
        ('"7"', 7 * 10**18),
    ],
)
def test_json_as_people_write_it_becomes_exactly_that_many_wei(
    written: str, expected: int
) -> None:
    assert wei_from_ether(json.loads(written)) == expected


@pytest.mark.parametrize(
    "value",
    [
        1e-19,
        1.5e-18,
        -1,
        -0.01,
        float("nan"),
        float("inf"),
        1e300,
        10**60,
        True,
        None,
        [],
        {},
        "",
        "0x10",
        "1e-2",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1.",
        ".5",
        "1_0",
        "٣",
        "nan",
        "0.0000000000000000001",
        "9" * 61,
        "1\n",
    ],
)
def test_what_is_not_an_exact_amount_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        wei_from_ether(value)


@given(st.floats(min_value=0, max_value=1e30, allow_nan=False))
def test_a_float_is_what_its_shortest_decimal_says_or_nothing(value: float) -> None:
    exact = Decimal(repr(value)).scaleb(18)
    if exact == exact.to_integral_value():
        assert wei_from_ether(value) == int(exact)
    else:
        with pytest.raises(Malformed):
            wei_from_ether(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(7, 7), ("7", 7), ("0x10", 16), (MAX_WEI, MAX_WEI)]
)
def test_wei_are_taken_as_they_are(value: Any, expected: int) -> None:
    assert wei(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        True,
        "1.0",
        "",
        "0x",
        "-1",
        -1,
        MAX_WEI + 1,
        "0x1" + "0" * 64,
        None,
        "1_0",
        "٣",
    ],
)
def test_what_are_no_wei_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        wei(value)
