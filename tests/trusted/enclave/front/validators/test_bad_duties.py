"""
Bad input: the contract's status, nothing signed, nothing lost.

After each refusal the very same front signs a good duty: nothing hangs, nothing leaks
room, and no watermark moved that would stand in its way.
"""

import asyncio
import json
import random
import threading
from typing import Any

import pytest

from nitrosigner.trusted.enclave.validators import duty_load
from nitrosigner.verdicts import Code, Refused, Undecided

SIGN = "/api/v1/eth2/sign/"
ROOT = "0x" + "11" * 32


def ask(front: Any, key: str, body: Any, **more: Any) -> Any:
    return front.ask("POST", SIGN + key, body, headers={"Accept": "*/*"}, **more)


def without(*path: str) -> Any:
    def change(request: dict[str, Any]) -> Any:
        part = request
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        return request

    return change


def instead(value: Any, *path: str) -> Any:
    def change(request: dict[str, Any]) -> Any:
        part = request
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        return request

    return change


MALFORMED = {
    "no type": without("type"),
    "another type": instead("BLOCKS", "type"),
    "a type that is a number": instead(7, "type"),
    "no fork": without("fork_info"),
    "no fork version": without("fork_info", "fork", "current_version"),
    "a short fork version": instead("0x0400", "fork_info", "fork", "current_version"),
    "a fork that is a list": instead([], "fork_info", "fork"),
    "a short genesis root": instead("0x2a", "fork_info", "genesis_validators_root"),
    "no attestation": without("attestation"),
    "no target": without("attestation", "target"),
    "an unknown field": instead("1", "attestation", "more"),
    "a negative slot": instead("-1", "attestation", "slot"),
    "a slot of 65 bits": instead(str(1 << 64), "attestation", "slot"),
    "a float": instead(1.5, "attestation", "slot"),
    "a boolean": instead(True, "attestation", "slot"),
    "a root without 0x": instead("11" * 32, "attestation", "beacon_block_root"),
    "a root with a space": instead("0x" + "11" * 31 + " 1", "attestation", "target"),
    "a source after the target": instead("9", "attestation", "source", "epoch"),
    "another signing root": instead(ROOT, "signingRoot"),
    "a short signing root": instead("0x11", "signing_root"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_duties_are_400(
    duty_front: Any, names: Any, attestation: Any, name: Any
) -> None:
    status, answer = ask(duty_front, names[0], MALFORMED[name](attestation()))
    assert status == 400, answer
    assert not duty_front.validators.signed
    assert ask(duty_front, names[0], attestation())[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"ATTESTATION"', 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 9_000, 400),
        (b" " * 70_000, 413),
    ],
    ids=["empty", "cut", "list", "null", "text", "no utf-8", "deep", "deeper", "large"],
)
def test_what_is_no_request_is_refused(
    duty_front: Any, names: Any, attestation: Any, body: Any, status: Any
) -> None:
    assert ask(duty_front, names[0], body)[0] == status
    assert not duty_front.validators.signed
    assert ask(duty_front, names[0], attestation())[0] == 200


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("0x" + "ab" * 48, 404, "unknown_key"),
        ("nonsense", 404, "unknown_key"),
        ("0x", 404, "unknown_key"),
        ("hot", 403, "not_allowed"),
    ],
    ids=["nobody's", "nonsense", "empty", "a wallet's"],
)
def test_keys_that_are_no_validators_sign_nothing(
    duty_front: Any, attestation: Any, key: Any, status: Any, code: Any
) -> None:
    answered, answer = ask(duty_front, key, attestation())
    assert (answered, answer["error"]["code"]) == (status, code)
    assert not duty_front.validators.signed
    assert not duty_front.keys.signed


def test_a_validators_key_signs_nothing_on_a_wallets_route(
    duty_front: Any, names: Any
) -> None:
    for path, body in (
        (f"/api/v1/keys/{names[0]}/sign/message", {"text": "a"}),
        (f"/api/v1/keys/{names[0]}/sign/digest", {"digest": ROOT}),
        (f"/api/v1/eth1/sign/{names[0]}", {"data": "0x00"}),
    ):
        status, _ = duty_front.ask("POST", path, body, token="digest")
        assert status in (403, 404)
    assert not duty_front.validators.signed
    assert not duty_front.keys.signed


@pytest.mark.parametrize(
    "change",
    [
        instead("0x" + "00" * 32, "fork_info", "genesis_validators_root"),
        instead(ROOT, "fork_info", "genesis_validators_root"),
    ],
)
def test_another_chains_duty_is_412(
    duty_front: Any, names: Any, attestation: Any, change: Any
) -> None:
    status, answer = ask(duty_front, names[0], change(attestation()))
    assert (status, answer["error"]["code"]) == (412, "wrong_chain")
    assert not duty_front.validators.signed
    assert ask(duty_front, names[0], attestation())[0] == 200


