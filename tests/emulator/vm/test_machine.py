"""What stands around the machine: its image, its options, its heartbeat."""

import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from nitrosigner.emulator import stack_programs
from nitrosigner.emulator.commands import up
from nitrosigner.emulator.data_folder import DataFolder
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.emulator.vm import heartbeat
from nitrosigner.emulator.vm.qemu import Qemu
from nitrosigner.emulator.vm.virtual_machine import (
    MachineSize,
    Parts,
    qemu_options,
    unpack_image,
)
from nitrosigner.emulator.vsock import UnixVsock
from nitrosigner.image.build.machine import AARCH64, X86_64
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.writer import ImageContents, write_eif
from nitrosigner.verdicts import Malformed, Refused

DISKS = [b"first" + bytes(3), b"second" + bytes(2)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "enclave.eif"
    write_eif(
        path,
        ImageContents(
            kernel=b"kernel",
            command_line="console=ttyS0",
            ramdisks=DISKS,
            metadata=Metadata(image_name="x", image_version="0"),
        ),
    )
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    run = tmp_path / "run"
    run.mkdir()
    return Places(DataFolder(tmp_path / "data"), run, tmp_path, 1, 2, 3)


def test_an_image_is_unpacked_as_a_loader_lays_it_out(
    image: Path, tmp_path: Path
) -> None:
    parts = unpack_image(image, tmp_path)
    assert parts.kernel.read_bytes() == b"kernel"
    assert parts.ramdisk.read_bytes() == b"".join(DISKS)
    assert parts.command_line == "console=ttyS0"
    assert parts.machine is X86_64


def test_the_machine_has_two_devices_and_nothing_else() -> None:
    parts = Parts(Path("/k"), Path("/r"), "console=ttyS0")
    options = qemu_options(parts, MachineSize(256), Path("/v.sock"), Path("/n.sock"))
    assert options.count("-device") == 2
    assert "-nodefaults" in options
    assert not {"-netdev", "-nic", "-drive", "-fsdev"} & set(options)
    assert options[options.index("-append") + 1] == "console=ttyS0"


def test_an_image_for_graviton_gets_a_machine_of_its_kind() -> None:
    parts = Parts(Path("/k"), Path("/r"), "console=ttyS0", AARCH64)
    options = qemu_options(parts, MachineSize(256), Path("/v.sock"), Path("/n.sock"))
    assert options[options.index("-machine") + 1].startswith("virt,")
    assert options[options.index("-append") + 1] == "console=ttyS0 console=ttyAMA0"
    assert options.count("-device") == 2
    (program,) = (
        word for word in Qemu(Path("/q"), AARCH64).command if "/bin/qemu" in word
    )
    assert program.endswith("/qemu-system-aarch64")


def test_the_copy_that_is_measured_is_the_one_that_boots(
    image: Path, places: Places
) -> None:
    pcr0 = stack_programs.take_image(places, image)
    image.write_bytes(b"something else")
    assert len(pcr0) == 48
    with places.image_file.open("rb") as file:
        assert file.read(4) == b".eif"


def test_a_missing_image_says_how_to_build_one(places: Places, tmp_path: Path) -> None:
    with pytest.raises(Refused) as told:
        stack_programs.take_image(places, tmp_path / "none.eif")
    assert "make image" in told.value.hint


def test_what_is_no_image_is_malformed(places: Places, tmp_path: Path) -> None:
    (tmp_path / "x.eif").write_bytes(bytes(1000))
    with pytest.raises(Malformed):
        stack_programs.take_image(places, tmp_path / "x.eif")


@pytest.mark.parametrize("option", [("--memory", "64"), ("--accelerator", "magic")])
def test_an_impossible_machine_is_refused_before_anything_starts(
    option: tuple[str, str], tmp_path: Path
) -> None:
    asked = CliRunner().invoke(up, ["--vm", "--data", str(tmp_path / "data"), *option])
    assert asked.exit_code == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("sent", "answer"), [(b"\xb7", b"\xb7"), (b"x", b""), (b"", b"")]
)
def test_a_heartbeat_is_returned_and_nothing_else(
    tmp_path: Path, sent: bytes, answer: bytes
) -> None:
    vsock = UnixVsock(tmp_path, 3)
    listener = vsock.listen(9000)
    thread = threading.Thread(target=heartbeat.serve, args=(listener,))
    thread.start()
    try:
        with vsock.connect(9000) as connection:
            connection.settimeout(30)
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(2) == answer
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
    assert not thread.is_alive()
