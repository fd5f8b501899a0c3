"""The probe against the gateway tests' signer, and against what is none."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nitrosigner.untrusted.gateway import health_probe

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
UP = b'{"status":"UP","state":"ready","keys_loaded":12}'


@pytest.fixture
def answering(pem: Path) -> Iterator[Callable[[bytes], str]]:
    """Answer one request with these bytes, and return where."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    threads, sockets = [], []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(4096)
                tls.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"https://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join(30)
    for one in sockets:
        one.close()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_a_ready_signer_is_ready(answering: Callable[[bytes], str]) -> None:
    metrics = health_probe.probe(answering(http(200, UP)), NOW)
    assert metrics == {"SignerReady": 1, "CertificateDaysLeft": 20, "KeysLoaded": 12}


def test_one_that_is_down_still_says_how_long_its_certificate_lasts(
    answering: Callable[[bytes], str],
) -> None:
    body = UP.replace(b"UP", b"DOWN")
    metrics = health_probe.probe(answering(http(503, body)), NOW)
    assert metrics["SignerReady"] == 0
    assert metrics["CertificateDaysLeft"] == 20


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"OK"),
        http(200, b"[]"),
        http(200, b'{"status":"UP"}'),
        http(200, b'{"status":"UP","keys_loaded":null}'),
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_nonsense_is_not_readiness(
    answering: Callable[[bytes], str], answer: bytes
) -> None:
    assert health_probe.probe(answering(answer), NOW) == {"SignerReady": 0}


def test_nobody_there_is_not_readiness() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert health_probe.probe(f"https://127.0.0.1:{port}", NOW) == {"SignerReady": 0}


def test_the_line_names_its_metrics() -> None:
    line = health_probe.report({"SignerReady": 0.0}, stack="s", milliseconds=1)
    (metrics,) = line["_aws"]["CloudWatchMetrics"]
    assert [one["Name"] for one in metrics["Metrics"]] == ["SignerReady"]
    assert line["SignerReady"] == 0
