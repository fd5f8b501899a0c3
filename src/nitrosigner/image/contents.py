"""
What ships into the enclave, as `contents.toml` declares it, and how it is gathered.

What is measured must be what runs, so both are taken from the same gathered folder:
never measure a source tree and then run from it, it may have changed in between.
"""

import importlib.metadata
import shutil
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.verdicts import Code, Refused

PACKAGE: Final = "nitrosigner"
_DECLARATION: Final = Path(__file__).with_name("contents.toml")
_BY_PRODUCTS: Final = ("__pycache__",)
"""These, and names that begin with a dot, stay behind."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our own part."""

    ships: list[str]
    max_lines: int


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody else's part."""

    name: str
    version: str
    entries: list[str]
    lines: int
    why: str


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything Python in the enclave image."""

    source: Source
    distributions: list[Distribution]


def declared() -> Contents:
    """Return what `contents.toml` says."""
    return msgspec.convert(tomllib.loads(_DECLARATION.read_text()), Contents)


def source_root() -> Path:
    """Return the folder that holds the package that is running now."""
    return Path(__file__).resolve().parents[2]


def shipped_files(root: Path) -> list[Path]:
    """
    Return every file of *root*'s package that ships, relative to *root*, in order.

    Raises:
        Refused: Something is missing, or is neither a file nor a folder.
    """
    found: list[Path] = []
    for name in declared().source.ships:
        top = root / PACKAGE / name
        if not top.exists():
            raise _unfit(f"{PACKAGE}/{name} is missing from the source tree")
        inside = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in (top, *inside):
            relative = path.relative_to(root)
            if any(part in _BY_PRODUCTS or part[0] == "." for part in relative.parts):
                continue
            # A link's target could change, or lie outside what was looked at.
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _unfit(f"{relative} is neither a file nor a folder")
            if path.is_file():
                found.append(relative)
    return sorted(set(found), key=lambda path: path.as_posix().encode())


def gather_source(root: Path, destination: Path) -> None:
    """
    Copy what ships of *root*'s package into *destination*.

    Raises:
        Refused: See `shipped_files`.
    """
    for relative in shipped_files(root):
        (destination / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / relative, destination / relative)


def installed_entries(distribution: Distribution) -> list[Path]:
    """
    Return the absolute paths in site-packages that *distribution* ships.

    Raises:
        Refused: It is not installed, in another version, or without such an entry.
    """
    try:
        installed = importlib.metadata.distribution(distribution.name)
    except importlib.metadata.PackageNotFoundError:
        raise _unfit(f"{distribution.name} is not installed") from None
    if installed.version != distribution.version:
        raise _unfit(
            f"{distribution.name} {installed.version} is installed,"
            f" contents.toml declares {distribution.version}"
        )
    site = Path(str(installed.locate_file("")))
    tops = {file.parts[0] for file in installed.files or []}
    entries: list[Path] = []
    for name in distribution.entries:
        matching = [top for top in tops if top.split(".")[0] == name]
        if len(matching) != 1:
            raise _unfit(f"{distribution.name} has no single entry {name}")
        entries.append(site / matching[0])
    return entries


def link_distributions(destination: Path) -> None:
    """
    Make what others ship importable from *destination*, and nothing else.

    Links, not copies: for running on this machine, not for an image.

    Raises:
        Refused: See `installed_entries`.
    """
    for distribution in declared().distributions:
        for entry in installed_entries(distribution):
            (destination / entry.name).symlink_to(entry)


def _unfit(sentence: str) -> Refused:
    return Refused(
        Code.INTERNAL,
        f"this tree cannot become an enclave image: {sentence}",
        "compare it with src/nitrosigner/image/contents.toml",
    )
