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

from collections.abc import Mapping
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
from nitrosigner.trusted.signing.slashing import Slot
from nitrosigner.trusted.signing.ssz import read_uint64
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


def _slot(data: Mapping[str, object], name: str, path: str) -> Slot:
    return Slot(read_uint64(field(data, name), f"{path}.{name}"))


def payload_bid(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    """Read what a builder offers for a slot."""
    path = "execution_payload_bid"
    data = _data(request, path)
    slot = _slot(data, "slot", f"{path}.data")
    root = containers.EXECUTION_PAYLOAD_BID.root(data, f"{path}.data")
    return Reading(root, domains.BEACON_BUILDER, epoch_of(slot, network.preset))


def payload_envelope(request: Mapping[str, object], network: BeaconNetwork) -> Reading:
    """Read a payload that is revealed. Its slot is the payload's own (EIP-7843)."""
    path = "execution_payload_envelope"
    data = _data(request, path)
    payload = an_object(field(data, "payload"), f"{path}.data.payload")
    slot = _slot(payload, "slot_number", f"{path}.data.payload")
    root = containers.EXECUTION_PAYLOAD_ENVELOPE.root(data, f"{path}.data")
    return Reading(root, domains.BEACON_BUILDER, epoch_of(slot, network.preset))


def payload_attestation(
    request: Mapping[str, object], network: BeaconNetwork
) -> Reading:
    """Read a vote on a payload; only its data is signed, and only its data comes."""
    path = "payload_attestation_message"
    data = _data(request, path)
    slot = _slot(data, "slot", f"{path}.data")
    root = containers.PAYLOAD_ATTESTATION_DATA.root(data, f"{path}.data")
    return Reading(root, domains.PTC_ATTESTER, epoch_of(slot, network.preset))


def proposer_preferences(
    request: Mapping[str, object], network: BeaconNetwork
) -> Reading:
    """Read what a proposer wants of bids; the slot it will propose in counts."""
    path = "proposer_preferences"
    data = _data(request, path)
    slot = _slot(data, "proposal_slot", f"{path}.data")
    root = containers.PROPOSER_PREFERENCES.root(data, f"{path}.data")
    return Reading(root, domains.PROPOSER_PREFERENCES, epoch_of(slot, network.preset))


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
