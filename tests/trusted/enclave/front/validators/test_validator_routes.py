"""Validators' keys come and go, and messages that they sign once in their lives."""

import base64
from typing import Any

import pytest

from nitrosigner.trusted.signing.slashing import Epoch, Voted, Watermark
from nitrosigner.verdicts import Code, Undecided

VALIDATORS = "/api/v1/validators"
CHAIN = "0x" + "2a" * 32


def history(*names: str, target: int = 5, chain: str = CHAIN) -> dict[str, Any]:
    return {
        "metadata": {
            "interchange_format_version": "5",
            "genesis_validators_root": chain,
        },
        "data": [
            {
                "pubkey": name,
                "signed_blocks": [],
                "signed_attestations": [
                    {"source_epoch": str(target - 1), "target_epoch": str(target)}
                ],
            }
            for name in names
        ],
    }


def test_keys_are_listed_in_pages_in_name_order(duty_front: Any, names: Any) -> None:
    status, first = duty_front.ask("GET", VALIDATORS + "?limit=3")
    assert status == 200
    assert first["more"]
    _, rest = duty_front.ask(
        "GET", f"{VALIDATORS}?limit=3&after={first['keys'][-1]['name']}"
    )
    listed = [key["name"] for key in first["keys"] + rest["keys"]]
    assert listed == sorted(names[:4])
    token = duty_front.tokens["other-team-of-validators"]
    _, own = duty_front.ask("GET", VALIDATORS, token=token)
    assert [key["name"] for key in own["keys"]] == [names[1]]


def test_a_key_is_shown_to_those_that_may_see_it(duty_front: Any, names: Any) -> None:
    path = f"{VALIDATORS}/{names[0]}"
    status, key = duty_front.ask("GET", path)
    assert (status, key["algorithm"], key["name"]) == (200, "bls12-381", names[0])
    token = duty_front.tokens["other-team-of-validators"]
    assert duty_front.ask("GET", path, token=token)[0] == 403
    assert duty_front.ask("GET", VALIDATORS + "/0xabc")[0] == 404


def test_a_wrapped_key_comes_with_its_history(duty_front: Any, names: Any) -> None:
    body = {
        "identity": names[4],
        "wrapped_key": "AAAA",
        "history": history(names[4], target=7),
    }
    status, key = duty_front.ask("POST", VALIDATORS + "/import", body)
    assert (status, key["name"]) == (201, names[4])
    (asked,) = duty_front.validators.asked
    assert asked == (
        "import",
        names[4],
        "AAAA",
        Watermark(voted=Voted(source=Epoch(6), target=Epoch(7), signing_root=None)),
    )
    # Again: it is here, and that is fine.
    assert duty_front.ask("POST", VALIDATORS + "/import", body)[0] == 200


@pytest.mark.parametrize("route", ["import", "import-reference"])
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 201),
        ({"history": None}, 201),
        ({"history": "names others"}, 400),
        ({"history": "another chain"}, 403),
        ({"history": {"metadata": {}}}, 400),
        ({"identity": "0x12", "public_key": "0x12"}, 400),
        ({"identity": "0x" + "g" * 96, "public_key": "0x" + "g" * 96}, 400),
        ({"more": 1}, 400),
    ],
)
def test_imports_are_checked_before_they_are_begun(
    duty_front: Any, names: Any, route: Any, change: Any, status: Any
) -> None:
    change = dict(change)
    if change.get("history") == "names others":
        change["history"] = history(names[4], names[5])
    elif change.get("history") == "another chain":
        change["history"] = history(names[4], chain="0x" + "00" * 32)
    body = {"history": history(names[4])}
    if route == "import":
        body |= {"identity": names[4], "wrapped_key": "AAAA"}
        change.pop("public_key", None)
    else:
        body |= {"public_key": names[4], "ciphertext": "AAAA"}
        change.pop("identity", None)
    answered, _ = duty_front.ask("POST", f"{VALIDATORS}/{route}", body | change)
    assert answered == status
    assert bool(duty_front.validators.asked) == (status == 201)


def test_a_reference_item_is_base64(duty_front: Any, names: Any) -> None:
    path = VALIDATORS + "/import-reference"
    body = {"public_key": names[4], "ciphertext": "not base64!"}
    assert duty_front.ask("POST", path, body)[0] == 400
    body = {"public_key": names[4][2:].upper(), "ciphertext": "AQID"}
    assert duty_front.ask("POST", path, body)[0] == 201
    assert duty_front.validators.asked[0][:3] == ("reference", names[4], b"\1\2\3")


def test_keys_are_derived_and_the_backup_is_given_back(
    duty_front: Any, names: Any
) -> None:
    recipient = base64.b64encode(bytes(32)).decode()
    body = {
        "seed": {"form": "mnemonic", "wrapped": "AAAA"},
        "start": 4,
        "count": 6,
        "backup_recipient": recipient,
    }
    status, answer = duty_front.ask("POST", VALIDATORS + "/derive", body)
    assert status == 201
    assert [key["name"] for key in answer["keys"]] == names[4:6]
    assert base64.b64decode(answer["backup"]) == b"sealed"
    event = duty_front.services.events[-1]
    assert (event["operation"], event["keys"]) == ("derive_validators", names[4:6])
    for bad in (
        {"seed": {"form": "other"}},
        {"count": 0},
        {"count": 257},
        {"start": -1},
        {"start": (1 << 32) - 1, "count": 2},
        {"backup_recipient": "!"},
    ):
        assert duty_front.ask("POST", VALIDATORS + "/derive", body | bad)[0] == 400


