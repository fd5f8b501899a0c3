from random import Random

import pytest
import rlp as independent
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import rlp
from nitrosigner.verdicts import Code, Malformed

ITEMS = st.recursive(
    st.binary(max_size=70), lambda inner: st.lists(inner, max_size=6), max_leaves=30
)


def depth(item: rlp.Item) -> int:
    if isinstance(item, bytes):
        return 0
    return 1 + max(map(depth, item), default=0)


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", b"\x83dog"),
        ([b"cat", b"dog"], b"\xc8\x83cat\x83dog"),
        (b"", b"\x80"),
        ([], b"\xc0"),
        (b"\x00", b"\x00"),
        (b"\x0f", b"\x0f"),
        (b"\x04\x00", b"\x82\x04\x00"),
        ([[], [[]], [[], [[]]]], bytes.fromhex("c7c0c1c0c3c0c1c0")),
        (55 * b"a", b"\xb7" + 55 * b"a"),
        (56 * b"a", b"\xb8\x38" + 56 * b"a"),
        (1024 * b"a", b"\xb9\x04\x00" + 1024 * b"a"),
        (55 * [b"a"], b"\xf7" + 55 * b"a"),
        (56 * [b"a"], b"\xf8\x38" + 56 * b"a"),
    ],
)
def test_the_examples_of_the_yellow_paper_and_the_edges(
    item: rlp.Item, encoded: bytes
) -> None:
    assert rlp.encode(item) == encoded
    assert rlp.decode(encoded) == item


@given(ITEMS)
def test_what_is_encoded_is_decoded_again(item: rlp.Item) -> None:
    encoded = rlp.encode(item)
    assert encoded == independent.encode(item)
    if depth(item) <= rlp.MAX_DEPTH:
        assert rlp.decode(encoded) == item
    else:
        with pytest.raises(Malformed, match="deeper"):
            rlp.decode(encoded)


def test_integers_are_those_of_the_rlp_package() -> None:
    random = Random(3)
    numbers = [n + d for k in range(257) for n in (2**k,) for d in (-1, 0, 1)]
    numbers += [random.getrandbits(random.randrange(1, 600)) for _ in range(2000)]
    for number in numbers:
        encoded = independent.encode(number, independent.sedes.big_endian_int)
        assert rlp.encode_integer(number) == encoded


def test_strings_and_list_headers_are_those_of_the_rlp_package() -> None:
    for size in [*range(300), 65535, 65536]:
        data = bytes(size)
        assert rlp.encode_bytes(data) == independent.encode(data)
        assert rlp.list_header(size) + data == independent.encode([b"\0"] * size)


@given(st.binary(max_size=64))
def test_only_canonical_bytes_are_decoded_and_they_encode_to_themselves(
    data: bytes,
) -> None:
    try:
        item = rlp.decode(data)
    except Malformed:
        # Unless it is for the depth, the independent reader must agree.
        try:
            other = independent.decode(data)
        except independent.exceptions.DecodingError:
            return
        assert depth(other) > rlp.MAX_DEPTH
    else:
        assert rlp.encode(item) == data
        assert independent.decode(data) == item


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("", "cut short"),
        ("81", "cut short"),
        ("83646f", "cut short"),
        ("b8", "cut short"),
        ("b838", "cut short"),
        ("b9ffff00", "cut short"),
        ("bfffffffffffffffff", "cut short"),
        ("c1", "cut short"),
        ("c281", "cut short"),
        ("c2c181", "cut short"),
        ("ffffffffffffffffff", "cut short"),
        ("8080", "after its end"),
        ("c0c0", "after its end"),
        ("8100", "stands for itself"),
        ("817f", "stands for itself"),
        ("c28100", "stands for itself"),
        ("b80100", "shorter form"),
        ("b837" + 55 * "61", "shorter form"),
        ("b90038" + 56 * "61", "shorter form"),
        ("f80180", "shorter form"),
        ("f90038" + 56 * "61", "shorter form"),
        ("c9c8c7c6c5c4c3c2c1c0", "deeper"),
    ],
)
def test_what_is_not_the_one_encoding_is_refused(data: str, what: str) -> None:
    with pytest.raises(Malformed, match=what) as caught:
        rlp.decode(bytes.fromhex(data))
    assert caught.value.code is Code.MALFORMED_TRANSACTION


def test_the_size_is_looked_at_first() -> None:
    with pytest.raises(Malformed) as caught:
        rlp.decode(bytes(rlp.MAX_SIZE + 1))
    assert caught.value.code is Code.TOO_LARGE
    with pytest.raises(Malformed, match="longer than 3"):
        rlp.decode(b"\x83dog", max_size=3)
