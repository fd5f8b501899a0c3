"""
The second ramdisk: our trusted code and the distributions that it needs.

As bytecode, without sources: what ships can be compared with the sources by building
it again, and starts in a fraction of the time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nitrosigner.image import contents
from nitrosigner.image.build.file_tree import FileTree
from nitrosigner.image.build.locked_python import LockedPython

APPLICATION: Final = "application"
"""The folder in the image that the init puts on Python's path."""
_SUFFIX: Final = ".py"


def application_files(root: Path, of_wheels: Mapping[str, bytes]) -> dict[str, bytes]:
    """
    Return everything that lies in the application's folder, as sources.

    Raises:
        Refused: The tree *root* is not one that an image can be made of.
    """
    files = {
        relative.as_posix(): (root / relative).read_bytes()
        for relative in contents.shipped_files(root)
    }
    return files | dict(of_wheels)


def python_sources(files: Mapping[str, bytes]) -> Sequence[bytes]:
    """Return the Python in *files*."""
    return [data for path, data in files.items() if path.endswith(_SUFFIX)]


def compiled(files: Mapping[str, bytes], prefix: str, python: LockedPython) -> FileTree:
    """Return *files* below *prefix* in an image, every source as its bytecode."""
    sources = [
        (f"{prefix}{path}", data)
        for path, data in sorted(files.items())
        if path.endswith(_SUFFIX)
    ]
    bytecode = python.compile(sources)
    tree = FileTree()
    for path, data in sorted(files.items()):
        place = f"{prefix}{path}"
        if place in bytecode:
            tree.add_file(f"{place}c", bytecode[place])
        else:
            tree.add_file(place, data)
    return tree
