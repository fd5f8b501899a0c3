"""
Duties against an oracle that builds every message a second time, and what is no duty.

The oracle is `fuzz/beacon_oracle.py`; `fuzz/beacon_duties.py` spells its messages as
validator clients do.
"""

import copy
import random
from typing import Any

import pytest

from nitrosigner.trusted.signing import slashing
from nitrosigner.trusted.signing.beacon_duties import DutyKind, read_duty
from nitrosigner.trusted.signing.beacon_networks import (
    FORKS,
    PUBLIC_NETWORKS,
    BeaconNetwork,
)
from nitrosigner.trusted.signing.slashing import Vote, Voted
from nitrosigner.verdicts import Code, Malformed, Refused

Json = dict[str, Any]
CLIENTS = (
    *("lighthouse", "lighthouse before the API", "teku", "prysm", "nimbus"),
    *("lodestar", "grandine", "vero"),
)
BLOCKS = (DutyKind.BLOCK, DutyKind.BLOCK_V2)


@pytest.fixture(scope="module")
def networks(spellings: Any, oracle: Any) -> dict[str, BeaconNetwork]:
    return {preset: spellings.network(preset) for preset in oracle.PRESETS}


@pytest.fixture(scope="module")
def mainnet(networks: dict[str, BeaconNetwork]) -> BeaconNetwork:
    return networks["mainnet"]


@pytest.fixture(scope="module")
def request_for(oracle: Any, spellings: Any) -> Any:
    """Make the request that Teku sends for a random message of a kind and fork."""

    def make(kind: str, fork: str = "fulu", **more: Any) -> tuple[Any, Json]:
        message = oracle.draw(kind, fork, "mainnet", random.Random(5), **more)
        return message, spellings.CLIENTS["teku"].request(message)

    return make


def test_the_oracle_knows_every_kind_and_every_fork(
    oracle: Any, spellings: Any
) -> None:
    assert tuple(oracle.FORKS) == FORKS
    assert set(oracle.kinds_of("phase0")) | set(oracle.kinds_of("gloas")) == set(
        DutyKind
    )
    assert set(spellings.CLIENTS) == set(CLIENTS)


@pytest.mark.parametrize("preset", ["mainnet", "minimal"])
@pytest.mark.parametrize("kind", DutyKind)
def test_the_signing_root_is_the_oracles_in_every_fork(
    oracle: Any, spellings: Any, kind: DutyKind, preset: str
) -> None:
    source = random.Random(f"{kind}{preset}")
    plain = spellings.CLIENTS["teku"]
    for fork in (fork for fork in FORKS if kind in oracle.kinds_of(fork)):
        for ahead in (False, True):
            message = oracle.draw(kind, fork, preset, source, client_is_ahead=ahead)
            body = plain.request(message)
            duty = spellings.demand_the_same(message, body)
            # The client's root is taken in either spelling, and only compared.
            root = body.pop("signingRoot")
            assert spellings.demand_the_same(message, body) == duty
            network = spellings.network(preset)
            assert read_duty({**body, "signing_root": root}, network) == duty
            for name, other in (
                ("signingRoot", "signing_root"),
                ("signing_root", "signingRoot"),
            ):
                for beside in ({}, {other: root}, {other: None}):
                    with pytest.raises(Malformed) as wrong:
                        read_duty(body | beside | {name: "0x" + "11" * 32}, network)
                    assert wrong.value.code is Code.SIGNING_ROOT_MISMATCH
            if message.judged is None:
                assert kind not in (*BLOCKS, DutyKind.ATTESTATION)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_clients_requests_are_read_as_they_are_meant(
    oracle: Any, spellings: Any, client: str
) -> None:
    spelled = spellings.CLIENTS[client]
    source = random.Random(client)
    seen = set()
    for fork in FORKS:
        for kind in sorted(spelled.sends & set(oracle.kinds_of(fork))):
            message = oracle.draw(
                kind, fork, "mainnet", source, epoch_of_duty=spelled.epoch_of_duty
            )
            body = spelled.request(message)
            spellings.demand_the_same(message, body)
            _, quick = spellings.read_either_way(body, "mainnet")
            assert quick == (kind == DutyKind.ATTESTATION)
            seen.add(kind)
    assert seen == spelled.sends


