"""
A watermark as it lies in the store: readable by anybody, made only in here.

The store is the parent's and may lie, lose or go back. So an item carries a MAC over
everything in it, the validator and the version that it was stored as; an item that is
absent, altered, somebody else's or of another version does not open. What a MAC cannot
show is an older item that was once true: see THREAT_MODEL, and `SlashingGuard`, which
refuses whatever lies below what it has itself seen since it started.
"""

import hmac
from typing import Final

import msgspec

from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.slashing import Watermark
from nitrosigner.verdicts import Code, Refused

MAC_SIZE: Final = 32
"""Bytes: HMAC-SHA256."""
MAX_ITEM: Final = 1024

_LABEL: Final = b"nitrosigner/watermark/1\0"


class Item(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """How far one registered validator has come, and in which chain."""

    public_key: bytes
    """48 bytes."""
    chain: GenesisValidatorsRoot
    """Pinned at registration: a key signs for one chain."""
    version: int
    """What the store must say it is; the first one is 1."""
    watermark: Watermark
    retired: bool = False
    """Its key was deleted: nobody votes with it until the key is imported again."""
    disabled: bool = False
    """Its key was disabled: nobody votes with it until the key is enabled again."""


class _Untrusted(Refused):
    def __init__(self, message: str) -> None:
        super().__init__(
            Code.RECORD_UNTRUSTED,
            message,
            "no vote or block is signed for this validator until the store is mended,"
            " or: nitrosigner slashing-history repair PUBKEY --slashing-history FILE",
        )


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Item]] = msgspec.msgpack.Decoder(Item)


class ItemSeal:
    """Makes items and opens them, under the deployment's MAC key."""

    def __init__(self, key: bytes) -> None:
        """Use *key*, 32 bytes that never leave the enclave in the clear."""
        self._begun = hmac.new(key, _LABEL, "sha256")

    def close(self, item: Item) -> bytes:
        """Return *item* as it is stored."""
        body = _encoder.encode(item)
        return self._mac(body) + body

    def open(self, data: bytes, *, public_key: bytes, version: int) -> Item:
        """
        Return the item that *data* holds.

        Raises:
            Refused: We did not make it, or not for this validator and version.
        """
        body = data[MAC_SIZE:]
        if len(data) > MAX_ITEM or not hmac.compare_digest(
            self._mac(body), data[:MAC_SIZE]
        ):
            raise _Untrusted("the stored watermark was not made by this deployment")
        item = _decoder.decode(body)
        if (item.public_key, item.version) != (public_key, version):
            raise _Untrusted("the stored watermark belongs to another place")
        return item

    def claimed(self, data: bytes) -> Item | None:
        """Return what *data* says, true or not. For showing, and nothing else."""
        try:
            return _decoder.decode(data[MAC_SIZE:])
        except (ValueError, RecursionError):
            return None

    def _mac(self, body: bytes) -> bytes:
        mac = self._begun.copy()
        mac.update(body)
        return mac.digest()
