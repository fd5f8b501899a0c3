"""
What is in a ramdisk: archives in cpio's "newc" format, compressed or not.

Reads as Linux unpacks: any number of archives behind each other, each as it is or
compressed, with zeros between. Contents are hashed and let go, so memory is bounded by
the number of entries, whatever the file promises. Nothing is ever unpacked to a disk.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst and
init/initramfs.c; cpio(5).
"""

import bz2
import hashlib
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from nitrosigner.verdicts import Code, Malformed

MAX_ENTRIES: Final = 200_000
MAX_NAME: Final = 4096
"""Bytes of a path (Linux: PATH_MAX)."""
MAX_UNPACKED: Final = 8 << 30
"""Bytes of a ramdisk's archives: what is smaller on the disk may be a bomb."""
_DECOMPRESSED: Final = 1 << 18
"""Bytes that a decompressor gives at a time."""
_MEMORY: Final = 256 << 20
"""Bytes that a decompressor may take for its dictionary."""
_HEADER_SIZE: Final = 110
_MAGICS: Final = (b"070701", b"070702")
_TRAILER: Final = b"TRAILER!!!"
_ALIGNMENT: Final = 4
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, link or device of an archive."""

    path: str
    """As it is written; bytes that are no UTF-8 as surrogates."""
    mode: int
    """Type and permissions, as `stat` has them."""
    owner: int
    group: int
    modified: int
    """Seconds since 1970."""
    links: int
    device: tuple[int, int]
    """Major and minor number that a device file stands for."""
    size: int
    content: str
    """SHA-256 of the content, or of a symbolic link's target; hex."""

    @property
    def mode_text(self) -> str:
        """As `ls` shows it."""
        return stat.filemode(self.mode)


