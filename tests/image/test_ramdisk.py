"""Ramdisks are listed as Linux would unpack them, and nothing is believed of them."""

import bz2
import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nitrosigner.image import ramdisk
from nitrosigner.image.ramdisk import Entry, UnlistedRamdisk, entries


def listed(data: bytes, size: int = 7) -> list[Entry]:
    """List *data*, given in pieces of an awkward size."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), size):
            yield data[at : at + size]

    return list(entries(pieces()))


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, lzma.compress, bz2.compress],
    ids=["plain", "gzip", "xz", "bzip2"],
)
def test_archives_are_listed_whatever_they_are_compressed_with(
    compress: Callable[[bytes], bytes], pack: Callable[..., bytes]
) -> None:
    archive = pack(
        {
            "etc": (0o040755, b""),
            "etc/empty": b"",
            "init": (0o100755, b"x" * 1001),
            "lib": (0o120777, b"usr/lib"),
        }
    )
    found = listed(compress(archive) + bytes(13))
    assert [(one.path, one.mode_text, one.size) for one in found] == [
        ("etc", "drwxr-xr-x", 0),
        ("etc/empty", "-rw-r--r--", 0),
        ("init", "-rwxr-xr-x", 1001),
        ("lib", "lrwxrwxrwx", 7),
    ]


def test_archives_behind_each_other_are_all_listed(pack: Callable[..., bytes]) -> None:
    one, two, three = (pack({name: b"."}) for name in ("one", "two", "three"))
    data = one + bytes(512) + gzip.compress(two + bytes(8) + one) + bytes(3) + b"\0"
    data += lzma.compress(three)
    assert [entry.path for entry in listed(data)] == ["one", "two", "one", "three"]


def test_every_field_of_an_entry_is_read(pack: Callable[..., bytes]) -> None:
    (one,) = listed(pack({"f": b"a"}, owner=5, group=6, modified=7))
    assert (one.owner, one.group, one.modified, one.links) == (5, 6, 7, 1)
    assert one.content.startswith("ca978112")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed here")
def test_what_gnu_cpio_writes_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/a").write_bytes(b"12345")
    (folder / "link").symlink_to("bin/a")
    made = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=folder,
        input=b"bin\nbin/a\nlink\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    assert [(one.path, one.size) for one in listed(made.stdout)] == [
        ("bin", 0),
        ("bin/a", 5),
        ("link", 5),
    ]


def broken(pack: Callable[..., bytes]) -> list[tuple[bytes, str]]:
    good = pack({"file": b"content"})
    packed, squeezed = gzip.compress(good), lzma.compress(good)
    return [
        (b"ELF", "not known"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
        (good[:60], "too early"),
        (good[:115], "too early"),
        (good.replace(b"TRAILER!!!", b"NOTRAILER!"), "newc"),
        (pack({"f": b""})[:116], "without its trailer|too early"),
        (good.replace(b"070701", b"070707"), "not known"),
        (good[:6] + b"zzzzzzzz" + good[14:], "newc"),
        (good[:6] + b" -1     " + good[14:], "newc"),
        (good[:94] + b"00000000" + good[102:], "too long"),
        (good[:94] + b"00001001" + good[102:], "too long"),
        (good[:94] + b"00000004" + good[102:], "does not end"),
        (good[:54] + b"ffffffff" + good[62:], "too early"),
        (b"\0\0" + good, "Linux finds none"),
        (packed[:-30], "too early"),
        (packed[:20] + b"\xff\xff\xff" + packed[23:], "damaged|too early"),
        (squeezed[:-40], "too early"),
        (squeezed[:20] + b"\xff\xff\xff" + squeezed[23:], "damaged"),
        (b"BZh9" + bytes(40), "damaged"),
        (gzip.compress(b"hello there"), "no archive under"),
        (gzip.compress(packed), "no archive under"),
        (good + b"junk", "not known"),
    ]


def test_what_is_no_ramdisk_is_refused_for_what_it_is(
    pack: Callable[..., bytes],
) -> None:
    for data, sentence in broken(pack):
        for size in (1, 4096):
            with pytest.raises(UnlistedRamdisk, match=sentence):
                listed(data, size)


def test_a_bomb_is_defused(
    pack: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ramdisk, "MAX_UNPACKED", 1 << 20)
    bomb = gzip.compress(pack({"zeros": bytes(4 << 20)}))
    with pytest.raises(UnlistedRamdisk, match="unpacks to more"):
        listed(bomb, 4096)


def test_too_many_entries_are_refused(
    pack: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ramdisk, "MAX_ENTRIES", 2)
    assert len(listed(pack({"1": b"", "2": b""}))) == 2
    with pytest.raises(UnlistedRamdisk, match="more than 2 entries"):
        listed(pack({"1": b"", "2": b"", "3": b""}))
