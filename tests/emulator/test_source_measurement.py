"""The emulated PCR0 covers everything that ships, and nothing that doesn't."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nitrosigner.image import contents
from nitrosigner.image.source_measurement import canonical, emulated_pcr0, emulated_pcrs
from nitrosigner.verdicts import Refused


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    contents.gather_source(contents.source_root(), tmp_path / "tree")
    return tmp_path / "tree" / contents.PACKAGE


def test_a_copy_measures_the_same(tree: Path, tmp_path: Path) -> None:
    assert emulated_pcr0(tree.parent) == emulated_pcr0()
    contents.gather_source(tree.parent, tmp_path / "again")
    assert emulated_pcr0(tmp_path / "again") == emulated_pcr0()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of trusted code": lambda tree: _append(
        tree / "trusted/enclave/attested/nsm.py", b"#"
    ),
    "a byte of the wire": lambda tree: _append(tree / "wire/addresses.py", b" "),
    "the verdicts": lambda tree: _append(tree / "verdicts.py", b"\n"),
    "the package's own file": lambda tree: _append(tree / "__init__.py", b"\n"),
    "a new module": lambda tree: (tree / "trusted/new.py").write_bytes(b""),
    "a new data file": lambda tree: (tree / "trusted/enclave/x.pem").write_bytes(b""),
    "a compiled module beside the source": lambda tree: (
        tree / "trusted/enclave/nsm.pyc"
    ).write_bytes(b""),
    "a module renamed": lambda tree: (tree / "wire/addresses.py").rename(
        tree / "wire/addresses2.py"
    ),
    "two modules exchanged": lambda tree: _exchange(
        tree / "wire/addresses.py", tree / "wire/statement.py"
    ),
    "a module removed": lambda tree: (tree / "wire/addresses.py").unlink(),
}


def _append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def _exchange(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_counts(tree: Path, change: Callable[[Path], object]) -> None:
    change(tree)
    assert emulated_pcr0(tree.parent) != emulated_pcr0()


def test_what_does_not_ship_does_not_count(tree: Path) -> None:
    (tree / "cli").mkdir()
    (tree / "cli/main.py").write_text("changed")
    (tree / "wire/__pycache__").mkdir()
    (tree / "wire/__pycache__/x.pyc").write_bytes(b"x")
    (tree / "wire/.editor.swp").write_bytes(b"x")
    (tree / "wire/addresses.py").chmod(0o755)
    assert emulated_pcr0(tree.parent) == emulated_pcr0()


def test_what_does_not_count_does_not_ship(tree: Path, tmp_path: Path) -> None:
    (tree / "wire/__pycache__").mkdir()
    (tree / "wire/__pycache__/x.pyc").write_bytes(b"x")
    (tree / "wire/.editor.swp").write_bytes(b"x")
    contents.gather_source(tree.parent, tmp_path / "image")
    names = {path.name for path in (tmp_path / "image").rglob("*")}
    assert not names & {"__pycache__", "x.pyc", ".editor.swp"}


def test_a_path_cannot_pass_for_content(tree: Path) -> None:
    # Names and contents are told apart by lengths, not by separators.
    (tree / "wire/a.py").write_bytes(b"")
    one = canonical(tree.parent)
    (tree / "wire/a.py").unlink()
    (tree / "wire/a.py\n").write_bytes(b"")
    assert canonical(tree.parent) != one


def test_the_three_registers_differ() -> None:
    pcrs = emulated_pcrs(contents.source_root())
    assert set(pcrs) == {0, 1, 2}
    assert len(set(pcrs.values())) == 3
    assert {len(value) for value in pcrs.values()} == {48}


def test_a_tree_without_what_ships_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="missing from the source tree"):
        emulated_pcr0(tmp_path)
