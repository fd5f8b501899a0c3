"""
What a signer must measure to be a checkout: read from its build, or built anew.

A measurement in a file is a claim of whoever made the file. It becomes one's own
knowledge only by building: `--rebuild`. What is proved is worded accordingly.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from nitrosigner.attestation.measurements import CODE_REGISTERS
from nitrosigner.cli.files import read_file
from nitrosigner.cli.output import Output
from nitrosigner.image import contents, measurements_file, source_measurement
from nitrosigner.image.build.build_image import source_commit
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided

BUILD: Final = Path("build/image")
SOURCE: Final = Path("src")
_ONLY_FILES: Final = (
    "EMULATED: what runs below the source files; interpreter, libraries and kernel are "
    "not measured here"
)
_THIS_MACHINE: Final = (
    "that this machine and the locked packages are honest: the image was built on it, "
    "from them"
)
_ONLY_READ: Final = (
    "that the source builds to these measurements: they were read, not made "
    "(--source DIR --rebuild)"
)
_INTENTIONS: Final = (
    "that the source is free of faults: PCR0 names bytes; somebody has to read them"
)


@dataclass(frozen=True, slots=True)
class SourceExpectation:
    """Measurements to demand, and what it means when they are met."""

    image: Mapping[int, bytes] | None
    """Of the image, if there is one to compare with."""
    emulated: Mapping[int, bytes] | None
    """Of the source files, for a signer that no hypervisor measures."""
    origin: str
    """Where the image's measurements are from, in a sentence."""
    rebuilt: bool

    @property
    def pcrs(self) -> tuple[str, ...]:
        """As the options `--pcr` have them."""
        return tuple(
            f"{index}={measured[index].hex()}"
            for measured in (self.image, self.emulated)
            if measured is not None
            for index in CODE_REGISTERS
        )

    def check(self, found: Mapping[int, bytes]) -> None:
        """
        Check that a signer is one of the two, and not some of each.

        Raises:
            Refused: It is not.
        """
        if not (self._is(self.image, found) or self._is(self.emulated, found)):
            raise Refused(
                Code.ATTESTATION_UNTRUSTED,
                "the enclave runs something else than this source",
                f"it reports PCR0 {found.get(0, b'').hex()}",
            )

    def proved(self, found: Mapping[int, bytes]) -> list[str]:
        """Return what it means that a signer measures *found*."""
        if self._is(self.image, found):
            return [f"the enclave runs the image of {self.origin}: PCR0 to PCR2"]
        return ["EMULATED: the enclave runs the source files of this checkout"]

    def not_proved(self, found: Mapping[int, bytes]) -> list[str]:
        """Return what a reader might take for proved by it, and is not."""
        if not self._is(self.image, found):
            return [
                _ONLY_FILES,
                _INTENTIONS,
            ]
        if self.rebuilt:
            return [
                _THIS_MACHINE,
                _INTENTIONS,
            ]
        return [
            _ONLY_READ,
            _INTENTIONS,
        ]

    @staticmethod
    def _is(measured: Mapping[int, bytes] | None, found: Mapping[int, bytes]) -> bool:
        return measured is not None and all(
            measured[index] == found.get(index) for index in CODE_REGISTERS
        )


def of_measurements(path: Path) -> SourceExpectation:
    """
    Expect what a build's `measurements.json` says.

    Raises:
        Verdict: It is no such file.
    """
    measured = measurements_file.parse(read_file(path, "the measurements"))
    return SourceExpectation(measured, None, str(path), rebuilt=False)


def of_source(
    checkout: Path, *, rebuild: bool, emulated: bool, output: Output
) -> SourceExpectation:
    """
    Expect what a checkout builds to.

    Args:
        checkout: The folder that holds `src`.
        rebuild: Build it now, in place of believing its last build.
        emulated: The trusted root is not AWS's: take the measurement of the source
            files too, which is all that the local stack measures.
        output: Told what goes on.

    Raises:
        Verdict: It is no checkout, was not built, or does not build.
    """
    source = checkout / SOURCE
    if not (source / contents.PACKAGE).is_dir():
        raise Malformed(
            Code.USAGE,
            f"{checkout} is no checkout of nitrosigner: it has no {SOURCE}",
            "give the folder that holds Makefile and src",
        )
    of_files = source_measurement.emulated_pcrs(source) if emulated else None
    if rebuild:
        measured = _rebuilt(source, output)
        origin = "this checkout, built just now"
        return SourceExpectation(measured, of_files, origin, rebuilt=True)
    built = checkout / BUILD / measurements_file.NAME
    if not built.is_file():
        if of_files is not None:
            return SourceExpectation(None, of_files, "", rebuilt=False)
        raise Malformed(
            Code.USAGE,
            f"{checkout} was not built: it has no {BUILD / measurements_file.NAME}",
            "make image writes it; or give --rebuild",
        )
    data = read_file(built, "the measurements")
    commit = _same_commit(data, source)
    origin = f"this checkout's last build ({commit or 'of no commit that is named'})"
    return SourceExpectation(
        measurements_file.parse(data), of_files, origin, rebuilt=False
    )


def _same_commit(data: bytes, source: Path) -> str | None:
    class Noted(msgspec.Struct):
        source_commit: str | None = None

    try:
        noted = msgspec.json.decode(data, type=Noted).source_commit
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    now = source_commit(source)
    if noted is not None and now is not None and noted != now:
        raise Malformed(
            Code.USAGE,
            "the checkout's last build is of another commit than is checked out",
            "make image, or give --rebuild",
        )
    return noted


def _rebuilt(source: Path, output: Output) -> Mapping[int, bytes]:
    output.say(f"building the image of {source}; this takes minutes")
    with tempfile.TemporaryDirectory(prefix="nitrosigner-verify-") as folder:
        command: Sequence[str] = (
            *(sys.executable, "-m", "nitrosigner.image.build"),
            *("--output", folder, "--source", str(source.resolve())),
        )
        # The checkout's own recipe makes its image, with the libraries of this one.
        environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, check=False
        )
        made = Path(folder) / measurements_file.NAME
        if done.returncode != 0 or not made.is_file():
            raise Undecided(
                Code.INTERNAL,
                "the image of this checkout could not be built",
                "what went wrong stands above; try make image",
            )
        return measurements_file.parse(read_file(made, "the measurements"))
