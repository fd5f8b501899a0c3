"""What the documents name exists: tests, files, commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if ".venv" not in path.parts
)
_TEST_FILE = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")
_FURTHER_TEST = re.compile(r"`(?:::)?(test_\w+)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def named_tests(text: str) -> list[tuple[str, str]]:
    """Return (file, test) for each test that *text* names; the file may be above."""
    found = []
    for line in text.splitlines():
        file = ""
        for match in re.finditer(r"`[^`]+`", line):
            whole = _TEST_FILE.fullmatch(match[0])
            further = _FURTHER_TEST.fullmatch(match[0])
            if whole:
                file = whole[1]
                found.append((file, whole[2] or ""))
            elif further and file:
                found.append((file, further[1]))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_that_is_named_exists(document: Path) -> None:
    for file, test in named_tests(document.read_text()):
        assert (ROOT / file).is_file(), f"{document.name} names {file}"
        if test:
            assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links {target}"


def test_the_threat_model_names_tests_for_its_claims() -> None:
    assert len(named_tests((ROOT / "THREAT_MODEL.md").read_text())) > 40


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    shown = {
        line.split("nitrosigner ", 1)[1].split("#")[0].split("<")[0].strip()
        for line in text.splitlines()
        if line.startswith("$ .venv/bin/nitrosigner") or "| .venv/bin/nitro" in line
    }
    assert len(shown) >= 6
    for command in shown:
        words = []
        for word in command.split():
            if not re.fullmatch(r"[a-z][a-z-]+", word) or "." in word:
                break
            words.append(word)
        done = subprocess.run(
            [Path(sys.executable).parent / "nitrosigner", *words, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"nitrosigner {' '.join(words)}: {done.stderr}"
        options = re.findall(r"--[a-z0-9-]+", command)
        for option in options:
            assert option in done.stdout, f"nitrosigner {command}: {option}"


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", document.read_text()):
            assert target in targets, f"{document.name}: make {target}"
