"""
Root certificates, by the SHA-256 fingerprint of their DER.

AWS's roots and the emulator's are of different types. `AwsRoot` takes no fingerprint
from anybody: the closed list below is all there is. Code that must not trust an
emulator asks for `Sequence[AwsRoot]` and cannot be handed anything else by accident.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

FINGERPRINT_SIZE: Final = 32

_AWS_ROOTS: Final = {
    "AWS Nitro Enclaves Root G1": (
        "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    ),
}
"""Of the commercial partition. AWS China and GovCloud have others: add them here, in
a reviewed change, from the partition's own documentation."""


@final
@dataclass(frozen=True, slots=True)
class AwsRoot:
    """A root of the Nitro PKI, published by AWS. Only those listed in this file."""

    name: str
    emulated: ClassVar[Literal[False]] = False

    def __post_init__(self) -> None:
        if self.name not in _AWS_ROOTS:
            msg = "not a Nitro root that this version knows"
            raise ValueError(msg)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root certificate's DER."""
        return bytes.fromhex(_AWS_ROOTS[self.name])


@final
@dataclass(frozen=True, slots=True)
class EmulatedRoot:
    """A root that is not AWS's: it proves nothing about hardware. Never the default."""

    name: str
    fingerprint: bytes
    """SHA-256 of the root certificate's DER."""
    emulated: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_SIZE:
            msg = "a fingerprint is 32 bytes"
            raise ValueError(msg)
        if self.fingerprint.hex() in _AWS_ROOTS.values():
            msg = "this is AWS's own root; use AwsRoot"
            raise ValueError(msg)


TrustAnchor = AwsRoot | EmulatedRoot

AWS_NITRO_ROOT_G1: Final = AwsRoot("AWS Nitro Enclaves Root G1")


def by_fingerprint(fingerprint: bytes, name: str) -> TrustAnchor:
    """
    Return the anchor for *fingerprint*; *name* is for people, if it isn't AWS's.

    For commands that are told a root by a person. Look at `emulated`.
    """
    for aws_name, aws_fingerprint in _AWS_ROOTS.items():
        if aws_fingerprint == fingerprint.hex():
            return AwsRoot(aws_name)
    return EmulatedRoot(name, fingerprint)