@pytest.mark.parametrize("verb", ["disable", "enable", "delete"])
def test_changes_name_the_version_and_are_on_record_before(
    duty_front: Any, names: Any, verb: Any
) -> None:
    path = f"{VALIDATORS}/{names[0]}/{verb}"
    assert duty_front.ask("POST", path, {"version": 9})[0] == 412
    status, key = duty_front.ask("POST", path, {"version": 1})
    assert (status, key["version"]) == (200, 2)
    outcomes = [
        event["outcome"]
        for event in duty_front.services.events
        if event["operation"] == f"{verb}_key"
    ]
    assert outcomes == ["begun", "refused", "begun", "done"]


def test_a_change_that_cannot_be_recorded_does_not_happen(
    duty_front: Any, names: Any
) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    path = f"{VALIDATORS}/{names[0]}/disable"
    assert duty_front.ask("POST", path, {})[0] == 503
    assert duty_front.validators.keys[names[0]].state == "enabled"


def test_a_deposit_is_what_deposit_tools_write(duty_front: Any, names: Any) -> None:
    path = f"{VALIDATORS}/{names[0]}/deposit-data"
    credentials = "0x01" + "00" * 11 + "22" * 20
    status, deposit = duty_front.ask(
        "POST", path, {"withdrawal_credentials": credentials}
    )
    assert status == 200
    assert deposit == {
        "pubkey": names[0][2:],
        "withdrawal_credentials": credentials[2:],
        "amount": 32_000_000_000,
        "signature": "00" * 96,
        "deposit_message_root": "01" * 32,
        "deposit_data_root": "02" * 32,
        "fork_version": "00000001",
        "network_name": "devnet",
        "deposit_cli_version": deposit["deposit_cli_version"],
    }
    event = duty_front.services.events[-1]
    assert (event["outcome"], event["digest"]) == ("signed", "01" * 32)
    for bad in (
        {"withdrawal_credentials": credentials[:-2]},
        {"withdrawal_credentials": credentials, "amount": "1"},
        {"withdrawal_credentials": credentials, "amount": 32_000_000_000},
        {"withdrawal_credentials": credentials, "amount": str(1 << 64)},
    ):
        assert duty_front.ask("POST", path, bad)[0] == 400


def test_an_exit_and_a_change_are_what_beacon_nodes_take(
    duty_front: Any, names: Any
) -> None:
    status, answer = duty_front.ask(
        "POST",
        f"{VALIDATORS}/{names[0]}/voluntary-exit",
        {"epoch": "300", "validator_index": "12"},
    )
    assert (status, answer) == (
        200,
        {
            "message": {"epoch": "300", "validator_index": "12"},
            "signature": "0x" + "00" * 96,
        },
    )
    address = "0x" + "Ab" * 20
    status, answer = duty_front.ask(
        "POST",
        f"{VALIDATORS}/{names[0]}/bls-to-execution-change",
        {
            "validator_index": "12",
            "to_execution_address": address,
            "seed": {"form": "seed", "wrapped": "AAAA"},
            "index": 3,
        },
    )
    assert status == 200
    assert answer["message"] == {
        "validator_index": "12",
        "from_bls_pubkey": names[0],
        "to_execution_address": address.lower(),
    }
    assert duty_front.services.events[-1]["to"] == address.lower()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("deposit-data", {"withdrawal_credentials": "0x" + "01" * 32}),
        ("voluntary-exit", {"epoch": "1", "validator_index": "1"}),
        (
            "bls-to-execution-change",
            {"validator_index": "1", "to_execution_address": "0x" + "11" * 20},
        ),
    ],
)
def test_what_ends_or_moves_needs_its_own_permission_and_an_enabled_key(
    duty_front: Any, names: Any, path: Any, body: Any
) -> None:
    token = duty_front.tokens["duties-only"]
    url = f"{VALIDATORS}/{names[0]}/{path}"
    assert duty_front.ask("POST", url, body, token=token)[0] == 403
    duty_front.ask("POST", f"{VALIDATORS}/{names[0]}/disable", {})
    assert duty_front.ask("POST", url, body)[0] == 403
    assert [one[0] for one in duty_front.validators.asked] == ["disable"]


def test_only_who_may_touch_every_validator_makes_new_ones(
    duty_front: Any, names: Any
) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    assert duty_front.ask("POST", VALIDATORS, {}, token=token)[0] == 403
    body = {"seed": {"form": "new"}}
    path = VALIDATORS + "/derive"
    assert duty_front.ask("POST", path, body, token=token)[0] == 403
    body = {"identity": names[4], "wrapped_key": "AAAA"}
    path = VALIDATORS + "/import"
    assert duty_front.ask("POST", path, body, token=token)[0] == 403
    assert not duty_front.validators.asked
    assert duty_front.ask("POST", VALIDATORS)[0] == 201
