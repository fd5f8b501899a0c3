import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import json_values
from nitrosigner.verdicts import Code, Malformed


@given(st.integers(0, 2**260))
def test_every_spelling_of_a_number_is_that_number(number: int) -> None:
    for spelled in (number, str(number), hex(number), f"0x{number:X}"):
        read = json_values.integer(spelled, "n", Code.MALFORMED_REQUEST)
        assert read == number


@given(st.text())
def test_text_is_a_number_only_if_it_is_written_as_one(text: str) -> None:
    try:
        read = json_values.integer(text, "n", Code.MALFORMED_REQUEST)
    except Malformed:
        return
    assert text.lstrip("0") == str(read).lstrip("0")


@given(st.binary(max_size=100))
def test_every_spelling_of_bytes_is_those_bytes(data: bytes) -> None:
    for digits in (data.hex(), data.hex().upper()):
        read = json_values.hex_bytes("0x" + digits, "b", Code.MALFORMED_REQUEST)
        assert read == data


def test_a_value_that_is_too_long_is_not_read() -> None:
    longest = "0x" + json_values.MAX_HEX_BYTES * "00"
    assert json_values.hex_bytes(longest, "b", Code.MALFORMED_REQUEST)
    with pytest.raises(Malformed) as caught:
        json_values.hex_bytes(longest + "00", "b", Code.MALFORMED_REQUEST)
    assert caught.value.code is Code.TOO_LARGE
    # Python itself would stop at 4300 digits, with a ValueError.
    with pytest.raises(Malformed, match="whole number"):
        json_values.integer(5000 * "1", "n", Code.MALFORMED_REQUEST)


def test_an_error_says_which_value_and_how_to_write_it_and_not_what_it_was() -> None:
    with pytest.raises(Malformed) as caught:
        json_values.integer("canary", "gas", Code.MALFORMED_KEY)
    assert caught.value.code is Code.MALFORMED_KEY
    assert caught.value.message == "gas is not a whole number"
    assert "canary" not in caught.value.message + caught.value.hint
    with pytest.raises(Malformed) as caught:
        json_values.hex_bytes("canary", "data", Code.MALFORMED_KEY)
    assert caught.value.code is Code.MALFORMED_KEY
    assert caught.value.message == "data is not bytes in hex"
    assert "canary" not in caught.value.message + caught.value.hint
