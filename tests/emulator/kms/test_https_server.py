"""The socket: keep-alive, limits, callers that dawdle, and plans that fail."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from nitrosigner.emulator.kms import FORGED_SECRET, Fault, FaultPlan, RunningKms
from nitrosigner.emulator.kms.https_server import MAX_BODY, MAX_CONNECTIONS

Make = Callable[..., Any]


@pytest.fixture
def context(kms: RunningKms) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(kms.ca))


@pytest.fixture
def connection(
    kms: RunningKms, context: ssl.SSLContext
) -> Iterator[http.client.HTTPSConnection]:
    one = http.client.HTTPSConnection(
        "127.0.0.1", kms.port, context=context, timeout=30
    )
    yield one
    one.close()


def test_one_connection_serves_many_requests(
    connection: http.client.HTTPSConnection,
) -> None:
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("POST", "/", b"{}", {"X-Amz-Target": "TrentService.Decrypt"})
        answer = connection.getresponse()
        assert answer.status == 400
        assert b"MissingAuthenticationToken" in answer.read()
        assert answer.headers["content-type"] == "application/x-amz-json-1.1"
        assert answer.headers["x-amzn-requestid"]
    assert connection.sock is first


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(MAX_BODY + 1)}, 413),
        ({"Content-Length": "9" * 400}, 413),
        ({"Content-Length": "-1"}, 413),
        ({"Content-Length": "x"}, 413),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Transfer-Encoding": "chunked", "Content-Length": "2"}, 400),
        ({}, 411),
    ],
)
def test_bodies_without_a_sane_length_are_not_read(
    connection: http.client.HTTPSConnection, headers: dict[str, str], status: int
) -> None:
    connection.putrequest("POST", "/")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == status
    answer.read()
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods_get_nothing(
    connection: http.client.HTTPSConnection, method: str
) -> None:
    connection.request(method, "/")
    assert connection.getresponse().status == 404


def test_a_caller_that_never_finishes_its_handshake_holds_up_nobody(
    kms: RunningKms, connection: http.client.HTTPSConnection
) -> None:
    with socket.create_connection(("127.0.0.1", kms.port)):
        connection.request("GET", "/")
        assert connection.getresponse().status == 404


def test_connections_beyond_the_limit_are_closed_and_room_comes_back(
    kms: RunningKms, client: Make
) -> None:
    held = [
        socket.create_connection(("127.0.0.1", kms.port))
        for _ in range(MAX_CONNECTIONS)
    ]
    try:
        with socket.create_connection(("127.0.0.1", kms.port), timeout=30) as extra:
            assert extra.recv(1) == b""
    finally:
        for one in held:
            one.close()
    one = client()
    deadline = time.monotonic() + 30
    while True:
        try:
            one.generate_random(NumberOfBytes=8)
            break
        except (ConnectionClosedError, HTTPClientError):
            assert time.monotonic() < deadline


def test_plain_http_and_garbage_do_not_hurt(kms: RunningKms, client: Make) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b""):
        with socket.create_connection(("127.0.0.1", kms.port), timeout=30) as one:
            one.sendall(noise)
    assert len(client().generate_random(NumberOfBytes=8)["Plaintext"]) == 8


# --- fault plans


AWS_FAULTS = [
    (Fault.THROTTLE, "ThrottlingException", 400),
    (Fault.INTERNAL, "KMSInternalException", 500),
    (Fault.DEPENDENCY_TIMEOUT, "DependencyTimeoutException", 503),
    (Fault.HTML_ERROR, "503", 503),
]


@pytest.mark.parametrize(("fault", "code", "status"), AWS_FAULTS)
def test_errors_of_aws_happen_once_when_planned_once(
    client: Make, faults: FaultPlan, fault: Fault, code: str, status: int
) -> None:
    faults.next("GenerateRandom", fault)
    with pytest.raises(ClientError) as caught:
        client().generate_random(NumberOfBytes=8)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert len(client().generate_random(NumberOfBytes=8)["Plaintext"]) == 8
    assert faults.happened == [("GenerateRandom", fault)]


def test_a_dropped_connection_is_not_an_answer(client: Make, faults: FaultPlan) -> None:
    faults.next("GenerateRandom", Fault.DROP)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        client().generate_random(NumberOfBytes=8)


def test_a_truncated_answer_holds_no_secret(client: Make, faults: FaultPlan) -> None:
    faults.next("*", Fault.TRUNCATE)
    answer: dict[str, Any] = {}
    # This botocore takes half a body for a whole one, and finds no JSON in it.
    with contextlib.suppress(
        ResponseStreamingError, ConnectionClosedError, HTTPClientError
    ):
        answer = client().generate_random(NumberOfBytes=8)
    assert "Plaintext" not in answer


def test_a_slow_answer_comes_and_stopping_does_not_wait_for_it(
    kms: RunningKms, client: Make, faults: FaultPlan
) -> None:
    faults.next("GenerateRandom", Fault.SLOW, seconds=0.05)
    assert client().generate_random(NumberOfBytes=8)
    faults.always("GenerateRandom", Fault.SLOW, seconds=600)
    one = client()

    def call() -> None:
        with contextlib.suppress(
            ReadTimeoutError, ConnectionClosedError, HTTPClientError
        ):
            one.generate_random(NumberOfBytes=8)

    worker = threading.Thread(target=call)
    worker.start()
    deadline = time.monotonic() + 30
    while len(faults.happened) < 2 and time.monotonic() < deadline:
        worker.join(0.01)
    kms.stop()
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.parametrize("fault", [Fault.GARBAGE, Fault.NOT_AN_OBJECT, Fault.HUGE])
def test_garbled_answers_reach_the_reader(
    kms: RunningKms,
    context: ssl.SSLContext,
    client: Make,
    faults: FaultPlan,
    fault: Fault,
) -> None:
    faults.always("GenerateRandom", fault)
    seen: list[bytes] = []
    one = client()
    one.meta.events.register(
        "before-parse.kms.GenerateRandom",
        lambda response_dict, **_: seen.append(response_dict["body"]),
    )
    # botocore's own words for each of them are not what is tested here.
    with contextlib.suppress(Exception):
        one.generate_random(NumberOfBytes=8)
    assert seen
    assert seen[0] != b""


def test_answers_can_be_forged_as_a_hostile_parent_would(
    client: Make,
    key: str,
    faults: FaultPlan,
    enclave: Any,
    open_envelope: Callable[..., bytes],
) -> None:
    blob = client("gateway").encrypt(KeyId=key, Plaintext=b"true")["CiphertextBlob"]

    def ask(fault: Fault) -> dict[str, Any]:
        faults.next("Decrypt", fault)
        answer = client().decrypt(CiphertextBlob=blob, Recipient=enclave.recipient())
        return dict(answer)

    assert ask(Fault.PLAINTEXT)["Plaintext"] == FORGED_SECRET
    only = ask(Fault.ONLY_PLAINTEXT)
    assert only["Plaintext"] == FORGED_SECRET
    assert "CiphertextForRecipient" not in only
    assert ask(Fault.WRONG_KEY_ID)["KeyId"] != key
    assert "CiphertextForRecipient" not in ask(Fault.NO_ENVELOPE)
    forged = ask(Fault.FORGED_ENVELOPE)["CiphertextForRecipient"]
    assert open_envelope(forged, enclave.key) == FORGED_SECRET
    with pytest.raises((subprocess.CalledProcessError, AssertionError)):
        broken = ask(Fault.BROKEN_ENVELOPE)["CiphertextForRecipient"]
        assert open_envelope(broken, enclave.key) == b"true"


def test_a_plan_can_be_cleared(client: Make, faults: FaultPlan) -> None:
    faults.always("*", Fault.INTERNAL)
    with pytest.raises(ClientError):
        client().generate_random(NumberOfBytes=8)
    faults.clear()
    assert client().generate_random(NumberOfBytes=8)
