"""Every duty on the real stack, checked with the public key by the chain's own rules."""

import http.client
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from nitrosigner.cli.bls import bls12_381
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import beacon_chain, plaintext_search
from nitrosigner.emulator.demo_validator import FORK_INFO, attestation, interop_key
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.trusted.enclave.validators.validator_network import beacon_network
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.verdicts import Refused

Json = dict[str, Any]
ROOT, SIGNATURE = "0x" + "ab" * 32, "0x" + "cd" * 96
DATA = attestation(8, 9)["attestation"]
CONTRIBUTION = {
    "slot": "72",
    "beacon_block_root": ROOT,
    "subcommittee_index": "1",
    "aggregation_bits": "0x0f",
    "signature": SIGNATURE,
}
AGGREGATE = {
    "aggregation_bits": "0x0301",
    "data": DATA,
    "signature": SIGNATURE,
    "committee_bits": "0x01",
}
DUTIES: dict[str, Json] = {
    "ATTESTATION": {"attestation": DATA},
    "AGGREGATION_SLOT": {"aggregation_slot": {"slot": "72"}},
    "AGGREGATE_AND_PROOF_V2": {
        "aggregate_and_proof": {
            "version": "FULU",
            "data": {
                "aggregator_index": "1",
                "aggregate": AGGREGATE,
                "selection_proof": SIGNATURE,
            },
        }
    },
    "RANDAO_REVEAL": {"randao_reveal": {"epoch": "9"}},
    "SYNC_COMMITTEE_MESSAGE": {
        "sync_committee_message": {"beacon_block_root": ROOT, "slot": "72"}
    },
    "SYNC_COMMITTEE_SELECTION_PROOF": {
        "sync_aggregator_selection_data": {"slot": "72", "subcommittee_index": "1"}
    },
    "SYNC_COMMITTEE_CONTRIBUTION_AND_PROOF": {
        "contribution_and_proof": {
            "aggregator_index": "1",
            "contribution": CONTRIBUTION,
            "selection_proof": SIGNATURE,
        }
    },
    "VALIDATOR_REGISTRATION": {
        "validator_registration": {
            "fee_recipient": "0x" + "11" * 20,
            "gas_limit": "36000000",
            "timestamp": "1700000000",
            "pubkey": "0x" + "99" * 48,
        }
    },
    "PAYLOAD_ATTESTATION_MESSAGE": {
        "payload_attestation_message": {
            "version": "GLOAS",
            "data": {
                "beacon_block_root": ROOT,
                "slot": "72",
                "payload_present": True,
                "blob_data_available": True,
            },
        }
    },
    "VOLUNTARY_EXIT": {"voluntary_exit": {"epoch": "9", "validator_index": "3"}},
    "DEPOSIT": {
        "deposit": {
            "pubkey": "0x" + "99" * 48,
            "withdrawal_credentials": "0x01" + "00" * 11 + "22" * 20,
            "amount": "32000000000",
            "genesis_fork_version": "0x00000001",
        }
    },
}
ADMINISTRATORS = {"VOLUNTARY_EXIT", "DEPOSIT"}


@pytest.fixture(scope="module")
def key(fresh_keys: Callable[[int], list[str]]) -> str:
    (name,) = fresh_keys(1)
    return name


def body(kind: str, key: str) -> Json:
    made = {"type": kind, "fork_info": FORK_INFO, **DUTIES[kind]}
    # Deposits and registrations name the key that signs them.
    return dict(json.loads(json.dumps(made).replace("0x" + "99" * 48, key)))


def check(key: str, duty: Json, signature: str) -> None:
    network = beacon_network(beacon_chain.validators("minimal", None, None))
    root = read_duty(duty, network).signing_root
    assert bls12_381().verify(
        bytes.fromhex(key[2:]), root, bytes.fromhex(signature[2:])
    )


