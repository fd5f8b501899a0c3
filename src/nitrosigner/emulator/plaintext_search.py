"""
Looks for a secret in everything that lies outside the enclave.

Files, command lines and environments of processes, and the memory of those that must
never have seen it. A search that finds nothing proves something only if the same
search finds what was planted: plant a canary first.
"""

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 20
_MAPPING: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \d+\s*(.*)$")


def spellings(secret: bytes) -> dict[str, bytes]:
    """Return the ways in which *secret* would be written down, each by its name."""
    found = {
        "raw": secret,
        "reversed": secret[::-1],
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "decimal": str(int.from_bytes(secret)).encode(),
        "decimal, little-endian": str(int.from_bytes(secret, "little")).encode(),
    }
    for skipped in range(3):
        # Inside a longer text the secret may begin at any of three alignments; the
        # characters that depend on its neighbours are left out.
        whole = base64.b64encode(bytes(skipped) + secret)
        first = (skipped * 8 + 5) // 6
        last = (skipped + len(secret)) * 8 // 6
        found[f"base64 ({skipped})"] = whole[first:last]
        found[f"base64url ({skipped})"] = whole[first:last].translate(
            bytes.maketrans(b"+/", b"-_")
        )
    return found


def spellings_in(data: bytes, secret: bytes) -> list[str]:
    """Return the names of the spellings of *secret* that *data* holds."""
    return [name for name, text in spellings(secret).items() if text in data]


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a secret was found, and how it was spelled there. Never the secret."""

    place: str
    spelling: str


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search looked at, and what it found."""

    places: int
    size: int
    findings: tuple[Finding, ...]
    closed: tuple[str, ...] = ()
    """Places that the system did not let us look into."""


class _Search:
    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._needles = [
            (name, needle)
            for secret in secrets
            for name, needle in spellings(secret).items()
        ]
        self._overlap = max((len(needle) for _, needle in self._needles), default=1)
        self.places = 0
        self.size = 0
        self.findings: list[Finding] = []
        self.closed: list[str] = []

    def look(self, place: str, chunks: Iterator[bytes]) -> None:
        """Search one place, chunk by chunk, across their borders too."""
        self.places += 1
        tail = b""
        seen: set[str] = set()
        for chunk in chunks:
            self.size += len(chunk)
            window = tail + chunk
            seen |= {name for name, needle in self._needles if needle in window}
            tail = window[-self._overlap :]
        self.findings += [Finding(place, name) for name in sorted(seen)]

    def result(self) -> Searched:
        return Searched(
            self.places, self.size, tuple(self.findings), tuple(self.closed)
        )


def search(
    secrets: Iterable[bytes],
    *,
    folders: Iterable[Path] = (),
    processes: Iterable[int] = (),
    memories: Iterable[int] = (),
) -> Searched:
    """
    Search for *secrets* in every file below *folders*, and in processes.

    Args:
        secrets: At least 16 bytes each, so that nothing is found by chance.
        folders: Searched with everything below them; links are not followed.
        processes: Their command lines and environments.
        memories: Their writable and readable memory too.
    """
    found = _Search(secrets)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                # A file may vanish under us: the stack is running.
                with contextlib.suppress(FileNotFoundError):
                    found.look(str(path), _file(path))
    for pid in processes:
        for part in ("cmdline", "environ"):
            path = Path(f"/proc/{pid}/{part}")
            try:
                found.look(str(path), _file(path))
            except OSError:
                found.closed.append(str(path))
    for pid in memories:
        try:
            found.look(f"/proc/{pid}/mem", _memory(pid))
        except OSError:
            found.closed.append(f"/proc/{pid}/mem")
    return found.result()


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _memory(pid: int) -> Iterator[bytes]:
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps.splitlines():
            match = _MAPPING.match(line)
            if match is None or match[3] in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            position, end = int(match[1], 16), int(match[2], 16)
            while position < end:
                memory.seek(position)
                try:
                    chunk = memory.read(min(_CHUNK, end - position))
                except OSError:  # a page that the process itself cannot read
                    break
                if not chunk:
                    break
                position += len(chunk)
                yield chunk
