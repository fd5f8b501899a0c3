"""An instance's life, with surroundings that fail in every way."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nitrosigner.untrusted.parent.instance_lifecycle import (
    HEARTBEAT_SECONDS,
    READY_SECONDS,
    Configuration,
    Instance,
    Lifecycle,
    Phase,
    Said,
    Unsure,
)

TOLD = Configuration(
    region="us-east-1",
    group="group",
    launching_hook="can-sign",
    terminating_hook="drained",
    init_flag="/flag",
    port=8443,
)


class Fake:
    """Surroundings that note what is done; anything in `unsure` fails."""

    def __init__(self) -> None:
        self.target = "InService"
        self.flag = False
        self.signs = False
        self.hook_waits = True
        self.unsure: set[str] = set()
        self.done: list[Any] = []

    def _may(self, name: str) -> None:
        if name in self.unsure:
            raise Unsure

    def target_state(self) -> str:
        self._may("target_state")
        return self.target

    def initialised(self) -> bool:
        self._may("initialised")
        return self.flag

    def start(self) -> None:
        self._may("start")
        self.done.append("start")

    def stop(self) -> None:
        self._may("stop")
        self.done.append("stop")

    def can_sign(self) -> bool:
        return self.signs

    def complete(self, hook: str, said: Said) -> None:
        self._may("complete")
        self.done.append((hook, said.value))

    def heartbeat(self, hook: str) -> bool:
        self._may("heartbeat")
        self.done.append(("heartbeat", hook))
        return self.hook_waits


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def life(fake: Fake) -> Lifecycle:
    return Lifecycle(fake, TOLD)


def test_it_is_let_in_when_its_enclave_can_sign_and_not_before(
    fake: Fake, life: Lifecycle
) -> None:
    fake.flag = True
    life.step(0)
    life.step(5)
    assert fake.done == ["start"]
    fake.signs = True
    life.step(10)
    assert fake.done == ["start", ("can-sign", "CONTINUE")]
    assert life.phase is Phase.SERVING
    life.step(READY_SECONDS * 2)
    assert len(fake.done) == 2


def test_before_the_key_ceremony_it_starts_nothing_and_asks_for_time(
    fake: Fake, life: Lifecycle
) -> None:
    now = 0.0
    while now < 3 * HEARTBEAT_SECONDS:
        now += life.step(now)
    assert set(fake.done) == {("heartbeat", "can-sign")}
    assert len(fake.done) == 3
    fake.flag = True
    life.step(now)
    assert fake.done[-1] == "start"


def test_one_that_never_can_sign_is_given_up(fake: Fake, life: Lifecycle) -> None:
    fake.flag = True
    life.step(0)
    life.step(READY_SECONDS - 1)
    assert fake.done == ["start"]
    life.step(READY_SECONDS)
    assert fake.done[-1] == ("can-sign", "ABANDON")
    assert life.phase is Phase.GIVEN_UP


def test_one_that_must_go_drains_before_it_says_so(fake: Fake, life: Lifecycle) -> None:
    fake.flag = fake.signs = True
    life.step(0)
    life.step(5)
    fake.target = "Terminated"
    life.step(10)
    assert fake.done[-2:] == ["stop", ("drained", "CONTINUE")]
    life.step(15)
    assert len(fake.done) == 4


def test_a_restart_of_the_program_on_a_serving_instance_changes_nothing(
    fake: Fake, life: Lifecycle
) -> None:
    # The flag was taken back since; what runs is left alone, and nothing is abandoned.
    fake.hook_waits = False
    life.step(0)
    assert life.phase is Phase.SERVING
    life.step(READY_SECONDS * 2)
    assert fake.done == [("heartbeat", "can-sign")]


@pytest.mark.parametrize(
    "unsure", ["target_state", "initialised", "start", "complete", "heartbeat"]
)
def test_to_be_unsure_is_to_ask_again(fake: Fake, life: Lifecycle, unsure: str) -> None:
    fake.unsure = {unsure}
    fake.flag = unsure != "heartbeat"
    fake.signs = True
    now = 0.0
    for _ in range(5):
        now += life.step(now)
    assert ("can-sign", "CONTINUE") not in fake.done
    assert life.phase is not Phase.SERVING
    fake.unsure = set()
    fake.flag = True
    for _ in range(5):
        now += life.step(now)
    assert life.phase is Phase.SERVING


def test_one_that_cannot_stop_does_not_say_that_it_is_drained(
    fake: Fake, life: Lifecycle
) -> None:
    fake.target = "Terminated"
    fake.unsure = {"stop"}
    life.step(0)
    assert fake.done == []
    fake.unsure = set()
    life.step(5)
    assert fake.done == ["stop", ("drained", "CONTINUE")]


# the real surroundings


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2, as far as it is asked."""

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(b"the-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "the-token":
            self.send_error(401)
            return
        found = {
            "/latest/meta-data/instance-id": b"i-0123\n",
            "/latest/meta-data/autoscaling/target-lifecycle-state": b"InService",
        }
        self._answer(found[self.path])

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class FakeAws:
    def __init__(self, error: Exception | None = None, value: str = "true") -> None:
        self.error, self.value = error, value
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(**given: Any) -> dict[str, Any]:
            self.calls.append((name, given))
            if self.error is not None:
                raise self.error
            return {"Parameter": {"Value": self.value}}

        return call


def instance(metadata: str, aws: FakeAws, code: int = 0) -> tuple[Instance, list[Any]]:
    commands: list[Any] = []

    def run(command: list[str]) -> int:
        commands.append(command)
        return code

    made = Instance(TOLD, metadata=metadata, autoscaling=aws, ssm=aws, run=run)
    return made, commands


def test_the_instance_asks_and_tells_aws_in_its_words(metadata: str) -> None:
    aws = FakeAws()
    one, commands = instance(metadata, aws)
    assert one.target_state() == "InService"
    assert one.initialised()
    one.complete("can-sign", Said.CONTINUE)
    assert one.heartbeat("can-sign")
    names = {
        "AutoScalingGroupName": "group",
        "LifecycleHookName": "can-sign",
        "InstanceId": "i-0123",
    }
    assert aws.calls == [
        ("get_parameter", {"Name": "/flag"}),
        ("complete_lifecycle_action", {**names, "LifecycleActionResult": "CONTINUE"}),
        ("record_lifecycle_action_heartbeat", names),
    ]
    one.start()
    one.stop()
    assert [command[1:] for command in commands] == [
        ["start", "nitrosigner-parent.service", "nitrosigner-watchdog.service"],
        ["stop", "nitrosigner-watchdog.service"],
        ["stop", "nitrosigner-parent.service"],
    ]


def test_only_the_word_true_starts_anything(metadata: str) -> None:
    for value in ("false", "TRUE", "", "yes"):
        one, _ = instance(metadata, FakeAws(value=value))
        assert not one.initialised()


def test_a_hook_that_no_longer_waits_is_no_error(metadata: str) -> None:
    gone = ClientError({"Error": {"Code": "ValidationError", "Message": "m"}}, "op")
    one, _ = instance(metadata, FakeAws(gone))
    one.complete("can-sign", Said.CONTINUE)
    assert not one.heartbeat("can-sign")


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "Throttling", "Message": "m"}}, "op"),
        ClientError({"Error": {"Code": "AccessDenied", "Message": "m"}}, "op"),
        EndpointConnectionError(endpoint_url="x"),
    ],
)
def test_aws_failing_is_to_be_unsure(metadata: str, error: Exception) -> None:
    one, _ = instance(metadata, FakeAws(error))
    for ask in (
        one.initialised,
        lambda: one.complete("can-sign", Said.CONTINUE),
        lambda: one.heartbeat("can-sign"),
    ):
        with pytest.raises(Unsure):
            ask()


