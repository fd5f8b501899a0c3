"""What is in the built image, and that everybody gets the same one."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nitrosigner.image import contents
from nitrosigner.image.build import build_image
from nitrosigner.image.eif.reader import read_eif

LARGEST = 20_000_000
"""Bytes of the image file."""
FORBIDDEN = (
    *("sh", "bash", "dash", "busybox", "apt", "dpkg", "pip", "gcc", "cc", "ld", "perl"),
    *("curl", "wget", "nc", "gdb", "strace", "mount", "su", "sudo"),
)


def paths_in(image: Path) -> list[set[str]]:
    """The paths in each ramdisk, read from the cpio archives without our writer."""
    found = []
    with image.open("rb") as file:
        eif = read_eif(file)
        packed = [b"".join(eif.chunks(one)) for one in eif.ramdisks]
    for disk in packed:
        raw, position, paths = gzip.decompress(disk.rstrip(b"\0") + bytes(8)), 0, set()
        while True:
            head = raw[position : position + 110]
            assert head[:6] == b"070701"
            size, length = int(head[54:62], 16), int(head[94:102], 16)
            name = raw[position + 110 : position + 110 + length - 1].decode()
            if name == "TRAILER!!!":
                break
            paths.add(name)
            position += (110 + length + 3) // 4 * 4
            position += (size + 3) // 4 * 4
        found.append(paths)
    return found


def test_there_is_one_program_and_it_is_python(image: Path) -> None:
    base, application = paths_in(image)
    programs = {path for path in base if path.startswith("usr/bin/")}
    assert programs == {"usr/bin/python3.11"}
    for path in base | application:
        assert Path(path).name not in FORBIDDEN
    assert {path.partition("/")[0] for path in application} == {"application"}


def test_the_application_is_what_contents_toml_lists(image: Path) -> None:
    _, application = paths_in(image)
    names = {
        Path(path).parts[1].partition(".")[0] for path in application if "/" in path
    }
    declared = {
        entry for one in contents.declared().distributions for entry in one.entries
    }
    assert names == declared | {contents.PACKAGE}
    ours = {
        path
        for path in application
        if path.startswith("application/nitrosigner/") and Path(path).suffix
    }
    shipped = contents.shipped_files(contents.source_root())
    wanted = {
        f"application/{path}c" if path.suffix == ".py" else f"application/{path}"
        for path in shipped
    }
    assert ours == wanted


def test_the_image_keeps_its_budget(image: Path) -> None:
    assert image.stat().st_size <= LARGEST


def test_the_command_line_passes_nothing_to_the_program(image: Path) -> None:
    with image.open("rb") as file:
        assert read_eif(file).command_line == build_image.COMMAND_LINE
    assert "init=" not in build_image.COMMAND_LINE


@pytest.mark.timeout(300)
def test_two_builds_in_different_folders_give_the_same_bytes(
    image: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    # Another source folder, another output, another working folder, another temporary
    # folder, another time zone, another locale, another hash seed, another umask.
    source = tmp_path / "a" / "deeper" / "src"
    shutil.copytree(
        contents.source_root(), source, ignore=shutil.ignore_patterns("__pycache__")
    )
    temporary = tmp_path / "t"
    temporary.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "nitrosigner.image.build"),
            *("--source", str(source), "--output", str(tmp_path / "b")),
        ],
        check=True,
        cwd=tmp_path,
        umask=0o077,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "TMPDIR": str(temporary),
            "TZ": "Pacific/Auckland",
            "LC_ALL": "C",
            "PYTHONHASHSEED": "4711",
        },
    )
    other = tmp_path / "b" / "enclave.eif"
    assert other.read_bytes() == image.read_bytes()
    sbom = build_image.SBOM_NAME
    assert other.with_name(sbom).read_bytes() == image.with_name(sbom).read_bytes()
