"""
What a boot does for validators: their chain, the watermarks' key, the watermarks.

A key whose watermark is lost or cannot be trusted stays loaded: it signs what cannot be
slashed, and health counts it. It votes again once its history was imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nitrosigner.trusted.enclave.keys.key_parts import KeyParts
from nitrosigner.trusted.enclave.parent_link.parent_watermarks import ParentWatermarks
from nitrosigner.trusted.enclave.validators.slashing_guard import SlashingGuard
from nitrosigner.trusted.enclave.validators.validator_keys import Validators
from nitrosigner.trusted.enclave.validators.validator_network import (
    beacon_network,
    ceiling,
)
from nitrosigner.trusted.enclave.validators.watermark_key import open_item_seal
from nitrosigner.trusted.enclave.vault.sealed_records import VALIDATOR
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.wire.manifest_validators import Validators as Told


@dataclass(frozen=True, slots=True)
class OpenedGuard:
    """A guard that has read what it must know, and for whom it could not."""

    guard: SlashingGuard
    unprotected: Sequence[bytes]


async def open_guard(parts: KeyParts, told: Told) -> OpenedGuard:
    """
    Read the watermarks of all loaded validators.

    Raises:
        Refused: The watermarks' key is not what this deployment sealed.
        Undecided: The store did not answer.
    """
    seal = await open_item_seal(parts.singles, parts.entropy)
    guard = SlashingGuard(
        ParentWatermarks(parts.writer.store, parts.clock),
        seal,
        beacon_network(told).genesis_validators_root,
        ceiling(told),
    )
    loaded = [slot.public_key for slot in parts.index.each(VALIDATOR)]
    return OpenedGuard(guard, list(await guard.load(loaded)))


def validators_of(
    parts: KeyParts, told: Told, opened: OpenedGuard, bls: Bls12381
) -> Validators:
    """Return the validators' keys, ready to sign. To be closed."""
    return Validators(
        parts,
        told=told,
        network=beacon_network(told),
        guard=opened.guard,
        bls=bls,
        unprotected=opened.unprotected,
    )
