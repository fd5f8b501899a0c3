"""
Hash tree roots of SSZ values that arrive as JSON.

Each kind reads the JSON form that the Beacon API gives it (decimal strings, 0x hex) and
computes its root over `hashlib`; a value never exists in between, so that what was
checked is what was hashed. Lengths are checked before anything is hashed.

Source: ethereum/consensus-specs, ssz/simple-serialize.md. remerkleable is the oracle of
the tests.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, Protocol

from nitrosigner.verdicts import Code, Malformed

_MAX_UINT64: Final = (1 << 64) - 1
_CHUNK: Final = 32
_MAX_DEPTH: Final = 48


def _zero_hashes() -> tuple[bytes, ...]:
    hashes = [bytes(_CHUNK)]
    for _ in range(_MAX_DEPTH):
        hashes.append(sha256(hashes[-1] + hashes[-1]).digest())
    return tuple(hashes)


_ZERO_HASHES: Final = _zero_hashes()


class Kind(Protocol):
    """One SSZ type."""

    def root(self, value: object, path: str) -> bytes:
        """
        Return the hash tree root of the JSON *value*.

        Raises:
            Malformed: It is no value of this type; names the field by *path*.
        """
        ...


def _malformed(path: str, expected: str) -> Malformed:
    return Malformed(Code.MALFORMED_REQUEST, f"{path}: {expected}")


def merkleize(chunks: list[bytes], limit: int | None = None) -> bytes:
    """Return the Merkle root of *chunks* in a tree for *limit* leaves."""
    leaves = len(chunks) if limit is None else limit
    depth = max(leaves - 1, 0).bit_length()
    if not chunks:
        return _ZERO_HASHES[depth]
    level = chunks
    for height in range(depth):
        if len(level) & 1:
            level = [*level, _ZERO_HASHES[height]]
        level = [
            sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)
        ]
    return level[0]


def with_length(root: bytes, length: int) -> bytes:
    """Return *root* mixed with the length of the list that it is of."""
    return sha256(root + length.to_bytes(_CHUNK, "little")).digest()


def chunked(data: bytes) -> list[bytes]:
    """Return *data* in chunks of 32 bytes, the last one filled up with zeros."""
    return [
        data[i : i + _CHUNK].ljust(_CHUNK, b"\0") for i in range(0, len(data), _CHUNK)
    ]


def read_uint64(value: object, path: str) -> int:
    """
    Return the integer of a decimal string or a JSON integer below 2^64.

    Raises:
        Malformed: It is neither.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        number = int(value) if len(value) <= 20 else _MAX_UINT64 + 1
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise _malformed(path, "expected an unsigned integer as a decimal string")
    if not 0 <= number <= _MAX_UINT64:
        raise _malformed(path, "expected an integer below 2^64")
    return number


def read_bytes(value: object, path: str, size: int | None = None) -> bytes:
    """
    Return the bytes of `0x` hex, *size* of them if given.

    Raises:
        Malformed: It is no hex, or has another length.
    """
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _malformed(path, "expected hex that begins with 0x")
    if size is not None and len(value) != 2 + 2 * size:
        raise _malformed(path, f"expected {size} bytes of hex")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise _malformed(path, "expected hex digits") from None
    # fromhex skips white space, which the length of the text counted.
    if 2 + 2 * len(data) != len(value):
        raise _malformed(path, "expected hex digits")
    return data


def read_bits(value: object, path: str) -> tuple[bytes, int]:
    """
    Return the bits of a bit list, and how many there are.

    The highest set bit of the hex only marks the length; it is not among them.

    Raises:
        Malformed: It is no hex, or has no such bit.
    """
    data = read_bytes(value, path)
    if not data or data[-1] == 0:
        raise _malformed(path, "expected a bit list that ends in its length bit")
    length = 8 * len(data) - 9 + data[-1].bit_length()
    last = data[-1] ^ (1 << (length % 8))
    return (data[:-1] + bytes([last]) if length % 8 else data[:-1]), length


class Uint64:
    """`uint64`: a decimal string."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        return read_uint64(value, path).to_bytes(_CHUNK, "little")


class Uint256:
    """`uint256`: a decimal string (base fee per gas)."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        decimal = isinstance(value, str) and value.isascii() and value.isdigit()
        if not decimal or len(str(value)) > 78 or (number := int(str(value))) >> 256:
            raise _malformed(
                path, "expected an integer below 2^256 as a decimal string"
            )
        return number.to_bytes(_CHUNK, "little")


