"""
Readers of the five kinds of message that Gloas added (EIP-7732).

None of them is slashable: EIP-3076 knows blocks and attestations, and the protocol
slashes nobody for bids, envelopes, payload attestations or preferences. So the slashing
guard has nothing to judge. A bid is a promise to pay all the same, by whoever holds a
builder's key: it has a permission of its own.

Each arrives as `{"version": "GLOAS", "data": {...}}`, or bare. Another fork's version
is not taken: Heze's bid has one field more, and another root.
Sources: ethereum/remote-signing-api 1.4, which Web3Signer, Teku, Lighthouse and Prysm
follow; Lodestar's, Grandine's and Vero's own sources.
"""

from collections.abc import Callable, Mapping
from typing import Final

from nitrosigner.trusted.signing import beacon_domains as domains
from nitrosigner.trusted.signing import beacon_gloas_containers as containers
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.beacon_requests import (
    Reading,
    an_object,
    epoch_of,
    field,
    version_of,
)
from nitrosigner.trusted.signing.ssz import Kind, read_uint64
from nitrosigner.verdicts import Code, Malformed

_OTHER_NAMES: Final = {
    "payload_attestation_message": ("payload_attestation", "payload_attestation_data"),
    "builder_request_auth": ("request_auth",),
}
"""What Lodestar, Grandine and Lighthouse called these before the API had names."""


def _data(request: Mapping[str, object], path: str) -> Mapping[str, object]:
    names = (path, *_OTHER_NAMES.get(path, ()))
    sent = next((name for name in names if name in request), path)
    value = an_object(field(request, sent), path)
    if "version" not in value:
        return value  # Bare, as clients that are older than the API send it.
    if version_of(value, path) != "GLOAS":
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"{path}.version: this kind of message is known for GLOAS only",
        )
    return an_object(field(value, "data"), f"{path}.data")


def _reader(
    path: str, kind: Kind, domain_type: bytes, *where: str
) -> Callable[[Mapping[str, object], BeaconNetwork], Reading]:
    """Return the reader of what stands at *path*. *where* in it is its slot."""

    def read(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
        slot: object = _data(request, path)
        at = f"{path}.data"
        root = kind.root(slot, at)
        for name in where:
            slot = field(an_object(slot, at), name)
            at = f"{at}.{name}"
        epoch = epoch_of(read_uint64(slot, at), network.preset)
        return Reading(root, domain_type, epoch)

    return read


payload_bid: Final = _reader(
    "execution_payload_bid",
    containers.EXECUTION_PAYLOAD_BID,
    domains.BEACON_BUILDER,
    "slot",
)
"""What a builder offers for a slot."""
payload_envelope: Final = _reader(
    "execution_payload_envelope",
    containers.EXECUTION_PAYLOAD_ENVELOPE,
    domains.BEACON_BUILDER,
    *("payload", "slot_number"),
)
"""A payload that is revealed. Its slot is the payload's own (EIP-7843)."""
payload_attestation: Final = _reader(
    "payload_attestation_message",
    containers.PAYLOAD_ATTESTATION_DATA,
    domains.PTC_ATTESTER,
    "slot",
)
"""A vote on a payload; only its data is signed, and only its data comes."""
proposer_preferences: Final = _reader(
    "proposer_preferences",
    containers.PROPOSER_PREFERENCES,
    domains.PROPOSER_PREFERENCES,
    "proposal_slot",
)
"""What a proposer wants of bids; the slot it will propose in counts."""


def builder_request_auth_root(request: Mapping[str, object]) -> bytes:
    """
    Return the object root of a proposer's authentication to a builder.

    Like a registration it belongs to no chain.

    Raises:
        Malformed: It is none; its data is empty, which the specification forbids.
    """
    path = "builder_request_auth"
    data = _data(request, path)
    if data.get("data") == "0x":
        raise Malformed(Code.MALFORMED_REQUEST, f"{path}.data.data: must not be empty")
    return containers.BUILDER_REQUEST_AUTH.root(data, f"{path}.data")
