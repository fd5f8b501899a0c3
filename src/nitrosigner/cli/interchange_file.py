"""
A slashing protection interchange file (EIP-3076) of any length, reduced as it is read.

The whole file is read and checked before anything of it is used: half a history
protects nobody. What is kept is each validator's watermark, exactly as
`trusted.signing.interchange.read` has it, which reads the same format from memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from nitrosigner.cli.json_stream import JsonStream
from nitrosigner.trusted.signing.interchange import VERSION
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposed,
    SigningRoot,
    Slot,
    Voted,
    Watermark,
    merged,
)
from nitrosigner.trusted.signing.ssz import read_bytes, read_uint64
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import validator_api as wire

MAX_VALIDATORS: Final = 200_000
"""In one file. What is kept of each takes about half a kilobyte."""


class _Block(msgspec.Struct, frozen=True, gc=False):
    slot: str | int
    signing_root: str | None = None


class _Attestation(msgspec.Struct, frozen=True, gc=False):
    source_epoch: str | int
    target_epoch: str | int
    signing_root: str | None = None


class _Metadata(msgspec.Struct, frozen=True):
    interchange_format_version: str
    genesis_validators_root: Any


_Entry = TypeVar("_Entry", _Block, _Attestation)
_BLOCKS: Final = msgspec.json.Decoder(list[_Block])
_ATTESTATIONS: Final = msgspec.json.Decoder(list[_Attestation])


@dataclass(frozen=True, slots=True)
class History:
    """What a file says."""

    reached: Mapping[bytes, Watermark]
    """How far each validator has come, by public key (48 bytes)."""
    blocks: int
    attestations: int


def read(source: Callable[[int], bytes], chain: bytes) -> History:
    """
    Read a whole file, complete or minimal.

    Args:
        source: Returns up to as many bytes as it is asked for, none at the end.
        chain: The genesis validators root that the history must be of.

    Raises:
        Malformed: Something in it is not as the EIP has it; says where.
        Refused: It is the history of another chain.
    """
    stream = JsonStream(source)
    reader = _Reader(stream)
    parts = set()
    for name in stream.members():
        parts.add(name)
        match name:
            case "metadata":
                _check_metadata(stream.value(), chain)
            case "data":
                reader.read_validators()
            case _:
                stream.value()
    stream.end()
    if not {"metadata", "data"} <= parts:
        raise Malformed(
            Code.MALFORMED_HISTORY,
            "this is not a slashing protection interchange file: it has no "
            f"`{'data' if 'metadata' in parts else 'metadata'}`",
        )
    return History(reader.reached, reader.blocks, reader.attestations)


def documents(
    history: Mapping[bytes, Watermark], chain: bytes, size: int
) -> Iterator[wire.SlashingHistory]:
    """Yield *history* as minimal documents of at most *size* validators each."""
    listed = sorted(history.items())
    for first in range(0, len(listed), size):
        yield document(dict(listed[first : first + size]), chain)


def document(history: Mapping[bytes, Watermark], chain: bytes) -> wire.SlashingHistory:
    """Return *history* as one minimal document."""
    return wire.SlashingHistory(
        metadata=wire.HistoryMetadata(
            interchange_format_version=VERSION,
            genesis_validators_root="0x" + chain.hex(),
        ),
        data=[_entry(key, reached) for key, reached in sorted(history.items())],
    )


def _entry(public_key: bytes, reached: Watermark) -> wire.ValidatorHistory:
    blocks, attestations = [], []
    if reached.proposed is not None:
        blocks.append(
            wire.SignedBlock(
                slot=str(reached.proposed.slot),
                signing_root=_hex(reached.proposed.signing_root),
            )
        )
    if reached.voted is not None:
        attestations.append(
            wire.SignedAttestation(
                source_epoch=str(reached.voted.source),
                target_epoch=str(reached.voted.target),
                signing_root=_hex(reached.voted.signing_root),
            )
        )
    return wire.ValidatorHistory(
        pubkey="0x" + public_key.hex(),
        signed_blocks=blocks,
        signed_attestations=attestations,
    )


def _hex(root: SigningRoot | None) -> str | None:
    return None if root is None else "0x" + root.hex()


def _check_metadata(data: bytes, chain: bytes) -> None:
    try:
        metadata = msgspec.json.decode(data, type=_Metadata)
        json.loads(data, object_pairs_hook=_demand_names_once)
    except ValueError:
        raise Malformed(
            Code.MALFORMED_HISTORY, "metadata: this is not as EIP-3076 has it"
        ) from None
    if metadata.interchange_format_version != VERSION:
        raise Malformed(
            Code.MALFORMED_HISTORY,
            f"only version {VERSION} of the interchange format is read",
            "export the history again with a current client",
        )
    root = read_bytes(metadata.genesis_validators_root, "genesis_validators_root", 32)
    if root != chain:
        raise Refused(
            Code.WRONG_CHAIN,
            "this history is of another chain than the signer's",
            f"the file's genesis validators root is 0x{root.hex()}, "
            f"the signer's 0x{chain.hex()}",
        )


class _Reader:
    def __init__(self, stream: JsonStream) -> None:
        self.reached: dict[bytes, Watermark] = {}
        self.blocks = 0
        self.attestations = 0
        self._stream = stream

    def read_validators(self) -> None:
        for number, _ in enumerate(self._stream.elements()):
            self._read_validator(f"data[{number}]")
            if len(self.reached) > MAX_VALIDATORS:
                raise Malformed(
                    Code.TOO_LARGE,
                    f"a file has at most {MAX_VALIDATORS} validators",
                    "split it by validators",
                )

    def _read_validator(self, path: str) -> None:
        parts = set()
        public_key = b""
        furthest = _Furthest()
        for name in self._stream.members():
            parts.add(name)
            match name:
                case "pubkey":
                    public_key = _public_key(self._stream.value(), path)
                case "signed_blocks":
                    for batch in self._stream.batches():
                        self.blocks += furthest.add_blocks(batch, path)
                case "signed_attestations":
                    for batch in self._stream.batches():
                        self.attestations += furthest.add_attestations(batch, path)
                case _:
                    self._stream.value()
        missing = {"pubkey", "signed_blocks", "signed_attestations"} - parts
        if missing:
            raise Malformed(Code.MALFORMED_HISTORY, f"{path} has no `{min(missing)}`")
        earlier = self.reached.get(public_key, Watermark())
        self.reached[public_key] = merged(earlier, furthest.watermark())


class _Furthest:
    """
    The watermark of what was added, as `slashing.merged` would have it one by one.

    It is written out here because a file may hold millions of entries.
    """

    __slots__ = ("_proposed", "_voted")

    def __init__(self) -> None:
        self._proposed: tuple[int, str | None] | None = None
        self._voted: tuple[int, int, str | None] | None = None

    def add_blocks(self, batch: bytes, path: str) -> int:
        where = f"{path}.signed_blocks"
        blocks = _decode(_BLOCKS, batch, where)
        for block in blocks:
            slot = _uint64(block.slot, where)
            root = _root(block.signing_root, where)
            if self._proposed is None or slot > self._proposed[0]:
                self._proposed = (slot, root)
            elif slot == self._proposed[0] and root != self._proposed[1]:
                self._proposed = (slot, None)
        return len(blocks)

    def add_attestations(self, batch: bytes, path: str) -> int:
        where = f"{path}.signed_attestations"
        votes = _decode(_ATTESTATIONS, batch, where)
        for vote in votes:
            source = _uint64(vote.source_epoch, where)
            target = _uint64(vote.target_epoch, where)
            if source > target:
                raise Malformed(
                    Code.MALFORMED_HISTORY, f"{where}: a source is after its target"
                )
            root = _root(vote.signing_root, where)
            self._voted = _further(self._voted, (source, target, root))
        return len(votes)

    def watermark(self) -> Watermark:
        proposed, voted = None, None
        if self._proposed is not None:
            slot, root = self._proposed
            proposed = Proposed(slot=Slot(slot), signing_root=_bytes(root))
        if self._voted is not None:
            source, target, root = self._voted
            voted = Voted(
                source=Epoch(source), target=Epoch(target), signing_root=_bytes(root)
            )
        return Watermark(proposed=proposed, voted=voted)


def _further(
    reached: tuple[int, int, str | None] | None, vote: tuple[int, int, str | None]
) -> tuple[int, int, str | None]:
    if reached is None:
        return vote
    source, target, root = reached
    if vote[0] == source and vote[1] == target:
        return reached if vote[2] == root else (source, target, None)
    if vote[0] <= source and vote[1] <= target:
        return reached
    if vote[0] >= source and vote[1] >= target:
        return vote
    # Each is ahead in one part: no message is known that stands at both.
    return max(source, vote[0]), max(target, vote[1]), None


def _decode(
    decoder: msgspec.json.Decoder[list[_Entry]], batch: bytes, where: str
) -> list[_Entry]:
    try:
        entries = decoder.decode(batch)
        json.loads(batch, object_pairs_hook=_demand_names_once)
    except ValueError:
        raise Malformed(
            Code.MALFORMED_HISTORY, f"{where}: an entry is not as EIP-3076 has it"
        ) from None
    return entries


def _demand_names_once(members: list[tuple[str, object]]) -> None:
    # The stream has seen to the objects around; how deep this goes, too.
    if len(dict(members)) != len(members):
        raise ValueError


def _uint64(value: str | int, where: str) -> int:
    # The usual form, without a call for each of millions.
    if type(value) is str and len(value) < 20 and value.isdigit() and value.isascii():
        return int(value)
    return read_uint64(value, where)


def _root(value: str | None, where: str) -> str | None:
    """Check a signing root; return it as lower-case hex, which compares as bytes do."""
    return None if value is None else read_bytes(value, where, 32).hex()


def _bytes(root: str | None) -> SigningRoot | None:
    return None if root is None else SigningRoot(bytes.fromhex(root))


def _public_key(data: bytes, path: str) -> bytes:
    try:
        value = msgspec.json.decode(data)
    except ValueError:
        value = None
    return read_bytes(value, f"{path}.pubkey", 48)
