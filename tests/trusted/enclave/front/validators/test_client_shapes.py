"""
What validator clients really send is signed: their kinds, spellings and headers.

Shapes captured from Lodestar 1.5.1 and 1.22, and from the examples of Web3Signer's and
ethereum/remote-signing-api's own descriptions.
"""

import json
from typing import Any

import pytest

SIGN = "/api/v1/eth2/sign/"
SIGNATURE = "0x" + "c0" + "00" * 95
ROOT = "0x" + "5a" * 32
CHECKPOINT = {"epoch": "2", "root": ROOT}
DATA = {
    "slot": "24",
    "index": "0",
    "beacon_block_root": ROOT,
    "source": CHECKPOINT,
    "target": {"epoch": "3", "root": ROOT},
}
HEADER = {
    "slot": "24",
    "proposer_index": "7",
    "parent_root": ROOT,
    "state_root": ROOT,
    "body_root": ROOT,
}
BODY = {
    "randao_reveal": SIGNATURE,
    "eth1_data": {"deposit_root": ROOT, "deposit_count": "16", "block_hash": ROOT},
    "graffiti": ROOT,
    "proposer_slashings": [],
    "attester_slashings": [],
    "attestations": [
        {"aggregation_bits": "0x0d", "data": DATA, "signature": SIGNATURE}
    ],
    "deposits": [],
    "voluntary_exits": [],
}
BLOCK = {
    "slot": "24",
    "proposer_index": "7",
    "parent_root": ROOT,
    "state_root": ROOT,
    "body": BODY,
}
ALTAIR_BLOCK = BLOCK | {
    "body": BODY
    | {
        "sync_aggregate": {
            # The minimal preset: a committee of 32.
            "sync_committee_bits": "0xffffff7f",
            "sync_committee_signature": SIGNATURE,
        }
    }
}
AGGREGATE = {
    "aggregator_index": "5",
    "aggregate": {"aggregation_bits": "0x0d", "data": DATA, "signature": SIGNATURE},
    "selection_proof": SIGNATURE,
}
ELECTRA_AGGREGATE = AGGREGATE | {
    "aggregate": {
        "aggregation_bits": "0x0d",
        "committee_bits": "0x01",
        "data": DATA,
        "signature": SIGNATURE,
    }
}
CONTRIBUTION = {
    "aggregator_index": "5",
    "contribution": {
        "slot": "24",
        "beacon_block_root": ROOT,
        "subcommittee_index": "1",
        "aggregation_bits": "0xff",
        "signature": SIGNATURE,
    },
    "selection_proof": SIGNATURE,
}
REGISTRATION = {
    "fee_recipient": "0x" + "11" * 20,
    "gas_limit": "30000000",
    "timestamp": "1700000000",
    "pubkey": "0x" + "22" * 48,
}
SHAPES: dict[str, dict[str, Any]] = {
    "block of phase0": {"block": BLOCK, "type": "BLOCK"},
    "block of altair": {
        "beacon_block": {"version": "ALTAIR", "block": ALTAIR_BLOCK},
        "type": "BLOCK_V2",
    },
    "header of capella": {
        "beacon_block": {"version": "CAPELLA", "block_header": HEADER},
        "type": "BLOCK_V2",
    },
    "header of fulu": {
        "beacon_block": {"version": "FULU", "block_header": HEADER},
        "type": "BLOCK_V2",
    },
    "attestation": {"attestation": DATA, "type": "ATTESTATION"},
    "aggregation slot": {
        "aggregation_slot": {"slot": "24"},
        "type": "AGGREGATION_SLOT",
    },
    "aggregate, bare": {
        "aggregate_and_proof": AGGREGATE,
        "type": "AGGREGATE_AND_PROOF",
    },
    "aggregate of electra": {
        "aggregate_and_proof": {"version": "ELECTRA", "data": ELECTRA_AGGREGATE},
        "type": "AGGREGATE_AND_PROOF_V2",
    },
    "aggregate of deneb, versioned": {
        "aggregate_and_proof": {"version": "DENEB", "data": AGGREGATE},
        "type": "AGGREGATE_AND_PROOF_V2",
    },
    "randao reveal": {"randao_reveal": {"epoch": "3"}, "type": "RANDAO_REVEAL"},
    "sync message": {
        "sync_committee_message": {"beacon_block_root": ROOT, "slot": "24"},
        "type": "SYNC_COMMITTEE_MESSAGE",
    },
    "sync selection": {
        "sync_aggregator_selection_data": {"slot": "24", "subcommittee_index": "1"},
        "type": "SYNC_COMMITTEE_SELECTION_PROOF",
    },
    "contribution": {
        "contribution_and_proof": CONTRIBUTION,
        "type": "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF",
    },
    "exit": {
        "voluntary_exit": {"epoch": "3", "validator_index": "7"},
        "type": "VOLUNTARY_EXIT",
    },
    "registration": {
        "validator_registration": REGISTRATION,
        "type": "VALIDATOR_REGISTRATION",
    },
    "deposit": {
        "deposit": {
            "pubkey": "0x" + "22" * 48,
            "withdrawal_credentials": "0x01" + "00" * 11 + "33" * 20,
            "amount": "32000000000",
            "genesis_fork_version": "0x00000001",
        },
        "type": "DEPOSIT",
    },
    "change of withdrawals": {
        "bls_to_execution_change": {
            "validator_index": "7",
            "from_bls_pubkey": "0x" + "22" * 48,
            "to_execution_address": "0x" + "11" * 20,
        },
        "type": "BLS_TO_EXECUTION_CHANGE",
    },
}
CHAINLESS = ("registration", "deposit")


