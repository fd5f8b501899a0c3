"""What another enclave on the store did with a key, as clients of this one feel it."""

import dataclasses
from typing import Any

import pytest

SIGN = "/api/v1/eth2/sign"
KEYSTORES = "/eth/v1/keystores"
TO = "0x" + "11" * 20


def elsewhere(duty_front: Any, name: str, state: str) -> None:
    """Let another enclave change a key; this one has not heard of it."""
    fake = duty_front.validators
    key = dataclasses.replace(fake.keys[name], state=state, version=2)
    fake.elsewhere[name] = key


def made_elsewhere(duty_front: Any, name: str) -> None:
    fake = duty_front.validators
    fake.elsewhere[name] = fake.keys.pop(name)


def exit_of(info: Any) -> dict[str, Any]:
    return {
        "type": "VOLUNTARY_EXIT",
        "fork_info": info(),
        "voluntary_exit": {"epoch": "1", "validator_index": "1"},
    }


def test_a_key_that_came_to_another_enclave_signs_at_the_first_request(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    made_elsewhere(duty_front, names[0])
    assert duty_front.ask("POST", f"{SIGN}/{names[0]}", attestation())[0] == 200


def test_a_key_that_nobody_has_is_unknown_and_counted_once(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    status, _ = duty_front.ask("POST", f"{SIGN}/{names[5]}", attestation())
    assert status == 404
    assert duty_front.validators.listened == 1
    assert duty_front.ask("GET", "/api/v1/metrics")[1]["prevented"] == {
        "unknown_key": 1
    }
    assert duty_front.ask("POST", f"{SIGN}/nobody", attestation())[0] == 404
    assert duty_front.validators.listened == 1


def test_who_cannot_hear_does_not_say_that_a_key_is_unknown(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.validators.deaf = True
    status, _ = duty_front.ask("POST", f"{SIGN}/{names[5]}", attestation())
    assert status == 503


def test_known_keys_vote_without_a_look(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.validators.deaf = True
    assert duty_front.ask("POST", f"{SIGN}/{names[0]}", attestation())[0] == 200
    assert duty_front.validators.listened == 0


def test_in_a_batch_all_unknown_keys_are_sought_together(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    made_elsewhere(duty_front, names[0])
    made_elsewhere(duty_front, names[2])
    batch = {
        "identifiers": [names[0], names[1], names[5], names[2], "0xnobody"],
        "signing_request": attestation(),
    }
    status, results = duty_front.ask("POST", SIGN, batch)
    assert status == 200
    codes = [one.get("error", {}).get("code", 200) for one in results]
    assert codes == [200, 200, 404, 200, 404]
    assert duty_front.validators.listened == 1


@pytest.mark.parametrize("state", ["disabled", "deleted"])
@pytest.mark.parametrize("batch", [False, True])
def test_nobody_exits_with_a_key_that_another_enclave_stopped(
    duty_front: Any, names: Any, info: Any, state: str, batch: bool
) -> None:
    elsewhere(duty_front, names[0], state)
    if batch:
        body = {"identifiers": [names[0]], "signing_request": exit_of(info)}
        _, ((answer),) = duty_front.ask("POST", SIGN, body)
        assert answer["error"]["reason"] == "key_disabled"
    else:
        status, _ = duty_front.ask("POST", f"{SIGN}/{names[0]}", exit_of(info))
        assert status == (412 if state == "disabled" else 404)
    assert duty_front.validators.signed == []


@pytest.mark.parametrize("batch", [False, True])
def test_nobody_exits_while_we_cannot_hear(
    duty_front: Any, names: Any, info: Any, batch: bool
) -> None:
    duty_front.validators.deaf = True
    if batch:
        body = {"identifiers": [names[0]], "signing_request": exit_of(info)}
        _, ((answer),) = duty_front.ask("POST", SIGN, body)
        assert answer["error"]["code"] == 503
    else:
        status, _ = duty_front.ask("POST", f"{SIGN}/{names[0]}", exit_of(info))
        assert status == 503
    assert duty_front.validators.signed == []


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("disable", {}),
        ("enable", {}),
        ("delete", {}),
        ("deposit-data", {"withdrawal_credentials": "0x" + "01" * 32}),
        ("voluntary-exit", {"epoch": "1", "validator_index": "1"}),
        (
            "bls-to-execution-change",
            {"validator_index": "1", "to_execution_address": TO},
        ),
    ],
)
def test_orders_are_given_to_keys_as_they_are_now(
    duty_front: Any, names: Any, what: str, body: Any
) -> None:
    path = f"/api/v1/validators/{names[0]}/{what}"
    made_elsewhere(duty_front, names[0])
    assert duty_front.ask("POST", path, body)[0] == 200
    duty_front.validators.deaf = True
    assert duty_front.ask("POST", path, body)[0] == 503


def test_a_key_is_shown_also_while_we_cannot_hear(duty_front: Any, names: Any) -> None:
    duty_front.validators.deaf = True
    assert duty_front.ask("GET", f"/api/v1/validators/{names[0]}")[0] == 200


def test_a_keymanager_deletes_what_came_to_another_enclave_just_now(
    duty_front: Any, names: Any
) -> None:
    # Else the answer would be "not active", with a history that goes on elsewhere.
    made_elsewhere(duty_front, names[0])
    body = {"pubkeys": [names[0]]}
    _, answer = duty_front.ask("DELETE", KEYSTORES, body)
    assert answer["data"] == [{"status": "deleted"}]
    duty_front.validators.deaf = True
    _, answer = duty_front.ask("DELETE", KEYSTORES, {"pubkeys": [names[1]]})
    assert answer["data"][0]["status"] == "error"
    assert duty_front.validators.keys[names[1]].state == "enabled"
