"""
From what the manifest says of a beacon chain to the chain that duties are read for.
"""

from typing import Final

from nitrosigner.trusted.signing.beacon_containers import PRESETS
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS, BeaconNetwork
from nitrosigner.trusted.signing.slashing import Ceiling, Epoch, Slot
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest_validators import Validators

_HINT: Final = (
    "correct `validators` in the manifest, raise its version, and sign it again"
)


def beacon_network(told: Validators) -> BeaconNetwork:
    """
    Return the chain that the manifest names or describes.

    Raises:
        Malformed: There is no such chain, or its description lacks something.
    """
    public = PUBLIC_NETWORKS.get(told.network)
    if told.custom is None:
        if public is None:
            known = ", ".join(sorted(PUBLIC_NETWORKS))
            raise Malformed(
                Code.MALFORMED_MANIFEST,
                f"manifest: validators.network {told.network} is no public network "
                f"(known are {known}), and validators.custom does not describe it",
                _HINT,
            )
        return public
    if public is not None:
        # Two readings of one name: somebody would sign for the other chain.
        raise Malformed(
            Code.MALFORMED_MANIFEST,
            f"manifest: validators.custom describes {told.network}, which is a public "
            "network already",
            _HINT,
        )
    return BeaconNetwork(
        name=told.network,
        preset=PRESETS[told.custom.preset],
        genesis_validators_root=GenesisValidatorsRoot(
            _unhex(told.custom.genesis_validators_root)
        ),
        fork_versions={
            fork: ForkVersion(_unhex(version))
            for fork, version in told.custom.fork_versions.items()
        },
    )


def ceiling(told: Validators) -> Ceiling:
    """Return where signing ends for everybody."""
    return Ceiling(
        slot=None if told.ceiling_slot is None else Slot(told.ceiling_slot),
        epoch=None if told.ceiling_epoch is None else Epoch(told.ceiling_epoch),
    )


def _unhex(text: str) -> bytes:
    # The manifest's types have checked the digits.
    return bytes.fromhex(text.removeprefix("0x"))
