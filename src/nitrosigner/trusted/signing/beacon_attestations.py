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
        self._chain = network.genesis_validators_root
        self._decode = msgspec.json.Decoder(_Request).decode
        self._remembered = lru_cache(MAX_KEPT)(self._read)
        self._domain = lru_cache(MAX_KEPT)(self._domain_of)

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
        source, target = data.source, data.target
        target_epoch, source_epoch = _uint64(target.epoch), _uint64(source.epoch)
        if _bytes32(info.genesis_validators_root) != self._chain:
            raise ValueError
        if source_epoch > target_epoch:
            raise ValueError
        fork = info.fork
        previous, current = fork.previous_version, fork.current_version
        before = target_epoch < _uint64(fork.epoch)
        # Both must be versions, though one is used.
        signed_in = self._domain(previous), self._domain(current)
        left = _hash(
            _hash(_leaf(_uint64(data.slot)) + _leaf(_uint64(data.index)))
            + _hash(
                _bytes32(data.beacon_block_root)
                + _hash(_leaf(source_epoch) + _bytes32(source.root))
            )
        )
        right = _hash(_hash(_leaf(target_epoch) + _bytes32(target.root)) + _ZERO)
        object_root = _hash(left + _hash(right + _ZEROS))
        root = SigningRoot(_hash(object_root + signed_in[0 if before else 1]))
        if request.claimed is not None and _bytes32(request.claimed) != root:
            raise ValueError
        return Duty(
            kind=DutyKind.ATTESTATION,
            signing_root=root,
            genesis_validators_root=self._chain,
            slashable_by=Vote(
                source=Epoch(source_epoch),
                target=Epoch(target_epoch),
                signing_root=root,
            ),
        )

    def _domain_of(self, version: str) -> bytes:
        return domain(
            BEACON_ATTESTER, ForkVersion(_bytes(version, _VERSION_TEXT)), self._chain
        )


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


def _bytes32(text: str) -> bytes:
    return _bytes(text, _ROOT_TEXT)


def _bytes(text: str, length: int) -> bytes:
    """Return the bytes of *length* characters, `0x` and hex digits."""
    data = bytes.fromhex(text[2:])
    # fromhex skips white space, which the length of the text counted.
    if text[:2] != "0x" or len(text) != length or 2 + 2 * len(data) != length:
        raise ValueError
    return data
