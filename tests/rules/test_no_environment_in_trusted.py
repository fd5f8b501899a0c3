"""
No option, no environment variable, no argument reaches the enclave program.

What changes what may be signed is measured, or signed by the administrator. Whoever
starts an enclave is the parent, and the parent is hostile.
"""

import ast
from pathlib import Path

import pytest

from nitrosigner.image import contents

SOURCE = contents.source_root()
SHIPPED = [
    SOURCE / path for path in contents.shipped_files(SOURCE) if path.suffix == ".py"
]
FORBIDDEN_ATTRIBUTES = {
    "os": {"environ", "environb", "getenv", "getenvb", "putenv"},
    "posix": {"environ"},
    "sys": {"argv", "orig_argv", "_xoptions", "flags", "warnoptions", "stdin"},
}
FORBIDDEN_MODULES = {"argparse", "optparse", "getopt", "configparser", "dotenv"}


def outside_influences(source: str) -> list[str]:
    """Every way in which *source* could be told something by who starts it."""
    found: list[str] = []
    aliases: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name] = alias.name
                if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                    found.append(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in FORBIDDEN_MODULES:
                found.append(node.module)
            forbidden = FORBIDDEN_ATTRIBUTES.get(node.module, set()) | {"*"}
            found += [alias.name for alias in node.names if alias.name in forbidden]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = aliases.get(node.value.id, "")
            if node.attr in FORBIDDEN_ATTRIBUTES.get(module, set()):
                found.append(f"{module}.{node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.endswith(("/environ", "/cmdline")):
                found.append(node.value)
        elif isinstance(node, ast.Name) and node.id == "input":
            found.append("input")
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_that_ships_listens_to_who_starts_it(path: Path) -> None:
    assert not outside_influences(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['X']",
        "import os as o\no.getenv('X')",
        "from os import environ",
        "from os import getenv as g",
        "from os import *",
        "import os\nos.environb",
        "import sys\nsys.argv[1:]",
        "from sys import argv",
        "import sys\nsys.stdin.read()",
        "import argparse",
        "from argparse import ArgumentParser",
        "def f():\n    import getopt",
        "open('/proc/self/environ')",
        "open('/proc/cmdline')",
        "input()",
    ],
)
def test_each_way_in_is_found(source: str) -> None:
    assert outside_influences(source)


def test_what_the_program_needs_of_the_system_is_no_way_in() -> None:
    assert not outside_influences(
        "import os, sys\nos.open('/dev/nsm', os.O_RDWR)\nsys.exit(1)\nx.environ"
    )
