"""
Writes an enclave image file, reads it back, and only then gives it its name.

What is reported of an image (its PCRs, that it is signed) is what the strict reader
found in the finished bytes on the disk, never what the writer meant to write. A file
whose signature was asked for and does not verify does not come to be.

The same contents make the same bytes: nothing of the machine, the clock or chance is
in them.
"""

import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from nitrosigner.image.eif import metadata as metadatas
from nitrosigner.image.eif.layout import (
    AARCH64,
    CHUNK,
    CRC_OFFSET,
    HEADER,
    LIMITS,
    MAGIC,
    MAX_SECTIONS,
    SECTION,
    VERSION,
    SectionType,
)
from nitrosigner.image.eif.measure import Measurements, Measuring
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.reader import Eif, read_eif
from nitrosigner.image.eif.signature import Signer
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided

DEFAULT_MEMORY: Final = 1 << 30
"""Bytes; as AWS's builder writes. Who starts the enclave says what it really gets."""
DEFAULT_VCPUS: Final = 2
MAX_WRITTEN_COMMAND_LINE: Final = 1536
"""Linux takes 2,048 bytes on x86-64, and the hypervisor appends its devices."""
RAMDISK_ALIGNMENT: Final = 4
"""Bytes. A loader puts the ramdisks one behind the other, and Linux looks for the next
archive at multiples of four only; one that begins elsewhere is silently lost."""
MODE: Final = 0o644

Source = bytes | Path
"""A section's content, or the file that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContents:
    """What an image is made from."""

    kernel: Source
    command_line: str
    ramdisks: Sequence[Source]
    """Archives, compressed or not, each padded with zeros to a multiple of 4 bytes."""
    metadata: Metadata
    aarch64: bool = False
    memory: int = DEFAULT_MEMORY
    vcpus: int = DEFAULT_VCPUS


@dataclass(frozen=True, slots=True)
class _Part:
    kind: SectionType
    source: Source | tuple[Eif, int]
    """Content, a file, or the payload of another image's section."""

    @property
    def must_align(self) -> bool:
        # Another builder's image is signed as it is: alignment is part of PCR0.
        return self.kind is SectionType.RAMDISK and not isinstance(self.source, tuple)

    def chunks(self) -> Iterator[bytes]:
        match self.source:
            case bytes() as content:
                yield content
            case Path() as path:
                yield from _file_chunks(path)
            case (eif, index):
                yield from eif.chunks(eif.sections[index])


def write_eif(
    path: Path,
    contents: ImageContents,
    *,
    signer: Signer | None = None,
    replace: bool = False,
) -> Measurements:
    """
    Write an image to *path*, and return what it measures to.

    Args:
        path: The file. It appears whole and checked, or not at all.
        contents: What goes in.
        signer: Sign it, and give it a PCR8.
        replace: Whether *path* may exist.

    Raises:
        Malformed: The contents make no image, or cannot be read.
        Refused: The file exists, or what was written is not what was meant.
        Undecided: The disk would not take it.
    """
    _check(contents)
    parts = [
        _Part(SectionType.KERNEL, contents.kernel),
        _Part(SectionType.COMMAND_LINE, contents.command_line.encode("ascii")),
        _Part(SectionType.METADATA, metadatas.encode(contents.metadata)),
        *(_Part(SectionType.RAMDISK, ramdisk) for ramdisk in contents.ramdisks),
    ]
    flags = AARCH64 if contents.aarch64 else 0
    front = (flags, contents.memory, contents.vcpus)
    return _write(path, front, parts, signer, replace=replace)


def sign_eif(
    path: Path, image: Eif, signer: Signer, *, replace: bool = False
) -> Measurements:
    """
    Write *image* to *path* with a signature, in place of the one it may have.

    Nothing else changes: PCR0 to PCR2 stay what they were.

    Raises:
        Refused: The file exists, or what was written is not what was meant.
        Undecided: The disk would not take it.
    """
    parts = [
        _Part(section.kind, (image, index))
        for index, section in enumerate(image.sections)
        if section.kind is not SectionType.SIGNATURE
    ]
    header = image.header
    front = (header.flags, header.memory, header.vcpus)
    return _write(path, front, parts, signer, replace=replace)


