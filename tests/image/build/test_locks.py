"""What is locked is what is declared, exactly and by hash."""

import json
import re
from pathlib import Path

import pytest

from nitrosigner.image import contents
from nitrosigner.image.build import base_system, kernel, sbom, wheels
from nitrosigner.image.build.kernel import Kernel, check_configuration, given_kernel
from nitrosigner.image.build.not_built import NotBuilt
from nitrosigner.image.eif.measure import Measurements

ROOT = Path(__file__).parents[3]
HASH = re.compile(r"[0-9a-f]{64}")


def test_each_package_is_locked_by_hash_and_says_why_it_ships() -> None:
    lock = base_system.locked()
    names = [one.name for one in lock.packages]
    assert names == sorted(set(names))
    for one in lock.packages:
        assert HASH.fullmatch(one.sha256)
        assert one.why
        assert one.ships


def test_no_package_brings_a_program_but_the_interpreter() -> None:
    shipped = [path for one in base_system.locked().packages for path in one.ships]
    programs = [path for path in shipped if "bin/" in path]
    assert programs == ["usr/bin/python3.11"]


def test_the_wheels_are_those_of_contents_toml_and_of_the_lock_that_tests_use() -> None:
    locked = wheels.locked()
    declared = {one.name: one.version for one in contents.declared().distributions}
    assert {one.name: one.version for one in locked} == declared
    dev = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    for one in locked:
        # What runs in the tests and what ships come from the same release.
        assert f"--hash=sha256:{one.sha256}" in dev, one.name


def test_the_kernels_recipe_names_exact_inputs() -> None:
    recipe = kernel.recipe()
    assert HASH.fullmatch(recipe.sha256)
    assert HASH.fullmatch(recipe.source.sha256)
    assert recipe.toolchain.keys() == {"gcc", "ld"}


def test_the_kernel_has_no_network_but_the_vsock() -> None:
    text = kernel.CONFIGURATION.read_text(encoding="utf-8")
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
