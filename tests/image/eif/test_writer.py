"""What is written is an image for AWS's way of reading, for QEMU's, and for ours."""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from nitrosigner.image.eif import writer
from nitrosigner.image.eif.measure import Measurements, certificate_register
from nitrosigner.image.eif.metadata import Metadata
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.image.eif.signature import Signer
from nitrosigner.image.eif.writer import ImageContents, sign_eif, write_eif
from nitrosigner.verdicts import Malformed, Refused, Undecided

KERNEL, LINE, BOOT, APPLICATION = b"K" * 1001, "console=ttyS0", b"B" * 512, b"A" * 516


def made(**changed: Any) -> ImageContents:
    fields: dict[str, Any] = {
        "kernel": KERNEL,
        "command_line": LINE,
        "ramdisks": [BOOT, APPLICATION],
        "metadata": Metadata(image_name="n", image_version="1"),
        **changed,
    }
    return ImageContents(**fields)


def register(stream: bytes) -> bytes:
    return hashlib.sha384(bytes(48) + hashlib.sha384(stream).digest()).digest()


def sections_in_sequence(data: bytes) -> list[tuple[int, bytes]]:
    """AWS's tools: section after section until the file ends."""
    at, found = 548, []
    while at < len(data):
        kind, _, size = struct.unpack_from(">HHQ", data, at)
        found.append((kind, data[at + 12 : at + 12 + size]))
        at += 12 + size
    return found


def sections_by_table(data: bytes) -> list[tuple[int, bytes]]:
    """QEMU: where the header says."""
    (count,) = struct.unpack_from(">H", data, 26)
    found = []
    for index in range(count):
        (offset,) = struct.unpack_from(">Q", data, 28 + 8 * index)
        (size,) = struct.unpack_from(">Q", data, 28 + 256 + 8 * index)
        (kind,) = struct.unpack_from(">H", data, offset)
        found.append((kind, data[offset + 12 : offset + 12 + size]))
    return found


def test_every_reader_finds_the_same_sections(tmp_path: Path) -> None:
    path = tmp_path / "image.eif"
    write_eif(path, made())
    data = path.read_bytes()
    assert data[:8] == b".eif\0\4\0\0"
    found = sections_in_sequence(data)
    assert found == sections_by_table(data)
    assert [kind for kind, _ in found] == [1, 2, 5, 3, 3]
    assert [payload for kind, payload in found if kind != 5] == [
        KERNEL,
        LINE.encode(),
        BOOT,
        APPLICATION,
    ]
    metadata = json.loads(found[2][1])
    assert set(metadata) == {
        "ImageName",
        "ImageVersion",
        "BuildMetadata",
        "DockerInfo",
        "CustomMetadata",
    }
    assert set(metadata["BuildMetadata"]) == {
        "BuildTime",
        "BuildTool",
        "BuildToolVersion",
        "OperatingSystem",
        "KernelVersion",
    }
    (crc,) = struct.unpack_from(">I", data, 544)
    assert crc == zlib.crc32(data[548:], zlib.crc32(data[:544]))


def test_measures_payloads_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image.eif"
    measured = write_eif(path, made())
    start = KERNEL + LINE.encode()
    assert measured == Measurements(
        register(start + BOOT + APPLICATION),
        register(start + BOOT),
        register(APPLICATION),
    )
    one = write_eif(tmp_path / "one.eif", made(ramdisks=[BOOT]))
    assert one.pcr0 == one.pcr1 == register(start + BOOT)
    assert one.pcr2 == register(b"")


def test_metadata_and_defaults_are_not_measured_and_the_file_differs(
    tmp_path: Path,
) -> None:
    one = write_eif(tmp_path / "1", made())
    two = write_eif(
        tmp_path / "2", made(metadata=Metadata(image_name="m", image_version="2"))
    )
    three = write_eif(tmp_path / "3", made(memory=1 << 28, vcpus=1))
    assert one == two == three
    assert len({(tmp_path / name).read_bytes() for name in "123"}) == 3


