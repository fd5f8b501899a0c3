"""
The metadata of an image: its name, and how it was built.

Nobody measures it. It is a label that whoever holds the file can rewrite without
changing a PCR, so nothing may be decided by it. It is part of the file's checksum all
the same: a time of building that is not fixed makes every build another file.
"""

from typing import Any, Final

import msgspec

from nitrosigner.image.eif.layout import MAX_METADATA, malformed

NO_TIME: Final = "1970-01-01T00:00:00+00:00"
TOOL: Final = "nitrosigner"


class Build(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How an image was built, in its builder's words."""

    build_time: str = NO_TIME
    build_tool: str = TOOL
    build_tool_version: str = "0"
    operating_system: str = "Linux"
    kernel_version: str = "unknown"


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What an image says of itself."""

    image_name: str
    image_version: str
    build_metadata: Build = Build()
    docker_info: Any = msgspec.field(default_factory=dict)
    custom_metadata: Any = msgspec.field(default_factory=dict)


def encode(metadata: Metadata) -> bytes:
    """Return the section's payload; the same bytes for the same metadata."""
    return msgspec.json.encode(metadata, order="deterministic")


def decode(payload: bytes) -> Metadata:
    """
    Read the section's payload.

    Raises:
        Malformed: It is not what AWS's tools write.
    """
    if len(payload) > MAX_METADATA:
        raise malformed("its metadata is too long")
    try:
        return msgspec.json.decode(payload, type=Metadata)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise malformed(
            "its metadata is not the JSON that version 4 describes",
            "the metadata names the image and its build; see the image format of AWS",
        ) from None
