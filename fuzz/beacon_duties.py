"""
Random duties of every kind, fork and preset, in every spelling, read a second time.

    python fuzz/beacon_duties.py --seconds 600 [--seed 7] [--signatures 50]

`beacon_oracle.py` draws a message, this file spells the request as validator clients
do, and the signing room must read it as it was meant. Some signatures are compared with
py_ecc's. Then one leaf of the message is changed: it must not be read, or must have
another root. A failure prints the request and the seed that makes it again; exit 1.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

import ckzg
from beacon_oracle import (
    CHAIN,
    FORKS,
    SINCE,
    Json,
    Message,
    draw,
    kinds_of,
)
from py_ecc.bls.ciphersuites import G2ProofOfPossession

from nitrosigner.trusted.signing.beacon_attestations import Attestations
from nitrosigner.trusted.signing.beacon_containers import PRESETS
from nitrosigner.trusted.signing.beacon_domains import (
    ForkVersion,
    GenesisValidatorsRoot,
)
from nitrosigner.trusted.signing.beacon_duties import Duty, read_duty
from nitrosigner.trusted.signing.beacon_networks import BeaconNetwork
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Proposal, Vote
from nitrosigner.verdicts import Verdict

SECRET: Final = 0x1234567
Anything: TypeAlias = Any


def network(preset: str) -> BeaconNetwork:
    """Return the chain that the messages are for."""
    return BeaconNetwork(
        name=preset,
        preset=PRESETS[preset],
        genesis_validators_root=GenesisValidatorsRoot(CHAIN.root),
        fork_versions={name: ForkVersion(one) for name, one in CHAIN.versions.items()},
    )


# --- Spellings ---------------------------------------------------------------------

GLOAS_KINDS: Final = tuple(kind for kind, fork in SINCE.items() if fork == "gloas")


@dataclass(frozen=True)
class Client:
    """How one validator client spells its requests. Read in the clients' sources."""

    accept: str | None
    """Of its signing requests; None where it sends no such header."""
    sends: frozenset[str]
    root: str | None = "signingRoot"
    block_of_phase0: str = "BLOCK_V2"
    bare_aggregates: bool = False
    """In every fork. Otherwise `{version, data}` since Electra, or always."""
    versioned_aggregates: bool = False
    """Before Electra too."""
    small_versions: bool = False
    bare_gloas: bool = False
    epoch_of_duty: bool = False
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Where it calls kind and field otherwise."""
    beside_a_block: Mapping[str, Any] = field(default_factory=dict)

    def request(self, message: Message) -> Json:
        """Return the body that asks for *message*."""
        kind, key = self.names.get(message.kind, (message.kind, message.key))
        version = message.fork if self.small_versions else message.fork.upper()
        data = message.data
        if message.kind == "BLOCK_V2":
            inner = "block" if message.fork in ("phase0", "altair") else "block_header"
            data = {"version": message.fork.upper(), inner: data}
        elif message.kind == "AGGREGATE_AND_PROOF_V2":
            late = FORKS.index(message.fork) >= FORKS.index("electra")
            wrapped = not self.bare_aggregates and (late or self.versioned_aggregates)
            kind = f"AGGREGATE_AND_PROOF{'_V2' if wrapped else ''}"
            data = {"version": version, "data": data} if wrapped else data
        elif message.kind in GLOAS_KINDS and not self.bare_gloas:
            data = message.versioned
        body: Json = {key: data, "type": kind}
        if message.kind == "BLOCK_V2":
            body |= self.beside_a_block
            if self.block_of_phase0 == "BLOCK" and message.fork == "phase0":
                body = {"block": message.data, "type": "BLOCK"}
        if message.fork_info is not None:
            body["fork_info"] = message.fork_info
        if self.root is not None:
            body[self.root] = "0x" + message.signing_root.hex()
        return body


_EVERYWHERE: Final = frozenset(
    {
        "BLOCK_V2",
        "ATTESTATION",
        "AGGREGATION_SLOT",
        "AGGREGATE_AND_PROOF_V2",
        "RANDAO_REVEAL",
        "VOLUNTARY_EXIT",
        "SYNC_COMMITTEE_MESSAGE",
        "SYNC_COMMITTEE_SELECTION_PROOF",
        "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF",
        "VALIDATOR_REGISTRATION",
    }
)
_BY_THE_API: Final = _EVERYWHERE | set(GLOAS_KINDS)
_BEFORE_THE_API: Final = {
    "PAYLOAD_ATTESTATION_MESSAGE": (
        "PAYLOAD_ATTESTATION",
        "payload_attestation",
    ),
}
CLIENTS: Final = {
    "lighthouse": Client(
        accept="application/json",
        sends=_BY_THE_API - {"EXECUTION_PAYLOAD_BID"},
        bare_aggregates=True,
    ),
    "lighthouse before the API": Client(
        accept="application/json",
        sends=_BY_THE_API - {"EXECUTION_PAYLOAD_BID"},
        bare_aggregates=True,
        bare_gloas=True,
        names={
            "PAYLOAD_ATTESTATION_MESSAGE": (
                "PAYLOAD_ATTESTATION",
                "payload_attestation_data",
            ),
            "BUILDER_REQUEST_AUTH": ("REQUEST_AUTH", "request_auth"),
        },
    ),
    "teku": Client(accept=None, sends=_BY_THE_API, block_of_phase0="BLOCK"),
    "prysm": Client(
        accept=None,
        sends=_BY_THE_API - {"EXECUTION_PAYLOAD_BID"},
        block_of_phase0="BLOCK",
    ),
    "nimbus": Client(
        accept="application/json",
        sends=_EVERYWHERE | {"DEPOSIT"},
        small_versions=True,
        beside_a_block={"proofs": [{"index": "12", "proof": ["0x" + "11" * 32]}]},
    ),
    "lodestar": Client(
        accept="application/json",
        sends=_EVERYWHERE
        | {
            "BLS_TO_EXECUTION_CHANGE",
            "DEPOSIT",
            "EXECUTION_PAYLOAD_ENVELOPE",
            "PAYLOAD_ATTESTATION_MESSAGE",
        },
        bare_gloas=True,
        epoch_of_duty=True,
        names=_BEFORE_THE_API
        | {
            "BLS_TO_EXECUTION_CHANGE": (
                "BLS_TO_EXECUTION_CHANGE",
                "BLS_TO_EXECUTION_CHANGE",
            )
        },
    ),
    "grandine": Client(
        accept="application/json",
        sends=_EVERYWHERE
        | {
            "EXECUTION_PAYLOAD_ENVELOPE",
            "PAYLOAD_ATTESTATION_MESSAGE",
            "PROPOSER_PREFERENCES",
        },
        bare_aggregates=True,
        bare_gloas=True,
        names=_BEFORE_THE_API,
    ),
    "vero": Client(
        accept="text/plain",
        sends=_EVERYWHERE
        | {
            "EXECUTION_PAYLOAD_ENVELOPE",
            "PROPOSER_PREFERENCES",
            "BUILDER_REQUEST_AUTH",
        },
        root=None,
        versioned_aggregates=True,
        bare_gloas=True,
    ),
}


def spelled(message: Message, source: Random) -> Json:
    """Return a request for *message* in some mixture of what clients do."""
    client = source.choice(list(CLIENTS.values()))
    body = client.request(message)
    if message.kind == "AGGREGATE_AND_PROOF":
        body["aggregate_and_proof"] = source.choice((message.data, message.versioned))
    root = "0x" + message.signing_root.hex()
    for name in ("signingRoot", "signing_root"):
        body.pop(name, None)
        if source.random() < 0.4:
            body[name] = source.choice((root, None))
    if source.random() < 0.2:
        body["type"] = body["type"].lower()
    if "fork_info" in body and source.random() < 0.2:
        info = body.pop("fork_info")
        said = info["fork"]
        body["forkInfo"] = {
            "fork": {
                "previousVersion": said["previous_version"],
                "currentVersion": said["current_version"],
                "epoch": int(said["epoch"]),
            },
            "genesisValidatorsRoot": info["genesis_validators_root"],
        }
    names = list(body)
    source.shuffle(names)
    return {name: body[name] for name in names}


# --- Comparisons -------------------------------------------------------------------


def leaves(value: Anything, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a message that is no container."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
        return
    yield path
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))


def changed(data: Anything, source: Random) -> tuple[Anything, tuple[Any, ...]]:
    """Return *data* with one leaf changed, and which it is."""
    data = copy.deepcopy(data)
    path = source.choice(list(leaves(data)))
    parent = data
    for name in path[:-1]:
        parent = parent[name]
    value = parent[path[-1]]
    new: Any = [*value, "0x"] if isinstance(value, list) else not value
    if isinstance(value, str) and value.startswith("0x"):
        place = source.randrange(2, len(value)) if len(value) > 2 else 2
        digit = "1" if value[place : place + 1] == "0" else "0"
        new = value[:place] + digit + value[place + 1 :]
    elif isinstance(value, str):
        new = str(source.choice((int(value) + 1, 2**64 - 1, 2**64)))
    parent[path[-1]] = new
    return data, path


def read_either_way(body: Json, preset: str) -> tuple[Duty, bool]:
    """Return the duty, and whether the short way for attestations read it too."""
    chain = network(preset)
    quick = Attestations(chain).read(json.dumps(body).encode())
    try:
        duty = read_duty(body, chain)
    except Verdict:
        assert quick is None, "the short way reads what is wrong"
        raise
    assert quick in (None, duty), "the short way reads it otherwise"
    return duty, quick is not None


def demand_the_same(message: Message, body: Json) -> Duty:
    """Fail unless *body* is read as the oracle built it."""
    duty, _ = read_either_way(body, message.preset)
    judged: tuple[int, ...] | None = None
    match duty.slashable_by:
        case Proposal(slot=slot, signing_root=root):
            judged = (slot,)
            assert root == message.signing_root
        case Vote(source=start, target=target, signing_root=root):
            judged = (start, target)
            assert root == message.signing_root
        case None:
            pass
    read_as = {duty.kind, message.kind}
    blocks = {"BLOCK", "BLOCK_V2"}
    aggregates = {"AGGREGATE_AND_PROOF", "AGGREGATE_AND_PROOF_V2"}
    assert len(read_as) == 1 or read_as in (blocks, aggregates), duty.kind
    assert duty.signing_root == message.signing_root, "another root"
    assert judged == message.judged, "judged otherwise"
    assert duty.genesis_validators_root == (CHAIN.root if message.fork_info else None)
    return duty


def demand_another_root(message: Message, source: Random) -> None:
    """Fail if a message with one leaf changed has the same root."""
    data, path = changed(message.data, source)
    if message.kind == "SYNC_COMMITTEE_MESSAGE" and path == ("slot",):
        return  # Only the block's root is signed; the slot says in which epoch.
    body = CLIENTS["vero"].request(Message(**{**vars(message), "data": data}))
    try:
        duty, _ = read_either_way(body, message.preset)
    except Verdict:
        return
    assert duty.signing_root != message.signing_root, f"{path} does not count"


def one(state: str) -> tuple[Message, Json]:
    """Draw a message and compare it; return it and its request."""
    source = Random(state)
    fork = source.choice(FORKS)
    message = draw(
        source.choice(kinds_of(fork)),
        fork,
        source.choice(list(PRESETS)),
        source,
        client_is_ahead=source.random() < 0.2,
        epoch_of_duty=source.random() < 0.3,
    )
    body = spelled(message, source)
    try:
        demand_the_same(message, body)
        demand_another_root(message, source)
    except BaseException:
        sys.stderr.write(f"failed: {state}\n{json.dumps(body)}\n")
        raise
    return message, body


def demand_the_signature(message: Message, body: Json) -> None:
    """Fail unless blst's signature of the duty is py_ecc's."""
    duty = read_duty(body, network(message.preset))
    with SecretBytes(bytearray(SECRET.to_bytes(32, "big"))) as secret:
        ours = bytes(Bls12381(ckzg.__file__).sign(secret, duty.signing_root))
    assert ours == G2ProofOfPossession.Sign(SECRET, message.signing_root)


def run(seed: int, *, seconds: float, cases: int, signatures: int) -> int:
    """Compare until the time or the cases are over; return how many were compared."""
    end = time.monotonic() + seconds
    count = 0
    while count < cases and time.monotonic() < end:
        message, body = one(f"{seed}/{count}")
        if count < signatures:
            demand_the_signature(message, body)
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare duties with an oracle.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--signatures", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    count = run(
        told.seed, seconds=told.seconds, cases=told.cases, signatures=told.signatures
    )
    print(f"{count} duties, all as the oracle has them")


if __name__ == "__main__":
    main()
