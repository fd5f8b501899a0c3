"""
The enclave image that the stacks ship, and the measurements that KMS shall ask for.

They are read while the templates are made, so that the key policy is right before the
first key exists. `measurements.json` is only a claim: the file beside it is measured
again here, and a difference stops everything.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nitrosigner.attestation.measurements import measured
from nitrosigner.image import measurements_file
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.infrastructure.settings import Architecture
from nitrosigner.verdicts import Code, Malformed, Refused

EIF: Final = "enclave.eif"
NO_IMAGE: Final = measured(b"nitrosigner: no image was built").hex()
"""Stands for PCR0 in templates made without an image. No enclave measures to it."""
_ARCHITECTURES: Final = {
    "x86_64": Architecture.X86_64,
    "aarch64": Architecture.ARM64,
}
DEBUG_REGISTER: Final = "0" * 96
"""What every enclave in debug mode reports, whatever it runs."""


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """An image file, and what may open the vault."""

    eif: Path | None
    """None: nothing was built; the templates are to be read, not deployed."""
    pcr0: str
    """Of the image that is shipped, lower-case hex."""
    previous: Sequence[str]
    """PCR0 of images that may still open the vault, during a rollout."""
    pcr8: str | None = None
    """If the image is signed."""
    architecture: Architecture | None = None
    """Of the instances that can run it. None: nothing was built."""
    previous_pcr8: Sequence[str | None] = ()
    """Of each of `previous`; None: it is not signed."""

    @property
    def sha256(self) -> str:
        """Of the file, for instances to compare with what they fetched."""
        if self.eif is None:
            return "0" * 64
        with self.eif.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def admitted(self) -> list[str]:
        """Every PCR0 that KMS shall open for: the new one first."""
        return list(dict.fromkeys([self.pcr0, *self.previous]))

    @property
    def signers(self) -> list[str]:
        """
        PCR8 of every image that KMS shall open for.

        Raises:
            Refused: One of them is not signed, and would be locked out.
        """
        found = [self.pcr8, *self.previous_pcr8] if self.eif else []
        if None in found:
            which = "the image" if found[0] is None else "a previous image"
            raise Refused(
                Code.ATTESTATION_UNTRUSTED,
                f"signed_image is set, and {which} is not signed: it has no PCR8",
                "sign it with nitrosigner image sign, or leave signed_image out",
            )
        return list(dict.fromkeys(one for one in found if one is not None))


def read(folder: Path | None, previous: Sequence[Path] = ()) -> MeasuredImage:
    """
    Read the image in *folder*; None: there is none.

    Raises:
        Malformed: A file is missing or is not what its name says.
        Refused: The image does not measure to what is claimed beside it.
    """
    registers = [_registers(path) for path in previous]
    older = [one[0].hex() for one in registers]
    if folder is None:
        return MeasuredImage(None, NO_IMAGE, older)
    claimed = _registers(folder / measurements_file.NAME)
    eif = folder / EIF
    try:
        with eif.open("rb") as file:
            image = read_eif(file)
            found = image.checked_measurements().registers
    except OSError as error:
        raise _missing(eif, error) from error
    for index, value in found.items():
        if claimed.get(index, value) != value:
            raise Refused(
                Code.ATTESTATION_UNTRUSTED,
                f"{eif} does not measure to the PCR{index} that "
                f"{measurements_file.NAME} claims",
                "one of the two is from another build: make image again",
            )
    pcr8 = found.get(8)
    return MeasuredImage(
        eif,
        found[0].hex(),
        older,
        None if pcr8 is None else pcr8.hex(),
        _ARCHITECTURES[image.architecture],
        [one[8].hex() if 8 in one else None for one in registers],
    )


def _registers(path: Path) -> dict[int, bytes]:
    try:
        return dict(measurements_file.parse(path.read_bytes()))
    except OSError as error:
        raise _missing(path, error) from error


def _missing(path: Path, error: OSError) -> Malformed:
    return Malformed(
        Code.MALFORMED_REQUEST,
        f"{path} cannot be read: {error.strerror}",
        "make image writes it",
    )
