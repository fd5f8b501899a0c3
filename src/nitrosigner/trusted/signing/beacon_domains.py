"""
Signature domains: what keeps a message of one kind, fork or chain from being another's.

Source: ethereum/consensus-specs, `compute_domain`, `compute_signing_root`; EIP-7044 for
voluntary exits.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NewType

from nitrosigner.trusted.signing.slashing import Epoch, SigningRoot
from nitrosigner.verdicts import Code, Malformed

ForkVersion = NewType("ForkVersion", bytes)
"""4 bytes."""
GenesisValidatorsRoot = NewType("GenesisValidatorsRoot", bytes)
"""32 bytes; names the chain."""

NO_CHAIN: Final = GenesisValidatorsRoot(bytes(32))
"""For messages that are valid on any chain of a fork: deposits, registrations."""

BEACON_PROPOSER: Final = bytes.fromhex("00000000")
BEACON_ATTESTER: Final = bytes.fromhex("01000000")
RANDAO: Final = bytes.fromhex("02000000")
DEPOSIT: Final = bytes.fromhex("03000000")
VOLUNTARY_EXIT: Final = bytes.fromhex("04000000")
SELECTION_PROOF: Final = bytes.fromhex("05000000")
AGGREGATE_AND_PROOF: Final = bytes.fromhex("06000000")
SYNC_COMMITTEE: Final = bytes.fromhex("07000000")
SYNC_COMMITTEE_SELECTION_PROOF: Final = bytes.fromhex("08000000")
CONTRIBUTION_AND_PROOF: Final = bytes.fromhex("09000000")
BLS_TO_EXECUTION_CHANGE: Final = bytes.fromhex("0a000000")
APPLICATION_BUILDER: Final = bytes.fromhex("00000001")
BEACON_BUILDER: Final = bytes.fromhex("0b000000")
BUILDER_REQUEST_AUTH: Final = bytes.fromhex("0b000001")
PTC_ATTESTER: Final = bytes.fromhex("0c000000")
PROPOSER_PREFERENCES: Final = bytes.fromhex("0d000000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a validator client says of the fork it signs in."""

    previous_version: ForkVersion
    current_version: ForkVersion
    epoch: Epoch
    """Lodestar sends the epoch of the slot here, not of the activation."""

    def version_at(self, epoch: Epoch) -> ForkVersion:
        """Return the version that messages of *epoch* are signed in."""
        return self.previous_version if epoch < self.epoch else self.current_version


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkInfo:
    """The fork and the chain of one request."""

    fork: Fork
    genesis_validators_root: GenesisValidatorsRoot


def domain(
    domain_type: bytes, version: ForkVersion, root: GenesisValidatorsRoot
) -> bytes:
    """
    Return the 32 byte domain of a kind of message in one fork of one chain.

    Raises:
        Malformed: A part has the wrong size.
    """
    if (len(domain_type), len(version), len(root)) != (4, 4, 32):
        raise Malformed(Code.MALFORMED_REQUEST, "a fork version has 4, a root 32 bytes")
    fork_data_root = sha256(version.ljust(32, b"\0") + root).digest()
    return domain_type + fork_data_root[:28]


def signing_root(object_root: bytes, in_domain: bytes) -> SigningRoot:
    """Return what is signed for the object with this root, in this domain."""
    return SigningRoot(sha256(object_root + in_domain).digest())
