"""Slashing histories: whole or not at all, and only forward."""

from typing import Any

import pytest

from nitrosigner.verdicts import Code, Undecided

PATH = "/api/v1/slashing-history"
SIGN = "/api/v1/eth2/sign/"
CHAIN = "0x" + "2a" * 32


def entry(name: str, target: int) -> dict[str, Any]:
    return {
        "pubkey": name,
        "signed_blocks": [{"slot": str(8 * target)}],
        "signed_attestations": [
            {"source_epoch": str(target - 1), "target_epoch": str(target)}
        ],
    }


def document(*entries: Any, chain: str = CHAIN, version: str = "5") -> dict[str, Any]:
    return {
        "metadata": {
            "interchange_format_version": version,
            "genesis_validators_root": chain,
        },
        "data": list(entries),
    }


def test_what_is_imported_is_exported_and_binds(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    told = document(entry(names[0], 7), entry(names[1], 9))
    assert duty_front.ask("POST", PATH, told) == (200, {"validators": 2})
    status, found = duty_front.ask("GET", f"{PATH}?keys={names[0]},{names[1][2:]}")
    assert status == 200
    expected = sorted(told["data"], key=lambda one: one["pubkey"])
    assert found == told | {"data": expected}
    assert duty_front.ask("POST", SIGN + names[0], attestation(6, 7))[0] == 412
    assert duty_front.ask("POST", SIGN + names[0], attestation(6, 8))[0] == 200


def test_a_history_may_come_before_its_key(duty_front: Any, names: Any) -> None:
    told = document(entry(names[4], 7))
    assert duty_front.ask("POST", PATH, told)[0] == 200
    _, found = duty_front.ask("GET", f"{PATH}?keys={names[4]}")
    assert found["data"] == told["data"]


def test_nothing_moves_back(duty_front: Any, names: Any) -> None:
    duty_front.ask("POST", PATH, document(entry(names[0], 7)))
    duty_front.ask("POST", PATH, document(entry(names[0], 3)))
    _, found = duty_front.ask("GET", f"{PATH}?keys={names[0]}")
    assert found["data"] == [entry(names[0], 7)]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (document(chain="0x" + "00" * 32), 403),
        (document(version="4"), 400),
        (document(chain="0x00"), 400),
        ({}, 400),
        ([], 400),
        (b"", 400),
        (b"{", 400),
    ],
)
def test_what_is_no_history_of_this_chain_is_refused(
    duty_front: Any, told: Any, status: Any
) -> None:
    assert duty_front.ask("POST", PATH, told)[0] == status
    assert not duty_front.validators.asked


def test_one_bad_entry_refuses_all(duty_front: Any, names: Any) -> None:
    bad = entry(names[1], 3)
    bad["signed_attestations"][0]["target_epoch"] = "-1"
    told = document(entry(names[0], 7), bad)
    assert duty_front.ask("POST", PATH, told)[0] == 400
    assert not duty_front.validators.asked


def test_another_teams_validator_refuses_all(duty_front: Any, names: Any) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    told = document(entry(names[1], 7), entry(names[0], 7))
    assert duty_front.ask("POST", PATH, told, token=token)[0] == 403
    assert duty_front.ask("GET", f"{PATH}?keys={names[0]}", token=token)[0] == 403
    assert not duty_front.validators.asked
    _, own = duty_front.ask("GET", PATH, token=token)
    assert [one["pubkey"] for one in own["data"]] == [names[1]]


def test_it_needs_a_permission_of_its_own(duty_front: Any, names: Any) -> None:
    token = duty_front.tokens["duties-only"]
    assert duty_front.ask("GET", PATH, token=token)[0] == 403
    assert duty_front.ask("POST", PATH, document(), token=token)[0] == 403


def test_an_export_comes_in_pages(duty_front: Any, names: Any) -> None:
    keys: list[str] = []
    after = ""
    for _ in range(9):
        _, page = duty_front.ask("GET", f"{PATH}?limit=3&after={after}")
        keys += [one["pubkey"] for one in page["data"]]
        if len(page["data"]) < 3:
            break
        after = keys[-1]
    assert keys == sorted(names[:4])


@pytest.mark.parametrize(
    "query",
    [
        "keys=0x12",
        "keys=",
        "keys=" + ",".join(["00" * 48] * 17),
        "limit=0",
        "limit=1001",
        "limit=x",
        "other=1",
    ],
)
def test_bad_queries_are_400(duty_front: Any, query: Any) -> None:
    assert duty_front.ask("GET", f"{PATH}?{query}")[0] == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_store_that_is_down_is_503(duty_front: Any, names: Any, method: Any) -> None:
    duty_front.validators.store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    body = document(entry(names[0], 7)) if method == "POST" else None
    assert duty_front.ask(method, PATH, body)[0] == 503


def test_an_import_that_cannot_be_recorded_does_not_happen(
    duty_front: Any, names: Any
) -> None:
    duty_front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "full")
    assert duty_front.ask("POST", PATH, document(entry(names[0], 7)))[0] == 503
    assert not duty_front.validators.asked
