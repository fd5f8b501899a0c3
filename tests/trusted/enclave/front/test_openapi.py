"""
docs/openapi.json: valid, complete, and what a running front really answers.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from nitrosigner.trusted.enclave.api.routes import ROUTES
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import api, validator_api

DOCUMENT = json.loads(
    (Path(__file__).parents[4] / "docs/openapi.json").read_text(encoding="utf-8")
)
KEYS = "/api/v1/keys"
SIGN = KEYS + "/{key}/sign/"
TX = {
    "type": "0x2",
    "chainId": "0x7a69",
    "nonce": 0,
    "to": "0x" + "11" * 20,
    "gas": 21000,
    "maxFeePerGas": "1000",
}
TYPED = {
    "types": {"A": [{"name": "a", "type": "string"}]},
    "primaryType": "A",
    "domain": {"name": "x"},
    "message": {"a": "b"},
}


def check(schema: Any, value: Any) -> None:
    # References in it begin at the document's root.
    rooted = schema | {"components": DOCUMENT["components"]}
    OAS31Validator(rooted).validate(value)


def resolved(part: Any) -> Any:
    while "$ref" in part:
        found = DOCUMENT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def operation(method: str, path: str) -> Any:
    return DOCUMENT["paths"][path][method.lower()]


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_names_every_route_and_no_other() -> None:
    named = {
        (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
    }
    assert named == {(route.method, route.path) for route in ROUTES.all}


def test_it_says_of_every_route_whether_it_is_public() -> None:
    for route in ROUTES.all:
        security = operation(route.method, route.path).get("security")
        assert (security == [{}]) == route.public, route.path


def test_it_names_every_code_and_only_codes() -> None:
    detail = DOCUMENT["components"]["schemas"]["ErrorDetail"]
    assert set(detail["properties"]["code"]["enum"]) == {code.value for code in Code}


STRUCTS = [
    each
    for module in (api, validator_api)
    for each in vars(module).values()
    if isinstance(each, type)
    and issubclass(each, msgspec.Struct)
    and each.__module__ == module.__name__
    and not each.__name__.startswith("_")
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda each: each.__name__)
def test_each_body_has_the_fields_that_the_code_has(struct: Any) -> None:
    schema = DOCUMENT["components"]["schemas"][struct.__name__]
    fields = msgspec.structs.fields(struct)
    assert schema["properties"].keys() == {field.encode_name for field in fields}
    assert set(schema.get("required", [])) == {
        field.encode_name for field in fields if field.required
    }
    forbids = struct.__struct_config__.forbid_unknown_fields
    assert (schema.get("additionalProperties") is False) == forbids


def imported(front: Any, pki: Any) -> dict[str, str]:
    company = pki.Company()
    key = front.keys.import_public_key
    made: dict[str, str] = pki.request(company, company.server(), key)
    return made


RPC = {"jsonrpc": "2.0", "id": 1, "method": "eth_accounts", "params": []}
CASES: list[tuple[str, str, Any, int, dict[str, Any]]] = [
    ("GET", KEYS, None, 200, {}),
    ("GET", KEYS, None, 401, {"certificate": None}),
    ("GET", KEYS, None, 403, {"token": "nobody"}),
    ("POST", KEYS, {"name": "new"}, 201, {}),
    ("POST", KEYS, {"name": "hot"}, 412, {}),
    ("POST", KEYS, {"name": "BAD"}, 400, {}),
    (
        "POST",
        KEYS + "/import",
        {"name": "n", "identity": "0x", "wrapped_key": ""},
        201,
        {},
    ),
    (
        "POST",
        KEYS + "/import-kms",
        {"name": "n", "identity": "0x", "ciphertext": ""},
        201,
        {},
    ),
    ("GET", KEYS + "/{key}", None, 200, {}),
    ("GET", KEYS + "/{key}", None, 404, {"key": "nobody"}),
    ("GET", KEYS + "/{key}/ciphertext", None, 200, {}),
    ("POST", KEYS + "/{key}/disable", {}, 200, {}),
    ("POST", KEYS + "/{key}/enable", {"version": 1}, 200, {}),
    ("POST", KEYS + "/{key}/delete", None, 200, {}),
    ("POST", KEYS + "/{key}/restore", {"version": 5}, 412, {}),
    ("POST", KEYS + "/{key}/restore", {}, 200, {}),
    ("POST", "/api/v1/vault/rotate", None, 200, {"token": "digest"}),
    ("POST", "/api/v1/vault/rotate", None, 403, {}),
    ("POST", SIGN + "transaction", {"transaction": TX}, 200, {}),
    ("POST", SIGN + "transaction", {"transaction": TX}, 403, {"key": "off"}),
    ("POST", SIGN + "transaction", {"transaction": TX | {"nonce": -1}}, 400, {}),
    ("POST", SIGN + "transaction", b"x" * 70_000, 413, {}),
    ("POST", SIGN + "message", {"text": "a"}, 200, {}),
    ("POST", SIGN + "message", {"data": "0x00"}, 200, {}),
    ("POST", SIGN + "message", {"text": "a", "data": "0x"}, 400, {}),
    ("POST", SIGN + "typed-data", {"typed_data": TYPED}, 200, {}),
    ("POST", SIGN + "digest", {"digest": "0x" + "00" * 32}, 200, {"token": "digest"}),
    (
        "POST",
        SIGN + "authorization",
        {"chain_id": 1, "address": "0x" + "11" * 20, "nonce": "0x1"},
        200,
        {},
    ),
    ("GET", "/api/v1/attestation?nonce=" + "00" * 8, None, 200, {}),
    ("GET", "/api/v1/attestation?nonce=" + "00" * 8, None, 200, {"certificate": None}),
    ("GET", "/api/v1/attestation?nonce=0", None, 400, {}),
    ("GET", "/api/v1/ca", None, 200, {}),
    ("GET", "/api/v1/manifest", None, 200, {}),
    ("GET", "/api/v1/tls", None, 200, {}),
    ("POST", "/api/v1/tls/import", imported, 200, {}),
    ("POST", "/api/v1/tls/import", {"certificates": "", "wrapped_key": ""}, 400, {}),
    ("POST", "/api/v1/tls/reset", None, 200, {}),
    ("POST", "/api/v1/tls/reset", None, 403, {"certificate": "reader"}),
    ("GET", "/upcheck", None, 200, {}),
    ("GET", "/healthcheck", None, 200, {}),
    ("POST", "/", RPC, 200, {}),
    ("POST", "/", [RPC, RPC | {"method": "nonsense"}], 200, {}),
    ("POST", "/", {k: v for k, v in RPC.items() if k != "id"}, 204, {}),
    ("POST", "/", b"{", 400, {}),
    ("POST", "/", RPC, 401, {"certificate": None}),
    ("POST", "/", RPC, 403, {"token": "nobody"}),
    ("GET", "/api/v1/eth1/publicKeys", None, 200, {}),
    ("POST", "/api/v1/eth1/sign/{key}", {"data": "0x00"}, 200, {"token": "digest"}),
    ("POST", "/api/v1/eth1/sign/{key}", {"data": "0"}, 400, {"token": "digest"}),
]


def ask(front: Any, case: Any) -> None:
    method, path, body, status, options = case
    options = dict(options)
    key = options.pop("key", "hot")
    answered, answer = front.ask(method, path.replace("{key}", key), body, **options)
    assert answered == status, answer
    described = operation(method, path.partition("?")[0])
    response = resolved(described["responses"][str(status)])
    content_type = front.last.headers.get("Content-Type")
    if status == 204:
        assert "content" not in response
        return
    (expected, media), *others = response["content"].items()
    assert not others
    assert content_type == expected
    check(
        media["schema"],
        answer if content_type == "application/json" else answer.decode(),
    )
    well_formed = status not in (400, 413)
    if body is not None and not isinstance(body, bytes) and well_formed:
        request = described["requestBody"]["content"]["application/json"]["schema"]
        check(request, body)


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{each[0]} {each[1]} {each[3]}" for each in CASES]
)
def test_a_running_front_answers_what_it_says(
    front: Any, case: Any, company_pki: Any
) -> None:
    method, path, body, status, options = case
    if callable(body):
        body = body(front, company_pki)
    ask(front, (method, path, body, status, options))


def test_every_route_is_asked_above() -> None:
    asked = {(case[0], case[1].partition("?")[0]) for case in CASES if case[3] < 300}
    # Those of validators are asked in `validators/test_validators_openapi.py`.
    assert asked == {
        (route.method, route.path) for route in ROUTES.all if not route.validators
    }


@pytest.mark.parametrize(
    ("failure", "status"),
    [(Undecided(Code.KMS_UNAVAILABLE, "away"), 503), (RuntimeError(), 500)],
)
def test_failures_look_as_it_says(front: Any, failure: Any, status: Any) -> None:
    front.keys.failure = failure
    for case in CASES:
        method, path, body, expected, options = case
        described = operation(method, path.partition("?")[0])
        if path.startswith(SIGN) and expected == 200:
            assert str(status) in described["responses"]
            ask(front, (method, path, body, status, options))


def test_an_enclave_that_is_not_ready_looks_as_it_says(front: Any) -> None:
    front.health.state = "records"
    ask(front, ("GET", "/healthcheck", None, 503, {}))
