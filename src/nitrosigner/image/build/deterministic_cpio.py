"""
The archive that the kernel unpacks as its first file system ("newc" cpio).

One tree makes one string of bytes: sorted paths, time 0, owner 0, inodes counted up.
The kernel demands that an archive behind another one begins at a multiple of four;
whoever writes a ramdisk pads it (see `padded`), compressed or not.

Source: linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from typing import Final

from nitrosigner.image.build.file_tree import Entry, FileTree

ALIGNMENT: Final = 512
_MAGIC: Final = "070701"
_TRAILER: Final = "TRAILER!!!"


def archive(tree: FileTree) -> bytes:
    """Return *tree* as a cpio archive, padded."""
    parts = [
        _record(number, path, entry)
        for number, (path, entry) in enumerate(tree, start=1)
    ]
    parts.append(_record(0, _TRAILER, Entry(0)))
    return padded(b"".join(parts))


def padded(data: bytes) -> bytes:
    """Return *data* with zeros up to a multiple of `ALIGNMENT`."""
    return data + bytes(-len(data) % ALIGNMENT)


def _record(inode: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        *(0, 0),  # owner and group: root
        2 if stat.S_ISDIR(entry.mode) else 1,  # links
        0,  # time
        len(entry.data),
        *(0, 0),  # the device that it lies on
        *entry.device,
        len(name),
        0,  # checksum: not in this variant
    )
    head = (_MAGIC + "".join(f"{field:08x}" for field in fields)).encode() + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
