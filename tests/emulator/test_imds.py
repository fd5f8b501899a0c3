"""The emulated instance metadata service, with botocore's own fetcher and by hand."""

import datetime as dt
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
from botocore.credentials import InstanceMetadataProvider
from botocore.utils import InstanceMetadataFetcher

from nitrosigner.emulator.kms import RunningKms, Settings, start

Ask = Callable[..., tuple[int, bytes]]
PATH = "/latest/meta-data/iam/security-credentials/"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Clock:
    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kms(tmp_path: Path, clock: Clock) -> Iterator[RunningKms]:
    settings = Settings(now=clock, session_life=dt.timedelta(hours=1))
    with start(tmp_path, settings=settings) as running:
        yield running


@pytest.fixture
def ask(kms: RunningKms) -> Iterator[Ask]:
    connection = http.client.HTTPConnection("127.0.0.1", kms.imds_port, timeout=30)

    def send(method: str, path: str, **headers: str) -> tuple[int, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.read()

    yield send
    connection.close()


@pytest.fixture
def token(ask: Ask) -> str:
    status, body = ask("PUT", "/latest/api/token", **{TTL: "60"})
    assert status == 200
    return body.decode()


def test_botocore_gets_credentials_that_kms_accepts(kms: RunningKms) -> None:
    fetcher = InstanceMetadataFetcher(
        timeout=30,
        num_attempts=1,
        config={
            "ec2_metadata_service_endpoint": kms.imds_url + "/",
            "ec2_metadata_v1_disabled": True,
        },
    )
    found = InstanceMetadataProvider(fetcher).load()
    assert found is not None
    frozen = found.get_frozen_credentials()
    client = boto3.session.Session().client(
        "kms",
        region_name=kms.region,
        endpoint_url=kms.url,
        verify=str(kms.ca),
        aws_access_key_id=frozen.access_key,
        aws_secret_access_key=frozen.secret_key,
        aws_session_token=frozen.token,
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )
    assert len(client.generate_random(NumberOfBytes=8)["Plaintext"]) == 8
    client.close()
    assert kms.audit()[-1].caller == kms.principal("parent").caller_arn


def test_version_one_is_refused(ask: Ask) -> None:
    assert ask("GET", PATH)[0] == 401
    assert ask("GET", PATH, **{TOKEN: "made-up"})[0] == 401


def test_a_token_costs_a_put_with_a_lifetime(ask: Ask) -> None:
    assert ask("PUT", "/latest/api/token")[0] == 400
    for wrong in ("0", "21601", "-1", "x", "٣"):
        named = {TTL: wrong.encode().decode("latin-1")}
        assert ask("PUT", "/latest/api/token", **named)[0] == 400
    assert ask("PUT", "/latest/other", **{TTL: "60"})[0] == 404


def test_what_came_through_a_proxy_gets_no_token(ask: Ask) -> None:
    forwarded = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert ask("PUT", "/latest/api/token", **forwarded)[0] == 403


def test_a_token_expires(ask: Ask, token: str, clock: Clock) -> None:
    assert ask("GET", PATH, **{TOKEN: token})[0] == 200
    clock.ahead = dt.timedelta(seconds=61)
    assert ask("GET", PATH, **{TOKEN: token})[0] == 401


def test_it_knows_its_role_and_instance_and_nothing_else(
    kms: RunningKms, ask: Ask, token: str
) -> None:
    assert ask("GET", PATH, **{TOKEN: token}) == (200, b"nitrosigner-parent")
    path = "/latest/dynamic/instance-identity/document"
    status, body = ask("GET", path, **{TOKEN: token})
    assert status == 200
    document = json.loads(body)
    assert document["region"] == kms.region
    assert document["accountId"] == kms.account
    assert document["instanceId"] == kms.principal("parent").session_name
    for other in (PATH + "nitrosigner-administrator", "/latest/user-data", "/"):
        assert ask("GET", other, **{TOKEN: token})[0] == 404


def _credentials(ask: Ask) -> dict[str, Any]:
    status, token = ask("PUT", "/latest/api/token", **{TTL: "60"})
    assert status == 200
    status, body = ask("GET", PATH + "nitrosigner-parent", **{TOKEN: token.decode()})
    assert status == 200
    return dict(json.loads(body))


def test_credentials_rotate_in_the_second_half_of_their_life(
    ask: Ask, clock: Clock, kms: RunningKms
) -> None:
    first = _credentials(ask)
    assert first["Code"] == "Success"
    assert _credentials(ask) == first
    clock.ahead = dt.timedelta(minutes=31)
    second = _credentials(ask)
    assert second["AccessKeyId"] != first["AccessKeyId"]
    assert second["Expiration"] > first["Expiration"]
    # The old ones are good to the end of their life.
    found, secret = kms.principals.find(first["AccessKeyId"], first["Token"])
    assert found == kms.principal("parent")
    assert secret == first["SecretAccessKey"]


def test_credentials_outlive_a_restart_of_the_emulator(tmp_path: Path) -> None:
    with start(tmp_path) as before:
        issued = before.principals.issue("parent", dt.timedelta(minutes=5))
    with start(tmp_path) as after:
        found, secret = after.principals.find(
            issued.access_key_id, issued.session_token
        )
        assert found.arn == after.principal("parent").arn
        assert secret == issued.secret_access_key
