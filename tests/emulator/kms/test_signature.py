"""SigV4 from the checking side. The signer is botocore; what it sends is then changed."""

import datetime as dt
import http.client
import json
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from nitrosigner.emulator.kms import RunningKms
from nitrosigner.emulator.kms.errors import KmsError
from nitrosigner.emulator.kms.signature import Claim, Received, read_claim

Make = Callable[..., Any]
BODY = b'{"NumberOfBytes":8}'
Headers = dict[str, str]


class Wire:
    """Signs as botocore does, then sends whatever the test made of it."""

    def __init__(self, kms: RunningKms) -> None:
        self.kms = kms
        parent = kms.principal("parent")
        self.credentials = Credentials(
            parent.access_key_id, parent.secret_access_key, parent.session_token
        )

    def signed(
        self,
        *,
        body: bytes = BODY,
        region: str = "us-east-1",
        service: str = "kms",
        **more: str,
    ) -> Headers:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "TrentService.GenerateRandom",
            **more,
        }
        request = AWSRequest("POST", f"{self.kms.url}/", headers=headers, data=body)
        SigV4Auth(self.credentials, service, region).add_auth(request)
        return {
            **dict(request.headers.items()),
            "Host": f"127.0.0.1:{self.kms.port}",
        }

    def send(
        self, headers: Headers, body: bytes = BODY, path: str = "/"
    ) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.kms.ca))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.kms.port, context=context, timeout=30
        )
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def code(self, headers: Headers, body: bytes = BODY, path: str = "/") -> str:
        status, answer = self.send(headers, body, path)
        assert status == 400, answer
        return str(json.loads(answer)["__type"]).rpartition("#")[2]


@pytest.fixture
def wire(kms: RunningKms) -> Wire:
    return Wire(kms)


def test_what_botocore_signs_is_accepted(wire: Wire) -> None:
    status, answer = wire.send(wire.signed())
    assert status == 200, answer


def test_a_changed_body_is_refused(wire: Wire) -> None:
    code = wire.code(wire.signed(), b'{"NumberOfBytes":9}')
    assert code == "InvalidSignatureException"


def test_an_announced_body_hash_must_be_the_bodys(wire: Wire) -> None:
    headers = wire.signed(**{"X-Amz-Content-SHA256": "0" * 64})
    assert wire.code(headers) == "InvalidSignatureException"


@pytest.mark.parametrize("name", ["X-Amz-Target", "Host", "X-Amz-Date", "Content-Type"])
def test_a_changed_signed_header_is_refused(wire: Wire, name: str) -> None:
    signed = wire.signed()
    date = signed["X-Amz-Date"]
    changed = {
        "X-Amz-Target": "TrentService.ListKeys",
        "Host": "kms.us-east-1.amazonaws.com",
        "Content-Type": "text/plain",
        "X-Amz-Date": f"{date[:-2]}{(int(date[-2]) + 1) % 10}Z",
    }
    headers = {**signed, name: changed[name]}
    assert headers != signed
    assert wire.code(headers) == "InvalidSignatureException"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("SignedHeaders=content-type;host;", "SignedHeaders=content-type;", "Invalid"),
        (";x-amz-target", "", "Invalid"),
        ("content-type;host", "host;content-type", "Invalid"),
        ("/us-east-1/", "/eu-west-1/", "Invalid"),
        ("/kms/", "/s3/", "Invalid"),
        ("aws4_request", "aws5_request", "Invalid"),
        ("Signature=", "Signature=0", "Incomplete"),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "Incomplete"),
        ("Credential=", "Credentials=", "Incomplete"),
    ],
)
def test_a_changed_authorization_is_refused(
    wire: Wire, old: str, new: str, expected: str
) -> None:
    headers = wire.signed()
    assert old in headers["Authorization"]
    headers["Authorization"] = headers["Authorization"].replace(old, new)
    assert wire.code(headers) == f"{expected}SignatureException"


def test_signed_headers_that_are_not_in_order_are_refused() -> None:
    now = dt.datetime.now(dt.UTC)
    day = f"{now:%Y%m%d}"

    def claim(names: str) -> Claim:
        authorization = (
            f"AWS4-HMAC-SHA256 Credential=A/{day}/us-east-1/kms/aws4_request, "
            f"SignedHeaders={names}, Signature={'0' * 64}"
        )
        headers = (
            ("Host", "localhost"),
            ("X-Amz-Date", f"{now:%Y%m%dT%H%M%SZ}"),
            ("X-Amz-Target", "TrentService.Decrypt"),
            ("Authorization", authorization),
        )
        received = Received("POST", "/", headers, b"")
        return read_claim(received, region="us-east-1", service="kms", now=now)

    assert claim("host;x-amz-date;x-amz-target").access_key_id == "A"
    for names in (
        "x-amz-date;host;x-amz-target",
        "host;host;x-amz-date;x-amz-target",
        "host;x-amz-date",
    ):
        with pytest.raises(KmsError) as caught:
            claim(names)
        assert caught.value.code == "InvalidSignatureException"


