"""
The layout of an enclave image file (EIF), version 4, and the limits on it.

A header, then sections without padding, each a small header and its payload. The
header holds a table of the sections besides, so there are two ways to walk the file:
AWS's tools walk from section to section, QEMU goes by the table. A file in which these
two disagree could be measured as one program and started as another. Here it is no
image at all (see `reader`).

Source: aws-nitro-enclaves-image-format, `defs/mod.rs`; QEMU, `hw/core/eif.c`.
"""

import struct
from enum import IntEnum, unique
from typing import Final

from nitrosigner.verdicts import Code, Malformed

MAGIC: Final = b".eif"
VERSION: Final = 4
MAX_SECTIONS: Final = 32
AARCH64: Final = 1
"""The one flag of the header: an image for ARM. Without it, for x86-64."""

HEADER: Final = struct.Struct(">4sHHQQHH32Q32QII")
"""Magic, version, flags, memory (bytes), vCPUs, reserved, number of sections, where
each section's header is, how long each payload is, unused, CRC-32. Big-endian."""
SECTION: Final = struct.Struct(">HHQ")
"""Type, flags (0), bytes of the payload."""
CRC_OFFSET: Final = HEADER.size - 4
"""The checksum covers everything in the file but itself."""

MAX_IMAGE: Final = 8 << 30
"""Bytes of a whole file."""
MAX_KERNEL: Final = 256 << 20
MAX_COMMAND_LINE: Final = 4096
MAX_METADATA: Final = 1 << 20
MAX_SIGNATURE: Final = 64 << 10
CHUNK: Final = 1 << 20
"""Bytes that are held in memory at a time of what may be large."""


@unique
class SectionType(IntEnum):
    """What a section holds."""

    KERNEL = 1
    COMMAND_LINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5

    @property
    def title(self) -> str:
        """The name in sentences."""
        return self.name.lower().replace("_", " ")


LIMITS: Final = {
    SectionType.KERNEL: MAX_KERNEL,
    SectionType.COMMAND_LINE: MAX_COMMAND_LINE,
    SectionType.RAMDISK: MAX_IMAGE,
    SectionType.SIGNATURE: MAX_SIGNATURE,
    SectionType.METADATA: MAX_METADATA,
}
"""Bytes of a section's payload."""


def malformed(sentence: str, hint: str = "") -> Malformed:
    """Return the verdict on a file that is no enclave image."""
    return Malformed(
        Code.MALFORMED_REQUEST,
        f"this is no enclave image: {sentence}",
        hint or "build it again, or fetch it again: it may have been cut or altered",
    )
