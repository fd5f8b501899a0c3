"""Many signatures in one request: a verdict for each key, in order."""

import asyncio
import json
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nitrosigner.trusted.enclave.api import duty_batch
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.verdicts import Code, Refused, Undecided

BATCH = "/api/v1/eth2/sign"


def batch(front: Any, identifiers: Any, duty: Any, **more: Any) -> Any:
    return front.ask(
        "POST", BATCH, {"identifiers": identifiers, "signing_request": duty}, **more
    )


def test_each_key_gets_its_signature_in_order(
    duty_front: Any, names: Any, attestation: Any, verify: Any
) -> None:
    order = [names[2], names[0], names[3], names[1]]
    status, answer = batch(duty_front, order, attestation())
    assert status == 200
    assert [one["identifier"] for one in answer] == order
    root = duty_front.validators.signed[0].message
    for name, one in zip(order, answer, strict=True):
        assert verify(names.index(name), root, one["signature"])
        assert "error" not in one


def test_a_batch_is_one_round_trip_to_the_store(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    before = duty_front.validators.store.round_trips
    batch(duty_front, names[:4], attestation())
    assert duty_front.validators.store.round_trips == before + 1


def test_what_many_keys_sign_is_hashed_once_and_what_one_signs_by_who_signs_it(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    validators = duty_front.validators
    batch(duty_front, names[:4], attestation())
    assert set(validators.hashed) == {validators.signed[0].message}
    validators.hashed.clear()
    batch(duty_front, names[:1], attestation(2, 3))
    assert validators.hashed == []


def test_what_is_wrong_with_one_key_does_not_hurt_the_others(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    batch(duty_front, [names[1]], attestation(block="77"))
    duty_front.ask("POST", f"/api/v1/validators/{names[3]}/disable", {})
    order = [names[0], names[1], names[4], names[3], "hot", "nonsense", names[2]]
    status, answer = batch(duty_front, order, attestation())
    assert status == 200
    assert [one.get("error", {}).get("code", 200) for one in answer] == [
        200,
        412,
        404,
        412,
        403,
        404,
        200,
    ]
    assert answer[1]["error"] == {
        "code": 412,
        "message": "another vote for target epoch 2 was signed",
        "reason": "slashable",
    }
    assert len(duty_front.validators.signed) == 3


def test_several_duties_go_in_one_request(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    status, answer = duty_front.ask(
        "POST",
        BATCH,
        [
            {"identifiers": names[:2], "signing_request": attestation()},
            {"identifiers": names[1:3], "signing_request": attestation(block="66")},
        ],
    )
    assert status == 200
    assert [one["identifier"] for one in answer] == [*names[:2], *names[1:3]]
    verdicts = ["signature" in one for one in answer]
    # The second key is asked for two votes: it gives the first one only.
    assert verdicts == [True, True, False, True]


def test_a_malformed_part_means_that_nothing_is_signed(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    bad = attestation()
    del bad["attestation"]["target"]
    status, _ = duty_front.ask(
        "POST",
        BATCH,
        [
            {"identifiers": names[:2], "signing_request": attestation()},
            {"identifiers": names[:2], "signing_request": bad},
        ],
    )
    assert status == 400
    assert not duty_front.validators.signed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        {"identifiers": [], "signing_request": {}},
        {"identifiers": ["0x"] * 10_001, "signing_request": {}},
        {"identifiers": ["0x" + "a" * 300], "signing_request": {}},
        {"identifiers": "0x", "signing_request": {}},
        {"identifiers": ["0x"], "signing_request": None},
        {"identifiers": ["0x"], "signing_request": {}, "more": 1},
        [{"identifiers": ["0x"], "signing_request": {}}] * 1001,
    ],
)
def test_bad_batches_are_400(duty_front: Any, body: Any) -> None:
    assert duty_front.ask("POST", BATCH, body)[0] == 400
    assert not duty_front.validators.signed


def test_a_duty_of_another_chain_is_refused_for_each_key(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty = attestation()
    duty["fork_info"]["genesis_validators_root"] = "0x" + "00" * 32
    status, answer = batch(duty_front, names[:2], duty)
    assert status == 200
    assert [one["error"]["code"] for one in answer] == [412, 412]


def test_a_client_gets_signatures_of_its_own_keys_only(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    _, answer = batch(duty_front, names[:3], attestation(), token=token)
    assert ["signature" in one for one in answer] == [False, True, False]
    assert answer[0]["error"]["code"] == 403


def test_a_batch_needs_the_permission_of_its_kind(
    duty_front: Any, names: Any, info: Any
) -> None:
    exits = {
        "type": "VOLUNTARY_EXIT",
        "fork_info": info(),
        "voluntary_exit": {"epoch": "1", "validator_index": "1"},
    }
    token = duty_front.tokens["duties-only"]
    _, answer = batch(duty_front, names[:2], exits, token=token)
    assert [one["error"]["reason"] for one in answer] == ["not_allowed"] * 2
    assert not duty_front.validators.signed
    assert batch(duty_front, names[:2], exits, token="reader")[0] == 403


def test_more_keys_than_fit_in_one_write_are_all_signed(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    # The same key again and again: an exact repeat each time.
    status, answer = batch(duty_front, names[:2] * 300, attestation())
    assert status == 200
    assert len({one["signature"] for one in answer}) == 2
    assert len(answer) == 600


@pytest.mark.parametrize("lost", [True, False])
def test_a_store_that_does_not_answer_means_no_signature(
    duty_front: Any, names: Any, attestation: Any, lost: Any
) -> None:
    store = duty_front.validators.store
    store.answers_get_lost = lost
    if not lost:
        store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    status, answer = batch(duty_front, names[:4], attestation())
    assert status == 200
    assert {one["error"]["code"] for one in answer} == {503}
    assert not duty_front.validators.signed


def test_a_key_that_goes_away_between_permit_and_signature_is_said_so(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.validators.signing_failure = Refused(Code.KEY_DELETED, "it is gone")
    _, answer = batch(duty_front, names[:2], attestation())
    assert [one["error"]["code"] for one in answer] == [404, 404]


def test_an_unrecorded_batch_does_not_leave(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    status, answer = batch(duty_front, names[:4], attestation())
    assert status == 503
    assert answer["error"]["code"] == "audit_unavailable"


def test_a_long_batch_whose_first_events_get_lost_does_not_leave(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    status, answer = batch(duty_front, names[:2] * 300, attestation())
    assert status == 503
    assert answer["error"]["code"] == "audit_unavailable"


class FullTrail:
    """An audit trail with room for so many events."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.outcomes: list[str] = []

    def record(self, request: str, facts: Facts) -> bool:
        assert request == "r"
        self.outcomes.append(facts.outcome)
        return len(self.outcomes) <= self.room


def batch_over(trail: FullTrail) -> duty_batch._Batch:
    call = SimpleNamespace(around=SimpleNamespace(audit=trail), request_id="r")
    return duty_batch._Batch(cast(Any, call), 0.0)


@pytest.mark.parametrize("order", sorted(set(permutations(["signed", "refused"] * 2))))
def test_the_event_that_waits_for_the_end_is_a_signature_s(order: Any) -> None:
    trail = FullTrail(room=3)
    one = batch_over(trail)
    for outcome in order:
        one.take(Facts(operation="sign_duty", outcome=outcome))
    assert one.last().outcome == "signed"
    assert sorted(trail.outcomes) == ["refused", "refused", "signed"]


def test_an_event_without_room_withholds_the_whole_batch() -> None:
    one = batch_over(FullTrail(room=2))
    for _ in range(4):
        one.take(Facts(operation="sign_duty", outcome="signed"))
    with pytest.raises(Undecided) as caught:
        one.last()
    assert caught.value.code is Code.AUDIT_UNAVAILABLE


def test_the_audit_log_names_every_key_of_a_batch_and_no_invention(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    batch(duty_front, [*names[:4] * 20, "an invented name"], attestation())
    events = [
        event
        for event in duty_front.services.events
        if event.get("duty") == "ATTESTATION"
    ]
    signed = [event for event in events if event["outcome"] == "signed"]
    assert sorted(name for one in signed for name in one["keys"]) == sorted(
        names[:4] * 20
    )
    assert sum(one["count"] for one in signed) == 80
    (refused,) = [event for event in events if event["outcome"] == "refused"]
    assert refused["count"] == 1
    assert "keys" not in refused
    assert "invented" not in json.dumps(duty_front.services.events)
    assert all(len(line) <= 4096 for line in duty_front.services.lines)


def test_a_batch_that_waited_too_long_is_not_signed(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    running = duty_front
    store = running.validators.store

    async def hold() -> None:
        store.held = asyncio.Event()

    running.loop.run(hold())

    async def late() -> None:
        running.clock.offset += 60.0
        store.held.set()

    import threading

    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(batch(running, names[:2], attestation()))
    )
    asking.start()
    running.wait(lambda: running.front.around.validators.load.in_flight == 2)
    running.loop.run(late())
    asking.join(30)
    ((_, answer),) = answers
    assert {one["error"]["code"] for one in answer} == {503}
    assert not running.validators.signed
    # The answer leaves before the count is taken back.
    running.wait(lambda: running.front.around.validators.load.in_flight == 0)
