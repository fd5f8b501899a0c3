"""What is locked is what is declared, exactly and by hash."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nitrosigner.image import contents
from nitrosigner.image.build import base_system, kernel, sbom, wheels
from nitrosigner.image.build.build_image import Ramdisks, check_same_modules
from nitrosigner.image.build.file_tree import FileTree
from nitrosigner.image.build.kernel import Kernel, check_configuration, given_kernel
from nitrosigner.image.build.machine import AARCH64, MACHINES, X86_64, Machine
from nitrosigner.image.build.not_built import NotBuilt
from nitrosigner.image.eif.measure import Measurements

ROOT = Path(__file__).parents[3]
HASH = re.compile(r"[0-9a-f]{64}")


MACHINE = pytest.mark.parametrize(
    "machine", MACHINES.values(), ids=lambda one: one.name
)


@MACHINE
def test_each_package_is_locked_by_hash_and_says_why_it_ships(machine: Machine) -> None:
    lock = base_system.locked(machine)
    names = [one.name for one in lock.packages]
    assert names == sorted(set(names))
    for one in lock.packages:
        assert HASH.fullmatch(one.sha256)
        assert one.why
        assert one.ships


def test_both_machines_have_the_same_versions_of_everything() -> None:
    # Whoever reviews one image has reviewed the other.
    debian = [base_system.locked(machine).packages for machine in MACHINES.values()]
    ours = [wheels.locked(machine) for machine in MACHINES.values()]
    for one, other in (debian, ours):
        assert [(p.name, p.version) for p in one] == [
            (p.name, p.version) for p in other
        ]
    for one, other in zip(
        base_system.locked(X86_64).packages,
        base_system.locked(AARCH64).packages,
        strict=True,
    ):
        assert one.sha256 != other.sha256


@MACHINE
def test_no_package_brings_a_program_but_the_interpreter(machine: Machine) -> None:
    lock = base_system.locked(machine)
    shipped = [path for one in lock.packages for path in one.ships]
    assert not [
        path for path in shipped if "linux-gnu" in path and machine.name not in path
    ]
    programs = [path for path in shipped if "bin/" in path]
    assert programs == ["usr/bin/python3.11"]


@MACHINE
def test_the_wheels_are_those_of_contents_toml_and_of_the_lock_that_tests_use(
    machine: Machine,
) -> None:
    locked = wheels.locked(machine)
    declared = {one.name: one.version for one in contents.declared().distributions}
    assert {one.name: one.version for one in locked} == declared
    dev = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    for one in locked:
        # What runs in the tests and what ships come from the same release.
        assert f"--hash=sha256:{one.sha256}" in dev, one.name


@MACHINE
def test_the_kernels_recipe_names_exact_inputs(machine: Machine) -> None:
    recipe = kernel.recipe(machine)
    assert HASH.fullmatch(recipe.sha256)
    assert HASH.fullmatch(recipe.source.sha256)
    assert recipe.toolchain.keys() == {f"{machine.cross}gcc", f"{machine.cross}ld"}
    # One source for both.
    assert recipe.source == kernel.recipe().source


def test_a_machine_without_a_recipe_needs_a_kernel_that_is_given() -> None:
    stranger = dataclasses.replace(AARCH64, name="riscv64")
    with pytest.raises(NotBuilt, match="no recipe") as told:
        kernel.recipe(stranger)
    assert "--kernel" in told.value.hint


def test_both_kernels_refuse_the_same_things() -> None:
    refused = [
        {
            line
            for line in kernel.configuration(machine).read_text().splitlines()
            if line.startswith("CONFIG_") and line.endswith("=n")
        }
        for machine in MACHINES.values()
    ]
    # 32-bit programs and a reset by a register are ARM's own.
    assert refused[1] - refused[0] == {"CONFIG_COMPAT=n", "CONFIG_POWER_RESET_SYSCON=n"}
    assert refused[0] <= refused[1]


@MACHINE
def test_the_kernel_has_no_network_but_the_vsock(machine: Machine) -> None:
    text = kernel.configuration(machine).read_text(encoding="utf-8")
    for line in (
        "CONFIG_INET=n",
        "CONFIG_MODULES=n",
        "CONFIG_BLOCK=n",
        "CONFIG_NSM=y",
        "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("CONFIG_A=y", "# CONFIG_A is not set"),
        ("CONFIG_A=y", ""),
        ("CONFIG_A=y", "CONFIG_A=m"),
        ("CONFIG_A=n", "CONFIG_A=y"),
        ('CONFIG_A="x"', 'CONFIG_A="y"'),
    ],
)
def test_a_wish_that_the_kernel_did_not_take_over_is_no_kernel(
    wanted: str, got: str
) -> None:
    with pytest.raises(NotBuilt, match="did not take over"):
        check_configuration(wanted, got)


def test_a_configuration_that_was_taken_over_is_fine() -> None:
    check_configuration(
        "# a comment\nCONFIG_A=y\nCONFIG_B=n\n", "CONFIG_A=y\n# CONFIG_B is not set\n"
    )


def test_what_is_no_kernel_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    with pytest.raises(NotBuilt, match="cannot be read"):
        given_kernel(path)
    path.write_bytes(bytes(4096))
    with pytest.raises(NotBuilt, match="no kernel"):
        given_kernel(path)
    path.write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    assert "not by the recipe" in given_kernel(path).origin


def test_a_kernel_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "Image"
    path.write_bytes(bytes(56) + b"ARM\x64" + bytes(0x400))
    assert given_kernel(path, AARCH64).data == path.read_bytes()
    with pytest.raises(NotBuilt, match="on x86_64"):
        given_kernel(path)
    path.write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    with pytest.raises(NotBuilt, match="on aarch64") as told:
        given_kernel(path, AARCH64)
    assert "Image" in told.value.hint


def disks(extension: str, *modules: str) -> Ramdisks:
    base, application = FileTree(), FileTree()
    base.add_file("usr/lib/python3.11/ast.pyc", b"")
    base.add_file(
        f"usr/lib/python3.11/lib-dynload/_json.cpython-311-{extension}.so", b""
    )
    base.add_file("usr/bin/python3.11", b"")
    for one in modules:
        application.add_file(f"application/{one}.pyc", b"")
    return Ramdisks(base, application)


def test_an_image_that_cannot_be_tried_has_the_modules_of_one_that_was() -> None:
    tried = {
        "usr/lib/python3.11/ast.py",
        "usr/lib/python3.11/lib-dynload/_json.cpython-311.so",
        "application/a.py",
    }
    check_same_modules(disks("aarch64-linux-gnu", "a"), AARCH64, tried)
    for wrong in (
        disks("aarch64-linux-gnu"),
        disks("aarch64-linux-gnu", "a", "b"),
        # An extension for the machine that built it.
        disks("x86_64-linux-gnu", "a"),
    ):
        with pytest.raises(NotBuilt, match="differ in"):
            check_same_modules(wrong, AARCH64, tried)


def test_the_bill_of_materials_lists_everything_that_is_locked() -> None:
    one = Kernel(b"kernel", "recipe 1~2+3")
    measurements = Measurements(bytes(48), bytes(48), bytes(48))
    lock = base_system.locked()
    data = sbom.document(lock, wheels.locked(), one, measurements)
    bill = json.loads(data)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    names = {component["name"] for component in bill["components"]}
    assert names == (
        {"linux"}
        | {package.name for package in lock.packages}
        | {wheel.name for wheel in wheels.locked()}
    )
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len(set(references))
    assert data == sbom.document(lock, wheels.locked(), one, measurements)
