"""
Which Debian mirror this machine uses, as its own apt sources say.

No mirror's name stands in this project: what is fetched is decided by hashes, from
where is the machine's business.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.image.build.not_built import NotBuilt

APT: Final = Path("/etc/apt")
_NOT_DEBIAN: Final = "there is no Debian mirror in this machine's apt sources"
_HINT: Final = "name one: --mirror http://…/debian (and --security-mirror)"
RELEASES: Final = frozenset({"bookworm", "trixie", "forky", "sid", "stable", "testing"})


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Addresses without a slash at the end."""

    main: str
    security: str | None


def machine_mirrors(apt: Path = APT) -> Mirrors:
    """
    Return the mirrors that this machine's apt uses for Debian itself.

    Raises:
        NotBuilt: There are none.
    """
    main: str | None = None
    security: str | None = None
    for uri, suite in _entries(apt):
        release = suite.removesuffix("/updates").partition("-")[0]
        if release not in RELEASES:
            continue
        if suite.endswith(("-security", "/updates")):
            security = security or uri.rstrip("/")
        else:
            main = main or uri.rstrip("/")
    if main is None:
        raise NotBuilt(_NOT_DEBIAN, _HINT)
    return Mirrors(main, security)


def _entries(apt: Path) -> Iterable[tuple[str, str]]:
    """Yield (URI, suite) of each binary source with the component `main`."""
    lists = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        yield from _stanzas(path.read_text(encoding="utf-8", errors="replace"))
    for path in lists:
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                yield from _one_line(line)


def _one_line(line: str) -> Iterable[tuple[str, str]]:
    words = line.partition("#")[0].split()
    if not words or words[0] != "deb":
        return
    rest = words[1:]
    if rest and rest[0].startswith("["):
        while rest and not rest[0].endswith("]"):
            rest = rest[1:]
        rest = rest[1:]
    if len(rest) >= 3 and "main" in rest[2:]:
        yield rest[0], rest[1]


def _stanzas(text: str) -> Iterable[tuple[str, str]]:
    for stanza in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields.setdefault(name, []).extend(line.split())
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.split()
        if fields.get("enabled") == ["no"] or "deb" not in fields.get("types", []):
            continue
        if "main" not in fields.get("components", []):
            continue
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield uri, suite
