"""
Platform configuration registers: what they mean and what is expected of them.

A register that is all zeros measured nothing. An enclave in debug mode has zeros in
PCR0 to PCR2 whatever it runs, and its parent can read its memory through the console:
such a document proves nothing about code, so it is refused unless asked for by name.
"""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from nitrosigner.attestation.errors import UntrustedDocument

PCR_SIZE: Final = 48
"""Bytes: SHA-384. The specification lists 32 and 64 too, with `digest` SHA384 only."""
PCR_COUNT: Final = 32
ZERO: Final = bytes(PCR_SIZE)
CODE_REGISTERS: Final = (0, 1, 2)
"""The registers that measure the image, and that debug mode leaves at zero."""

MEANINGS: Final[Mapping[int, str]] = {
    0: "enclave image",
    1: "kernel and boot file system",
    2: "application",
    3: "IAM role of the parent instance",
    4: "parent instance ID",
    8: "certificate that signed the image",
}

Expected = bytes | AbstractSet[bytes]
"""One value, or any of several (two releases side by side)."""


def measured(data: bytes) -> bytes:
    """Return the register that measured *data*: SHA384(zeros ‖ SHA384(data))."""
    return extended(hashlib.sha384(data).digest())


def extended(data: bytes, register: bytes = ZERO) -> bytes:
    """Return *register* extended with *data* as it is: SHA384(register ‖ data)."""
    return hashlib.sha384(register + data).digest()


def is_debug(pcrs: Mapping[int, bytes]) -> bool:
    """Return whether any register that should measure the image measured nothing."""
    return any(pcrs.get(index, ZERO) == ZERO for index in CODE_REGISTERS)


def check(
    pcrs: Mapping[int, bytes], expected: Mapping[int, Expected], *, allow_debug: bool
) -> None:
    """
    Compare registers with what is expected of them.

    Raises:
        UntrustedDocument: One differs or is missing, or the enclave is in debug mode.
    """
    if is_debug(pcrs) and not allow_debug:
        raise UntrustedDocument(
            "the enclave runs in debug mode: PCR0 to PCR2 do not measure its image",
            "run it without --debug-mode; its parent can read a debug enclave's memory",
        )
    for index, values in sorted(expected.items()):
        wanted = {values} if isinstance(values, bytes) else values
        found = pcrs.get(index)
        if found is None:
            raise UntrustedDocument(f"the document does not report PCR{index}")
        if found not in wanted:
            raise UntrustedDocument(
                f"the enclave runs something else: PCR{index}"
                f" ({MEANINGS.get(index, 'defined by the application')}) differs",
                f"it reports {found.hex()}, expected was "
                + (" or ".join(sorted(value.hex() for value in wanted)) or "nothing"),
            )
