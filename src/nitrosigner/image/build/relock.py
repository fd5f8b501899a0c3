"""
Writes the locks anew: Debian's newest versions, and wheels for contents.toml.

A decision, not a chore: PCR0 changes, and with it every key policy. The diff of the
lock files is what a second pair of eyes reviews.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nitrosigner.image import contents
from nitrosigner.image.build import base_system, wheels
from nitrosigner.image.build.debian_archive import DebianArchive
from nitrosigner.image.build.debian_mirror import Mirrors
from nitrosigner.image.build.machine import Machine

_HEAD: Final = """\
# The wheels of the distributions that ../contents.toml lists, one file each. PCR0 and
# PCR2 measure what ships of them. `make lock-image` writes this file."""


def lock_debian(cache: Path, mirrors: Callable[[], Mirrors], machine: Machine) -> None:
    """
    Put the newest version of each listed package into the lock.

    Raises:
        NotBuilt: The mirror has no such package.
    """
    path = base_system.lock_file(machine)
    text = path.read_text(encoding="utf-8")
    lock = base_system.locked(machine)
    archive = DebianArchive(cache, mirrors, lock.release, machine)
    for one in lock.packages:
        newest = archive.candidate(one.name)
        text = re.sub(
            rf'(name = "{re.escape(one.name)}"\nversion = ")[^"]*("\nsha256 = ")[^"]*',
            rf"\g<1>{newest.version}\g<2>{newest.sha256}",
            text,
        )
    path.write_text(text, encoding="utf-8")


def lock_wheels(machine: Machine) -> None:
    """
    Lock the wheels of the versions that contents.toml names.

    Raises:
        NotBuilt: There is no such wheel.
    """
    parts = [_HEAD]
    for one in contents.declared().distributions:
        with tempfile.TemporaryDirectory() as temporary:
            exact = f"{one.name}=={one.version}"
            wheels.download([exact], Path(temporary), one.name, machine)
            (found,) = Path(temporary).iterdir()
            digest = hashlib.sha256(found.read_bytes()).hexdigest()
            parts.append(
                f'[[wheels]]\nname = "{one.name}"\nversion = "{one.version}"\n'
                f'file = "{found.name}"\nsha256 = "{digest}"'
            )
    text = "\n\n".join(parts) + "\n"
    wheels.lock_file(machine).write_text(text, encoding="utf-8")
