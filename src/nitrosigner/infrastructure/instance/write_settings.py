"""
`python3.11 write_settings.py DEPLOYED FOLDER`: one settings file for each program.

Runs on the instance, from the archive, with the standard library alone. The allocator's
script reads its YAML line by line, so that one is not written as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAMS = ("parent", "watchdog", "lifecycle", "cloudwatch-agent", "prometheus")


def write(deployed: dict[str, Any], folder: Path) -> None:
    """Write what *deployed* says into files of *folder*."""
    for name in _PROGRAMS:
        _write(folder / f"{name}.json", json.dumps(deployed[name], indent=1) + "\n")
    allocator = deployed["allocator"]
    lines = [f"{name}: {allocator[name]}\n" for name in ("memory_mib", "cpu_count")]
    _write(folder / "allocator.yaml", "---\n" + "".join(lines))
    for name in ("container", "registry", "container.conf"):
        if name in deployed:
            _write(folder / name, deployed[name] + "\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    # Nothing in them is secret, and the parent's user must read its own.
    partial.chmod(0o644)
    partial.replace(path)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
