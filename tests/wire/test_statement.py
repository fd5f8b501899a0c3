"""What an enclave says of itself fits where it is said, and is read strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.wire import statement
from nitrosigner.wire.statement import Statement

LONGEST = Statement(
    deployment="d" * 64,
    manifest="a" * 64,
    manifest_version=(1 << 53) - 1,
    administrator="b" * 64,
    tls="c" * 64,
    tls_imported=True,
)


def test_the_longest_statement_fits_in_user_data_and_is_read_again() -> None:
    user_data = statement.encode(LONGEST)
    assert len(user_data) <= statement.MAX_STATEMENT
    assert statement.decode(user_data) == LONGEST


def test_what_is_not_imported_reads_as_it_did_before_anything_could_be() -> None:
    ours = Statement(
        deployment="d", manifest="a" * 64, manifest_version=1,
        administrator="b" * 64, tls="c" * 64,
    )  # fmt: skip
    assert b"imported" not in statement.encode(ours)
    assert b'"tls_imported":true' in statement.encode(LONGEST)
    assert not statement.decode(statement.encode(ours)).tls_imported


def test_a_statement_that_does_not_fit_is_not_made() -> None:
    endless = Statement(
        deployment="d" * 400,
        manifest="a" * 64,
        manifest_version=1,
        administrator="b" * 64,
        tls="c" * 64,
    )
    with pytest.raises(ValueError, match="fit"):
        statement.encode(endless)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"nitrosigner/1", b"nitrosigner/2"),
        (b'"tls"', b'"ssl"'),
        (b"c" * 64, b"c" * 63),
        (b"c" * 64, b"C" * 64),
        (b'"tls":', b'"extra":1,"tls":'),
        (b"}", b"} x"),
        (b"9007199254740991", b'"1"'),
    ],
)
def test_anything_but_a_statement_of_this_version_is_refused(
    old: bytes, new: bytes
) -> None:
    user_data = statement.encode(LONGEST)
    assert old in user_data
    with pytest.raises(ValueError):
        statement.decode(user_data.replace(old, new))


def test_too_much_user_data_is_refused_before_it_is_read() -> None:
    padded = statement.encode(LONGEST) + b" " * statement.MAX_STATEMENT
    with pytest.raises(ValueError, match="too long"):
        statement.decode(padded)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_statement_or_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        statement.decode(data)