def test_the_same_contents_make_the_same_bytes_signed_too(
    tmp_path: Path, pair: Any
) -> None:
    for name in "12":
        write_eif(tmp_path / name, made(), signer=pair.signer())
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_files_and_bytes_make_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(KERNEL)
    (tmp_path / "application").write_bytes(APPLICATION)
    from_files = made(
        kernel=tmp_path / "kernel", ramdisks=[BOOT, tmp_path / "application"]
    )
    write_eif(tmp_path / "1", made())
    write_eif(tmp_path / "2", from_files)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_an_image_is_readable_by_others_and_its_parts_are_gone(tmp_path: Path) -> None:
    write_eif(tmp_path / "image.eif", made())
    assert [path.name for path in tmp_path.iterdir()] == ["image.eif"]
    assert (tmp_path / "image.eif").stat().st_mode & 0o777 == 0o644


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "image.eif"
    path.write_bytes(b"mine")
    with pytest.raises(Refused, match="exists"):
        write_eif(path, made())
    assert path.read_bytes() == b"mine"
    measured = write_eif(path, made(), replace=True)
    with path.open("rb") as file:
        assert read_eif(file).checked_measurements() == measured
    assert [one.name for one in tmp_path.iterdir()] == ["image.eif"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"kernel": b""}, "a kernel has 1 to"),
        ({"command_line": ""}, "a command line has 1 to"),
        ({"command_line": "a\0b"}, "printable"),
        ({"command_line": "é"}, "printable"),
        ({"command_line": "a\n"}, "printable"),
        ({"command_line": "a" * 1537}, "longer than 1536"),
        ({"ramdisks": []}, "at least one ramdisk"),
        ({"ramdisks": [b""]}, "a ramdisk has 1 to"),
        ({"ramdisks": [b"12345"]}, "multiple of 4"),
        ({"ramdisks": [b"1234"] * 30}, "at most 32 sections"),
        ({"kernel": Path("/nonexistent")}, "cannot be read"),
        ({"memory": 0}, "memory"),
        ({"vcpus": 1 << 64}, "vCPUs"),
    ],
)
def test_contents_that_make_no_image_leave_no_file(
    changed: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(Malformed, match=sentence):
        write_eif(tmp_path / "image.eif", made(**changed))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Undecided, match="could not be written"):
        write_eif(tmp_path / "no" / "image.eif", made())


def test_signing_changes_pcr8_alone_and_signing_again_replaces(
    tmp_path: Path, pair: Any, pairs: Callable[..., Any]
) -> None:
    plain = write_eif(tmp_path / "plain", made())
    with (tmp_path / "plain").open("rb") as file:
        once = sign_eif(tmp_path / "once", read_eif(file), pair.signer())
    other = pairs().signer()
    with (tmp_path / "once").open("rb") as file:
        twice = sign_eif(tmp_path / "twice", read_eif(file), other)
    assert plain.pcr8 is None
    for measured, signer in ((once, pair.signer()), (twice, other)):
        assert (measured.pcr0, measured.pcr1, measured.pcr2) == (
            plain.pcr0,
            plain.pcr1,
            plain.pcr2,
        )
        der = signer.certificate.public_bytes(Encoding.DER)
        assert measured.pcr8 == certificate_register(der)
    kinds = [k for k, _ in sections_in_sequence((tmp_path / "twice").read_bytes())]
    assert kinds == [1, 2, 5, 3, 3, 4]
    # Signing what exists and signing while building make one and the same file.
    write_eif(tmp_path / "built", made(), signer=pair.signer())
    assert (tmp_path / "built").read_bytes() == (tmp_path / "once").read_bytes()


def test_anothers_image_with_unaligned_ramdisks_can_be_signed(
    tmp_path: Path, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RAMDISK_ALIGNMENT", 1)
    plain = write_eif(tmp_path / "plain", made(ramdisks=[b"12345"]))
    monkeypatch.undo()
    with (tmp_path / "plain").open("rb") as file:
        signed = sign_eif(tmp_path / "signed", read_eif(file), pair.signer())
    assert signed.pcr0 == plain.pcr0


class SignerOfSomethingElse:
    """A signer whose hardware signs another PCR0."""

    def __init__(self, honest: Signer) -> None:
        self.certificate = honest.certificate
        self._honest = honest

    def section(self, pcr0: bytes) -> bytes:
        return self._honest.section(bytes(48))


class SignerForSomebodyElse(SignerOfSomethingElse):
    """A signer that puts in another certificate than its own."""

    def __init__(self, honest: Signer, other: Signer) -> None:
        super().__init__(honest)
        self._other = other

    def section(self, pcr0: bytes) -> bytes:
        return self._other.section(pcr0)


def test_a_file_whose_signature_does_not_verify_does_not_come_to_be(
    tmp_path: Path, pair: Any, pairs: Callable[..., Any]
) -> None:
    wrong: Any = SignerOfSomethingElse(pair.signer())
    with pytest.raises(Refused, match="another PCR0"):
        write_eif(tmp_path / "image.eif", made(), signer=wrong)
    wrong = SignerForSomebodyElse(pair.signer(), pairs().signer())
    with pytest.raises(Refused, match="not the one that was meant"):
        write_eif(tmp_path / "image.eif", made(), signer=wrong)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_changes_what_is_written_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_other(file: Any) -> Any:
        file.seek(600)
        byte = file.read(1)
        file.seek(600)
        file.write(bytes([byte[0] ^ 1]))
        return read_eif(file)

    monkeypatch.setattr(writer, "read_eif", read_other)
    with pytest.raises(Malformed, match="checksum"):
        write_eif(tmp_path / "image.eif", made())
    assert not list(tmp_path.iterdir())


def test_an_arm_image_says_so(tmp_path: Path) -> None:
    write_eif(tmp_path / "arm.eif", made(aarch64=True))
    with (tmp_path / "arm.eif").open("rb") as file:
        assert read_eif(file).architecture == "aarch64"
