"""The archives for Lambda and for the instances."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.infrastructure import bundle
from nitrosigner.infrastructure.settings import Architecture
from nitrosigner.verdicts import Undecided

IMPORTING = """
import sys, importlib
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]: importlib.import_module(name)
"""
REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def fake_wheels(program: Any, machine: Any, folder: Path) -> None:
    del program
    package = folder / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"machine = {machine.value!r}\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"x")
    information = folder / "package-1.dist-info"
    information.mkdir()
    (information / "INSTALLER").write_text("pip\n")
    (information / "METADATA").write_text("Name: package\n")


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    archives = [
        bundle.make(
            bundle.PARENT,
            Architecture.X86_64,
            tmp_path / name,
            wheels=fake_wheels,
            beside=[("instance/run.sh", b"#!/bin/bash\n", True)],
        )
        for name in ("one", "two")
    ]
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_the_archive_holds_ours_and_the_wheels_and_no_by_products(
    tmp_path: Path,
) -> None:
    path = bundle.make(bundle.GATEWAY, Architecture.ARM64, tmp_path, wheels=fake_wheels)
    names = zipfile.ZipFile(path).namelist()
    assert "package/__init__.py" in names
    assert "nitrosigner/untrusted/gateway/wallet.py" in names
    assert "nitrosigner/untrusted/gateway/validator.py" in names
    assert not [name for name in names if "__pycache__" in name or "INSTALLER" in name]
    # What holds keys, and what only stands in for AWS, stays at home.
    for foreign in ("trusted", "emulator", "infrastructure", "untrusted/parent"):
        assert not [name for name in names if name.startswith(f"nitrosigner/{foreign}")]


def test_wheels_are_fetched_once_for_each_lock_and_machine(tmp_path: Path) -> None:
    asked = []

    def wheels(program: Any, machine: Any, folder: Path) -> None:
        asked.append(machine)
        fake_wheels(program, machine, folder)

    for machine in (Architecture.X86_64, Architecture.ARM64, Architecture.X86_64):
        bundle.make(bundle.PARENT, machine, tmp_path, wheels=wheels)
    assert asked == [Architecture.X86_64, Architecture.ARM64]


def test_half_fetched_wheels_are_not_taken_for_whole(tmp_path: Path) -> None:
    def failing(program: Any, machine: Any, folder: Path) -> None:
        fake_wheels(program, machine, folder)
        raise OSError

    with pytest.raises(OSError):
        bundle.make(bundle.PARENT, Architecture.X86_64, tmp_path, wheels=failing)
    path = bundle.make(bundle.PARENT, Architecture.X86_64, tmp_path, wheels=fake_wheels)
    assert "package/__init__.py" in zipfile.ZipFile(path).namelist()


def test_a_lock_that_cannot_be_installed_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    absent = bundle.Program(name="x", ours=(), lock="no-such-lock.txt", python="3.11")
    with pytest.raises(Undecided, match=r"requirements/no-such-lock\.txt"):
        bundle.locked_wheels(absent, Architecture.X86_64, tmp_path / "site")
    capfd.readouterr()


def pinned(name: str) -> dict[str, str]:
    return dict(
        re.findall(
            r"^([a-z0-9_.-]+)==([^\s;]+)",
            (REQUIREMENTS / name).read_text(),
            re.MULTILINE,
        )
    )


@pytest.mark.parametrize("lock", [bundle.GATEWAY.lock, bundle.PARENT.lock])
def test_what_is_shipped_is_what_is_tested(lock: str) -> None:
    tested, shipped = pinned("dev.txt"), pinned(lock)
    assert len(shipped) >= 10
    assert shipped.items() <= tested.items()
    text = (REQUIREMENTS / lock).read_text()
    assert text.count("--hash=sha256:") >= len(shipped)


@pytest.mark.parametrize(
    ("program", "modules"),
    [
        (
            bundle.GATEWAY,
            [
                "nitrosigner.untrusted.gateway.wallet",
                "nitrosigner.untrusted.gateway.validator",
                "nitrosigner.untrusted.gateway.attestation_canary",
                "nitrosigner.untrusted.gateway.health_probe",
            ],
        ),
        (
            bundle.PARENT,
            [
                "nitrosigner.untrusted.parent.__main__",
                "nitrosigner.untrusted.parent.watchdog",
                "nitrosigner.untrusted.parent.instance_lifecycle",
                "nitrosigner.untrusted.parent.secrets_manager_store",
                "nitrosigner.untrusted.parent.dynamodb_store",
                "nitrosigner.untrusted.parent.dynamodb_watermarks",
                "nitrosigner.untrusted.parent.metrics_listener",
            ],
        ),
    ],
    ids=["gateway", "parent"],
)
def test_every_entry_imports_from_the_archive_with_the_locked_wheels_alone(
    tmp_path: Path, program: bundle.Program, modules: list[str]
) -> None:
    import importlib.metadata
    import subprocess
    import sys

    archive = bundle.make(program, Architecture.X86_64, tmp_path, wheels=fake_wheels)
    root = tmp_path / "root"
    zipfile.ZipFile(archive).extractall(root)
    # The very distributions that are locked, as they are installed here.
    for name in pinned(program.lock):
        distribution = importlib.metadata.distribution(name)
        site = Path(str(distribution.locate_file("")))
        for top in {
            file.parts[0] for file in distribution.files or [] if ".." not in file.parts
        }:
            target = root / top
            if not target.exists() and top != "__pycache__":
                target.symlink_to(site / top)
    done = subprocess.run(
        [
            sys.executable,
            *("-I", "-S", "-B", "-c"),
            IMPORTING,
            root,
            *modules,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
