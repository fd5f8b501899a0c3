"""Every file that two readers could understand in two ways is refused, in a sentence."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.image.eif import layout, reader
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.verdicts import Malformed, Refused

METADATA = (
    b'{"ImageName":"n","ImageVersion":"1","BuildMetadata":{"BuildTime":"t",'
    b'"BuildTool":"t","BuildToolVersion":"1","OperatingSystem":"Linux",'
    b'"KernelVersion":"6"},"DockerInfo":{},"CustomMetadata":null}'
)
KERNEL, LINE, NOTES, BOOT, APPLICATION = (
    (1, b"kernel"),
    (2, b"console=ttyS0"),
    (5, METADATA),
    (3, b"boot"),
    (3, b"application."),
)


@dataclass
class Raw:
    """An image that can lie about everything and still has the right checksum."""

    sections: Sequence[tuple[int, bytes]] = (KERNEL, LINE, NOTES, BOOT, APPLICATION)
    magic: bytes = b".eif"
    version: int = 4
    flags: int = 0
    reserved: int = 0
    unused: int = 0
    count: int | None = None
    behind: bytes = b""
    offsets: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    own_sizes: dict[int, int] = field(default_factory=dict)
    section_flags: dict[int, int] = field(default_factory=dict)

    def data(self) -> bytes:
        offsets, sizes, body = [0] * 32, [0] * 32, b""
        for index, (kind, payload) in enumerate(self.sections):
            if index < 32:
                offsets[index], sizes[index] = 548 + len(body), len(payload)
            size = self.own_sizes.get(index, len(payload))
            flags = self.section_flags.get(index, 0)
            body += struct.pack(">HHQ", kind, flags, size) + payload
        for table, lies in ((offsets, self.offsets), (sizes, self.sizes)):
            for index, lie in lies.items():
                table[index] = lie
        count = len(self.sections) if self.count is None else self.count
        head = struct.pack(
            ">4sHHQQHH32Q32QI",
            *(self.magic, self.version, self.flags, 1 << 30, 2, self.reserved, count),
            *(*offsets, *sizes, self.unused),
        )
        body += self.behind
        return head + struct.pack(">I", zlib.crc32(body, zlib.crc32(head))) + body


def read(data: bytes) -> reader.Eif:
    return read_eif(io.BytesIO(data))


def test_an_image_as_aws_builds_it_is_read() -> None:
    image = read(Raw().data())
    assert image.command_line == "console=ttyS0"
    assert [section.kind for section in image.sections] == [1, 2, 5, 3, 3]
    assert b"".join(image.chunks(image.kernel)) == b"kernel"
    assert [b"".join(image.chunks(one)) for one in image.ramdisks] == [
        b"boot",
        b"application.",
    ]
    assert image.metadata is not None
    assert image.metadata.image_name == "n"
    assert image.metadata.build_metadata.kernel_version == "6"
    assert image.signature is None
    assert image.architecture == "x86_64"


def test_metadata_may_be_missing_and_may_stand_elsewhere() -> None:
    assert read(Raw([KERNEL, LINE, BOOT]).data()).metadata is None
    assert read(Raw([NOTES, KERNEL, LINE, BOOT]).data()).metadata is not None
    assert read(Raw([KERNEL, LINE, BOOT, NOTES]).data()).metadata is not None


BROKEN: list[tuple[Raw, str]] = [
    (Raw(magic=b"\x7fELF"), "does not begin with .eif"),
    (Raw(version=3), "of version 3"),
    (Raw(version=5), "of version 5"),
    (Raw(flags=2), "no meaning"),
    (Raw(reserved=1), "no meaning"),
    (Raw(unused=1), "no meaning"),
    (Raw(count=0), "0 sections"),
    (Raw(count=33), "33 sections"),
    (Raw(count=4), "names more sections"),
    (Raw(count=6), "overlaps"),
    (Raw(sizes={9: 1}), "names more sections"),
    (Raw(offsets={31: 1}), "names more sections"),
    (Raw(offsets={0: 547}), "section 1 overlaps"),
    (Raw(offsets={0: 549}), "before section 1"),
    (Raw(offsets={1: 548}), "section 2 overlaps"),
    (Raw(offsets={2: 600}), "overlaps|before section 3"),
    (Raw(sizes={4: 1 << 63}), "behind the end"),
    (Raw(sizes={4: 13}), "behind the end"),
    (Raw(sizes={4: 11}), "disagree"),
    (Raw(own_sizes={0: 7}), "disagree on its length"),
    (Raw(own_sizes={4: 1 << 63}), "disagree on its length"),
    (Raw(section_flags={3: 1}), "sets flags"),
    (Raw(behind=b"\0"), "1 bytes after the last"),
    (Raw(behind=b"program"), "7 bytes after the last"),
    (Raw([KERNEL, LINE, (0, b"x"), BOOT]), "unknown type 0"),
    (Raw([KERNEL, LINE, (6, b"x"), BOOT]), "unknown type 6"),
    (Raw([KERNEL, LINE, (3, b"")]), "a ramdisk, is empty"),
    (Raw([(1, b""), LINE, BOOT]), "a kernel, is empty"),
    (Raw([LINE, BOOT]), "no kernel"),
    (Raw([KERNEL, BOOT]), "no command line"),
    (Raw([KERNEL, LINE]), "no ramdisk"),
    (Raw([KERNEL, KERNEL, LINE, BOOT]), "more than one kernel"),
    (Raw([KERNEL, LINE, LINE, BOOT]), "more than one command line"),
    (Raw([KERNEL, LINE, BOOT, NOTES, NOTES]), "more than one metadata"),
    (Raw([KERNEL, LINE, BOOT, (4, b"\x80"), (4, b"\x80")]), "more than one signature"),
    (Raw([LINE, KERNEL, BOOT]), "not in this order"),
    (Raw([KERNEL, BOOT, LINE]), "not in this order"),
    (Raw([BOOT, KERNEL, LINE]), "not in this order"),
    (Raw([KERNEL, LINE, BOOT, (5, b"{")]), "metadata is not"),
    (Raw([KERNEL, LINE, BOOT, (5, b"[]")]), "metadata is not"),
    (Raw([KERNEL, LINE, BOOT, (5, b"[" * 90_000)]), "metadata is not"),
    (Raw([KERNEL, LINE, BOOT, (5, b'{"ImageName":1}')]), "metadata is not"),
    (Raw([KERNEL, LINE, BOOT, (5, b"\xff")]), "metadata is not"),
    (Raw([KERNEL, LINE, BOOT, (5, b" " * (1 << 20) + METADATA)]), "longer than"),
    (Raw([KERNEL, (2, b"a" * 4097), BOOT]), "longer than 4096"),
    (Raw([KERNEL, (2, b"a\0b"), BOOT]), "zero byte"),
    (Raw([KERNEL, (2, b"\xc3\xa9"), BOOT]), "not ASCII"),
    (Raw([KERNEL, LINE, BOOT, (4, b"x")]), "signature section"),
    (Raw([KERNEL, LINE, BOOT, (4, bytes(65 << 10))]), "longer than"),
]


@pytest.mark.parametrize(("raw", "sentence"), BROKEN)
def test_a_malformed_image_is_refused_for_what_is_wrong(
    raw: Raw, sentence: str
) -> None:
    with pytest.raises(Malformed, match=sentence):
        read(raw.data())


@pytest.mark.parametrize("length", [0, 3, 4, 27, 547, 548, 555, 570, 700])
def test_an_image_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        read(Raw().data()[:length])


def test_one_changed_bit_anywhere_is_refused() -> None:
    data = Raw([KERNEL, LINE, BOOT]).data()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(Malformed):
            read(bytes(changed))


def test_an_image_longer_than_the_limit_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "MAX_IMAGE", 600)
    with pytest.raises(Malformed, match="longer than"):
        read(Raw().data())


def test_a_kernel_longer_than_the_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(layout.LIMITS, layout.SectionType.KERNEL, 5)
    with pytest.raises(Malformed, match="a kernel, is longer"):
        read(Raw().data())


def test_a_file_that_shrinks_under_the_reader_is_noticed() -> None:
    file = io.BytesIO(Raw().data())
    image = read_eif(file)
    file.truncate(600)
    with pytest.raises(Malformed, match="became shorter"):
        b"".join(image.chunks(image.ramdisks[1]))


def test_a_large_image_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    monkeypatch.setattr(reader, "CHUNK", 1000)
    whole = read(Raw([KERNEL, LINE, (3, b"r" * 100_000)]).data())
    image = read_eif(Watched(Raw([KERNEL, LINE, (3, b"r" * 100_000)]).data()))
    assert 0 <= min(asked) <= max(asked) <= 1000
    assert image.unsigned_measurements == whole.unsigned_measurements


def test_a_section_may_be_read_while_another_is(
    make_image: Callable[..., Path],
) -> None:
    with make_image().open("rb") as file:
        image = read_eif(file)
        pairs = list(
            zip(
                image.chunks(image.ramdisks[0]), image.chunks(image.kernel), strict=True
            )
        )
    assert pairs == [(b"boot" * 128, b"kernel" * 100)]


def test_a_signature_of_another_image_is_refused_when_it_is_measured(
    make_image: Callable[..., Path], pair: Any
) -> None:
    signed = make_image(pair.signer())
    with signed.open("rb") as file:
        image = read_eif(file)
        signature = b"".join(image.chunks(image.sections[-1]))
        assert image.checked_measurements().pcr8 is not None
    moved = read(Raw([KERNEL, LINE, BOOT, (4, signature)]).data())
    with pytest.raises(Refused, match="another PCR0"):
        moved.checked_measurements()