def test_another_networks_deposit_is_412(duty_front: Any, names: Any) -> None:
    deposit = {
        "type": "DEPOSIT",
        "deposit": {
            "pubkey": names[0],
            "withdrawal_credentials": ROOT,
            "amount": "32000000000",
            "genesis_fork_version": "0x00000000",
        },
    }
    assert ask(duty_front, names[0], deposit)[0] == 412
    assert not duty_front.validators.signed


def test_a_key_without_a_record_does_not_vote(
    duty_front: Any, names: Any, attestation: Any, info: Any
) -> None:
    duty_front.validators.store.rows.clear()
    status, answer = ask(duty_front, names[0], attestation())
    assert (status, answer["error"]["code"]) == (412, "not_registered")
    # What cannot be slashed needs none.
    randao = {
        "type": "RANDAO_REVEAL",
        "fork_info": info(),
        "randao_reveal": {"epoch": "1"},
    }
    assert ask(duty_front, names[0], randao)[0] == 200


def test_a_record_that_is_not_ours_is_412(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    store = duty_front.validators.store
    # After a write whose answer got lost, the guard reads before it judges.
    store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    assert ask(duty_front, names[0], attestation())[0] == 503
    store.failure = None
    for row in store.rows.values():
        row.data = row.data[:-1] + bytes([row.data[-1] ^ 1])
    status, answer = ask(duty_front, names[0], attestation())
    assert (status, answer["error"]["code"]) == (412, "record_untrusted")
    assert not duty_front.validators.signed


@pytest.mark.parametrize(("verb", "status"), [("disable", 412), ("delete", 404)])
def test_a_key_that_was_stopped_signs_nothing(
    duty_front: Any, names: Any, attestation: Any, verb: Any, status: Any
) -> None:
    path = f"/api/v1/validators/{names[0]}/{verb}"
    assert duty_front.ask("POST", path, {})[0] == 200
    answered, answer = ask(duty_front, names[0], attestation())
    assert answered == status
    # The command named is one that takes a validator.
    assert "validator" in answer["error"]["hint"]
    assert not duty_front.validators.signed
    event = duty_front.services.events[-1]
    assert event["code"] == {"disable": "key_disabled", "delete": "key_deleted"}[verb]


@pytest.mark.parametrize("kind", ["exit", "deposit", "change"])
def test_sign_duty_does_not_imply_what_ends_or_moves(
    duty_front: Any, names: Any, info: Any, kind: Any
) -> None:
    requests = {
        "exit": {
            "type": "VOLUNTARY_EXIT",
            "fork_info": info(),
            "voluntary_exit": {"epoch": "1", "validator_index": "1"},
        },
        "deposit": {
            "type": "DEPOSIT",
            "deposit": {
                "pubkey": names[0],
                "withdrawal_credentials": ROOT,
                "amount": "32000000000",
                "genesis_fork_version": "0x00000001",
            },
        },
        "change": {
            "type": "BLS_TO_EXECUTION_CHANGE",
            "fork_info": info(),
            "bls_to_execution_change": {
                "validator_index": "1",
                "from_bls_pubkey": names[0],
                "to_execution_address": "0x" + "11" * 20,
            },
        },
    }
    token = duty_front.tokens["duties-only"]
    status, answer = ask(duty_front, names[0], requests[kind], token=token)
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert not duty_front.validators.signed
    assert ask(duty_front, names[0], requests[kind])[0] == 200


def test_a_builders_bid_promises_money_and_has_a_permission_of_its_own(
    duty_front: Any, names: Any, oracle: Any, spellings: Any
) -> None:
    network = duty_front.validators.network
    versions = network.fork_versions | {"gloas": b"\x07\0\0\x01"}
    chain = oracle.Chain(network.genesis_validators_root, versions)
    source = random.Random(1)
    kinds = ("EXECUTION_PAYLOAD_BID", "EXECUTION_PAYLOAD_ENVELOPE")
    bid, reveal = (
        spellings.CLIENTS["teku"].request(
            oracle.draw(kind, "gloas", "minimal", source, chain=chain)
        )
        for kind in kinds
    )
    token = duty_front.tokens["duties-only"]
    status, answer = ask(duty_front, names[0], bid, token=token)
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert duty_front.services.events[-1]["operation"] == "sign_builder_bid"
    assert not duty_front.validators.signed
    assert ask(duty_front, names[0], bid)[0] == 200
    # Whoever proposes reveals a payload of its own: that is a validator's duty.
    assert ask(duty_front, names[0], reveal, token=token)[0] == 200


@pytest.mark.parametrize(
    ("token", "key"), [("reader", 0), ("other-team-of-validators", 0), ("narrow", 0)]
)
def test_foreign_clients_get_nothing_signed(
    duty_front: Any, names: Any, attestation: Any, token: Any, key: Any
) -> None:
    token = duty_front.tokens.get(token, token)
    status, _ = ask(duty_front, names[key], attestation(), token=token)
    assert status == 403
    assert not duty_front.validators.signed


@pytest.mark.parametrize(
    ("token", "key"),
    [("reader", 0), ("reader", 4), ("other-team-of-validators", 0)],
)
def test_nothing_is_parsed_for_whom_nothing_is_signed(
    duty_front: Any, names: Any, token: Any, key: Any
) -> None:
    token = duty_front.tokens.get(token, token)
    assert ask(duty_front, names[key], b"{", token=token)[0] == 403


def test_a_foreign_token_is_403_and_none_401_in_the_words_of_the_contract(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    body = json.dumps(attestation())
    status, answer = duty_front.ask("POST", SIGN + names[0], body, token="nobody")
    assert status == 403
    assert answer == b"the token is not one that the manifest knows"
    status, answer = ask(duty_front, names[0], body, certificate=None)
    assert (status, answer["error"]["code"]) == (401, "unauthenticated")
    status, answer = duty_front.ask("POST", SIGN + names[0], body, certificate=None)
    assert (status, answer) == (401, b"this needs a client that the manifest knows")
    assert duty_front.last.headers["WWW-Authenticate"].startswith("Basic ")
    assert not duty_front.validators.signed


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Undecided(Code.OVERLOADED, "too many wait"), 503),
        (Refused(Code.RECORD_UNTRUSTED, "it was altered"), 412),
        (RuntimeError("a secret"), 500),
    ],
)
def test_failures_of_the_keys_are_said_and_hold_no_secret(
    duty_front: Any, names: Any, attestation: Any, failure: Any, status: Any
) -> None:
    duty_front.validators.signing_failure = failure
    answered, answer = ask(duty_front, names[0], attestation())
    assert answered == status
    assert "a secret" not in json.dumps(answer)
    assert b"a secret" not in b"".join(duty_front.services.lines)
    duty_front.validators.signing_failure = None
    assert ask(duty_front, names[0], attestation())[0] == 200


