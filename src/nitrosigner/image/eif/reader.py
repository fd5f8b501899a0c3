"""
Reads an enclave image file strictly, and measures it in the same pass.

Whoever measures a file and whoever starts it must see the same kernel and ramdisks. So
there is one way to lay a file out: sections one after the other from the header to the
end of the file, the header's table saying the same, nothing between, nothing behind,
nothing unknown; kernel, then command line, then ramdisks. Everything else is
`Malformed`, with a sentence that says where.

Memory: one chunk and the small sections, however large the image is.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from nitrosigner.image.eif import metadata as metadatas
from nitrosigner.image.eif.layout import (
    AARCH64,
    CHUNK,
    CRC_OFFSET,
    HEADER,
    LIMITS,
    MAGIC,
    MAX_IMAGE,
    MAX_SECTIONS,
    SECTION,
    VERSION,
    SectionType,
    malformed,
)
from nitrosigner.image.eif.measure import Measurements, Measuring
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.signature import ImageSignature, read_signature

_MEASURED: Final = (SectionType.KERNEL, SectionType.COMMAND_LINE, SectionType.RAMDISK)
_SMALL: Final = (
    SectionType.COMMAND_LINE,
    SectionType.METADATA,
    SectionType.SIGNATURE,
)
"""Sections that are read into memory."""


@dataclass(frozen=True, slots=True)
class Header:
    """The file's header, checked by itself."""

    flags: int
    memory: int
    """Bytes that the image asks for by default."""
    vcpus: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    crc: int


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section's payload lies."""

    kind: SectionType
    offset: int
    """Bytes from the file's start to the payload."""
    size: int


@dataclass(frozen=True, slots=True)
class Eif:
    """An image whose layout and checksum hold, with what it measures to."""

    header: Header
    sections: tuple[Section, ...]
    command_line: str
    metadata: Metadata | None
    signature: ImageSignature | None
    """Not checked. `checked_measurements` does."""
    unsigned_measurements: Measurements
    """Without PCR8."""
    file: IO[bytes]
    """Still open at the caller's; `chunks` reads it."""

    @property
    def architecture(self) -> str:
        """For which machines it is, in Linux's words."""
        return "aarch64" if self.header.flags & AARCH64 else "x86_64"

    @property
    def ramdisks(self) -> tuple[Section, ...]:
        """The ramdisks in order."""
        return tuple(one for one in self.sections if one.kind is SectionType.RAMDISK)

    @property
    def kernel(self) -> Section:
        """The kernel."""
        return next(one for one in self.sections if one.kind is SectionType.KERNEL)

    def checked_measurements(self) -> Measurements:
        """
        Return what a hypervisor measures when it starts this image.

        Raises:
            Refused: It is signed, and the signature is not true.
        """
        plain = self.unsigned_measurements
        if self.signature is None:
            return plain
        self.signature.check(plain.pcr0)
        return Measurements(plain.pcr0, plain.pcr1, plain.pcr2, self.signature.register)

    def chunks(self, section: Section) -> Iterator[bytes]:
        """
        Read a section's payload, a chunk at a time.

        Raises:
            Malformed: The file has become shorter since it was checked.
        """
        return _chunks(self.file, section.offset, section.size)


def read_eif(file: IO[bytes]) -> Eif:
    """
    Read, check and measure the image in *file*, which can seek.

    Raises:
        Malformed: It is no image of version 4, or not one that every reader
            understands in the same way.
    """
    size = file.seek(0, 2)
    if size > MAX_IMAGE:
        raise malformed(f"it is longer than {MAX_IMAGE >> 30} GiB")
    file.seek(0)
    packed = file.read(HEADER.size)
    header = _header(packed)
    sections = _sections(file, header, size)
    _check_order(sections)
    crc = zlib.crc32(packed[:CRC_OFFSET])
    measuring, ramdisks = Measuring(), 0
    small: dict[SectionType, bytes] = {}
    for section in sections:
        crc = zlib.crc32(_at(file, section.offset - SECTION.size, SECTION.size), crc)
        kept = bytearray()
        for chunk in _chunks(file, section.offset, section.size):
            crc = zlib.crc32(chunk, crc)
            measuring.take(section.kind, ramdisks, chunk)
            if section.kind in _SMALL:
                kept += chunk
        ramdisks += section.kind is SectionType.RAMDISK
        small[section.kind] = bytes(kept)
    if crc != header.crc:
        raise malformed("its checksum is not that of its content")
    notes = small.get(SectionType.METADATA)
    signature = small.get(SectionType.SIGNATURE)
    return Eif(
        header=header,
        sections=sections,
        command_line=_command_line(small[SectionType.COMMAND_LINE]),
        metadata=None if notes is None else metadatas.decode(notes),
        signature=None if signature is None else read_signature(signature),
        unsigned_measurements=measuring.measured(),
        file=file,
    )


