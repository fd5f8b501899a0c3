"""Listing, showing, making, importing and changing keys."""

import base64
from typing import Any

import msgspec
import pytest

from nitrosigner.verdicts import Code, Undecided

KEYS = "/api/v1/keys"
ALL = ["cold", "gone", "hot", "import", "kms", "off", "other-team"]


def names(answer: dict[str, Any]) -> list[str]:
    return [key["name"] for key in answer["keys"]]


def test_keys_are_listed_in_pages_in_the_order_of_their_names(front: Any) -> None:
    status, answer = front.ask("GET", KEYS)
    assert status == 200
    assert (names(answer), answer["more"]) == (ALL, False)
    seen, after = [], ""
    while True:
        _, answer = front.ask("GET", f"{KEYS}?limit=2&after={after}")
        seen += names(answer)
        if not answer["more"]:
            break
        after = seen[-1]
    assert seen == ALL


def test_a_client_sees_the_keys_that_it_may_use(front: Any) -> None:
    _, answer = front.ask("GET", f"{KEYS}?limit=1", token="limited")
    assert (names(answer), answer["more"]) == (["cold"], True)
    _, answer = front.ask("GET", f"{KEYS}?limit=2", token="limited")
    assert (names(answer), answer["more"]) == (["cold", "hot"], False)
    status, answer = front.ask("GET", f"{KEYS}/other-team", token="limited")
    assert (status, answer["error"]["code"]) == (403, "not_allowed")


def test_a_thousand_pages_are_walked_for_the_keys_of_one_client(front: Any) -> None:
    base = front.keys.keys["hot"]
    for number in range(5000):
        name = f"d{number:05}"
        front.keys.keys[name] = msgspec.structs.replace(base, name=name)
    _, answer = front.ask("GET", f"{KEYS}?limit=10", token="limited")
    assert (names(answer), answer["more"]) == (["cold", "hot"], False)


def test_a_key_is_shown_without_its_secret(front: Any, address: Any) -> None:
    status, answer = front.ask("GET", f"{KEYS}/hot")
    assert status == 200
    assert answer["identity"] == address("hot")
    assert answer.keys() <= {
        "name",
        "algorithm",
        "kind",
        "public_key",
        "identity",
        "state",
        "version",
        "created",
        "purge_after",
    }
    status, answer = front.ask("GET", f"{KEYS}/hot/ciphertext")
    assert (status, answer.keys()) == (200, {"name", "kind", "ciphertext"})


def test_a_key_may_be_called_like_a_route(front: Any, address: Any) -> None:
    status, answer = front.ask("GET", f"{KEYS}/import")
    assert (status, answer["name"]) == (200, "import")
    assert front.ask("POST", f"{KEYS}/import/disable")[1]["state"] == "disabled"


def test_a_key_is_made_and_changed(front: Any) -> None:
    status, answer = front.ask("POST", KEYS, {"name": "new", "algorithm": "secp256k1"})
    assert (status, answer["name"], answer["state"]) == (201, "new", "enabled")
    for verb, state in (
        ("disable", "disabled"),
        ("enable", "enabled"),
        ("delete", "deleted"),
        ("restore", "disabled"),
    ):
        version = answer["version"]
        status, answer = front.ask("POST", f"{KEYS}/new/{verb}", {"version": version})
        assert (status, answer["state"]) == (200, state)
        assert answer["version"] == version + 1
    status, answer = front.ask("POST", f"{KEYS}/new/enable")
    assert (status, answer["state"]) == (200, "enabled")


def test_the_imports_reach_the_keyring_as_they_were_sent(front: Any) -> None:
    wrapped = {
        "name": "a",
        "identity": "0x" + "11" * 20,
        "wrapped_key": base64.b64encode(b"x" * 80).decode(),
    }
    assert front.ask("POST", f"{KEYS}/import", wrapped)[0] == 201
    kms = {
        "name": "b",
        "identity": "0x" + "11" * 20,
        "ciphertext": base64.b64encode(b"x" * 80).decode(),
        "reseal": True,
    }
    status, answer = front.ask("POST", f"{KEYS}/import-kms", kms)
    assert (status, answer["kind"]) == (201, "kms")
    assert [each[1] for each in front.keys.changed] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("", {}, 400, "malformed_request"),
        ("", {"name": "Bad Name"}, 400, "malformed_request"),
        ("", {"name": "x" * 65}, 400, "malformed_request"),
        ("", {"name": "../x"}, 400, "malformed_request"),
        ("", {"name": "new\n"}, 400, "malformed_request"),
        ("", {"name": "new", "algorithm": "rot13"}, 400, "malformed_request"),
        ("", {"name": "new", "secret": "x"}, 400, "malformed_request"),
        ("", {"name": "hot"}, 412, "version_conflict"),
        ("/import", {"name": "new"}, 400, "malformed_request"),
        ("/import-kms", {"name": "new"}, 400, "malformed_request"),
        ("/hot/disable", {"version": "1"}, 400, "malformed_request"),
        ("/hot/disable", {"version": 9}, 412, "version_conflict"),
        ("/hot/disable", {"x": 9}, 400, "malformed_request"),
        ("/nobody/disable", {}, 404, "unknown_key"),
    ],
)
def test_a_bad_change_changes_nothing(
    front: Any, path: Any, body: Any, status: Any, code: Any
) -> None:
    answered, answer = front.ask("POST", KEYS + path, body)
    assert (answered, answer["error"]["code"]) == (status, code)
    assert front.keys.changed == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"name": "new"}),
        ("/import", {"name": "new", "identity": "0x", "wrapped_key": ""}),
        ("/import-kms", {"name": "new", "identity": "0x", "ciphertext": ""}),
        ("/hot/disable", {}),
        ("/hot/enable", {}),
        ("/hot/delete", {}),
        ("/hot/restore", {}),
    ],
)
def test_a_reader_changes_nothing(front: Any, path: Any, body: Any) -> None:
    status, answer = front.ask("POST", KEYS + path, body, token="reader")
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert front.keys.changed == []


@pytest.mark.parametrize("path", ["", "/import", "/import-kms"])
def test_a_client_makes_keys_only_under_its_own_names(front: Any, path: Any) -> None:
    body = {"name": "mine", "identity": "0x", "wrapped_key": "", "ciphertext": ""}
    wanted = {
        "": ["name"],
        "/import": ["name", "identity", "wrapped_key"],
        "/import-kms": ["name", "identity", "ciphertext"],
    }[path]
    status, answer = front.ask(
        "POST", KEYS + path, {name: body[name] for name in wanted}, token="limited"
    )
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    assert front.keys.changed == []


def test_the_vault_is_rotated_only_by_whom_may(front: Any) -> None:
    assert front.ask("POST", "/api/v1/vault/rotate")[0] == 403
    status, answer = front.ask("POST", "/api/v1/vault/rotate", token="digest")
    assert (status, answer) == (200, {"keys": 7})


def test_a_store_that_is_away_is_said(front: Any) -> None:
    front.keys.failure = Undecided(Code.STORAGE_UNAVAILABLE, "away", "ask again")
    status, answer = front.ask("POST", KEYS, {"name": "new"})
    assert (status, answer["error"]["code"]) == (503, "storage_unavailable")
    status, answer = front.ask("POST", "/api/v1/vault/rotate", token="digest")
    assert (status, answer["error"]["code"]) == (503, "storage_unavailable")
