"""
What the Nitro hypervisor measures of an image and of where it is started.

PCR0 to PCR2 and PCR8 are SHA384(zeros ‖ SHA384(stream)); PCR3 and PCR4 extend the text
itself, without the inner hash. The streams are payloads only, in the file's order: no
section header and no metadata is measured, so two files that differ can measure the
same, and the file's own hash says nothing about PCR0.

Source: aws-nitro-enclaves-image-format, `utils/eif_reader.rs` and `eif_hasher.rs`;
all seven real documents of the project's vectors for PCR4.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nitrosigner.attestation.measurements import extended
from nitrosigner.image.eif.layout import SectionType
from nitrosigner.verdicts import Code, Malformed

_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}")
_INSTANCE: Final = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The registers that an image alone decides, 48 bytes each."""

    pcr0: bytes
    """Kernel, command line and every ramdisk."""
    pcr1: bytes
    """Kernel, command line and the first ramdisk."""
    pcr2: bytes
    """The ramdisks after the first."""
    pcr8: bytes | None = None
    """The certificate that signed the image; None if it is not signed."""

    @property
    def registers(self) -> Mapping[int, bytes]:
        """By index."""
        code = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return code if self.pcr8 is None else {**code, 8: self.pcr8}

    @property
    def named(self) -> Mapping[str, str]:
        """As AWS's tools print them: `PCR0` and so on, lower-case hex."""
        return {f"PCR{index}": value.hex() for index, value in self.registers.items()}


class Measuring:
    """Measures the sections of one image, payload by payload, in the file's order."""

    def __init__(self) -> None:
        self._image, self._boot, self._application = (
            hashlib.sha384() for _ in range(3)
        )

    def take(self, kind: SectionType, ramdisk: int, chunk: bytes) -> None:
        """
        Measure a part of a section.

        Args:
            kind: Of the section.
            ramdisk: How many ramdisks stand before this section.
            chunk: The next bytes of its payload.
        """
        if kind in (SectionType.SIGNATURE, SectionType.METADATA):
            return
        self._image.update(chunk)
        of_boot = kind is not SectionType.RAMDISK or ramdisk == 0
        (self._boot if of_boot else self._application).update(chunk)

    def measured(self) -> Measurements:
        """Return what was measured so far, without PCR8."""
        return Measurements(
            extended(self._image.digest()),
            extended(self._boot.digest()),
            extended(self._application.digest()),
        )


def certificate_register(der: bytes) -> bytes:
    """Return PCR8 of an image that the holder of the certificate *der* signed."""
    return extended(hashlib.sha384(der).digest())


def role_register(role_arn: str) -> bytes:
    """
    Return PCR3 under a parent instance with this role.

    Raises:
        Malformed: It is not a role's ARN. An instance profile's is another.
    """
    if _ROLE.fullmatch(role_arn) is None:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "PCR3 measures a role's ARN, like arn:aws:iam::123456789012:role/name",
            "give the role of the instance profile, with its path, not the profile",
        )
    return extended(role_arn.encode())


def instance_register(instance_id: str) -> bytes:
    """
    Return PCR4 on this parent instance.

    Raises:
        Malformed: It is not an instance's id.
    """
    if _INSTANCE.fullmatch(instance_id) is None:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "PCR4 measures an instance's id, like i-0123456789abcdef0",
            "aws ec2 describe-instances shows it",
        )
    return extended(instance_id.encode())
