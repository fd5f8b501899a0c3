"""
What makes two images differ, named by the file: for whoever reviews a new PCR0.

Says what is different in what is *measured* (kernel, command line, ramdisks) apart from
what is not (metadata, defaults of memory and vCPUs). When every file of a
ramdisk is the same and its bytes are not, that is said too: then the packing differs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Final

from nitrosigner.image.eif.reader import Eif, Section
from nitrosigner.image.ramdisk import Entry, UnlistedRamdisk, entries

_COMPARED: Final = tuple(one.name for one in fields(Entry) if one.name != "path")


@dataclass(frozen=True, slots=True)
class ChangedEntry:
    """One path that is in both ramdisks, and is not the same."""

    before: Entry
    after: Entry

    @property
    def what(self) -> tuple[str, ...]:
        """Which fields of `Entry` differ."""
        return tuple(
            name
            for name in _COMPARED
            if getattr(self.before, name) != getattr(self.after, name)
        )


@dataclass(frozen=True, slots=True)
class RamdiskDifference:
    """What is different in one ramdisk whose bytes differ."""

    number: int
    """From 1."""
    added: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()
    changed: tuple[ChangedEntry, ...] = ()
    unlisted: str = ""
    """Why the files cannot be compared; empty if they were."""

    @property
    def same_files(self) -> bool:
        """Whether only the packing differs: order, inodes, compression, padding."""
        return not (self.added or self.removed or self.changed or self.unlisted)


@dataclass(frozen=True, slots=True)
class ImageDifference:
    """What is different between two images."""

    registers: tuple[int, ...]
    """The PCRs that differ."""
    kernel: bool
    command_lines: tuple[str, str] | None
    """Before and after, if they differ."""
    ramdisks: tuple[RamdiskDifference, ...]
    unmeasured: tuple[str, ...]
    """What differs and is in no measurement."""

    @property
    def same(self) -> bool:
        """Whether both measure the same."""
        return not self.registers


def compare(before: Eif, after: Eif) -> ImageDifference:
    """
    Compare two images.

    Raises:
        Malformed: A file changed while it was read.
        Refused: One is signed, and its signature is not true.
    """
    registers = (before.checked_measurements(), after.checked_measurements())
    old, new = (one.registers for one in registers)
    lines = (before.command_line, after.command_line)
    return ImageDifference(
        registers=tuple(
            index for index in sorted({*old, *new}) if old.get(index) != new.get(index)
        ),
        kernel=_digest(before, before.kernel) != _digest(after, after.kernel),
        command_lines=lines if lines[0] != lines[1] else None,
        ramdisks=tuple(_ramdisks(before, after)),
        unmeasured=tuple(_unmeasured(before, after)),
    )


def listing(image: Eif, ramdisk: Section) -> dict[str, Entry]:
    """
    Return the entries of a ramdisk by path.

    A path that comes again (Linux lets the last one win) stands beside the first, with
    a number.

    Raises:
        UnlistedRamdisk: They cannot be listed.
    """
    found: dict[str, Entry] = {}
    again: dict[str, int] = {}
    for entry in entries(image.chunks(ramdisk)):
        name = entry.path
        if name in found:
            again[name] = again.get(name, 1) + 1
            name = f"{name} ({again[name]})"
        found[name] = entry
    return found


def _ramdisks(before: Eif, after: Eif) -> Iterator[RamdiskDifference]:
    pairs = zip_longest(before.ramdisks, after.ramdisks)
    for number, (old, new) in enumerate(pairs, start=1):
        if (
            old is not None
            and new is not None
            and _digest(before, old) == _digest(after, new)
        ):
            continue
        try:
            one = {} if old is None else listing(before, old)
            two = {} if new is None else listing(after, new)
        except UnlistedRamdisk as error:
            yield RamdiskDifference(number, unlisted=error.message)
            continue
        yield RamdiskDifference(
            number,
            added=tuple(two[name] for name in sorted(two.keys() - one.keys())),
            removed=tuple(one[name] for name in sorted(one.keys() - two.keys())),
            changed=tuple(
                ChangedEntry(one[name], two[name])
                for name in sorted(one.keys() & two.keys())
                if one[name] != two[name]
            ),
        )


def _unmeasured(before: Eif, after: Eif) -> Iterator[str]:
    if before.metadata != after.metadata:
        yield "metadata"
    if before.header.memory != after.header.memory:
        yield "default memory"
    if before.header.vcpus != after.header.vcpus:
        yield "default number of vCPUs"
    if before.architecture != after.architecture:
        yield "architecture"


def _digest(image: Eif, section: Section) -> bytes:
    digest = hashlib.sha256()
    for chunk in image.chunks(section):
        digest.update(chunk)
    return digest.digest()
