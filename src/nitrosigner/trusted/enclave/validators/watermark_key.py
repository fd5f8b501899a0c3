"""
The key that watermarks are authenticated with: made once, sealed, never changed.

A new one would make every stored watermark a forgery. So a rotation of the vault seals
it anew and leaves it as it is; and if its record is lost, all validators are refused
until their histories are imported.
"""

import asyncio
from typing import Final

from nitrosigner.trusted.enclave.attested.entropy import Entropy
from nitrosigner.trusted.enclave.parent_link.parent_services import StoreConflict
from nitrosigner.trusted.enclave.validators.watermark_items import ItemSeal
from nitrosigner.trusted.enclave.vault.sealed_singles import SealedSingles
from nitrosigner.trusted.enclave.vault.vault import untrusted
from nitrosigner.verdicts import Code, Undecided

SIZE: Final = 32
_PURPOSE: Final = "watermark-mac"
_ATTEMPTS: Final = 3


async def open_item_seal(singles: SealedSingles, entropy: Entropy) -> ItemSeal:
    """
    Return the deployment's seal for watermarks; make it at the very first boot.

    Raises:
        Refused: The stored one is not what this deployment sealed.
        Undecided: The store or the NSM did not answer.
    """
    for _ in range(_ATTEMPTS):
        held = await singles.read(_PURPOSE)
        if held is not None:
            with held.secret as secret:
                if len(secret) != SIZE:
                    raise untrusted("the key of watermarks has the wrong size")
                # It forges watermarks and opens nothing: kept as bytes for its life.
                return ItemSeal(bytes(secret.buffer))
        with await asyncio.to_thread(entropy.secret, SIZE, _PURPOSE) as made:
            try:
                await singles.write(_PURPOSE, expected=0, public=b"", secret=made)
            except StoreConflict:
                # Another enclave of the deployment was first: its key counts.
                continue
    raise Undecided(
        Code.STORAGE_UNAVAILABLE,
        "the record of the watermarks' key appears and disappears",
        "look at what the parent does to its store",
    )
