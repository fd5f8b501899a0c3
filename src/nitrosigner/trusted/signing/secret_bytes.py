"""
Key material in memory that can be wiped and will not print.

Python cannot promise that no copy of a value was ever made; it can keep a secret in
one `bytearray`, hand that to C by pointer, and overwrite it. So a secret enters as a
buffer, is used through `buffer`, and never becomes `bytes`, `str` or `int`: those
cannot be wiped.
"""

from types import TracebackType
from typing import NoReturn, Self, final


@final
class SecretBytes:
    """A secret of fixed length that is zero after `wipe`, or after its `with` block."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: bytearray) -> None:
        """Take *buffer* over. The caller keeps no other copy."""
        self._buffer = buffer

    @classmethod
    def zeros(cls, size: int) -> Self:
        """Return *size* zero bytes, to be written into through `buffer`."""
        return cls(bytearray(size))

    @property
    def buffer(self) -> bytearray:
        """The bytes themselves, for C functions that take a pointer. Do not copy."""
        return self._buffer

    def wipe(self) -> None:
        """Overwrite the secret with zeros, in place."""
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

    def __len__(self) -> int:
        return len(self._buffer)

    def __repr__(self) -> str:
        return f"<SecretBytes, {len(self._buffer)} bytes>"

    def __eq__(self, other: object) -> NoReturn:
        msg = "secrets are not compared; compare what is derived from them"
        raise TypeError(msg)

    __hash__ = None  # type: ignore[assignment]

    def __bytes__(self) -> NoReturn:
        msg = "a secret does not become bytes: bytes cannot be wiped"
        raise TypeError(msg)

    def __reduce__(self) -> NoReturn:
        msg = "a secret is not serialized"
        raise TypeError(msg)

    def __copy__(self) -> NoReturn:
        msg = "a secret is not copied"
        raise TypeError(msg)

    def __deepcopy__(self, memo: object) -> NoReturn:
        msg = "a secret is not copied"
        raise TypeError(msg)
