"""docs/openapi.json says what a front with validators answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from nitrosigner.trusted.enclave.api.routes import ROUTES
from nitrosigner.trusted.signing.beacon_duties import DutyKind

DOCUMENT = json.loads(
    (Path(__file__).parents[5] / "docs/openapi.json").read_text(encoding="utf-8")
)
OURS = [route for route in ROUTES.all if route.validators]
SIGN = "/api/v1/eth2/sign/{key}"
BATCH = "/api/v1/eth2/sign"
V = "/api/v1/validators"
KEY = V + "/{key}"
KEYSTORES = "/eth/v1/keystores"
REMOTE = "/eth/v1/remotekeys"
CHAIN = "0x" + "2a" * 32
HISTORY = {
    "metadata": {
        "interchange_format_version": "5",
        "genesis_validators_root": CHAIN,
    },
    "data": [],
}
CHANGE = {"validator_index": "1", "to_execution_address": "0x" + "11" * 20}
EXIT = {"epoch": "1", "validator_index": "1"}
DEPOSIT = {"withdrawal_credentials": "0x" + "01" * 32}
REMOTE_KEY = {"remote_keys": [{"pubkey": "0x", "url": "x"}]}
JSON = {"Accept": "*/*"}


def resolved(part: Any) -> Any:
    while "$ref" in part:
        found = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def operation(method: str, path: str) -> Any:
    return DOCUMENT["paths"][path.partition("?")[0]][method.lower()]


def check(schema: Any, value: Any) -> None:
    rooted = schema | {"components": DOCUMENT["components"]}
    OAS31Validator(rooted).validate(value)


@pytest.fixture
def cases(names: Any, attestation: Any) -> list[tuple[str, str, Any, int, Any]]:
    good, slashable = attestation(), attestation(block="99")
    batch = {"identifiers": names[:2], "signing_request": good}
    imported = {"identity": names[4], "wrapped_key": "AAAA"}
    reference = {"public_key": names[5], "ciphertext": "AAAA", "history": HISTORY}
    vote = {"source_epoch": "8", "target_epoch": "9"}
    one = {"pubkey": names[1], "signed_blocks": [], "signed_attestations": [vote]}
    repair = {"pubkey": names[1], "history": HISTORY | {"data": [one]}}
    stores = {
        "keystores": [json.dumps({"number": 0, "pubkey": names[0]})],
        "passwords": ["right"],
    }
    derive = {
        "seed": {"form": "new"},
        "start": 4,
        "count": 6,
        "backup_recipient": "AAAA",
    }
    exits = f"/eth/v1/validator/{{key}}/voluntary_exit?epoch=1&validator_index={2**64}"
    return [
        ("POST", SIGN, good, 200, {"headers": JSON}),
        ("POST", SIGN, good, 200, {}),
        ("POST", SIGN, slashable, 412, {"headers": JSON}),
        ("POST", SIGN, slashable, 412, {}),
        ("POST", SIGN, good, 404, {"key": "nobody", "headers": JSON}),
        ("POST", SIGN, good, 403, {"certificate": "reader"}),
        ("POST", SIGN, good, 401, {"certificate": None}),
        ("POST", SIGN, good, 401, {"certificate": None, "headers": JSON}),
        ("POST", SIGN, b"{", 400, {}),
        ("POST", SIGN, b" " * 70_000, 413, {}),
        ("POST", BATCH, batch, 200, {}),
        ("POST", BATCH, [batch, batch], 200, {}),
        ("POST", BATCH, [], 400, {}),
        ("GET", "/api/v1/eth2/publicKeys", None, 200, {}),
        ("GET", "/api/v1/eth2/highWatermark", None, 200, {}),
        ("GET", "/reload", None, 200, {}),
        ("POST", "/reload", None, 202, {}),
        ("POST", "/reload", None, 403, {"certificate": "reader"}),
        ("GET", "/api/v1/metrics", None, 200, {}),
        ("GET", V, None, 200, {}),
        ("GET", V + "?limit=0", None, 400, {}),
        ("GET", KEY, None, 200, {}),
        ("GET", KEY, None, 404, {"key": "nobody"}),
        ("POST", KEY + "/disable", {"version": 7}, 412, {}),
        ("POST", KEY + "/disable", None, 200, {}),
        ("POST", KEY + "/voluntary-exit", EXIT, 403, {}),
        ("POST", KEY + "/enable", {}, 200, {}),
        ("POST", KEY + "/deposit-data", DEPOSIT, 200, {}),
        ("POST", KEY + "/deposit-data", {}, 400, {}),
        ("POST", KEY + "/voluntary-exit", EXIT, 200, {}),
        ("POST", KEY + "/bls-to-execution-change", CHANGE, 200, {}),
        ("POST", V, {}, 201, {}),
        ("POST", V + "/import", imported, 200, {}),
        ("POST", V + "/import", imported, 403, {"certificate": "reader"}),
        ("POST", V + "/import-reference", reference, 201, {}),
        ("POST", V + "/derive", derive, 201, {}),
        ("GET", "/api/v1/slashing-history", None, 200, {}),
        ("POST", "/api/v1/slashing-history", HISTORY, 200, {}),
        ("POST", "/api/v1/slashing-history", {}, 400, {}),
        ("GET", "/api/v1/slashing-history/records", None, 200, {}),
        ("POST", "/api/v1/slashing-history/repair", repair, 412, {}),
        ("POST", "/api/v1/slashing-history/repair", {}, 400, {}),
        ("POST", "/api/v1/slashing-history/repair", repair, 200, {"spoil": True}),
        ("GET", "/api/v1/slashing-history/records", None, 200, {"spoil": True}),
        ("GET", KEYSTORES, None, 200, {}),
        ("GET", KEYSTORES, None, 401, {"certificate": None}),
        ("GET", KEYSTORES, None, 403, {"token": "nobody"}),
        ("POST", KEYSTORES, stores, 200, {}),
        ("POST", KEYSTORES, stores | {"passwords": []}, 400, {}),
        ("GET", REMOTE, None, 200, {}),
        ("POST", REMOTE, REMOTE_KEY, 200, {}),
        ("DELETE", REMOTE, {"pubkeys": ["0x"]}, 200, {}),
        ("POST", exits, None, 400, {}),
        ("POST", exits.replace(str(2**64), "1"), None, 200, {}),
        ("POST", exits, None, 404, {"key": "nobody"}),
        ("POST", KEY + "/delete", {}, 200, {}),
        ("DELETE", KEYSTORES, {"pubkeys": [names[0], names[1]]}, 200, {}),
    ]


def test_a_running_front_answers_what_it_says(
    duty_front: Any, names: Any, cases: Any
) -> None:
    for method, path, body, status, given in cases:
        options = dict(given)
        key = options.pop("key", names[0])
        if options.pop("spoil", False):
            duty_front.validators.store.rows[bytes.fromhex(names[1][2:])].data = b"x"
        where = f"{method} {path}"
        answered, answer = duty_front.ask(
            method, path.replace("{key}", key), body, **options
        )
        assert answered == status, (where, answer)
        described = operation(method, path)
        response = resolved(described["responses"][str(status)])
        content_type = duty_front.last.headers["Content-Type"]
        media = response["content"][content_type]
        check(
            media["schema"],
            answer if content_type == "application/json" else answer.decode(),
        )
        if body is not None and status < 300:
            request = described["requestBody"]["content"]["application/json"]
            check(request["schema"], body)


def test_every_route_is_asked_above(cases: Any) -> None:
    asked = {(one[0], one[1].partition("?")[0]) for one in cases if one[3] < 300}
    assert asked == {(route.method, route.path) for route in OURS}


@pytest.mark.parametrize("route", OURS, ids=lambda one: f"{one.method} {one.path}")
def test_strangers_are_turned_away_everywhere(
    duty_front: Any, names: Any, route: Any
) -> None:
    path = route.path.replace("{key}", names[0])
    described = operation(route.method, route.path)["responses"]
    assert duty_front.ask(route.method, path, certificate=None)[0] == 401
    assert "WWW-Authenticate" in resolved(described["401"])["headers"]
    assert duty_front.ask(route.method, path, token="nobody")[0] == 403
    assert "403" in described
    assert not duty_front.validators.asked
    assert not duty_front.validators.signed


@pytest.mark.parametrize("route", OURS, ids=lambda one: f"{one.method} {one.path}")
def test_without_validators_in_the_manifest_a_route_does_not_exist(
    front: Any, names: Any, route: Any
) -> None:
    path = route.path.replace("{key}", names[0])
    assert front.ask(route.method, path)[0] == 404


def test_it_names_every_kind_of_duty() -> None:
    schema = DOCUMENT["components"]["schemas"]["DutyRequest"]
    assert set(schema["properties"]["type"]["enum"]) == {
        kind.value for kind in DutyKind
    }
