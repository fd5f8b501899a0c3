"""Who am I talking to, and can it sign: asked without a credential."""

import base64
import hashlib
import json
import ssl
from typing import Any

import pytest

from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire import statement

ATTEST = "/api/v1/attestation?nonce="


def test_the_document_binds_nonce_certificate_manifest_and_import_key(
    front: Any,
) -> None:
    nonce = bytes(range(32))
    status, answer = front.ask("GET", ATTEST + nonce.hex(), certificate=None)
    assert status == 200
    public_key, user_data, seen = json.loads(base64.b64decode(answer["document"]))
    assert bytes.fromhex(public_key) == front.keys.import_public_key
    assert seen == nonce.hex()
    said = statement.decode(user_data.encode())
    with front.connect(None) as connection:
        presented = connection.getpeercert(binary_form=True)
    assert said.tls == hashlib.sha256(presented).hexdigest()
    assert said.manifest == hashlib.sha256(front.payload).hexdigest()
    assert (said.deployment, said.manifest_version) == ("test", 3)
    assert said.administrator == "ab" * 32


def test_the_manifest_is_shown_to_clients_only(front: Any) -> None:
    nonce = "00" * 8
    assert front.ask("GET", ATTEST + nonce, certificate=None)[1]["manifest"] == ""
    for who in ({"certificate": "reader"}, {"token": "limited"}):
        _, answer = front.ask("GET", ATTEST + "0x" + nonce, **who)
        assert base64.b64decode(answer["manifest"]) == front.payload
    status, answer = front.ask("GET", "/api/v1/manifest")
    assert (status, answer) == (200, json.loads(front.payload))
    assert front.ask("GET", "/api/v1/manifest", certificate=None)[0] == 401


def test_strangers_share_a_rate_that_leaves_clients_theirs(front: Any) -> None:
    statuses = [
        front.ask("GET", ATTEST + "00" * 8, certificate=None)[0] for _ in range(24)
    ]
    assert statuses[:20] == [200] * 20
    assert 503 in statuses
    status, answer = front.ask("GET", ATTEST + "00" * 8, certificate=None)
    if status == 503:
        assert answer["error"]["code"] == "overloaded"
    assert front.ask("GET", ATTEST + "00" * 8)[0] == 200
    front.clock.offset += 10
    assert front.ask("GET", ATTEST + "00" * 8, certificate=None)[0] == 200


def test_an_nsm_that_fails_is_said(front: Any) -> None:
    front.nsm.failure = Undecided(Code.NSM_UNAVAILABLE, "the NSM is away")
    status, answer = front.ask("GET", ATTEST + "00" * 8)
    assert (status, answer["error"]["code"]) == (503, "nsm_unavailable")
    front.nsm.failure = RuntimeError("SECRET")
    status, answer = front.ask("GET", ATTEST + "00" * 8)
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert front.alive


def test_the_authority_is_given_to_everybody(front: Any) -> None:
    status, body = front.ask("GET", "/api/v1/ca", certificate=None)
    assert status == 200
    assert ssl.PEM_cert_to_DER_cert(body.decode()) == front.authority


def test_a_wrong_clock_takes_it_out_of_service_and_says_what_to_do(
    front: Any,
) -> None:
    front.health.checks["clock"] = False
    front.health.clock_objection = Undecided(
        Code.CLOCK_UNSOUND, "the clock is +3600 s off", "start it again"
    )
    status, answer = front.ask("GET", "/healthcheck", certificate=None)
    assert (status, answer["status"], answer["outcome"]) == (503, "DOWN", "DOWN")
    assert answer["state"] == "clock_unsound"
    assert answer["message"] == "the clock is +3600 s off"
    assert answer["hint"] == "start it again"
    # No duty and no transaction is dated: whoever asks all the same is answered.
    assert front.ask("GET", "/api/v1/keys")[0] == 200


def test_whatever_is_needed_and_fails_is_said_with_what_to_do(front: Any) -> None:
    for name in ("keys", "expected_keys", "watermarks", "signing"):
        front.health.checks[name] = False
        status, answer = front.ask("GET", "/healthcheck", certificate=None)
        assert (status, answer["state"]) == (503, f"{name}_unavailable")
        assert answer["message"]
        assert answer["hint"]
        front.health.checks[name] = True


def test_a_ready_enclave_is_up(front: Any) -> None:
    status, answer = front.ask("GET", "/healthcheck", certificate=None)
    assert status == 200
    assert answer["status"] == "UP"
    assert answer["state"] == "ready"
    assert answer["checks"] == {
        "storage": True,
        "kms": True,
        "keys": True,
        "audit": True,
        "certificate": True,
    }
    assert answer["keys_loaded"] == 7
    assert answer["steps"] == [{"name": "nsm", "ok": True, "milliseconds": 3}]


@pytest.mark.parametrize(
    ("change", "status", "state", "failed"),
    [
        (lambda f: setattr(f.health, "state", "records"), 503, "records", set()),
        (
            lambda f: f.health.checks.update(keys=False),
            503,
            "keys_unavailable",
            {"keys"},
        ),
        # These do not stop an enclave that holds its keys from signing.
        (lambda f: f.health.checks.update(kms=False), 200, "ready", {"kms"}),
        (lambda f: f.health.checks.update(storage=False), 200, "ready", {"storage"}),
        (
            lambda f: setattr(f.clock, "offset", 360 * 86400),
            200,
            "ready",
            {"certificate"},
        ),
        (
            lambda f: setattr(f.clock, "offset", 366 * 86400),
            503,
            "certificate_unavailable",
            {"certificate"},
        ),
    ],
    ids=["booting", "keys", "kms", "storage", "ends soon", "ended"],
)
def test_health_does_not_lie(
    front: Any, change: Any, status: Any, state: Any, failed: Any
) -> None:
    change(front)
    answered, answer = front.ask("GET", "/healthcheck", certificate=None)
    assert answered == status
    assert answer["status"] == ("UP" if status == 200 else "DOWN")
    assert answer["outcome"] == answer["status"]  # where Web3Signer's clients look
    assert answer["state"] == state
    assert {name for name, ok in answer["checks"].items() if not ok} == failed