class Boolean:
    """`boolean`: true or false."""

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        if not isinstance(value, bool):
            raise _malformed(path, "expected true or false")
        return int(value).to_bytes(_CHUNK, "little")


class ByteVector:
    """`ByteVector[size]`: hex of that many bytes."""

    def __init__(self, size: int) -> None:
        """Hold *size* bytes."""
        self._size = size

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        return merkleize(chunked(read_bytes(value, path, self._size)))


class ByteList:
    """`ByteList[limit]`: hex of at most that many bytes."""

    def __init__(self, limit: int) -> None:
        """Hold up to *limit* bytes."""
        self._limit = limit

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        data = read_bytes(value, path)
        if len(data) > self._limit:
            raise _malformed(path, f"expected at most {self._limit} bytes")
        root = merkleize(chunked(data), (self._limit + _CHUNK - 1) // _CHUNK)
        return with_length(root, len(data))


class Bitvector:
    """`Bitvector[size]`: hex; bits beyond the size are zero."""

    def __init__(self, size: int) -> None:
        """Hold *size* bits."""
        self._size = size

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        data = read_bytes(value, path, (self._size + 7) // 8)
        if self._size % 8 and data[-1] >> (self._size % 8):
            raise _malformed(path, f"expected {self._size} bits")
        return merkleize(chunked(data), (self._size + 255) // 256)


class Bitlist:
    """`Bitlist[limit]`: hex; the highest set bit only marks the length."""

    def __init__(self, limit: int) -> None:
        """Hold up to *limit* bits."""
        self._limit = limit

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        bits, length = read_bits(value, path)
        if length > self._limit:
            raise _malformed(path, f"expected at most {self._limit} bits")
        return with_length(merkleize(chunked(bits), (self._limit + 255) // 256), length)


class Uint64List:
    """`List[uint64, limit]`: four numbers to a chunk."""

    def __init__(self, limit: int) -> None:
        """Hold up to *limit* numbers."""
        self._limit = limit

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        items = items_of(value, path, self._limit)
        data = b"".join(
            read_uint64(item, f"{path}[{i}]").to_bytes(8, "little")
            for i, item in enumerate(items)
        )
        return with_length(merkleize(chunked(data), (self._limit + 3) // 4), len(items))


class List:
    """`List[kind, limit]` of anything that is not a basic type."""

    def __init__(self, kind: Kind, limit: int) -> None:
        """Hold up to *limit* of *kind*."""
        self._kind, self._limit = kind, limit

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        items = items_of(value, path, self._limit)
        roots = [self._kind.root(item, f"{path}[{i}]") for i, item in enumerate(items)]
        return with_length(merkleize(roots, self._limit), len(items))


class Vector:
    """`Vector[kind, size]` of anything that is not a basic type."""

    def __init__(self, kind: Kind, size: int) -> None:
        """Hold exactly *size* of *kind*."""
        self._kind, self._size = kind, size

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        items = items_of(value, path, self._size)
        if len(items) != self._size:
            raise _malformed(path, f"expected {self._size} items")
        return merkleize(
            [self._kind.root(item, f"{path}[{i}]") for i, item in enumerate(items)]
        )


class Container:
    """A container: a JSON object with exactly these fields, in SSZ order."""

    def __init__(self, **fields: Kind) -> None:
        """Hold *fields*, in the specification's order."""
        self._fields = tuple(fields.items())
        self._names = frozenset(fields)

    def root(self, value: object, path: str) -> bytes:
        """See `Kind`."""
        return merkleize(self.field_roots(value, path))

    def field_roots(self, value: object, path: str) -> list[bytes]:
        """
        Return the root of every field, in order.

        Raises:
            Malformed: A field is missing, wrong, or does not belong there.
        """
        if not isinstance(value, Mapping):
            raise _malformed(path, "expected an object")
        if value.keys() != self._names:
            missing = sorted(self._names - value.keys())
            if missing:
                raise _malformed(path, f"the field {missing[0]} is missing")
            raise _malformed(path, "holds a field that does not belong there")
        return [kind.root(value[name], f"{path}.{name}") for name, kind in self._fields]


def items_of(value: object, path: str, limit: int | None) -> Sequence[object]:
    """
    Return the items of a JSON list, at most *limit* if there is one.

    Raises:
        Malformed: It is no list, or has more.
    """
    if not isinstance(value, list):
        raise _malformed(path, "expected a list")
    if limit is not None and len(value) > limit:
        raise _malformed(path, f"expected at most {limit} items")
    return value
