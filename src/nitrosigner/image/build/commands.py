"""Other programs that the build runs: what they print is shown only when they fail."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nitrosigner.image.build.not_built import NotBuilt

_SHOWN: Final = 15
"""Lines of a failed program's output that are shown."""


def need_commands(names: Sequence[str], packages: Sequence[str], why: str) -> None:
    """
    Check that programs are there before a long work begins.

    Raises:
        NotBuilt: One is missing; the hint says how to install all.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise NotBuilt(
            f"{', '.join(missing)} is missing: {why}",
            f"as root: apt-get install {' '.join(packages)}",
        )


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    what: str,
    hint: str = "",
) -> bytes:
    """
    Run *command* and return its standard output.

    Raises:
        NotBuilt: It failed. *what* says what it should have done.
    """
    try:
        done = subprocess.run(
            list(command),
            cwd=cwd,
            env=None if env is None else dict(env),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise NotBuilt(f"{what}: {command[0]}: {error.strerror}", hint) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        raise NotBuilt(
            f"{what}: {Path(command[0]).name} ended with status {done.returncode}:\n"
            + "\n".join(f"  {line}" for line in said[-_SHOWN:]),
            hint,
        )
    return done.stdout
