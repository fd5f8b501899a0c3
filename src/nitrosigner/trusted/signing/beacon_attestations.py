"""
Attestations in the shape that every client sends, read without detours.

Nine of ten duties are attestations, and all attesters of a slot send the same bytes. So
this reads the usual shape at once and remembers what it read. It never says no: what is
unusual or wrong in any way is nothing here, and `beacon_duties` reads it, which knows
every spelling and names what is wrong. What it does return must be what `beacon_duties`
would have returned; the tests compare the two.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal

import msgspec

from nitrosigner.trusted.signing.beacon_domains import (
    BEACON_ATTESTER,
    ForkVersion,
    domain,
)
from nitrosigner.trusted.signing.beacon_duties import Duty, DutyKind
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.slashing import Epoch, SigningRoot, Vote

MAX_BODY: Final = 2048
"""Bytes. The usual shape has some 700."""
MAX_KEPT: Final = 512
"""Messages that are remembered. A slot of mainnet has one, with stragglers a few."""
_MAX_UINT64: Final = (1 << 64) - 1
_DIGITS: Final = 20
_ROOT_TEXT: Final = 66
_VERSION_TEXT: Final = 10
_ATTESTATION: Final = DutyKind.ATTESTATION
_ZERO: Final = bytes(32)
_ZEROS: Final = sha256(_ZERO + _ZERO).digest()


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    pass


class _Fork(_Part, frozen=True, gc=False):
    previous_version: str
    current_version: str
    epoch: str


class _ForkInfo(_Part, frozen=True, gc=False):
    fork: _Fork
    genesis_validators_root: str


class _Checkpoint(_Part, frozen=True, gc=False):
    epoch: str
    root: str


class _Data(_Part, frozen=True, gc=False):
    slot: str
    index: str
    beacon_block_root: str
    source: _Checkpoint
    target: _Checkpoint


class _Request(_Part, frozen=True, gc=False):
    type: Literal["ATTESTATION"]
    fork_info: _ForkInfo
    attestation: _Data
    claimed: str | None = msgspec.field(name="signingRoot", default=None)


class Attestations:
    """Reads attestations of one network."""

    def __init__(self, network: BeaconNetwork) -> None:
        """Read what is for *network*, and nothing else."""
        self._network = network
        self._chain = network.genesis_validators_root
        self._decode = msgspec.json.Decoder(_Request).decode
        # Attesters of a slot who vote for different blocks, or in different committees
        # before Electra, still share most of their messages' parts.
        self._remembered = lru_cache(MAX_KEPT)(self._read)
        self._fork = lru_cache(MAX_KEPT)(self._fork_of)
        self._place = lru_cache(MAX_KEPT)(_place)
        self._source = lru_cache(MAX_KEPT)(_checkpoint)
        self._target = lru_cache(MAX_KEPT)(_target)

    def read(self, body: bytes) -> Duty | None:
        """
        Return the attestation in a request's *body*.

        Returns:
            None: it is something else, or not quite usual, or wrong. Ask
            `beacon_duties.read_duty`.
        """
        if len(body) > MAX_BODY:
            return None
        try:
            return self._remembered(body)
        except ValueError:  # what msgspec raises too
            return None

    def _read(self, body: bytes) -> Duty:
        request = self._decode(body)
        info, data = request.fork_info, request.attestation
        fork = info.fork
        since, before, after = self._fork(
            info.genesis_validators_root,
            fork.previous_version,
            fork.current_version,
            fork.epoch,
        )
        source, source_root = self._source(data.source.epoch, data.source.root)
        target, right = self._target(data.target.epoch, data.target.root)
        if source > target:
            raise ValueError
        block = _bytes(data.beacon_block_root, _ROOT_TEXT)
        left = _hash(self._place(data.slot, data.index) + _hash(block + source_root))
        object_root = _hash(left + right)
        root = SigningRoot(_hash(object_root + (before if target < since else after)))
        if request.claimed is not None and _bytes(request.claimed, _ROOT_TEXT) != root:
            raise ValueError
        return Duty(
            kind=_ATTESTATION,
            signing_root=root,
            genesis_validators_root=self._chain,
            slashable_by=Vote(source=source, target=target, signing_root=root),
        )

    def _fork_of(
        self, chain: str, previous: str, current: str, epoch: str
    ) -> tuple[int, bytes, bytes]:
        """Return the fork's epoch, and the domains before and from it on."""
        if _bytes(chain, _ROOT_TEXT) != self._chain:
            raise ValueError
        # Both must be versions, though one is used.
        return _uint64(epoch), self._domain(previous), self._domain(current)

    def _domain(self, text: str) -> bytes:
        version = ForkVersion(_bytes(text, _VERSION_TEXT))
        if not self._network.knows(version):
            raise ValueError
        return domain(BEACON_ATTESTER, version, self._chain)


# The tree of AttestationData has eight leaves, of which three are zero:
# ((slot, index), (block, source)), ((target, 0), (0, 0)).


def _place(slot: str, index: str) -> bytes:
    return _hash(_leaf(_uint64(slot)) + _leaf(_uint64(index)))


def _checkpoint(epoch: str, root: str) -> tuple[Epoch, bytes]:
    """Return a checkpoint's epoch, and its root in the tree."""
    number = _uint64(epoch)
    return Epoch(number), _hash(_leaf(number) + _bytes(root, _ROOT_TEXT))


def _target(epoch: str, root: str) -> tuple[Epoch, bytes]:
    """Return the target's epoch, and the tree's right half: the target and zeros."""
    number, checkpoint = _checkpoint(epoch, root)
    return number, _hash(_hash(checkpoint + _ZERO) + _ZEROS)


def _hash(data: bytes) -> bytes:
    return sha256(data).digest()


def _leaf(number: int) -> bytes:
    return number.to_bytes(32, "little")


def _uint64(text: str) -> int:
    if len(text) > _DIGITS or not (text.isascii() and text.isdigit()):
        raise ValueError
    number = int(text)
    if number > _MAX_UINT64:
        raise ValueError
    return number


def _bytes(text: str, length: int) -> bytes:
    """Return the bytes of *length* characters, `0x` and hex digits."""
    data = bytes.fromhex(text[2:])
    # fromhex skips white space, which the length of the text counted.
    if text[:2] != "0x" or len(text) != length or 2 + 2 * len(data) != length:
        raise ValueError
    return data