class UnlistedRamdisk(Malformed):
    """A ramdisk whose files cannot be listed. Its bytes are measured all the same."""

    def __init__(self, sentence: str) -> None:
        """Say in one sentence why not."""
        super().__init__(
            Code.MALFORMED_REQUEST,
            f"the files of this ramdisk cannot be listed: {sentence}",
            "its bytes can still be compared and measured",
        )


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Stream:
    """Bytes from front to back; knows where it stands."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self.at = 0

    def _fill(self, count: int) -> None:
        parts, have = [self._buffer], len(self._buffer)
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
            have += len(chunk)
        self._buffer = b"".join(parts)

    def peek(self, count: int) -> bytes:
        """Return up to *count* (small) bytes, and stay."""
        if len(self._buffer) < count:
            self._fill(count)
        return self._buffer[:count]

    def some(self, most: int) -> bytes:
        """Return 1 to *most* bytes; none at the end."""
        if not self._buffer:
            self._buffer = next(self._chunks, b"")
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        self.at += len(taken)
        if self.at > MAX_UNPACKED:
            raise UnlistedRamdisk(f"it unpacks to more than {MAX_UNPACKED >> 30} GiB")
        return taken

    def exactly(self, count: int) -> Iterator[bytes]:
        """Return *count* bytes in pieces."""
        while count:
            taken = self.some(count)
            if not taken:
                raise UnlistedRamdisk("an archive in it ends too early")
            count -= len(taken)
            yield taken

    def align(self) -> None:
        """Go on to the next multiple of four."""
        for _ in self.exactly(-self.at % _ALIGNMENT):
            pass

    def push_back(self, data: bytes) -> None:
        """Un-read *data*."""
        self._buffer = data + self._buffer
        self.at -= len(data)


def entries(chunks: Iterator[bytes]) -> Iterator[Entry]:
    """
    Return what the ramdisk in *chunks* holds, in its order.

    Raises:
        UnlistedRamdisk: It is not in a format that is known here.
    """
    archives = _archives(_Stream(chunks), compressed=False)
    for found, entry in enumerate(archives, start=1):
        if found > MAX_ENTRIES:
            raise UnlistedRamdisk(f"it has more than {MAX_ENTRIES} entries")
        yield entry


def _archives(stream: _Stream, *, compressed: bool) -> Iterator[Entry]:
    while head := stream.peek(6):
        if head[0] == 0:
            _skip_zeros(stream)
        elif head in _MAGICS:
            if stream.at % _ALIGNMENT:
                raise UnlistedRamdisk("an archive in it begins where Linux finds none")
            yield from _archive(stream)
        elif compressed:
            raise UnlistedRamdisk("there is no archive under its compression")
        else:
            inside = _Stream(_decompressed(stream, head))
            yield from _archives(inside, compressed=True)


def _skip_zeros(stream: _Stream) -> None:
    while taken := stream.some(1 << 16):
        rest = taken.lstrip(b"\0")
        if rest:
            stream.push_back(rest)
            return


def _archive(stream: _Stream) -> Iterator[Entry]:
    while stream.peek(1):
        header = b"".join(stream.exactly(_HEADER_SIZE))
        digits = header[6:]
        if header[:6] not in _MAGICS or not _HEX.issuperset(digits):
            raise UnlistedRamdisk("an archive in it is not in the newc format")
        fields = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
        (_, mode, owner, group, links, modified, size, _, _, major, minor, named, _) = (
            fields
        )
        if not 1 <= named <= MAX_NAME:
            raise UnlistedRamdisk("a path in it is too long")
        name = b"".join(stream.exactly(named))
        stream.align()
        if name[-1] or 0 in name[:-1]:
            raise UnlistedRamdisk("a path in it does not end where it should")
        if name[:-1] == _TRAILER:
            return
        content = hashlib.sha256()
        for piece in stream.exactly(size):
            content.update(piece)
        stream.align()
        yield Entry(
            path=name[:-1].decode("utf-8", "surrogateescape"),
            mode=mode,
            owner=owner,
            group=group,
            modified=modified,
            links=links,
            device=(major, minor),
            size=size,
            content=content.hexdigest(),
        )
    raise UnlistedRamdisk("an archive in it ends without its trailer")


def _decompressed(stream: _Stream, head: bytes) -> Iterator[bytes]:
    if head[:2] == b"\x1f\x8b":
        return _inflated(stream)
    if head == b"\xfd7zXZ\0":
        return _expanded(
            stream, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        )
    if head[:3] == b"BZh":
        return _expanded(stream, bz2.BZ2Decompressor())
    if head[:4] == b"\x28\xb5\x2f\xfd":
        raise UnlistedRamdisk("it is compressed with zstd, which is not read here")
    raise UnlistedRamdisk("it is no archive, or its compression is not known")


def _inflated(stream: _Stream) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)

    def step(data: bytes) -> bytes:
        return inflate.decompress(inflate.unconsumed_tail + data, _DECOMPRESSED)

    def hungry() -> bool:
        return not inflate.unconsumed_tail

    return _pumped(stream, inflate, step, hungry)


def _expanded(
    stream: _Stream, expand: lzma.LZMADecompressor | bz2.BZ2Decompressor
) -> Iterator[bytes]:
    def step(data: bytes) -> bytes:
        return expand.decompress(data, _DECOMPRESSED)

    def hungry() -> bool:
        return expand.needs_input

    return _pumped(stream, expand, step, hungry)


def _pumped(
    stream: _Stream,
    decompressor: _Decompressor,
    step: Callable[[bytes], bytes],
    hungry: Callable[[], bool],
) -> Iterator[bytes]:
    try:
        while not decompressor.eof:
            data = stream.some(1 << 16) if hungry() else b""
            given = step(data)
            if given:
                yield given
            elif not data and hungry() and not decompressor.eof:
                raise UnlistedRamdisk("its compressed part ends too early")
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        raise UnlistedRamdisk("its compressed part is damaged") from None
    stream.push_back(decompressor.unused_data)