def test_random_duties_in_any_spelling_are_the_oracles(spellings: Any) -> None:
    """And no leaf of a message can change without its root. More by hand."""
    forever = float("inf")
    assert spellings.run(1, seconds=forever, cases=300, signatures=8) == 300


@pytest.mark.parametrize("fork", ["electra", "fulu", "gloas"])
def test_a_bare_aggregate_is_of_the_fork_it_is_signed_in(
    oracle: Any, spellings: Any, fork: str
) -> None:
    """Lighthouse and Grandine send no version; Gloas' JSON is Electra's."""
    message = oracle.draw(
        "AGGREGATE_AND_PROOF_V2", fork, "minimal", random.Random(fork)
    )
    body = spellings.CLIENTS["grandine"].request(message)
    assert body["type"] == "AGGREGATE_AND_PROOF"
    assert "version" not in body["aggregate_and_proof"]
    spellings.demand_the_same(message, body)
    # Either kind takes either form, as in Web3Signer.
    spellings.demand_the_same(message, body | {"type": "AGGREGATE_AND_PROOF_V2"})
    spellings.demand_the_same(
        message, body | {"aggregate_and_proof": message.versioned}
    )


def test_a_bare_aggregate_of_a_fork_that_is_not_named_has_another_root(
    oracle: Any, spellings: Any
) -> None:
    """A manifest that names no Gloas: the client's root says that something is wrong."""
    known = spellings.network("minimal")
    versions = {
        name: one for name, one in known.fork_versions.items() if name != "gloas"
    }
    network = BeaconNetwork(
        name="old",
        preset=known.preset,
        genesis_validators_root=known.genesis_validators_root,
        fork_versions=versions,
    )
    message = oracle.draw(
        "AGGREGATE_AND_PROOF_V2", "gloas", "minimal", random.Random(1)
    )
    body = spellings.CLIENTS["lighthouse"].request(message)
    with pytest.raises(Malformed) as refused:
        read_duty(body, network)
    assert refused.value.code is Code.SIGNING_ROOT_MISMATCH
    # Who names the version needs no manifest for it.
    body = spellings.CLIENTS["vero"].request(message)
    assert read_duty(body, network).signing_root == message.signing_root


@pytest.mark.parametrize("fork", ["fulu", "gloas"])
def test_the_index_of_an_attestation_counts_in_a_double_vote(
    oracle: Any, spellings: Any, mainnet: BeaconNetwork, fork: str
) -> None:
    """It is the committee's until Electra, zero then, and the payload's in Gloas."""
    message = oracle.draw("ATTESTATION", fork, "mainnet", random.Random(fork))
    client = spellings.CLIENTS["vero"]
    reached: Voted | None = None
    for index, allowed in ((0, True), (0, True), (1, False)):
        body = client.request(message)
        body["attestation"] = message.data | {"index": str(index)}
        vote = read_duty(body, mainnet).slashable_by
        assert isinstance(vote, Vote)
        if allowed:
            reached = slashing.after_voting(reached, vote)
        else:
            with pytest.raises(slashing.DoubleVote):
                slashing.after_voting(reached, vote)


def test_what_belongs_to_no_chain_says_so(request_for: Any, mainnet: Any) -> None:
    for kind in ("DEPOSIT", "VALIDATOR_REGISTRATION", "BUILDER_REQUEST_AUTH"):
        message, body = request_for(kind, "gloas")
        assert message.fork_info is None
        assert read_duty(body, mainnet).genesis_validators_root is None
    _, body = request_for("DEPOSIT")
    body["deposit"]["genesis_fork_version"] = "0x01020304"
    with pytest.raises(Refused):
        read_duty(body, mainnet)


