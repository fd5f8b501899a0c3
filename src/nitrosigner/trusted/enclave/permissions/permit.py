"""
What a key signs: a permit, never bytes.

Only `policy` makes one, after it has found that this client may have this key sign
this. A rules test counts the places where the class is called.
"""

from typing import Final, final

import msgspec

DIGEST_SIZE: Final = 32


@final
class Permit(msgspec.Struct, frozen=True, gc=False):
    """Leave for one signature by one key over one digest."""

    key: str
    """The key's name, never its address."""
    message: bytes
    """32 bytes, computed in the enclave from what was judged."""
