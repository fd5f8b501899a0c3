"""Duties over real TLS, answered as Web3Signer answers them."""

import json
from typing import Any

import pytest

from nitrosigner.trusted.enclave.answering import Answering
from nitrosigner.trusted.enclave.https.http_messages import Request
from nitrosigner.trusted.enclave.permissions.identity import Caller
from nitrosigner.verdicts import Code, Undecided

SIGN = "/api/v1/eth2/sign/"


def sign(
    front: Any, key: str, body: Any, accept: str | None = "*/*", **more: Any
) -> Any:
    headers = {"Content-Type": "application/json"}
    if accept is not None:
        headers["Accept"] = accept
    return front.ask("POST", SIGN + key, body, headers=headers, **more)


def test_an_attestation_is_signed_and_the_signature_is_good(
    duty_front: Any, names: Any, attestation: Any, verify: Any
) -> None:
    status, answer = sign(duty_front, names[0], attestation())
    assert status == 200
    (permit,) = duty_front.validators.signed
    assert verify(0, permit.message, answer["signature"])


def test_the_audit_log_says_what_was_signed(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    sign(duty_front, names[0], attestation(3, 4))
    (permit,) = duty_front.validators.signed
    event = duty_front.services.events[-1]
    assert event["outcome"] == "signed"
    assert event["client"] == "default"
    assert event["operation"] == "sign_duty"
    assert event["duty"] == "ATTESTATION"
    assert event["key"] == names[0]
    assert (event["source"], event["target"]) == (3, 4)
    assert event["digest"] == permit.message.hex()


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("*/*", True),
        ("application/json", True),
        ("application/json, text/plain;q=0.5", True),
        ("text/plain, application/json", True),
        ("application/*", True),
        (None, False),
        ("text/plain", False),
        ("text/plain, */*;q=0.1", False),
        ("application/json;q=0.1, text/plain", False),
        ("application/json;q=0.9,text/plain", False),
        ("application/json;q=0.9, text/plain;q=0.8", True),
        ("text/html, application/json;q=0.9, */*;q=0.8", True),
        ("*/*;q=0.5", True),
        ("APPLICATION/JSON; charset=utf-8", True),
        ("application/json;q=0", False),
        ("image/png", False),
        (";;;,q=x", False),
    ],
)
def test_json_or_text_is_what_the_client_accepts(
    duty_front: Any, names: Any, attestation: Any, accept: Any, json: Any
) -> None:
    status, answer = sign(duty_front, names[0], attestation(), accept)
    content_type = duty_front.last.headers["Content-Type"]
    assert status == 200
    if json:
        assert content_type == "application/json"
        assert len(answer["signature"]) == 2 + 192
    else:
        assert content_type.startswith("text/plain")
        assert answer.startswith(b"0x")
        assert len(answer) == 2 + 192


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (None, False),
        ("text/plain", False),
        ("application/json;q=0.9,text/plain", False),
        ("*/*", True),
        ("application/json", True),
    ],
)
@pytest.mark.parametrize("said", [200, 400, 404, 412, 500, 503])
def test_every_status_is_said_in_the_words_that_the_client_accepts(  # noqa: PLR0917
    duty_front: Any, names: Any, attestation: Any, said: Any, accept: Any, json: Any
) -> None:
    """The statuses of Web3Signer's contract, and its order: the key before the duty."""
    body, key = attestation(), names[5] if said == 404 else names[0]
    validators = duty_front.validators
    if said == 400:
        del body["attestation"]["source"]
    elif said == 412:
        assert sign(duty_front, key, body)[0] == 200
        body = attestation(block="99")
    elif said == 500:
        validators.signing_failure = RuntimeError("a fault of ours")
    elif said == 503:
        validators.store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    status, answer = sign(duty_front, key, body, accept)
    assert status == said
    content_type = duty_front.last.headers["Content-Type"]
    if json:
        assert content_type == "application/json"
        assert set(answer) == ({"signature"} if said == 200 else {"error"})
    else:
        assert content_type.startswith("text/plain")
        assert answer.startswith(b"0x") == (said == 200)
        assert answer[:1] not in (b"", b"{")
    assert len(validators.signed) == (said in (200, 412))


