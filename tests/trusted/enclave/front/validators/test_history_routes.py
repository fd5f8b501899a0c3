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


# --- records, and what is wrong with them ---


def spoil(duty_front: Any, name: str, data: bytes = b"garbage") -> None:
    duty_front.validators.store.rows[bytes.fromhex(name[2:])].data = data


def test_records_are_listed_also_without_a_key(duty_front: Any, names: Any) -> None:
    duty_front.ask("POST", PATH, document(entry(names[4], 7)))
    spoil(duty_front, names[1])
    told: dict[str, Any] = {}
    untrusted: list[Any] = []
    following = ""
    for _ in range(9):
        status, part = duty_front.ask(
            "GET", f"{PATH}/records?limit=2&after={following}"
        )
        assert status == 200
        assert part["metadata"]["genesis_validators_root"] == CHAIN
        told |= {one["pubkey"]: one for one in part["data"]}
        untrusted += part["untrusted"]
        if part["next"] is None:
            break
        following = part["next"]
    assert set(told) == {names[0], names[2], names[3], names[4]}
    assert told[names[4]] == entry(names[4], 7)
    (bad,) = untrusted
    assert bad["pubkey"] == names[1]
    assert bad["claims"] is None
    assert "slashing-history repair" in bad["hint"]


def test_records_of_another_team_are_not_told(duty_front: Any, names: Any) -> None:
    token = duty_front.tokens["other-team-of-validators"]
    spoil(duty_front, names[0])
    _, part = duty_front.ask("GET", f"{PATH}/records", token=token)
    assert [one["pubkey"] for one in part["data"]] == [names[1]]
    assert part["untrusted"] == []


def test_a_spoiled_record_is_replaced_and_shown(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.ask("POST", SIGN + names[0], attestation(6, 7))
    row = duty_front.validators.store.rows[bytes.fromhex(names[0][2:])]
    # Its MAC is not ours; it claims that nothing was signed after epoch 7.
    spoil(duty_front, names[0], bytes(32) + row.data[32:])
    duty_front.validators.guard._book.floor.clear()  # as after a restart
    told = {"pubkey": names[0], "history": document(entry(names[0], 9))}
    status, answer = duty_front.ask("POST", f"{PATH}/repair", told)
    assert status == 200
    assert answer["now"] == entry(names[0], 9)
    claims = answer["replaced"]["claims"]["signed_attestations"]
    assert claims[0]["target_epoch"] == "7"
    assert answer["replaced"]["version"] == 2
    assert duty_front.ask("POST", SIGN + names[0], attestation(8, 9))[0] == 412
    assert duty_front.ask("POST", SIGN + names[0], attestation(9, 10))[0] == 200
    assert duty_front.ask("POST", f"{PATH}/repair", told)[0] == 412  # it is in order
    events = [
        one
        for one in duty_front.services.events
        if one["operation"] == "repair_history"
    ]
    assert [one["outcome"] for one in events] == ["begun", "done", "begun", "refused"]
    assert {one["key"] for one in events} == {names[0]}


@pytest.mark.parametrize("token", ["duties-only", "importer"])
def test_a_repair_needs_a_permission_of_its_own(
    duty_front: Any, names: Any, token: str
) -> None:
    spoil(duty_front, names[0])
    told = {"pubkey": names[0], "history": document(entry(names[0], 9))}
    given = duty_front.tokens[token]
    status, _ = duty_front.ask("POST", f"{PATH}/repair", told, token=given)
    assert status == 403
    assert not duty_front.validators.asked


def test_a_repair_is_of_one_validator_that_is_the_clients(
    duty_front: Any, names: Any
) -> None:
    spoil(duty_front, names[0])
    other = {"pubkey": names[0], "history": document(entry(names[1], 9))}
    assert duty_front.ask("POST", f"{PATH}/repair", other)[0] == 400
    wrong = {
        "pubkey": names[0],
        "history": document(entry(names[0], 9), chain="0x" + "00" * 32),
    }
    assert duty_front.ask("POST", f"{PATH}/repair", wrong)[0] == 403
    told = {"pubkey": names[0], "history": document(entry(names[0], 9))}
    token = duty_front.tokens["other-team-of-validators"]
    assert duty_front.ask("POST", f"{PATH}/repair", told, token=token)[0] == 403
    assert not duty_front.validators.asked


def test_a_validator_is_known_in_capitals_and_without_0x(
    duty_front: Any, names: Any
) -> None:
    digits = names[0][2:]
    for spelling in (digits, digits.upper(), f"0x{digits.upper()}", names[0].upper()):
        status, document = duty_front.ask("GET", f"{PATH}?keys={spelling}")
        assert status == 200
        assert [one["pubkey"] for one in document["data"]] == [names[0]]