def test_a_service_that_does_not_start_is_to_be_unsure(metadata: str) -> None:
    one, _ = instance(metadata, FakeAws(), code=1)
    with pytest.raises(Unsure):
        one.start()
    with pytest.raises(Unsure):
        one.stop()


def test_no_metadata_is_to_be_unsure() -> None:
    one, _ = instance("http://127.0.0.1:1", FakeAws())
    with pytest.raises(Unsure):
        one.target_state()


@pytest.fixture
def signer(pem: Path) -> Iterator[Callable[[bytes], int]]:
    """Answer one request like an enclave, with these bytes; return on which port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with contextlib.ExitStack() as opened:

        def start(answer: bytes) -> int:
            listener = socket.create_server(("127.0.0.1", 0))
            opened.callback(listener.close)

            def serve() -> None:
                connection, _ = listener.accept()
                with (
                    connection,
                    context.wrap_socket(connection, server_side=True) as tls,
                ):
                    assert tls.recv(4096).startswith(b"GET /healthcheck ")
                    tls.sendall(answer)

            thread = Thread(target=serve)
            thread.start()
            opened.callback(thread.join, 10)
            port: int = listener.getsockname()[1]
            return port

        yield start


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "signs"),
    [
        (http(200, b'{"status":"UP","state":"ready"}'), True),
        (http(503, b'{"status":"DOWN","state":"kms"}'), False),
        # What a load balancer would take, or only one that looks at the number.
        (http(200, b'{"status":"DOWN"}'), False),
        (http(503, b'{"status":"UP"}'), False),
        (http(200, b"OK"), False),
        (http(200, b'["UP"]'), False),
        (http(302, b""), False),
        (b"garbage\r\n\r\n", False),
        (b"", False),
    ],
)
def test_an_instance_is_let_in_only_when_its_enclave_says_that_it_can_sign(
    metadata: str,
    signer: Callable[[bytes], int],
    answer: bytes,
    signs: bool,
) -> None:
    aws = FakeAws()
    told = msgspec.structs.replace(TOLD, port=signer(answer))
    one = Instance(told, metadata=metadata, autoscaling=aws, ssm=aws, run=lambda _: 0)
    life = Lifecycle(one, told)
    life.step(0)  # the flag says true: it starts the services
    assert life.phase is Phase.STARTED
    life.step(1)
    said = [given for name, given in aws.calls if name == "complete_lifecycle_action"]
    assert [one["LifecycleActionResult"] for one in said] == (
        ["CONTINUE"] if signs else []
    )
    assert life.phase is (Phase.SERVING if signs else Phase.STARTED)


def test_nobody_on_the_port_cannot_sign(metadata: str) -> None:
    one, _ = instance(metadata, FakeAws())
    assert one.can_sign() is False
