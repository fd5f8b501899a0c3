"""`nitrosigner verify --source`: is the running signer this checkout, and what of it is proved."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from nitrosigner.cli.main import run
from nitrosigner.image import contents
from nitrosigner.image.source_measurement import emulated_pcrs

IMAGE = {index: bytes([0xC0 + index]) * 48 for index in range(3)}
"""What the fake signer measures."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what ships, and no build."""
    folder = tmp_path / "checkout"
    contents.gather_source(contents.source_root(), folder / "src")
    return folder


@pytest.fixture
def verify(
    capfd: pytest.CaptureFixture[str],
    signer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, Any]]:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root.pem"
    root.write_bytes(signer.pki.root.public_bytes(Encoding.PEM))

    def go(*more: Any) -> tuple[int, Any]:
        arguments = ["verify", signer.url, "--root", root, "--json", *more]
        code = run([str(one) for one in arguments])
        return code, json.loads(capfd.readouterr().out)

    return go


def built(
    checkout: Path, registers: dict[int, bytes], commit: str | None = None
) -> Path:
    path = checkout / "build/image/measurements.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"PCR{index}": value.hex() for index, value in registers.items()}
    path.write_text(
        json.dumps(
            {
                "format": "nitrosigner-measurements/1",
                "measurements": named,
                "source_commit": commit,
            }
        )
    )
    return path


def test_a_signer_that_measures_what_was_built_is_this_checkout(
    verify: Any, checkout: Path
) -> None:
    built(checkout, IMAGE)
    code, value = verify("--source", checkout)
    assert code == 0
    assert any("runs the image of this checkout" in one for one in value["proved"])
    assert any("--rebuild" in one for one in value["not_proved"])
    assert any("free of faults" in one for one in value["not_proved"])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_register_counts(index: int, verify: Any, checkout: Path) -> None:
    path = built(checkout, {**IMAGE, index: b"\x01" * 48})
    for option in (("--source", checkout), ("--measurements", path)):
        code, value = verify(*option)
        assert code == 3
        assert f"PCR{index}" in value["error"]["message"]


def test_a_file_of_measurements_does_as_well(verify: Any, checkout: Path) -> None:
    code, value = verify("--measurements", built(checkout, IMAGE))
    assert code == 0
    assert any("measurements.json" in one for one in value["proved"])


def test_the_emulated_stack_is_compared_with_the_source_files(
    verify: Any, checkout: Path, signer: Any
) -> None:
    signer.pcrs = dict(emulated_pcrs(checkout / "src"))
    code, value = verify("--source", checkout)
    assert code == 0
    assert any(one.startswith("EMULATED: the enclave runs") for one in value["proved"])
    assert any("not measured here" in one for one in value["not_proved"])
    (checkout / "src/nitrosigner/verdicts.py").write_text("# changed\n")
    assert verify("--source", checkout)[0] == 3


def test_some_registers_of_each_are_neither(
    verify: Any, checkout: Path, signer: Any
) -> None:
    built(checkout, IMAGE)
    signer.pcrs = {**emulated_pcrs(checkout / "src"), 2: IMAGE[2]}
    code, value = verify("--source", checkout)
    assert code == 3
    assert "something else" in value["error"]["message"]


def test_a_build_of_another_commit_is_not_compared_with(
    verify: Any, checkout: Path
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed here")
    git = ["git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (
        ["init", "-q"],
        ["add", "src"],
        ["commit", "-q", "-m", "One"],
    ):
        subprocess.run([*git, *command], check=True)
    built(checkout, IMAGE, commit="1" * 40)
    code, value = verify("--source", checkout)
    assert code == 2
    assert "another commit" in value["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [
        ["--rebuild"],
        ["--source", "checkout", "--measurements", "m"],
        ["--source", "checkout", "--pcr0", "11" * 48],
        ["--source", "checkout", "--pcr", "1=" + "11" * 48],
        ["--source", "."],
        ["--measurements", "absent"],
        ["--measurements", "m", "--rebuild"],
    ],
)
def test_what_contradicts_itself_is_a_question_to_the_person(
    options: list[str], verify: Any, checkout: Path
) -> None:
    built(checkout, IMAGE)
    code, value = verify(*options)
    assert code == 2
    assert value["error"]["hint"]


def test_for_real_hardware_a_checkout_must_have_been_built(
    checkout: Path, signer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Source files alone measure nothing that Nitro measures."""
    assert run(["verify", signer.url, "--source", str(checkout)]) == 2
    assert "was not built" in capfd.readouterr().err


def test_a_checkout_that_does_not_build_is_undecided(
    verify: Any, checkout: Path
) -> None:
    """What was gathered has no build recipe in it."""
    built(checkout, IMAGE)
    code, value = verify("--source", checkout, "--rebuild")
    assert code == 4
    assert "could not be built" in value["error"]["message"]


def test_a_rebuild_is_believed_instead_of_the_last_build(
    verify: Any, checkout: Path
) -> None:
    """The checkout's own recipe is what runs: here one that needs no time."""
    recipe = checkout / "src/nitrosigner/image/build/__main__.py"
    recipe.parent.mkdir(parents=True)
    for folder in (recipe.parent, recipe.parent.parent):
        (folder / "__init__.py").touch()
    made = built(checkout, IMAGE).read_text()
    built(checkout, {0: b"\x01" * 48, 1: b"\x01" * 48, 2: b"\x01" * 48})
    recipe.write_text(
        "import sys\nfrom pathlib import Path\n"
        "folder = Path(sys.argv[sys.argv.index('--output') + 1])\n"
        f"(folder / 'measurements.json').write_text({made!r})\n"
    )
    code, value = verify("--source", checkout, "--rebuild")
    assert code == 0
    assert any("built just now" in one for one in value["proved"])
    assert not any("--rebuild" in one for one in value["not_proved"])
