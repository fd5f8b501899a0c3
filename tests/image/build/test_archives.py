"""One tree makes one string of bytes."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.image.build.deterministic_cpio import ALIGNMENT, archive
from nitrosigner.image.build.file_tree import Entry, FileTree
from nitrosigner.image.build.not_built import NotBuilt


def a_tree() -> FileTree:
    tree = FileTree()
    tree.add_file("usr/bin/python", b"\x7fELF", executable=True)
    tree.add_link("bin", "usr/bin")
    tree.add_folder("tmp", 0o1777)
    tree.add_device("dev/console", 5, 1)
    tree.add_file("usr/share/ümlaut", b"x" * 5)
    return tree


def read_archive(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """An independent reader of newc archives, for what we write."""
    found, position = {}, 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [
            int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16)
            for n in range(13)
        ]
        _, mode, user, group, _, time, size, *_, major, minor, length, check = fields
        assert (user, group, time, check) == (0, 0, 0, 0)
        start = position + 110
        name = data[start : start + length - 1].decode()
        assert data[start + length - 1] == 0
        content = (start + length + 3) // 4 * 4
        position = (content + size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not data[position:].strip(b"\0")
            return found
        found[name] = (mode, data[content : content + size], (major, minor))


def test_everything_is_in_the_archive() -> None:
    found = read_archive(archive(a_tree()))
    assert found["usr/bin/python"] == (stat.S_IFREG | 0o755, b"\x7fELF", (0, 0))
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["usr/share/ümlaut"][1] == b"xxxxx"
    # A folder stands before what lies in it: the kernel makes them in this order.
    names = list(found)
    for name in names:
        for parent in Path(name).parents:
            if str(parent) != ".":
                assert names.index(str(parent)) < names.index(name)


def test_the_order_of_adding_makes_no_difference() -> None:
    entries = list(a_tree())
    other = FileTree()
    for path, entry in reversed(entries):
        other.add(path, entry)
    assert archive(other) == archive(a_tree())


def test_what_follows_an_archive_begins_where_the_kernel_looks() -> None:
    assert len(archive(a_tree())) % ALIGNMENT == 0


@given(
    st.dictionaries(
        st.text("abcdé", min_size=1, max_size=8), st.binary(max_size=50), max_size=8
    )
)
def test_any_files_come_out_as_they_went_in(files: dict[str, bytes]) -> None:
    tree = FileTree()
    for name, data in files.items():
        tree.add_file(f"x/{name}", data)
    found = read_archive(archive(tree))
    assert {
        name.removeprefix("x/"): data
        for name, (mode, data, _) in found.items()
        if stat.S_ISREG(mode)
    } == files


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "."])
def test_a_path_that_leads_out_of_the_image_is_refused(path: str) -> None:
    with pytest.raises(NotBuilt):
        FileTree().add_file(path, b"")


def test_two_things_cannot_have_one_path() -> None:
    tree = a_tree()
    tree.add_file("usr/bin/python", b"\x7fELF", executable=True)  # the same: no harm
    with pytest.raises(NotBuilt, match="two different things"):
        tree.add_file("usr/bin/python", b"other", executable=True)
    with pytest.raises(NotBuilt, match="no folder"):
        tree.add_file("bin/sh", b"")


def test_an_entry_knows_whether_it_is_a_file() -> None:
    assert Entry(stat.S_IFREG | 0o644).is_file
    assert not Entry(stat.S_IFDIR | 0o755).is_file
