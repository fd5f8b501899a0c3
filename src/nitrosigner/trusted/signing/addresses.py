"""
Ethereum addresses: 20 bytes inside, checksummed text (EIP-55) outside.

Callers send them in lower case, upper case or checksummed. Mixed case is a claim of a
checksum, and a wrong one is a typing error that would send money to nobody: refused.
"""

from typing import Final, NewType

from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.verdicts import Code, Malformed

Address = NewType("Address", bytes)
"""20 bytes: the end of the Keccak-256 of the uncompressed public key."""

ADDRESS_SIZE: Final = 20
_TEXT_SIZE: Final = 2 + 2 * ADDRESS_SIZE

# EIP-55 puts a letter in upper case where the digest has a nibble of 8 or more. Done
# on all 40 characters at once: 0x20 is the bit that tells an ASCII letter's case.
_CASE_BIT: Final = 0x20
_IS_LETTER: Final = bytes(_CASE_BIT * (chr(c) in "abcdef") for c in range(256))
_IS_HIGH: Final = bytes(_CASE_BIT * (chr(c) in "89abcdef") for c in range(256))


def checksummed(address: Address) -> str:
    """Return *address* as text with the checksum of EIP-55."""
    return "0x" + _with_checksum(address.hex().encode())


def parse(
    text: object, code: Code = Code.MALFORMED_REQUEST, name: str = "an address"
) -> Address:
    """
    Return the address that *text* names.

    Args:
        text: `0x` and 40 hex digits: lower case, upper case, or checksummed.
        code: What to call it when it is wrong.
        name: What the caller knows it as.

    Raises:
        Malformed: It is not an address, or its mixed case is not its checksum.
    """
    if type(text) is str and len(text) == _TEXT_SIZE and text[:2] == "0x":
        digits = text[2:]
        # fromhex takes spaces between bytes, so its success alone proves nothing.
        if digits.isalnum():
            try:
                address = bytes.fromhex(digits)
            except ValueError:
                pass
            else:
                lower = digits.lower()
                if digits in (lower, digits.upper()):
                    return Address(address)
                if digits == _with_checksum(lower.encode()):
                    return Address(address)
                raise Malformed(
                    code,
                    f"the checksum of {name} is wrong",
                    "look for a typing error; write it in lower case to do without "
                    "the checksum of EIP-55",
                )
    raise Malformed(
        code,
        f"{name} is not 0x and 40 hex digits",
        "write an address as 0x and 40 hex digits: 20 bytes",
    )


def _with_checksum(digits: bytes) -> str:
    """Return 40 lower-case hex *digits* in the case that EIP-55 gives them."""
    nibbles = keccak_256(digits).hex()[:40].encode()
    upper = int.from_bytes(digits.translate(_IS_LETTER), "big") & int.from_bytes(
        nibbles.translate(_IS_HIGH), "big"
    )
    return (int.from_bytes(digits, "big") ^ upper).to_bytes(40, "big").decode()
