"""
What the emulator measures instead of an enclave image: the source tree that ships.

Not what AWS measures. There PCR0 covers the kernel, its command line and every byte
of the file system; here it covers our own source files and nothing below them (not
the interpreter, not the libraries, not the emulator's own entry point). It is there
so that changing trusted code changes PCR0 on a laptop too. Wherever it shows, it is
labelled as emulated.
"""

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nitrosigner.attestation.measurements import measured
from nitrosigner.image import contents

_LABEL: Final = b"nitrosigner/emulated-source/1\0"


def canonical(root: Path) -> bytes:
    """
    Return one string of bytes for everything that ships of *root*'s package.

    A label, the number of files, then for each in order of its path's bytes: the
    path's length (4 bytes), the path, the content's SHA-384. Lengths and counts in
    front make it injective: no two trees have the same string.
    """
    files = contents.shipped_files(root)
    parts = [_LABEL, len(files).to_bytes(4, "big")]
    for relative in files:
        name = relative.as_posix().encode()
        digest = hashlib.sha384((root / relative).read_bytes()).digest()
        parts += [len(name).to_bytes(4, "big"), name, digest]
    return b"".join(parts)


def emulated_pcrs(root: Path) -> Mapping[int, bytes]:
    """Return the emulated PCR0 to PCR2 of the tree *root*, 48 bytes each."""
    tree = canonical(root)
    libraries = "\n".join(
        f"{distribution.name} {distribution.version}"
        for distribution in contents.declared().distributions
    )
    return {
        0: measured(tree),
        1: measured(
            f"nitrosigner/emulated-platform/1\0Python {platform.python_version()}\n"
            f"{libraries}".encode()
        ),
        2: measured(b"nitrosigner/emulated-application/1\0" + tree),
    }


def emulated_pcr0(root: Path | None = None) -> bytes:
    """Return the emulated PCR0 of *root*, or of the source tree that is running."""
    return emulated_pcrs(root or contents.source_root())[0]