def test_a_signature_that_is_not_on_record_does_not_leave(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    status, answer = ask(duty_front, names[0], attestation())
    assert (status, answer["error"]["code"]) == (503, "audit_unavailable")


def hold(front: Any) -> None:
    async def begin() -> None:
        front.validators.store.held = asyncio.Event()

    front.loop.run(begin())


def release(front: Any) -> None:
    async def end() -> None:
        front.validators.store.held.set()

    front.loop.run(end())


def in_background(front: Any, key: str, body: Any) -> tuple[Any, list[Any]]:
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(front, key, body)))
    asking.start()
    return asking, answers


def test_a_duty_that_waited_too_long_is_shed_and_can_be_asked_again(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    load = duty_front.front.around.validators.load
    hold(duty_front)
    asking, answers = in_background(duty_front, names[0], attestation())
    duty_front.wait(lambda: load.in_flight == 1)
    duty_front.clock.offset += duty_load.DEADLINE + 1
    release(duty_front)
    asking.join(30)
    ((status, answer),) = answers
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert not duty_front.validators.signed
    assert load.shed == 1
    assert ask(duty_front, names[0], attestation())[0] == 200


def test_beyond_the_bound_duties_are_shed_at_once(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    load = duty_front.front.around.validators.load
    room = duty_load.MAX_IN_FLIGHT
    load.enter(room)
    status, answer = ask(duty_front, names[0], attestation())
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert duty_front.last.headers["Retry-After"] == "1"
    load.leave(1)
    assert ask(duty_front, names[0], attestation())[0] == 200
    body = {"identifiers": names[:2], "signing_request": attestation()}
    assert duty_front.ask("POST", "/api/v1/eth2/sign", body)[0] == 503
    load.leave(room - 1)
    assert duty_front.ask("POST", "/api/v1/eth2/sign", body)[0] == 200
    duty_front.wait(lambda: load.in_flight == 0)


def test_a_caller_that_goes_away_leaves_its_room(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    load = duty_front.front.around.validators.load
    hold(duty_front)
    body = json.dumps(attestation()).encode()
    connection = duty_front.connect()
    connection.sendall(
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
        % ((SIGN + names[0]).encode(), len(body), body)
    )
    duty_front.wait(lambda: load.in_flight == 1)
    connection.close()
    release(duty_front)
    duty_front.wait(lambda: load.in_flight == 0)


def test_two_votes_at_the_same_time_are_one_vote(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    bodies = [attestation(block=f"{number:02x}") for number in range(16)]
    asking = [in_background(duty_front, names[0], body) for body in bodies]
    statuses = []
    for thread, answers in asking:
        thread.join(20)
        statuses.append(answers[0][0])
    assert sorted(statuses) == [200] + [412] * 15
    assert len(duty_front.validators.signed) == 1
