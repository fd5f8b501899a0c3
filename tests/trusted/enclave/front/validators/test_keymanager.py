"""The Keymanager API: keys come with their history, and go before the answer does."""

import base64
import json
from typing import Any

import pytest

from nitrosigner.verdicts import Code, Undecided

KEYSTORES = "/eth/v1/keystores"
CHAIN = "0x" + "2a" * 32


def keystore(names: Any, number: int, **changes: Any) -> str:
    return json.dumps({"number": number, "pubkey": names[number][2:]} | changes)


def history(name: str, target: int, chain: str = CHAIN) -> str:
    return json.dumps(
        {
            "metadata": {
                "interchange_format_version": "5",
                "genesis_validators_root": chain,
            },
            "data": [
                {
                    "pubkey": name,
                    "signed_blocks": [{"slot": "9"}],
                    "signed_attestations": [
                        {"source_epoch": str(target - 1), "target_epoch": str(target)}
                    ],
                }
            ],
        }
    )


def test_a_key_comes_with_its_history_and_cannot_vote_behind_it(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    status, answer = duty_front.ask(
        "POST",
        KEYSTORES,
        {
            "keystores": [keystore(names, 4)],
            "passwords": ["right"],
            "slashing_protection": history(names[4], 7),
        },
    )
    assert (status, answer) == (200, {"data": [{"status": "imported"}]})
    sign = "/api/v1/eth2/sign/" + names[4]
    assert duty_front.ask("POST", sign, attestation(6, 7))[0] == 412
    assert duty_front.ask("POST", sign, attestation(6, 8))[0] == 200


def test_the_history_is_durable_before_the_first_key_is_opened(
    duty_front: Any, names: Any
) -> None:
    duty_front.ask(
        "POST",
        KEYSTORES,
        {
            "keystores": [keystore(names, 4)],
            "passwords": ["right"],
            "slashing_protection": history(names[4], 7),
        },
    )
    asked = [one[0] for one in duty_front.validators.asked]
    assert asked == ["import_history", "keystore"]


def test_each_keystore_has_its_own_status_in_order(duty_front: Any, names: Any) -> None:
    status, answer = duty_front.ask(
        "POST",
        KEYSTORES,
        {
            "keystores": [
                keystore(names, 0),
                keystore(names, 4),
                keystore(names, 5),
                "{}",
                json.loads(keystore(names, 5)),
            ],
            "passwords": ["right", "wrong", "right", "right", "right"],
        },
    )
    assert status == 200
    assert [one["status"] for one in answer["data"]] == [
        "duplicate",
        "error",
        "imported",
        "error",
        "duplicate",
    ]
    assert answer["data"][1]["message"] == "the password does not open it"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"passwords": []}, 400),
        ({"keystores": "x"}, 400),
        ({"slashing_protection": "{"}, 400),
        ({"slashing_protection": {"metadata": {}}}, 400),
        ({"slashing_protection": history("0x" + "aa" * 48, 3, "0x" + "00" * 32)}, 400),
        ({"slashing_protection": history("0xaa", 3)}, 400),
        ({"slashing_protection": '{"notes": ' + "[" * 2_000 + "]" * 2_000 + "}"}, 400),
        ({"keystores": ["{}"] * 129, "passwords": ["a"] * 129}, 400),
    ],
)
def test_a_malformed_import_imports_nothing(
    duty_front: Any, names: Any, change: Any, status: Any
) -> None:
    body = {"keystores": [keystore(names, 4)], "passwords": ["right"]} | change
    answered, answer = duty_front.ask("POST", KEYSTORES, body)
    assert answered == status
    assert answer["message"]
    assert not duty_front.validators.asked
    assert names[4] not in duty_front.validators.keys


def test_no_history_in_the_store_means_no_key(duty_front: Any, names: Any) -> None:
    duty_front.validators.store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    status, answer = duty_front.ask(
        "POST",
        KEYSTORES,
        {
            "keystores": [keystore(names, 4)],
            "passwords": ["right"],
            "slashing_protection": history(names[4], 7),
        },
    )
    assert status == 503
    assert answer == {"message": "down", "code": "storage_unavailable"}
    assert names[4] not in duty_front.validators.keys


