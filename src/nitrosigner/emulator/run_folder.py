"""
The folder of a running stack's sockets. It is empty again when the stack has stopped.

The path of a UNIX socket is limited to 107 bytes, so a data folder far down the tree
gets a private folder in the system's temporary one; its name is kept in the data
folder, to be cleared away after a crash.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nitrosigner.emulator.data_folder import DataFolder, make_private, replace

MAX_SOCKET_PATH: Final = 107
"""Bytes in the path of a UNIX socket (Linux: sun_path without its terminator)."""
LONGEST_NAME: Final = "vsock/16.65535.sock"


@contextlib.contextmanager
def run_folder(folder: DataFolder) -> Iterator[Path]:
    """Yield an empty private folder whose sockets' paths are short enough."""
    note = folder.emulator / "run-folder"
    with contextlib.suppress(FileNotFoundError):
        _clear(Path(note.read_text(encoding="utf-8")))
    near = folder.path / "run"
    if len(str(near / LONGEST_NAME).encode()) <= MAX_SOCKET_PATH:
        chosen = near
        make_private(chosen)
    else:
        chosen = Path(tempfile.mkdtemp(prefix="nitrosigner-"))
    replace(note, str(chosen).encode())
    try:
        yield chosen
    finally:
        _clear(chosen)


def _clear(folder: Path) -> None:
    # Only what was made here: a folder of this user, by one of our two names.
    ours = folder.name == "run" or folder.name.startswith("nitrosigner-")
    if ours and folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