@pytest.mark.parametrize(
    ("current", "exit_epoch", "signed_in"),
    [
        ("capella", 100, "capella"),
        ("capella", 5, "bellatrix"),  # before the fork's epoch: the previous version
        ("deneb", 100, "capella"),
        ("deneb", 5, "capella"),
        ("electra", 100, "capella"),
        ("gloas", 100, "capella"),
    ],
)
def test_an_exit_is_locked_to_capella_from_deneb_on(
    oracle: Any, mainnet: Any, current: str, exit_epoch: int, signed_in: str
) -> None:
    """EIP-7044: an exit that was signed once stays valid in every later fork."""
    exit_ = oracle.VoluntaryExit(epoch=exit_epoch, validator_index=9)
    versions = ["0x" + one.hex() for one in oracle.CHAIN.versions.values()]
    number = FORKS.index(current)
    body = {
        "type": "VOLUNTARY_EXIT",
        "fork_info": {
            "fork": {
                "previous_version": versions[number - 1],
                "current_version": versions[number],
                "epoch": "10",
            },
            "genesis_validators_root": "0x" + oracle.CHAIN.root.hex(),
        },
        "voluntary_exit": oracle.as_json(exit_),
    }
    assert read_duty(body, mainnet).signing_root == oracle.signing_root(
        oracle.root_of(exit_),
        "04000000",
        oracle.CHAIN.versions[signed_in],
        oracle.CHAIN.root,
    )


def test_camel_case_forks_are_taken(request_for: Any, mainnet: Any) -> None:
    message, body = request_for("RANDAO_REVEAL")
    camel = copy.deepcopy(body)
    fork = camel["fork_info"]["fork"]
    fork["previousVersion"] = fork.pop("previous_version")
    fork["currentVersion"] = fork.pop("current_version")
    duty = read_duty(camel, mainnet)
    assert duty == read_duty(body, mainnet)
    assert duty.signing_root == message.signing_root


def test_a_duty_for_another_chain_is_refused(request_for: Any, mainnet: Any) -> None:
    _, body = request_for("RANDAO_REVEAL")
    body["fork_info"]["genesis_validators_root"] = "0x" + "99" * 32
    with pytest.raises(Refused):
        read_duty(body, mainnet)


def of_fork(network: BeaconNetwork, previous: str, current: str, epoch: int) -> Json:
    return {
        "type": "RANDAO_REVEAL",
        "fork_info": {
            "fork": {
                "previous_version": previous,
                "current_version": current,
                "epoch": str(epoch),
            },
            "genesis_validators_root": "0x" + network.genesis_validators_root.hex(),
        },
        "randao_reveal": {"epoch": "10"},
    }


@pytest.mark.parametrize("network", PUBLIC_NETWORKS.values(), ids=lambda one: one.name)
def test_a_public_network_has_no_fork_but_those_it_names(
    network: BeaconNetwork,
) -> None:
    unknown = "0x0badf00d"
    for version in network.fork_versions.values():
        known = "0x" + version.hex()
        # The epoch is 10: of a fork from 10 on the current version is used.
        assert read_duty(of_fork(network, unknown, known, 10), network)
        assert read_duty(of_fork(network, known, unknown, 11), network)
        for odd in (
            of_fork(network, known, unknown, 10),
            of_fork(network, unknown, known, 11),
        ):
            with pytest.raises(Refused) as caught:
                read_duty(odd, network)
            assert caught.value.code is Code.WRONG_CHAIN
            assert "newer image" in caught.value.hint


def test_a_custom_network_need_not_name_every_fork(mainnet: BeaconNetwork) -> None:
    assert not mainnet.every_fork
    assert read_duty(of_fork(mainnet, "0x0badf00d", "0x0badf00d", 0), mainnet)