def test_a_deleted_key_signs_no_more_and_its_history_is_returned(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    sign = "/api/v1/eth2/sign/" + names[0]
    duty_front.ask("POST", sign, attestation(1, 2))
    status, answer = duty_front.ask(
        "DELETE", KEYSTORES, {"pubkeys": [names[0], names[4], names[1][2:], "0x12"]}
    )
    assert status == 200
    assert [one["status"] for one in answer["data"]] == [
        "deleted",
        "not_found",
        "deleted",
        "error",
    ]
    document = json.loads(answer["slashing_protection"])
    assert document["metadata"]["genesis_validators_root"] == CHAIN
    by_key = {one["pubkey"]: one for one in document["data"]}
    assert by_key.keys() == {names[0], names[1]}
    (vote,) = by_key[names[0]]["signed_attestations"]
    assert (vote["source_epoch"], vote["target_epoch"]) == ("1", "2")
    assert duty_front.ask("POST", sign, attestation(2, 3))[0] == 404


def test_deleting_twice_returns_the_history_twice(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.ask("POST", "/api/v1/eth2/sign/" + names[0], attestation(1, 2))
    first = duty_front.ask("DELETE", KEYSTORES, {"pubkeys": [names[0]]})
    again = duty_front.ask("DELETE", KEYSTORES, {"pubkeys": [names[0]]})
    assert again[1]["data"] == [{"status": "not_active"}]
    assert again[1]["slashing_protection"] == first[1]["slashing_protection"]


def test_a_key_that_could_not_be_stopped_is_an_error(
    duty_front: Any, names: Any
) -> None:
    duty_front.validators.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    status, answer = duty_front.ask("DELETE", KEYSTORES, {"pubkeys": [names[0]]})
    assert status == 200
    assert answer["data"] == [{"status": "error", "message": "down"}]
    assert json.loads(answer["slashing_protection"])["data"] == []


def test_a_key_whose_record_was_altered_is_an_error_to_delete(
    duty_front: Any, names: Any
) -> None:
    duty_front.validators.untrusted.add(names[0])
    _, answer = duty_front.ask("DELETE", KEYSTORES, {"pubkeys": [names[0]]})
    assert answer["data"][0]["status"] == "error"
    assert json.loads(answer["slashing_protection"])["data"] == []


def test_what_cannot_be_recorded_is_not_begun(duty_front: Any, names: Any) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    imported = {"keystores": [keystore(names, 4)], "passwords": ["right"]}
    assert duty_front.ask("POST", KEYSTORES, imported)[0] == 503
    body = {"pubkeys": [names[0]]}
    assert duty_front.ask("DELETE", KEYSTORES, body)[0] == 503
    assert not duty_front.validators.asked


def test_no_credential_is_401_and_a_wrong_one_403(duty_front: Any) -> None:
    status, answer = duty_front.ask("GET", KEYSTORES, certificate=None)
    assert status == 401
    assert "Bearer" in duty_front.last.headers.get_all("WWW-Authenticate")
    assert answer["message"]
    status, answer = duty_front.ask("GET", KEYSTORES, token="nobody")
    assert status == 403
    assert answer["code"] == "unauthenticated"


def test_a_bearer_token_or_basic_credentials_are_enough(
    duty_front: Any, names: Any
) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    listed = {
        "data": [
            {"validating_pubkey": names[1], "derivation_path": "", "readonly": False}
        ]
    }
    assert duty_front.ask("GET", KEYSTORES, token=token) == (200, listed)
    basic = base64.b64encode(f"user:{token}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    assert duty_front.ask("GET", KEYSTORES, certificate=None, headers=headers) == (
        200,
        listed,
    )


def test_who_may_not_manage_keys_is_403(duty_front: Any, names: Any) -> None:
    token = duty_front.tokens["duties-only"]
    body = {"pubkeys": [names[0]]}
    assert duty_front.ask("DELETE", KEYSTORES, body, token=token)[0] == 403
    imported = {"keystores": [keystore(names, 4)], "passwords": ["right"]}
    assert duty_front.ask("POST", KEYSTORES, imported, token=token)[0] == 403
    assert not duty_front.validators.asked


def test_nobody_imports_or_deletes_another_teams_keys(
    duty_front: Any, names: Any
) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    _, answer = duty_front.ask(
        "DELETE", KEYSTORES, {"pubkeys": [names[0]]}, token=token
    )
    assert answer["data"][0]["status"] == "error"
    imported = {"keystores": [keystore(names, 4)], "passwords": ["right"]}
    _, answer = duty_front.ask("POST", KEYSTORES, imported, token=token)
    assert answer["data"][0]["status"] == "error"
    with_history = imported | {"slashing_protection": history(names[0], 99)}
    assert duty_front.ask("POST", KEYSTORES, with_history, token=token)[0] == 403
    assert not duty_front.validators.asked


def test_passwords_are_never_on_record(duty_front: Any, names: Any) -> None:
    duty_front.ask(
        "POST",
        KEYSTORES,
        {"keystores": [keystore(names, 4)], "passwords": ["a-secret-password"]},
    )
    assert b"a-secret-password" not in b"".join(duty_front.services.lines)


def test_this_signer_is_what_others_call_remote(duty_front: Any, names: Any) -> None:
    path = "/eth/v1/remotekeys"
    assert duty_front.ask("GET", path) == (200, {"data": []})
    body = {"remote_keys": [{"pubkey": names[0], "url": "https://x"}]}
    status, answer = duty_front.ask("POST", path, body)
    assert (status, answer["data"][0]["status"]) == (200, "error")
    assert duty_front.ask("DELETE", path, {"pubkeys": [names[0]]}) == (
        200,
        {"data": [{"status": "not_found"}]},
    )


def test_an_exit_needs_what_only_a_beacon_node_knows(
    duty_front: Any, names: Any
) -> None:
    path = f"/eth/v1/validator/{names[0]}/voluntary_exit"
    status, answer = duty_front.ask("POST", path)
    assert status == 400
    assert "validator_index" in answer["message"]
    status, answer = duty_front.ask("POST", path + "?epoch=5&validator_index=7")
    assert status == 200
    assert answer["data"]["message"] == {"epoch": "5", "validator_index": "7"}
    bad = path + "?epoch=-1&validator_index=7"
    assert duty_front.ask("POST", bad)[0] == 400
    big = path + "?epoch=18446744073709551616&validator_index=7"
    assert duty_front.ask("POST", big)[0] == 400
    token = duty_front.tokens["duties-only"]
    ask = duty_front.ask("POST", path + "?epoch=5&validator_index=7", token=token)
    assert ask[0] == 403
