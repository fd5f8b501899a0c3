"""Credentials come from IMDSv2 alone, are kept a while, and show up nowhere."""

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nitrosigner.untrusted.parent.credentials import (
    InstanceMetadata,
    RoleCredentials,
)
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.services import Credentials

TOKEN = "imds-token"
SECRET = "CANARY-secret-access-key"


class Imds:
    """An instance metadata service, over real HTTP, that can misbehave."""

    def __init__(self) -> None:
        self.token_status = 200
        self.role: bytes = b"signer-role"
        self.answer: bytes = json.dumps(
            {
                "Code": "Success",
                "AccessKeyId": "ASIAEXAMPLE",
                "SecretAccessKey": SECRET,
                "Token": "session",
                "Expiration": "2999-01-01T00:00:00Z",
            }
        ).encode()
        self.asked: list[tuple[str, str]] = []
        imds = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                imds.asked.append(("PUT", self.path))
                self._send(imds.token_status, TOKEN.encode())

            def do_GET(self) -> None:
                imds.asked.append(("GET", self.path))
                if self.headers.get("x-aws-ec2-metadata-token") != TOKEN:
                    self._send(401, b"")
                elif self.path.endswith("/security-credentials/"):
                    self._send(200, imds.role)
                else:
                    self._send(200, imds.answer)

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def imds() -> Iterator[Imds]:
    service = Imds()
    yield service
    service.server.shutdown()
    service.thread.join()
    service.server.server_close()


def test_the_roles_credentials_are_fetched_with_a_session_token(imds: Imds) -> None:
    found = InstanceMetadata(imds.url).fetch()
    assert found == Credentials(
        access_key_id="ASIAEXAMPLE",
        secret_access_key=SECRET,
        session_token="session",
        expires=int(dt.datetime(2999, 1, 1, tzinfo=dt.UTC).timestamp()),
    )
    assert imds.asked[0] == ("PUT", "/latest/api/token")
    assert imds.asked[-1][1].endswith("/signer-role")


def test_the_environment_cannot_switch_it_off(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/")
    assert InstanceMetadata(imds.url).fetch().access_key_id == "ASIAEXAMPLE"


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_version_1_is_never_used(imds: Imds, status: int) -> None:
    imds.token_status = status
    with pytest.raises(Undecided):
        InstanceMetadata(imds.url).fetch()
    assert {method for method, _ in imds.asked} == {"PUT"}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        json.dumps({"Code": "Failed", "Message": SECRET}).encode(),
        json.dumps(
            {
                "Code": "Success",
                "AccessKeyId": "A",
                "SecretAccessKey": SECRET,
                "Token": "t",
                "Expiration": "soon",
            }
        ).encode(),
    ],
)
def test_an_answer_that_is_no_credentials_is_undecided_and_not_quoted(
    imds: Imds, answer: bytes
) -> None:
    imds.answer = answer
    with pytest.raises(Undecided) as caught:
        InstanceMetadata(imds.url).fetch()
    assert caught.value.code is Code.CREDENTIALS_UNAVAILABLE
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_instance_without_a_role_is_undecided(imds: Imds) -> None:
    imds.role = b""
    with pytest.raises(Undecided):
        InstanceMetadata(imds.url).fetch()


def test_no_metadata_service_is_undecided() -> None:
    with pytest.raises(Undecided):
        InstanceMetadata("http://127.0.0.1:1/", seconds=1).fetch()


class Source:
    """A source that counts, fails and waits on demand."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.lifetime = 6 * 3600.0
        self.fetched = 0
        self.failing = False
        self.gate: threading.Event | None = None

    def fetch(self) -> Credentials:
        self.fetched += 1
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.failing:
            raise Undecided(Code.CREDENTIALS_UNAVAILABLE, "not now")
        return Credentials(
            access_key_id=f"A{self.fetched}",
            secret_access_key=SECRET,
            session_token="t",
            expires=int(self.clock[0] + self.lifetime),
        )


@pytest.fixture
def clock() -> list[float]:
    return [1_800_000_000.0]


@pytest.fixture
def source(clock: list[float]) -> Source:
    return Source(clock)


def test_they_are_fetched_once_and_kept(source: Source, clock: Any, log: Any) -> None:
    async def main() -> None:
        role = RoleCredentials(source, log, lambda: clock[0])
        first = await role.get()
        clock[0] += 5 * 3600
        assert await role.get() == first
        assert source.fetched == 1

    asyncio.run(main())
    assert SECRET not in log.text.getvalue()


def test_many_who_ask_at_once_wait_for_one_fetch(
    source: Source, clock: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        role = RoleCredentials(source, log, lambda: clock[0])
        source.gate = threading.Event()
        waiting = [asyncio.create_task(role.get()) for _ in range(20)]
        await wait_for(lambda: source.fetched)
        waiting[0].cancel()  # who gives up does not take it from the others
        source.gate.set()
        answers = await asyncio.gather(*waiting[1:])
        assert len(set(map(repr, answers))) == 1
        assert source.fetched == 1

    asyncio.run(main())


def test_shortly_before_they_expire_new_ones_come_while_the_old_serve(
    source: Source, clock: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        role = RoleCredentials(source, log, lambda: clock[0])
        await role.get()
        clock[0] += source.lifetime - 10 * 60
        assert (await role.get()).access_key_id == "A1"
        await wait_for(lambda: source.fetched == 2)
        await wait_for(lambda: role._fetching is None)
        assert (await role.get()).access_key_id == "A2"

    asyncio.run(main())


def test_a_failing_refresh_does_not_take_good_credentials_away(
    source: Source, clock: Any, log: Any, wait_for: Any
) -> None:
    async def main() -> None:
        role = RoleCredentials(source, log, lambda: clock[0])
        await role.get()
        clock[0] += source.lifetime - 10 * 60
        source.failing = True
        for _ in range(5):
            assert (await role.get()).access_key_id == "A1"
        await wait_for(lambda: role._fetching is None)
        assert source.fetched == 2  # and it is not tried with every request
        clock[0] += 9 * 60 + 40
        with pytest.raises(Undecided):
            await role.get()
        source.failing = False
        assert (await role.get()).access_key_id == "A4"

    asyncio.run(main())
    assert log.events.count("credentials_failed") == 2


def test_credentials_that_are_about_to_expire_are_not_handed_out(
    source: Source, clock: Any, log: Any
) -> None:
    async def main() -> None:
        source.lifetime = 20
        role = RoleCredentials(source, log, lambda: clock[0])
        with pytest.raises(Undecided):
            await role.get()

    asyncio.run(main())