def _header(packed: bytes) -> Header:
    if packed[: len(MAGIC)] != MAGIC:
        raise malformed(
            "it does not begin with .eif",
            "an image is what `make image` or nitro-cli build-enclave writes",
        )
    if len(packed) < HEADER.size:
        raise malformed("it ends inside its header")
    (_, version, flags, memory, vcpus, reserved, count, *table, unused, crc) = (
        HEADER.unpack(packed)
    )
    if version != VERSION:
        raise malformed(
            f"it is of version {version}, and only version {VERSION} is known",
            "build it with nitro-cli 1.2 or later, or with make image",
        )
    if flags & ~AARCH64 or reserved or unused:
        raise malformed("its header sets what has no meaning")
    if not 1 <= count <= MAX_SECTIONS:
        raise malformed(f"it says that it has {count} sections of at most 32")
    if any(table[count:MAX_SECTIONS]) or any(table[MAX_SECTIONS + count :]):
        raise malformed("its table names more sections than it says that it has")
    offsets = tuple(table[:count])
    sizes = tuple(table[MAX_SECTIONS : MAX_SECTIONS + count])
    return Header(flags, memory, vcpus, offsets, sizes, crc)


def _sections(file: IO[bytes], header: Header, size: int) -> tuple[Section, ...]:
    sections: list[Section] = []
    end = HEADER.size
    for number, (offset, length) in enumerate(
        zip(header.offsets, header.sizes, strict=True), start=1
    ):
        if offset < end:
            raise malformed(f"section {number} overlaps what stands before it")
        if offset > end:
            raise malformed(f"there are bytes before section {number} that are in none")
        if offset + SECTION.size + length > size:
            raise malformed(f"section {number} ends behind the end of the file")
        packed = _at(file, offset, SECTION.size)
        kind_number, flags, own_length = SECTION.unpack(packed)
        if own_length != length:
            raise malformed(
                f"section {number} and the header's table disagree on its length"
            )
        if flags:
            raise malformed(f"section {number} sets flags that have no meaning")
        try:
            kind = SectionType(kind_number)
        except ValueError:
            raise malformed(
                f"section {number} is of the unknown type {kind_number}"
            ) from None
        if length == 0:
            raise malformed(f"section {number}, a {kind.title}, is empty")
        if length > LIMITS[kind]:
            raise malformed(
                f"section {number}, a {kind.title}, is longer than {LIMITS[kind]} bytes"
            )
        sections.append(Section(kind, offset + SECTION.size, length))
        end = offset + SECTION.size + length
    if end != size:
        raise malformed(f"there are {size - end} bytes after the last section")
    return tuple(sections)


def _check_order(sections: Sequence[Section]) -> None:
    kinds = [section.kind for section in sections]
    for kind in SectionType:
        if kind is not SectionType.RAMDISK and kinds.count(kind) > 1:
            raise malformed(f"it has more than one {kind.title}")
    for kind in _MEASURED:
        if kind not in kinds:
            raise malformed(f"it has no {kind.title}")
    # AWS measures in the file's order, its builder in this one. Only where they are
    # the same is PCR0 one number.
    measured = [kind for kind in kinds if kind in _MEASURED]
    if measured != sorted(measured):
        raise malformed("kernel, command line and ramdisks are not in this order")


def _command_line(payload: bytes) -> str:
    try:
        text = payload.decode("ascii")
    except UnicodeDecodeError:
        raise malformed("its command line is not ASCII") from None
    if "\0" in text:
        raise malformed("there is a zero byte in its command line")
    return text


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    return b"".join(_chunks(file, offset, size))


def _chunks(file: IO[bytes], offset: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        # Somebody else may have read from the file since the last chunk.
        file.seek(offset + size - left)
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise malformed("it became shorter while it was read")
        left -= len(chunk)
        yield chunk
