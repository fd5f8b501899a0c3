"""
The reader of aggregates, whose shape changed in Electra and again in Gloas.

Gloas' JSON is Electra's to the letter, so the fork decides the root. Web3Signer takes
`{"version": …, "data": {…}}` and the bare object under both of their kinds, and clients
rely on it: Lighthouse and Grandine send the bare one in every fork.

Source: ethereum/consensus-specs, phase0, electra and gloas validator guides.
"""

from collections.abc import Mapping
from typing import Final

from nitrosigner.trusted.signing import beacon_gloas_containers as gloas
from nitrosigner.trusted.signing.beacon_containers import (
    AGGREGATE_AND_PROOF,
    Preset,
    aggregate_and_proof_electra,
)
from nitrosigner.trusted.signing.beacon_domains import AGGREGATE_AND_PROOF as DOMAIN
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.beacon_requests import (
    Reading,
    an_object,
    epoch_of,
    field,
    fork_info,
    slot_of,
    version_of,
)
from nitrosigner.trusted.signing.ssz import Kind

_EARLY: Final = ("PHASE0", "ALTAIR", "BELLATRIX", "CAPELLA", "DENEB")


def aggregate_and_proof(
    request: Mapping[str, object], network: BeaconNetwork
) -> Reading:
    """Read an aggregate of any fork, under either kind, with its version or bare."""
    path = "aggregate_and_proof"
    value = an_object(field(request, path), path)
    version = None
    if "version" in value:
        version = version_of(value, path)
        path = f"{path}.data"
        value = an_object(field(value, "data"), path)
    aggregate = an_object(field(value, "aggregate"), f"{path}.aggregate")
    slot = slot_of(field(aggregate, "data"), f"{path}.aggregate.data")
    epoch = epoch_of(slot, network.preset)
    if version is None:
        version = "DENEB"
        if "committee_bits" in aggregate:
            signed_in = fork_info(request).fork.version_at(epoch)
            later = signed_in == network.fork_versions.get("gloas")
            version = "GLOAS" if later else "ELECTRA"
    root = _kind(version, network.preset).root(value, path)
    return Reading(root, DOMAIN, epoch)


def _kind(version: str, preset: Preset) -> Kind:
    if version in _EARLY:
        return AGGREGATE_AND_PROOF
    if version == "GLOAS":
        return gloas.aggregate_and_proof(preset)
    return aggregate_and_proof_electra(preset)
