"""
A private key on its way into the enclave, on the caller's machine.

It is kept in one buffer that is wiped after use and it does not print. That is all
Python can promise here: the libraries that read key files and do the curve arithmetic
make copies of their own. A key that matters is made inside the enclave (`create_key`).
"""

from types import TracebackType
from typing import Final, NoReturn, Self, final

import coincurve
import sha3

from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.verdicts import Code, Malformed

SIZE: Final = 32
_HINT: Final = "a private key is 32 bytes: 64 hexadecimal digits, with or without 0x"


@final
class PrivateKey:
    """A secp256k1 private key whose address is known. Zero after its `with` block."""

    __slots__ = ("_buffer", "address")

    def __init__(self, buffer: bytearray) -> None:
        """
        Take *buffer* over, 32 bytes.

        Raises:
            Malformed: It is no private key; *buffer* is wiped.
        """
        self._buffer = buffer
        try:
            self.address: Final = _address(buffer)
        except ValueError:
            self.wipe()
            raise Malformed(
                Code.MALFORMED_KEY, "this is not a private key of secp256k1", _HINT
            ) from None

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """
        Read hexadecimal digits; white space around them is left out.

        Raises:
            Malformed: Never says what the text was.
        """
        read = bytes_of_hex(text.strip())
        if read is None or len(read) != SIZE:
            raise Malformed(
                Code.MALFORMED_KEY, "this is not a private key in hexadecimal", _HINT
            )
        return cls(bytearray(read))

    @property
    def buffer(self) -> bytearray:
        """The bytes themselves. Do not copy."""
        return self._buffer

    def wipe(self) -> None:
        """Overwrite the key with zeros."""
        self._buffer[:] = bytes(len(self._buffer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.address}>"

    def __reduce__(self) -> NoReturn:
        msg = "a private key is not serialized"
        raise TypeError(msg)


def _address(secret: bytearray) -> str:
    if len(secret) != SIZE:
        msg = "wrong size"
        raise ValueError(msg)
    public_key = coincurve.PublicKey.from_secret(bytes(secret)).format(compressed=False)
    return checksummed(sha3.keccak_256(public_key[1:]).digest()[-20:])


def checksummed(address: bytes) -> str:
    """Return 20 bytes as EIP-55 writes them."""
    digits = address.hex()
    mask = sha3.keccak_256(digits.encode()).hexdigest()
    return "0x" + "".join(
        digit.upper() if int(m, 16) >= 8 else digit
        for digit, m in zip(digits, mask, strict=False)
    )
