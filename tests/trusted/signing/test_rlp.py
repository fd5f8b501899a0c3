from random import Random

import pytest
import rlp as independent

from nitrosigner.trusted.signing import rlp


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", b"\x83dog"),
        (b"", b"\x80"),
        (b"\x00", b"\x00"),
        (b"\x0f", b"\x0f"),
        (b"\x04\x00", b"\x82\x04\x00"),
        (55 * b"a", b"\xb7" + 55 * b"a"),
        (56 * b"a", b"\xb8\x38" + 56 * b"a"),
        (1024 * b"a", b"\xb9\x04\x00" + 1024 * b"a"),
    ],
)
def test_the_examples_of_the_yellow_paper_and_the_edges(
    item: bytes, encoded: bytes
) -> None:
    assert rlp.encode_bytes(item) == encoded


@pytest.mark.parametrize(
    ("size", "header"),
    [(0, b"\xc0"), (55, b"\xf7"), (56, b"\xf8\x38"), (1024, b"\xf9\x04\x00")],
)
def test_the_edges_of_a_lists_header(size: int, header: bytes) -> None:
    assert rlp.list_header(size) == header


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
