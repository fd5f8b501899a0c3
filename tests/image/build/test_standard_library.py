"""What of Python's library ships follows from the imports of what ships."""

import pytest

from nitrosigner.image.build.standard_library import (
    ALWAYS,
    DYNAMIC,
    NEVER,
    ROOT,
    imports,
    needed,
)

LIBRARY = {
    f"{ROOT}json/__init__.py": b"from .decoder import JSONDecoder\nimport codecs",
    f"{ROOT}json/decoder.py": b"import re\ntry:\n  from _json import x\nexcept E: 0",
    f"{ROOT}json/tool.py": b"import argparse",
    f"{ROOT}re/__init__.py": b"from . import _parser",
    f"{ROOT}re/_parser.py": b"",
    f"{ROOT}codecs.py": b"",
    f"{ROOT}pdb.py": b"",
    f"{ROOT}unused.py": b"",
    f"{ROOT}late.py": b"",
    f"{DYNAMIC}_json.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
    f"{DYNAMIC}_unused.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
}


def test_imports_are_followed_wherever_they_stand() -> None:
    source = b"import json\ndef f():\n    import late, pdb"
    assert needed(LIBRARY, [source], LIBRARY) == {
        f"{ROOT}json/__init__.py",
        f"{ROOT}json/decoder.py",
        f"{ROOT}re/__init__.py",
        f"{ROOT}re/_parser.py",
        f"{ROOT}codecs.py",
        f"{ROOT}late.py",
        f"{DYNAMIC}_json.cpython-311-x86_64-linux-gnu.so",
    }


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        (b"import a.b, c", "", {"a.b", "c"}),
        (b"from a import b", "", {"a", "a.b"}),
        (b"from . import b", "p.q", {"p.q", "p.q.b"}),
        (b"from .b import c", "p", {"p.b", "p.b.c"}),
        (b"from ..b import c", "p.q", {"p.b", "p.b.c"}),
    ],
)
def test_every_form_of_import_is_read(
    source: bytes, package: str, found: set[str]
) -> None:
    assert set(imports(source, package)) == found


def test_nothing_is_needed_always_and_never() -> None:
    for name in ALWAYS:
        parts = name.split(".")
        assert not {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & NEVER
