"""The mirror is what this machine's apt sources say."""

from pathlib import Path

import pytest

from nitrosigner.image.build.debian_mirror import Mirrors, machine_mirrors
from nitrosigner.image.build.not_built import NotBuilt

STANZAS = """\
Types: deb
# a comment
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
LINES = """\
# deb http://old.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/x] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/security bookworm-security main # a comment
"""


def apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name.replace("__", "/").replace("_", ".")).write_text(text)
    return tmp_path


def test_stanzas_are_read(tmp_path: Path) -> None:
    folder = apt(tmp_path)
    (folder / "sources.list.d/debian.sources").write_text(STANZAS)
    assert machine_mirrors(folder) == Mirrors(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    assert machine_mirrors(apt(tmp_path, sources_list=LINES)) == Mirrors(
        "http://mirror.example/debian", "http://mirror.example/security"
    )


def test_other_peoples_archives_are_not_debian(tmp_path: Path) -> None:
    text = (
        "deb http://vendor.example/apt vendor-bookworm main\n"
        "deb http://ubuntu.example/ubuntu noble main\n"
        "deb http://mirror.example/debian bookworm contrib\n"
    )
    with pytest.raises(NotBuilt) as told:
        machine_mirrors(apt(tmp_path, sources_list=text))
    assert "--mirror" in told.value.hint


def test_a_disabled_stanza_does_not_count(tmp_path: Path) -> None:
    folder = apt(tmp_path, sources_list="")
    (folder / "sources.list.d/a.sources").write_text(
        STANZAS.replace("Types: deb\n", "Types: deb\nEnabled: no\n")
    )
    with pytest.raises(NotBuilt):
        machine_mirrors(folder)


def test_this_repository_names_no_mirror() -> None:
    package = Path(__file__).parents[3] / "src/nitrosigner/image"
    for path in package.rglob("*"):
        if path.suffix in {".py", ".toml", ".config"}:
            text = path.read_text(encoding="utf-8")
            assert "debian.org" not in text
            assert "pypi.org" not in text
