"""
A key signs a permit, and only the judges make permits.

`policy` judges the wallet's requests, `slashing_guard` the validator's duties. Anywhere
else the class may be named in a signature's annotations and nowhere besides: not
called, not aliased, not handed to a decoder.
"""

import ast
from pathlib import Path

import pytest

from nitrosigner.image import contents

PACKAGE = contents.source_root() / contents.PACKAGE
DEFINITION = Path("trusted/enclave/permissions/permit.py")
JUDGES = {
    Path("trusted/enclave/permissions/policy.py"),
    Path("trusted/enclave/validators/slashing_guard.py"),
}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def _annotations(tree: ast.AST) -> set[ast.AST]:
    """Every node that stands inside an annotation."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg):
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots.append(node.returns)
    return {inner for root in roots if root for inner in ast.walk(root)}


def misuses(source: str) -> list[int]:
    """The lines on which *source* does more with `Permit` than annotate."""
    tree = ast.parse(source)
    allowed = _annotations(tree)
    found: list[int] = []
    for node in ast.walk(tree):
        named = (isinstance(node, ast.Name) and node.id == "Permit") or (
            isinstance(node, ast.Attribute) and node.attr == "Permit"
        )
        if named and node not in allowed:
            found.append(node.lineno)  # type: ignore[attr-defined]  # expressions have one
        if isinstance(node, ast.ImportFrom | ast.Import):
            found += [
                node.lineno
                for alias in node.names
                if alias.asname
                and (alias.name == "Permit" or alias.name.endswith(".permit"))
            ]
        # structs.replace(permit, …) makes one too.
        if isinstance(node, ast.Attribute) and node.attr in {"replace", "__replace__"}:
            value = node.value
            if isinstance(value, ast.Attribute) and value.attr == "structs":
                found.append(node.lineno)
    return sorted(found)


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in JUDGES | {DEFINITION}], ids=str
)
def test_no_other_module_makes_one(module: Path) -> None:
    source = (PACKAGE / module).read_text(encoding="utf-8")
    if "Permit" in source:
        assert not misuses(source)


@pytest.mark.parametrize("judge", sorted(JUDGES), ids=str)
def test_the_judges_do(judge: Path) -> None:
    assert "return Permit(" in (PACKAGE / judge).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "source",
    [
        "Permit('k', b'')",
        "permit.Permit('k', b'')",
        "from nitrosigner.trusted.enclave.permissions.permit import Permit as P\nP('k', b'')",
        "import nitrosigner.trusted.enclave.permissions.permit as p",
        "make = Permit",
        "msgspec.json.decode(data, type=Permit)",
        "decoder = msgspec.json.Decoder(Permit)",
        "permits = map(Permit, keys, digests)",
        "def f(make=Permit): ...",
        "class Mine(Permit): ...",
        "msgspec.structs.replace(permit, message=b'')  # of Permit",
    ],
)
def test_each_way_to_make_one_is_found(source: str) -> None:
    assert misuses(source)


@pytest.mark.parametrize(
    "source",
    [
        "from nitrosigner.trusted.enclave.permissions.permit import Permit",
        "def sign(permit: Permit) -> Signature: ...",
        "async def judge(self) -> Permit | None: ...",
        "waiting: list[Permit] = []",
        "sign: Callable[[permit.Permit], bytes]",
    ],
)
def test_naming_its_type_is_no_misuse(source: str) -> None:
    assert not misuses(source)
