"""The parent rewrites, cuts, replays and reorders what callers and enclave say."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Refused

Outcome = Callable[[str], str]
NEVER = ("signer_unreachable", "certificate_untrusted")


@pytest.mark.parametrize("direction", ["to_enclave", "from_enclave"])
@pytest.mark.parametrize("first", [0, 1])
def test_an_altered_byte_of_tls_is_no_signature(
    scene: Any, outcome: Outcome, direction: str, first: int
) -> None:
    def flip(number: int, data: bytes) -> bytes:
        if number < first:
            return data
        broken = bytearray(data)
        broken[-1] ^= 1
        return bytes(broken)

    scene.boot_until_ready()
    setattr(scene.parent, direction, flip)
    assert outcome("created") in NEVER
    setattr(scene.parent, direction, lambda _, data: data)
    assert outcome("created") == "signed"


def test_a_truncated_answer_is_no_signature(scene: Any, outcome: Outcome) -> None:
    scene.boot_until_ready()
    assert outcome("created") == "signed"
    scene.parent.drop_connections()
    scene.parent.from_enclave = lambda number, data: data if number < 1 else data[:-30]
    assert outcome("created") in NEVER


def test_a_replayed_request_is_not_answered_with_a_second_signature(
    scene: Any, outcome: Outcome
) -> None:
    recorded: list[bytes] = []

    def record(_: int, data: bytes) -> bytes:
        recorded.append(data)
        return data

    scene.boot_until_ready()
    scene.parent.to_enclave = record
    assert outcome("created") == "signed"
    before = sum(b'"sign_message"' in line for line in scene.parent.audit)
    assert before >= 1
    scene.parent.to_enclave = lambda _, data: data
    with socket.create_connection(("127.0.0.1", scene.parent.port), 5) as replay:
        replay.settimeout(5)
        for part in recorded:
            try:
                replay.sendall(part)
            except OSError:
                break
        answer = b""
        try:
            while part := replay.recv(1 << 16):
                answer += part
        except OSError:
            pass
    assert b"HTTP/1.1" not in answer
    assert sum(b'"sign_message"' in line for line in scene.parent.audit) == before


def test_records_in_another_order_are_no_request(scene: Any, outcome: Outcome) -> None:
    held: list[bytes] = []

    def reorder(number: int, data: bytes) -> bytes:
        if number == 0:
            return data
        held.append(data)
        if len(held) < 2:
            return b""
        return held.pop() + held.pop()

    scene.boot_until_ready()
    scene.parent.to_enclave = reorder
    scene.parent.from_enclave = lambda number, data: data
    assert outcome("created") in NEVER


def test_a_request_in_the_clear_is_not_answered(scene: Any) -> None:
    scene.boot_until_ready()
    with socket.create_connection(("127.0.0.1", scene.parent.port), 5) as plain:
        plain.settimeout(5)
        plain.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        try:
            while part := plain.recv(1 << 16):
                answer += part
        except OSError:
            pass
    assert b"HTTP/1.1" not in answer


def test_the_parents_own_tls_end_is_not_believed(
    scene: Any, outcome: Outcome, attacking: Any, deployment: Any
) -> None:
    """The parent ends TLS itself, with a certificate that it made."""
    scene.boot_until_ready()
    files = deployment.clients["reader"]
    joined = deployment.ca.parent / "impostor.pem"
    joined.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with attacking.impostor(joined, answer) as ((_, port), said):
        files = deployment.clients["default"]
        with (
            SignerClient(
                f"https://localhost:{port}",
                ca=deployment.ca,
                certificate=files.cert,
                key=files.key,
            ) as fooled,
            pytest.raises(Refused) as refused,
        ):
            fooled.sign_message("created", "pay the bearer")
        assert said == []
    assert refused.value.code == "certificate_untrusted"


def test_what_callers_say_is_not_readable_on_the_way(
    scene: Any, outcome: Outcome
) -> None:
    scene.boot_until_ready()
    assert outcome("created") == "signed"
    for word in (b"pay the bearer", b"signature", b"HTTP/1.1", b"sign/message"):
        assert word not in scene.parent.seen, word
