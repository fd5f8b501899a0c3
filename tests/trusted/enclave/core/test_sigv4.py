"""Our Signature Version 4 is botocore's, over thousands of generated requests."""

import datetime as dt
import random
import string
from typing import Any

import pytest
from botocore import auth, awsrequest, credentials

from nitrosigner.trusted.enclave.attested.sigv4 import AccessKey, signed_headers

CASES = 3000


def text(generator: random.Random, alphabet: str, longest: int) -> str:
    return "".join(generator.choices(alphabet, k=generator.randint(1, longest)))


def case(generator: random.Random) -> dict[str, Any]:
    visible = string.ascii_letters + string.digits + "/+=-_.~!@#$%^&*(){}[];:'\",<>?"
    names = {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": "TrentService." + text(generator, string.ascii_letters, 20),
    }
    for _ in range(generator.randint(0, 4)):
        name = "x-amz-" + text(generator, string.ascii_lowercase, 12)
        names[name] = text(generator, visible, 40)
    return {
        "host": f"kms.{text(generator, string.ascii_lowercase, 12)}.amazonaws.com",
        "headers": names,
        "body": generator.randbytes(generator.randint(0, 300)),
        "access_key": AccessKey(
            "AKIA" + text(generator, string.ascii_uppercase, 16),
            text(generator, visible, 60),
            generator.choice(["", text(generator, visible, 900)]),
        ),
        "region": text(generator, string.ascii_lowercase + "-", 15).strip("-") or "x",
        "service": generator.choice(["kms", "secretsmanager"]),
        "now": generator.uniform(0, 4e9),
    }


def test_every_generated_request_is_signed_as_botocore_signs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = random.Random(20260413)
    for _ in range(CASES):
        one = case(generator)
        at = dt.datetime.fromtimestamp(one["now"], dt.UTC)
        monkeypatch.setattr(auth, "get_current_datetime", lambda at=at, **_: at)
        request = awsrequest.AWSRequest(
            "POST", f"https://{one['host']}/", headers=one["headers"], data=one["body"]
        )
        key = one["access_key"]
        signer = auth.SigV4Auth(
            credentials.Credentials(
                key.identifier, key.secret, key.session_token or None
            ),
            one["service"],
            one["region"],
        )
        signer.add_auth(request)
        ours = signed_headers(**one)
        assert ours["authorization"] == request.headers["Authorization"]
        assert ours["x-amz-date"] == request.headers["X-Amz-Date"]


def test_the_secret_does_not_print() -> None:
    key = AccessKey("AKIA", "very-secret", "token-secret")
    assert "secret" not in repr(key)
