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
    other = built_elsewhere(tmp_path)
    assert other.read_bytes() == image.read_bytes()
    sbom = build_image.SBOM_NAME
    assert other.with_name(sbom).read_bytes() == image.with_name(sbom).read_bytes()


def built_elsewhere(place: Path, *options: str, of: Path | None = None) -> Path:
    """Another source folder, another output, another working folder, another temporary
    folder, another time zone, another locale, another hash seed, another umask."""
    source = place / "a" / "deeper" / "src"
    of = of or contents.source_root()
    shutil.copytree(of, source, ignore=shutil.ignore_patterns("__pycache__"))
    temporary = place / "t"
    temporary.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "nitrosigner.image.build", *options),
            *("--source", str(source), "--output", str(place / "b")),
        ],
        check=True,
        cwd=place,
        umask=0o077,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "TMPDIR": str(temporary),
            "TZ": "Pacific/Auckland",
            "LC_ALL": "C",
            "PYTHONHASHSEED": "4711",
        },
    )
    return place / "b" / "enclave.eif"


@pytest.mark.timeout(300)
def test_an_image_for_graviton_is_the_same_everywhere_and_holds_the_same_modules(
    image: Path, tmp_path: Path
) -> None:
    # The kernel needs a cross compiler and minutes; here a file stands for it.
    kernel = tmp_path / "Image"
    kernel.write_bytes(bytes(56) + b"ARM\x64" + bytes(4096))
    options = ("--architecture", "aarch64", "--kernel", str(kernel))
    built = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        # Of the first one's copy: somebody may be at work on the source meanwhile.
        of = tmp_path / "one/a/deeper/src" if built else None
        built.append(built_elsewhere(tmp_path / name, *options, of=of))
    assert built[0].read_bytes() == built[1].read_bytes()
    with built[0].open("rb") as file:
        assert read_eif(file).architecture == "aarch64"

    def modules(path: Path) -> set[str]:
        return {
            one.replace("x86_64", "aarch64")
            for disk in paths_in(path)
            for one in disk
            if one.endswith((".pyc", ".so"))
        }

    assert modules(built[0]) == modules(image)
    assert not [path for disk in paths_in(built[0]) for path in disk if "x86" in path]
