"""
What ships in the enclave is exactly what `image/contents.toml` says.

Making that list longer, or one of its numbers larger, is a security decision. So it is
made in a diff of that file, and is not the side effect of an import or an upgrade.
"""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from nitrosigner.image import contents
from nitrosigner.image.contents import Distribution

ROOT = Path(__file__).parents[2]
SLACK = 150
"""Lines by which a declared number may exceed the real one: rounding, not room."""
LARGEST_FILE = 400

CONTENTS = contents.declared()
SOURCE = contents.source_root()
SHIPPED = [
    SOURCE / path for path in contents.shipped_files(SOURCE) if path.suffix == ".py"
]


def imported_by(source: str) -> set[str]:
    """The first names of everything that *source* imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import would hide where it goes; ours are absolute.
            found.add((node.module or "").split(".")[0] if not node.level else ".")
    return found


def undeclared(
    imported: Iterable[str], distributions: Iterable[Distribution]
) -> set[str]:
    declared = {entry for one in distributions for entry in one.entries}
    return {
        name
        for name in imported
        if name not in sys.stdlib_module_names
        and name not in declared
        and name != contents.PACKAGE
    }


def lines_of(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def python_files(distribution: Distribution) -> list[Path]:
    return [
        path
        for entry in contents.installed_entries(distribution)
        for path in ([entry] if entry.is_file() else sorted(entry.rglob("*.py")))
        if path.suffix == ".py"
    ]


def dynamic_imports(source: str) -> list[str]:
    """What could import a module that `imported_by` does not see."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in {"__import__", "exec", "eval"}:
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in {
            "import_module",
            "spec_from_file_location",
            "exec_module",
        }:
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module in {"importlib", "runpy"}:
            found += [alias.name for alias in node.names if alias.name != "resources"]
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_ships_imports_only_what_is_declared(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not undeclared(imported_by(source), CONTENTS.distributions)
    assert not dynamic_imports(source)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_ships_imports_only_our_modules_that_ship(path: Path) -> None:
    shipped = {file.relative_to(SOURCE).with_suffix("") for file in SHIPPED}
    shipped |= {file.parent for file in shipped if file.name == "__init__"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] == contents.PACKAGE:
                assert Path(*name.split(".")) in shipped, f"{name} does not ship"


@pytest.mark.parametrize("one", CONTENTS.distributions, ids=lambda one: one.name)
def test_a_distribution_has_not_grown(one: Distribution) -> None:
    real = lines_of(python_files(one))
    assert real <= one.lines, f"{one.name} has {real} lines of Python now"
    assert one.lines <= real + SLACK, f"{one.name} has only {real}: declare that"


@pytest.mark.parametrize("one", CONTENTS.distributions, ids=lambda one: one.name)
def test_the_version_that_is_declared_is_the_one_that_is_locked(
    one: Distribution,
) -> None:
    locked = re.search(
        rf"(?m)^{re.escape(one.name)}==(\S+)",
        (ROOT / "requirements/dev.txt").read_text(encoding="utf-8"),
    )
    assert locked is not None, f"{one.name} is not locked"
    assert locked[1] == one.version
    assert importlib.metadata.version(one.name) == one.version


def test_our_own_trusted_code_has_not_grown_beyond_its_budget() -> None:
    real = lines_of(SHIPPED)
    assert real <= CONTENTS.source.max_lines, f"{real} lines ship now"


def test_nothing_is_declared_that_is_not_needed() -> None:
    imported = set().union(
        *(imported_by(path.read_text(encoding="utf-8")) for path in SHIPPED)
    )
    required = {
        re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        for one in CONTENTS.distributions
        for requirement in importlib.metadata.requires(one.name) or []
    }
    for one in CONTENTS.distributions:
        assert imported & set(one.entries) or one.name in required, one.name
        assert one.why


def test_each_distribution_is_declared_once() -> None:
    names = [one.name for one in CONTENTS.distributions]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    "path",
    [
        path
        for room in ("trusted", "attestation")
        for path in (SOURCE / contents.PACKAGE / room).rglob("*.py")
    ],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_a_file_that_must_be_trusted_fits_in_a_head(path: Path) -> None:
    assert lines_of([path]) < LARGEST_FILE


# The checks themselves, seen to fail.


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import boto3", {"boto3"}),
        ("import cbor2, boto3.session as s", {"boto3"}),
        ("from botocore.auth import SigV4Auth", {"botocore"}),
        ("def f():\n    import requests", {"requests"}),
        ("try:\n    import uvloop\nexcept ImportError:\n    pass", {"uvloop"}),
        ("from . import x", {"."}),
        ("import cffi", {"cffi"}),
        ("import os, ssl\nfrom cryptography import x509", set()),
        ("from nitrosigner.wire import frames", set()),
    ],
)
def test_an_undeclared_import_is_found(source: str, found: set[str]) -> None:
    assert undeclared(imported_by(source), CONTENTS.distributions) == found


@pytest.mark.parametrize(
    "source",
    [
        "__import__('boto3')",
        "import importlib\nimportlib.import_module('boto3')",
        "from importlib import import_module",
        "exec('import boto3')",
        "eval('1')",
        "from runpy import run_module",
    ],
)
def test_a_hidden_import_is_found(source: str) -> None:
    assert dynamic_imports(source)


def test_reading_a_packages_data_is_no_hidden_import() -> None:
    assert not dynamic_imports("from importlib import resources")