def _write(
    path: Path,
    front: tuple[int, int, int],
    parts: Sequence[_Part],
    signer: Signer | None,
    *,
    replace: bool,
) -> Measurements:
    if len(parts) + (signer is not None) > MAX_SECTIONS:
        raise _unfit(f"an image has at most {MAX_SECTIONS} sections")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".eif-") as file:
            meant = _fill(file.file, front, parts, signer)
            found = _read_back(file.file, meant, signer)
            os.fchmod(file.fileno(), MODE)
            os.fsync(file.fileno())
            _name(Path(file.name), path, replace=replace)
            return found
    except OSError:
        raise Undecided(
            Code.STORAGE_UNAVAILABLE,
            f"{path} could not be written",
            "is there such a folder, may you write to it, is the disk full?",
        ) from None


def _fill(
    file: IO[bytes],
    front: tuple[int, int, int],
    parts: Sequence[_Part],
    signer: Signer | None,
) -> Measurements:
    measuring, ramdisks = Measuring(), 0
    offsets: list[int] = []
    sizes: list[int] = []
    end = HEADER.size
    file.seek(end)

    def add(part: _Part) -> None:
        nonlocal end
        size = 0
        file.seek(end + SECTION.size)
        for chunk in part.chunks():
            measuring.take(part.kind, ramdisks, chunk)
            file.write(chunk)
            size += len(chunk)
        if not 0 < size <= LIMITS[part.kind]:
            raise _unfit(
                f"a {part.kind.title} has 1 to {LIMITS[part.kind]} bytes, not {size}"
            )
        if part.must_align and size % RAMDISK_ALIGNMENT:
            raise _unfit("the length of a ramdisk is not a multiple of 4 bytes")
        file.seek(end)
        file.write(SECTION.pack(part.kind, 0, size))
        offsets.append(end)
        sizes.append(size)
        end += SECTION.size + size

    for part in parts:
        add(part)
        ramdisks += part.kind is SectionType.RAMDISK
    measured = measuring.measured()
    if signer is not None:
        add(_Part(SectionType.SIGNATURE, signer.section(measured.pcr0)))
    flags, memory, vcpus = front
    pad = [0] * (MAX_SECTIONS - len(offsets))

    def header(crc: int) -> bytes:
        return HEADER.pack(
            *(MAGIC, VERSION, flags, memory, vcpus, 0, len(offsets)),
            *(*offsets, *pad, *sizes, *pad, 0, crc),
        )

    crc = zlib.crc32(header(0)[:CRC_OFFSET])
    file.seek(HEADER.size)
    while chunk := file.read(CHUNK):
        crc = zlib.crc32(chunk, crc)
    file.seek(0)
    file.write(header(crc))
    file.flush()
    return measured


def _read_back(
    file: IO[bytes], meant: Measurements, signer: Signer | None
) -> Measurements:
    found = read_eif(file)
    measured = found.checked_measurements()
    same = found.unsigned_measurements == meant
    if signer is not None:
        same = same and (
            found.signature is not None
            and found.signature.certificate == signer.certificate
        )
    if not same or (measured.pcr8 is None) != (signer is None):
        raise Refused(
            Code.CERTIFICATE_UNTRUSTED,
            "the image that was written is not the one that was meant; it is gone",
            "check this machine's disk and memory; build it again",
        )
    return measured


def _name(written: Path, path: Path, *, replace: bool) -> None:
    # A link, because the temporary file takes its first name away with it.
    if not replace:
        try:
            path.hardlink_to(written)
        except FileExistsError:
            raise Refused(
                Code.NOT_ALLOWED,
                f"{path} exists and is not overwritten",
                "name another file, or move that one away yourself",
            ) from None
        return
    beside = written.with_name(f"{written.name}.named")
    beside.hardlink_to(written)
    try:
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _check(contents: ImageContents) -> None:
    line = contents.command_line
    if not (line.isascii() and line.isprintable()):
        raise _unfit("a command line is printable ASCII")
    if len(line) > MAX_WRITTEN_COMMAND_LINE:
        raise _unfit(
            f"the command line is longer than {MAX_WRITTEN_COMMAND_LINE} bytes"
        )
    if not contents.ramdisks:
        raise _unfit("an image has at least one ramdisk")
    for name, number in (("memory", contents.memory), ("vCPUs", contents.vcpus)):
        if not 1 <= number < 1 << 63:
            raise _unfit(f"the default number of {name} is out of range")


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError:
        raise _unfit(f"{path} cannot be read") from None


def _unfit(sentence: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_REQUEST,
        f"these contents make no enclave image: {sentence}",
        "see docs/operations/image.md",
    )
