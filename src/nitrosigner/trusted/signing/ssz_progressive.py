"""
Hash tree roots of the progressive SSZ types, which came with Gloas.

They have no capacity: the tree grows to the right with what is in it, each subtree four
times as wide as the one before. What bounds a request is its size alone.

Sources: EIP-7916 (since "merkleize to right", the subtree is the left child and what
follows it the right one; older texts have it the other way round), EIP-7495, EIP-7688.
"""

from hashlib import sha256
from typing import Final

from nitrosigner.trusted.signing.ssz import (
    Container,
    Kind,
    chunked,
    items_of,
    merkleize,
    read_bits,
    read_bytes,
    with_length,
)

_GROWTH: Final = 4


def merkleize_progressive(chunks: list[bytes]) -> bytes:
    """Return the Merkle root of *chunks* in a tree that is as large as they need."""
    subtrees = []
    start, width = 0, 1
    while start < len(chunks):
        subtrees.append(merkleize(chunks[start : start + width], width))
        start, width = start + width, width * _GROWTH
    root = bytes(32)
    for subtree in reversed(subtrees):
        root = sha256(subtree + root).digest()
    return root


class ProgressiveByteList:
    """`ProgressiveList[byte]`: hex."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        data = read_bytes(value, path)
        return with_length(merkleize_progressive(chunked(data)), len(data))


class ProgressiveBitlist:
    """`ProgressiveBitlist`: hex; the highest set bit only marks the length."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        # No bits are no chunks, as in the executable specification (eth-ssz-specs).
        bits, length = read_bits(value, path)
        return with_length(merkleize_progressive(chunked(bits)), length)


class ProgressiveList:
    """`ProgressiveList[kind]` of anything that is not a basic type."""

    def __init__(self, kind: Kind) -> None:
        """Hold any number of *kind*."""
        self._kind = kind

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        items = items_of(value, path, None)
        roots = [self._kind.root(item, f"{path}[{i}]") for i, item in enumerate(items)]
        return with_length(merkleize_progressive(roots), len(items))


class ProgressiveContainer(Container):
    """A container that later forks may extend; here, all its fields are active."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        roots = self.field_roots(value, path)
        active = ((1 << len(roots)) - 1).to_bytes(32, "little")
        return sha256(merkleize_progressive(roots) + active).digest()