@pytest.mark.parametrize("kind", DUTIES)
def test_each_duty_is_signed_for_whom_it_should_be(
    chain: RunningStack, client: SignerClient, key: str, kind: str
) -> None:
    duty = body(kind, key)
    if kind not in ADMINISTRATORS:
        check(key, duty, client.sign_duty(key, duty))
        return
    with pytest.raises(Refused):
        client.sign_duty(key, duty)
    with SignerClient.from_data(chain.folder.path, "operator") as operator:
        check(key, duty, operator.sign_duty(key, duty))


def test_nobody_of_a_new_stack_may_promise_a_builders_money(
    chain: RunningStack, key: str
) -> None:
    hashes = ("parent_block_hash", "parent_block_root", "block_hash", "prev_randao")
    numbers = ("gas_limit", "builder_index", "slot", "value", "execution_payment")
    bid: Json = dict.fromkeys((*hashes, "execution_requests_root"), ROOT)
    bid |= dict.fromkeys(numbers, "72") | {"fee_recipient": "0x" + "11" * 20}
    duty = {
        "type": "EXECUTION_PAYLOAD_BID",
        "fork_info": FORK_INFO,
        "execution_payload_bid": {
            "version": "GLOAS",
            "data": bid | {"blob_kzg_commitments": []},
        },
    }
    for who in ("default", "operator", "validator"):
        with SignerClient.from_data(chain.folder.path, who) as one:
            with pytest.raises(Refused) as caught:
                one.sign_duty(key, duty)
            assert caught.value.code == "not_allowed"


def test_a_block_is_signed(client: SignerClient, key: str, proposal: Any) -> None:
    duty = proposal(80)
    check(key, duty, client.sign_duty(key, duty))


def test_a_client_that_may_only_list_gets_no_duty_signed(
    chain: RunningStack, key: str
) -> None:
    with (
        SignerClient.from_data(chain.folder.path, "reader") as reader,
        pytest.raises(Refused) as caught,
    ):
        reader.sign_duty(key, body("RANDAO_REVEAL", key))
    assert caught.value.code == "not_allowed"


def test_the_plain_door_lets_a_validator_client_in(
    chain: RunningStack, key: str
) -> None:
    url = chain.ready.plain_http
    with urllib.request.urlopen(f"{url}/api/v1/eth2/publicKeys", timeout=30) as answer:
        assert key in json.load(answer)
    duty = body("RANDAO_REVEAL", key)
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]))
    for _ in range(2):  # on one connection
        connection.request(
            "POST",
            f"/api/v1/eth2/sign/{key}",
            json.dumps(duty),
            {"content-type": "application/json", "accept": "*/*"},
        )
        response = connection.getresponse()
        assert response.status == 200
        check(key, duty, json.load(response)["signature"])
    connection.close()


def test_prometheus_reads_what_was_signed_and_refused(
    chain: RunningStack, client: SignerClient, key: str
) -> None:
    client.sign_duty(key, attestation(20, 21))
    with pytest.raises(Refused):
        client.sign_duty(key, attestation(20, 21, "bb"))

    def page() -> dict[str, str]:
        with urllib.request.urlopen(chain.ready.metrics, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def counted() -> bool:
        found = page()
        return (
            int(found.get('nitrosigner_duties_permitted_total{kind="ATTESTATION"}', 0))
            >= 1
            and int(
                found.get('nitrosigner_duties_prevented_total{reason="double_vote"}', 0)
            )
            >= 1
        )

    wait_until(counted, "the enclave reports its counters")
    found = page()
    assert int(found["nitrosigner_validator_keys_enabled"]) >= 1
    assert float(found["nitrosigner_duty_seconds_count"]) >= 1
    advanced = 'nitrosigner_services_requests_total{kind="AdvanceWatermarks"}'
    assert int(found[advanced]) >= 1
    assert key not in "".join(found)


def test_no_validators_key_is_anywhere_outside(
    chain: RunningStack, client: SignerClient, key: str
) -> None:
    client.sign_duty(key, body("RANDAO_REVEAL", key))
    pids = chain.now().pids
    found = plaintext_search.search(
        [interop_key(100)],
        folders=[chain.folder.path],
        processes=pids.values(),
        memories=[pids["parent"], pids["kms"], pids["plain_http"]],
    )
    assert found.places > 20
    assert found.findings == ()