FORK_INFO = {
    "fork": {
        "previous_version": "0x06000009",
        "current_version": "0x06000009",
        "epoch": "0",
    },
    "genesis_validators_root": "0x" + bytes(range(32)).hex(),
}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"type": "SOMETHING"},
        {"type": 5},
        {"type": "RANDAO_REVEAL"},
        {"type": "RANDAO_REVEAL", "fork_info": FORK_INFO},
        {"type": "RANDAO_REVEAL", "fork_info": FORK_INFO, "randao_reveal": {}},
        {"type": "RANDAO_REVEAL", "fork_info": {}, "randao_reveal": {"epoch": "1"}},
        {
            "type": "BLOCK_V2",
            "fork_info": FORK_INFO,
            "beacon_block": {"version": "OSAKA", "block_header": {}},
        },
        {
            "type": "ATTESTATION",
            "fork_info": FORK_INFO,
            "attestation": {"source": {"epoch": "1"}},
        },
        {
            "type": "AGGREGATE_AND_PROOF_V2",
            "fork_info": FORK_INFO,
            "aggregate_and_proof": {"version": "HEZE", "data": {}},
        },
        {
            "type": "AGGREGATE_AND_PROOF",
            "fork_info": FORK_INFO,
            "aggregate_and_proof": {"aggregate": []},
        },
        {"type": "DEPOSIT", "deposit": {}},
        {"type": "VALIDATOR_REGISTRATION", "validator_registration": "0x"},
    ],
)
def test_what_is_no_duty_is_malformed(mainnet: Any, body: object) -> None:
    with pytest.raises(Malformed):
        read_duty(body, mainnet)


@pytest.mark.parametrize(
    "kind",
    [
        *("AGGREGATE_AND_PROOF_V2", "EXECUTION_PAYLOAD_BID"),
        *("EXECUTION_PAYLOAD_ENVELOPE", "PAYLOAD_ATTESTATION_MESSAGE"),
        *("PROPOSER_PREFERENCES", "BUILDER_REQUEST_AUTH"),
    ],
)
def test_what_is_no_message_of_gloas_is_malformed(
    request_for: Any, mainnet: Any, kind: str
) -> None:
    message, body = request_for(kind, "gloas")
    spoiled = [message.versioned | {"version": other} for other in ("HEZE", "", 7)]
    if kind != "AGGREGATE_AND_PROOF_V2":
        spoiled += [message.versioned | {"version": "FULU"}]
    spoiled += [message.data | {"extra": "1"}]
    for name in message.data:
        spoiled += [
            message.versioned | {"data": message.data | {name: None}},
            {key: value for key, value in message.data.items() if key != name},
        ]
    for each in spoiled:
        with pytest.raises(Malformed):
            read_duty(body | {message.key: each}, mainnet)


@pytest.mark.parametrize("data", ["0x", "0x" + "00" * 4097, "https://builder"])
def test_authentication_to_a_builder_has_some_bytes_and_not_too_many(
    mainnet: Any, data: str
) -> None:
    body = {"data": data, "slot": "1"}
    request = {"type": "BUILDER_REQUEST_AUTH", "builder_request_auth": body}
    with pytest.raises(Malformed):
        read_duty(request, mainnet)


@pytest.mark.parametrize("bits", ["0x", "0x00", "0x0100", "01", None])
def test_a_bit_list_ends_in_its_length_bit(
    request_for: Any, mainnet: Any, bits: Any
) -> None:
    message, body = request_for("AGGREGATE_AND_PROOF_V2", "gloas")
    message.data["aggregate"]["aggregation_bits"] = bits
    with pytest.raises(Malformed):
        read_duty(body, mainnet)


@pytest.mark.parametrize(
    ("name", "version"),
    [("mainnet", "07000000"), ("sepolia", "90000076"), ("hoodi", "80000910")],
)
def test_public_networks_know_gloas_for_aggregates_that_do_not_name_it(
    name: str, version: str
) -> None:
    assert PUBLIC_NETWORKS[name].fork_versions["gloas"].hex() == version
