"""
The image's own interpreter, run on this machine to make the image.

Bytecode and compressed bytes depend on the version of the program that makes them. So
both are made by the Python and the zlib that are locked and that ship, whatever
Python runs this build: it is started through its own loader with its own libraries.
"""

import base64
import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from nitrosigner.image.build.commands import run
from nitrosigner.image.build.file_tree import FileTree
from nitrosigner.image.build.machine import X86_64

INTERPRETER: Final = "usr/bin/python3.11"
_LIBRARIES: Final = X86_64.libraries
_LOADER: Final = f"{_LIBRARIES}/{X86_64.loader}"

_COMPILE: Final = """
import importlib._bootstrap_external as external, importlib.util, json, sys, base64
made = {}
for name, source in json.load(sys.stdin)["sources"]:
    source = base64.b64decode(source)
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    digest = importlib.util.source_hash(source)
    pyc = external._code_to_hash_pyc(code, digest, False)
    made[name] = base64.b64encode(pyc).decode()
json.dump(made, sys.stdout)
"""
_COMPRESS: Final = """
import sys, zlib
press = zlib.compressobj(9, zlib.DEFLATED, 31)
sys.stdout.buffer.write(press.compress(sys.stdin.buffer.read()) + press.flush())
"""


@final
class LockedPython:
    """The interpreter of *debian*, unpacked into the empty folder *place*."""

    def __init__(self, debian: FileTree, place: Path) -> None:
        self._place = place
        for path, data in debian.files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        for path, entry in debian:
            if stat.S_ISLNK(entry.mode):
                target = place / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(entry.data.decode())
        for name in (INTERPRETER, _LOADER):
            (place / name).chmod(0o755)

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> Mapping[str, bytes]:
        """
        Return the bytecode file of each (path in the image, source).

        Raises:
            NotBuilt: A source is not Python.
        """
        asked = [(name, base64.b64encode(source).decode()) for name, source in sources]
        said = self.run(_COMPILE, json.dumps({"sources": asked}).encode())
        made: dict[str, Any] = json.loads(said)
        return {name: base64.b64decode(made[name]) for name, _ in sources}

    def gzip(self, data: bytes) -> bytes:
        """Return *data* compressed, without a time or a name in it."""
        return self.run(_COMPRESS, data)

    def run(self, script: str, stdin: bytes, *, path: str = "") -> bytes:
        """
        Run *script* and return what it wrote.

        Raises:
            NotBuilt: It failed.
        """
        command = [
            *(str(self._place / _LOADER), "--library-path"),
            *(str(self._place / _LIBRARIES), str(self._place / INTERPRETER)),
            *("-S", "-B", "-c", script),
        ]
        environment = {
            "LC_ALL": "C.UTF-8",
            "PYTHONHOME": str(self._place / "usr"),
            "PYTHONPATH": path,
            # Sets in bytecode are written in the order of their hashes.
            "PYTHONHASHSEED": "0",
        }
        return run(
            command,
            env=environment,
            stdin=stdin,
            what="running the image's Python on this machine",
            hint="it needs x86-64 Linux",
        )
