"""
A file system as a value: paths to files, folders, links and devices.

Owner and time are not in it, because they are the same for everything in an image.
Paths are relative, with `/` between their parts.
"""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, final

from nitrosigner.image.build.not_built import NotBuilt


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a file system. *data* is a file's content or a link's target."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


FOLDER: Final = Entry(stat.S_IFDIR | 0o755)


@final
class FileTree:
    """Entries by path. A folder comes into being with what lies in it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return iter(sorted(self._entries.items(), key=lambda item: item[0].encode()))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __getitem__(self, path: str) -> Entry:
        return self._entries[path]

    @property
    def files(self) -> Mapping[str, bytes]:
        """The content of each regular file."""
        return {path: entry.data for path, entry in self if entry.is_file}

    def add(self, path: str, entry: Entry) -> None:
        """
        Add *entry* as *path*.

        Raises:
            NotBuilt: Something else is there already.
        """
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) in ("", "."):
            raise NotBuilt(f"{path!r} is no path inside an image")
        for parent in list(pure.parents)[-2::-1]:
            if self._entries.setdefault(str(parent), FOLDER).mode != FOLDER.mode:
                raise NotBuilt(f"{parent} in the image is no folder")
        if self._entries.setdefault(str(pure), entry) != entry:
            raise NotBuilt(f"two different things want to be {path} in the image")

    def add_file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Add a regular file."""
        self.add(path, Entry(stat.S_IFREG | (0o755 if executable else 0o644), data))

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def add_folder(self, path: str, permissions: int = 0o755) -> None:
        """Add a folder."""
        self.add(path, Entry(stat.S_IFDIR | permissions))

    def add_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device that only root may use."""
        self.add(path, Entry(stat.S_IFCHR | 0o600, device=(major, minor)))