def shape(name: str, info: Any, epoch: int = 3) -> dict[str, Any]:
    request = json.loads(json.dumps(SHAPES[name]))
    return request if name in CHAINLESS else request | {"fork_info": info(epoch)}


def ask(front: Any, key: str, body: Any, accept: str | None = "*/*") -> Any:
    headers = {"Content-Type": "application/json"}
    if accept is not None:
        headers["Accept"] = accept
    return front.ask("POST", SIGN + key, body, headers=headers)


@pytest.mark.parametrize("name", SHAPES)
def test_lodestar_gets_json_for_any_accept(
    duty_front: Any, names: Any, info: Any, verify: Any, name: Any
) -> None:
    # `epoch` of the fork is the duty's own, not the fork's: Lodestar sends that.
    status, answer = ask(duty_front, names[0], shape(name, info))
    assert status == 200, answer
    (permit,) = duty_front.validators.signed
    assert verify(0, permit.message, answer["signature"])
    assert duty_front.last.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("field", ["signingRoot", "signing_root"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_root_that_the_client_computed_is_compared(
    duty_front: Any, names: Any, info: Any, name: Any, field: Any
) -> None:
    ask(duty_front, names[0], shape(name, info))
    root = "0x" + duty_front.validators.signed[0].message.hex()
    again = shape(name, info) | {field: root}
    assert ask(duty_front, names[0], again)[0] == 200
    wrong = shape(name, info) | {field: "0x" + "00" * 32}
    status, answer = ask(duty_front, names[0], wrong)
    assert status == 400
    assert answer["error"]["code"] == "signing_root_mismatch"
    assert len(duty_front.validators.signed) == 2


@pytest.mark.parametrize("name", [each for each in SHAPES if each not in CHAINLESS])
def test_camel_case_forks_are_the_same_message(
    duty_front: Any, names: Any, info: Any, name: Any
) -> None:
    ask(duty_front, names[0], shape(name, info))
    request = shape(name, info)
    snake = request.pop("fork_info")
    request["forkInfo"] = {
        "fork": {
            "previousVersion": snake["fork"]["previous_version"],
            "currentVersion": snake["fork"]["current_version"],
            "epoch": snake["fork"]["epoch"],
        },
        "genesisValidatorsRoot": snake["genesis_validators_root"],
    }
    assert ask(duty_front, names[0], request)[0] == 200
    first, second = duty_front.validators.signed
    assert first == second


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("lighthouse", {"Accept": "application/json"}),
        ("lodestar 1.22", {"Accept": "application/json"}),
        ("teku", {"Accept": "application/json, text/plain; q=0.9"}),
        ("prysm", {}),
        ("nimbus", {"Accept": "application/json"}),
        ("vero", {"Accept": "*/*", "Accept-Encoding": "gzip, deflate"}),
    ],
)
def test_every_client_reads_what_it_gets(
    duty_front: Any, names: Any, info: Any, client: Any, headers: Any
) -> None:
    body = shape("attestation", info)
    status, answer = duty_front.ask("POST", SIGN + names[0], body, headers=headers)
    assert status == 200
    if client == "prysm":
        assert answer.startswith(b"0x")
    else:
        assert answer["signature"].startswith("0x")


def test_a_key_is_found_in_capitals_and_without_0x(
    duty_front: Any, names: Any, info: Any
) -> None:
    body = shape("attestation", info)
    for spelling in (names[0], names[0][2:], "0x" + names[0][2:].upper()):
        assert ask(duty_front, spelling, body)[0] == 200


def test_kinds_in_small_letters_are_taken(
    duty_front: Any, names: Any, info: Any
) -> None:
    body = shape("attestation", info) | {"type": "attestation"}
    assert ask(duty_front, names[0], body)[0] == 200
    assert duty_front.services.events[-1]["duty"] == "ATTESTATION"


def test_a_burst_over_kept_connections_is_all_signed(
    duty_front: Any, names: Any, info: Any
) -> None:
    connections = [duty_front.http() for _ in range(16)]
    body = json.dumps(shape("sync selection", info))
    for _ in range(2):
        for connection in connections:
            connection.request("POST", SIGN + names[0], body, {"Accept": "*/*"})
        for connection in connections:
            response = connection.getresponse()
            assert response.status == 200
            assert json.loads(response.read())["signature"]
    for connection in connections:
        connection.close()
    assert len(duty_front.validators.signed) == 32


def test_credentials_in_the_url_reach_us_as_basic_authentication(
    duty_front: Any, names: Any, info: Any
) -> None:
    import base64

    token = duty_front.tokens["duties-only"]
    basic = base64.b64encode(f"validator:{token}".encode()).decode()
    status, _ = duty_front.ask(
        "POST",
        SIGN + names[0],
        shape("attestation", info),
        certificate=None,
        headers={"Authorization": f"Basic {basic}", "Accept": "*/*"},
    )
    assert status == 200
