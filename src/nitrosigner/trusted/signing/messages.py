"""
Personal messages: EIP-191, version 0x45.

The prefix is what makes it safe to let somebody else choose the bytes: no transaction
and no authorization begins with 0x19. Never hash a caller's message without it.
"""

from typing import Final

from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.verdicts import Code, Malformed

MAX_MESSAGE: Final = 256 * 1024
"""Bytes; hashing that many takes about a millisecond."""

_PREFIX: Final = b"\x19Ethereum Signed Message:\n"


def personal_message_digest(message: bytes) -> bytes:
    """
    Return the digest that `personal_sign` signs for *message*, 32 bytes.

    Raises:
        Malformed: It is longer than `MAX_MESSAGE`.
    """
    size = len(message)
    if size > MAX_MESSAGE:
        raise Malformed(
            Code.TOO_LARGE,
            f"this message is longer than {MAX_MESSAGE} bytes",
            "sign the hash of it, as a message",
        )
    return keccak_256(_PREFIX + str(size).encode() + message)