def test_headers_of_amazon_that_are_not_signed_are_refused(wire: Wire) -> None:
    headers = {**wire.signed(), "X-Amz-Other": "1"}
    assert wire.code(headers) == "InvalidSignatureException"


def test_another_region_or_service_is_refused(wire: Wire) -> None:
    for scope in ({"region": "eu-west-1"}, {"service": "s3"}):
        assert wire.code(wire.signed(**scope)) == "InvalidSignatureException"


def test_no_signature_is_told_apart_from_a_wrong_one(wire: Wire) -> None:
    headers = wire.signed()
    del headers["Authorization"]
    assert wire.code(headers) == "MissingAuthenticationTokenException"
    headers = wire.signed()
    del headers["X-Amz-Date"]
    assert wire.code(headers) == "IncompleteSignatureException"


@pytest.mark.parametrize(("minutes", "accepted"), [(4, True), (6, False), (-6, False)])
def test_five_minutes_of_skew_are_accepted(
    wire: Wire, clock: Any, minutes: int, accepted: bool
) -> None:
    clock.ahead = dt.timedelta(minutes=minutes)
    if accepted:
        assert wire.send(wire.signed())[0] == 200
    else:
        assert wire.code(wire.signed()) == "InvalidSignatureException"


def test_another_path_or_operation_is_unknown(wire: Wire) -> None:
    headers = wire.signed(**{"X-Amz-Target": "TrentService.Nothing"})
    assert wire.code(headers) == "UnknownOperationException"
    assert wire.code(wire.signed(), path="/other") == "UnknownOperationException"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", "SerializationException"),
        (b"[]", "SerializationException"),
        (b"\xff", "SerializationException"),
        (b"[" * 100_000, "SerializationException"),
        (b'{"NumberOfBytes":"8"}', "SerializationException"),
        (b'{"NumberOfBytes":0}', "ValidationException"),
        (b'{"NumberOfBytes":1025}', "ValidationException"),
        (b"{}", "ValidationException"),
        (b'{"NumberOfBytes":8,"Recipients":{}}', "ValidationException"),
    ],
)
def test_a_signed_body_that_is_no_request_is_refused(
    wire: Wire, body: bytes, expected: str
) -> None:
    assert wire.code(wire.signed(body=body), body) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"aws_access_key_id": "ASIANOBODY"},
        {"aws_session_token": None},
        {"aws_session_token": "another"},
        {"aws_session_token": "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo="},
    ],
    ids=["unknown key", "no token", "another token", "forged token"],
)
def test_unknown_credentials_are_refused(
    client: Make, error_of: Callable[..., str], changed: dict[str, Any]
) -> None:
    one = client("parent", **changed)
    assert (
        error_of(one.generate_random, NumberOfBytes=8) == "UnrecognizedClientException"
    )


def test_a_wrong_secret_is_refused(client: Make, error_of: Callable[..., str]) -> None:
    one = client("parent", aws_secret_access_key="wrong")
    assert error_of(one.generate_random, NumberOfBytes=8) == "InvalidSignatureException"


def test_session_credentials_work_until_they_expire(
    kms: RunningKms, client: Make, clock: Any, error_of: Callable[..., str]
) -> None:
    issued = kms.principals.issue("parent", dt.timedelta(minutes=2))
    changed = {
        "aws_access_key_id": issued.access_key_id,
        "aws_secret_access_key": issued.secret_access_key,
        "aws_session_token": issued.session_token,
    }
    assert len(client(**changed).generate_random(NumberOfBytes=8)["Plaintext"]) == 8
    swapped = {**changed, "aws_access_key_id": "ASIAANOTHER"}
    code = error_of(client(**swapped).generate_random, NumberOfBytes=8)
    assert code == "UnrecognizedClientException"
    clock.ahead = dt.timedelta(minutes=3)
    code = error_of(client(**changed).generate_random, NumberOfBytes=8)
    assert code == "ExpiredTokenException"


def test_credentials_do_not_print(kms: RunningKms) -> None:
    parent = kms.principal("parent")
    issued = kms.principals.issue("parent", dt.timedelta(minutes=2))
    for one in (parent, issued):
        assert one.secret_access_key not in repr(one)
        assert str(one.session_token) not in repr(one)
