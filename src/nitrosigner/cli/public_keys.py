"""Validators as a person names them: the public key in hex, any case, 0x or not."""

from collections.abc import Iterable
from typing import Final

from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.verdicts import Code, Malformed

SIZE: Final = 48


def public_key_name(text: str) -> str:
    """
    Return what the signer calls the validator: 0x and 96 lower-case digits.

    Raises:
        Malformed: It is no public key.
    """
    key = bytes_of_hex(text.strip())
    if key is None or len(key) != SIZE:
        raise Malformed(
            Code.USAGE,
            f"a validator is named by its public key: {SIZE * 2} hexadecimal digits",
            "nitrosigner validators list shows them",
        )
    return "0x" + key.hex()


def public_key_names(texts: Iterable[str]) -> list[str]:
    """Return the names of *texts*, each once, in the order given."""
    return list(dict.fromkeys(map(public_key_name, texts)))
