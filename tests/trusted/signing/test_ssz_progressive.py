"""
Progressive SSZ against positions that the specification fixes, and published roots.

The tree of `fuzz/beacon_oracle.py` is built node by node by generalized index, which is
how the specification's light client constants name its leaves.
"""

from hashlib import sha256
from typing import Any

import pytest

from nitrosigner.trusted.signing.ssz import chunked, read_bits, with_length
from nitrosigner.trusted.signing.ssz_progressive import (
    ProgressiveBitlist,
    merkleize_progressive,
)


def test_leaves_are_where_the_specifications_constants_put_them(oracle: Any) -> None:
    """Field 10 of the body at 357, 20 of the state at 367: below the mixed-in word."""
    places = oracle.places
    assert [places(86)[i] for i in (0, 1, 5, 21)] == [2, 24, 224, 1920]

    def in_container(index: int) -> int:
        place: int = places(index + 1)[index]
        return place + (1 << (place.bit_length() - 1))

    # FINALIZED_ROOT_GINDEX_GLOAS, CURRENT_ and NEXT_SYNC_COMMITTEE_GINDEX_GLOAS,
    assert in_container(20) * 2 + 1 == 735
    assert [in_container(22), in_container(23)] == [2945, 2946]
    # EXECUTION_BLOCK_HASH_GINDEX_GLOAS: the bid is itself a progressive container.
    assert in_container(10) * 2 * in_container(0) == 2856


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 20, 21, 22, 85, 86])
def test_trees_are_the_same_node_by_node(oracle: Any, count: int) -> None:
    chunks = [sha256(bytes([i])).digest() for i in range(count)]
    assert merkleize_progressive(chunks) == oracle.tree_root(chunks)


@pytest.mark.parametrize(
    ("count", "root"),
    [
        (5, "3fd53b812118ddea60b9deab5c72d32b0c4dcfd2c94deda753e6e1d548fbc274"),
        (22, "040be60071c540aafc1d44f366239ab6a41bf8740a38f9d52ab0bbd9cd974c45"),
        (86, "b73c4c427974f47c74c2812d353c966f5dadae70c44f6fe9a15e179b86914977"),
    ],
)
def test_trees_are_those_of_a_later_remerkleable(count: int, root: str) -> None:
    """Roots of remerkleable 0.1.31, which Erigon's tests of EIP-7916 publish."""
    chunks = [bytes([i + 1]) * 32 for i in range(count)]
    assert merkleize_progressive(chunks).hex() == root


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 257, 1279, 1280, 1281])
@pytest.mark.parametrize("bit", [0, 1])
def test_bit_lists_are_the_same_node_by_node(oracle: Any, count: int, bit: int) -> None:
    bits = ((1 << count) - 1) * bit
    sent = (bits | 1 << count).to_bytes(count // 8 + 1, "little")
    packed = bits.to_bytes((count + 7) // 8, "little")
    wanted = oracle.mixed(oracle.chunks_of(packed), count)
    assert ProgressiveBitlist().root("0x" + sent.hex(), "bits") == wanted


def test_bits_and_length_are_packed_as_remerkleable_packs_them() -> None:
    """
    A root of 1000 bits, every third one set, which dynamic-ssz' tests publish.

    It is older than "merkleize to right": its tree is turned, its parts are the same.
    """
    bits = sum(1 << i for i in range(2, 1000, 3))
    sent = (bits | 1 << 1000).to_bytes(126, "little")
    packed, length = read_bits("0x" + sent.hex(), "bits")
    first, *rest = chunked(packed)
    four = sha256(
        sha256(rest[0] + rest[1]).digest() + sha256(rest[2] + bytes(32)).digest()
    ).digest()
    turned = sha256(sha256(bytes(32) + four).digest() + first).digest()
    assert with_length(turned, length).hex() == (
        "ba990efa7343179a41d01614759e0ab696a8869fade3f576a8abe6e9880eeaa3"
    )