@pytest.mark.parametrize(
    "accept",
    [
        ["text/plain;q=0.1", "application/json"],
        ["application/json", "text/plain;q=0.1"],
    ],
)
def test_two_accept_headers_count_as_one(
    duty_front: Any, names: Any, attestation: Any, accept: Any
) -> None:
    body = json.dumps(attestation()).encode()
    headers = "".join(f"Accept: {one}\r\n" for one in accept)
    head = (
        f"POST {SIGN}{names[0]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    answer = duty_front.raw(head + body)
    assert b"200 OK" in answer
    assert b'{"signature":"0x' in answer


def test_a_slashable_duty_is_412_with_a_sentence(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    assert sign(duty_front, names[0], attestation())[0] == 200
    status, answer = sign(duty_front, names[0], attestation(block="99"), None)
    assert status == 412
    assert answer == b"another vote for target epoch 2 was signed"
    status, answer = sign(duty_front, names[0], attestation(block="99"))
    assert status == 412
    assert answer["error"]["code"] == "slashable"
    assert len(duty_front.validators.signed) == 1
    event = duty_front.services.events[-1]
    assert (event["outcome"], event["code"]) == ("refused", "slashable")


def test_the_same_message_again_is_signed_again(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    first = sign(duty_front, names[0], attestation())
    assert sign(duty_front, names[0], attestation()) == first


def test_a_store_that_is_down_means_no_signature(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    duty_front.validators.store.failure = Undecided(Code.STORAGE_UNAVAILABLE, "down")
    status, answer = sign(duty_front, names[0], attestation())
    assert status == 503
    assert answer["error"]["code"] == "storage_unavailable"
    assert duty_front.last.headers["Retry-After"] == "1"
    assert not duty_front.validators.signed


def test_public_keys_are_those_that_sign_for_the_client(
    duty_front: Any, names: Any
) -> None:
    path = "/api/v1/eth2/publicKeys"
    assert duty_front.ask("GET", path) == (200, sorted(names[:4]))
    duty_front.ask("POST", f"/api/v1/validators/{names[0]}/disable", {})
    token = duty_front.tokens["other-team-of-validators"]
    assert duty_front.ask("GET", path, token=token) == (200, [names[1]])


def test_without_validators_in_the_manifest_there_are_no_routes(
    front: Any, names: Any, attestation: Any
) -> None:
    status, _ = sign(front, names[0], attestation())
    assert status == 404
    assert front.ask("GET", "/api/v1/eth2/publicKeys")[0] == 404
    assert front.ask("GET", "/reload")[0] == 404


def test_who_shares_a_write_does_not_suffer_from_a_fault_of_ours(
    duty_front: Any, names: Any, attestation: Any
) -> None:
    """All three duties are permitted in one go; recording the first of them fails."""
    front = duty_front.front
    trail, answers = front.around.audit, []
    record = trail.record

    def fails_for_one(request: str, facts: Any, done: Any = None) -> Any:
        if facts.key == names[0]:
            raise RuntimeError
        return record(request, facts, done)

    async def ask_three_at_once() -> None:
        trail.record = fails_for_one
        client = Caller(front._identities, None)
        token = f"Bearer {duty_front.tokens['duties-only']}".encode()
        connection = Answering(front._requests, front.around, client, too_many=False)
        for name in names[:3]:
            request = Request("POST", SIGN + name, authorization=token)
            connection.admit(request)
            request.body = json.dumps(attestation()).encode()
            connection.serve(request, answers.append)

    duty_front.loop.run(ask_three_at_once())
    duty_front.wait(lambda: len(answers) == 2)
    assert [one.status for one in answers] == [200, 200]
    assert len(duty_front.validators.signed) == 3
    about = duty_front.loop.complaints.get(timeout=10)
    assert about["message"] == "answering a request failed"
