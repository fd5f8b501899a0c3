"""Who is served, and who is not."""

import base64
import hashlib
import json
import socket
import ssl
from typing import Any

import pytest

LIST = "/api/v1/keys"
TX = {
    "transaction": {
        "chainId": 31337,
        "nonce": 0,
        "to": "0x" + "11" * 20,
        "gas": 21000,
        "maxFeePerGas": 1000,
    }
}


def token_of(name: str) -> str:
    return f"token-of-{name}-{hashlib.sha256(name.encode()).hexdigest()}"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_certificate_of_the_manifest_is_enough(front: Any) -> None:
    assert front.ask("GET", LIST)[0] == 200
    assert front.ask("GET", LIST, certificate="reader")[0] == 200


def test_a_certificate_is_trusted_as_it_is_without_its_issuer(front: Any) -> None:
    assert front.ask("GET", LIST, certificate="company")[0] == 200
    status, answer = front.ask("POST", LIST, {"name": "a"}, certificate="company")
    assert (status, answer["error"]["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {token_of('default')}",
        f"bearer {token_of('default')}",
        f"Bearer   {token_of('default')}",
        basic("", token_of("default")),
        basic("anybody", token_of("default")),
    ],
)
def test_a_token_of_the_manifest_is_enough(front: Any, header: Any) -> None:
    status, _ = front.ask(
        "GET", LIST, certificate=None, headers={"Authorization": header}
    )
    assert status == 200


BAD = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    f"Bearer {token_of('default')}x",
    f"Bearer {token_of('default')[:-1]}",
    f"Bearer {token_of('default').upper()}",
    f"Bearer {hashlib.sha256(token_of('default').encode()).hexdigest()}",
    f"Token {token_of('default')}",
    token_of("default"),
    "Basic !!!",
    "Basic " + base64.b64encode(token_of("default").encode()).decode(),
    basic(token_of("default"), ""),
    "Bearer " + "x" * 2000,
]


@pytest.mark.parametrize("header", BAD)
@pytest.mark.parametrize("certificate", [None, "default"])
@pytest.mark.parametrize("path", ["sign", "public"])
def test_a_bad_token_is_refused_whatever_else_is_shown(
    front: Any, header: Any, certificate: Any, path: Any
) -> None:
    headers = {"Authorization": header}
    if path == "sign":
        status, answer = front.ask(
            "POST",
            "/api/v1/keys/hot/sign/transaction",
            TX,
            certificate=certificate,
            headers=headers,
        )
    else:
        status, answer = front.ask(
            "GET", "/upcheck", certificate=certificate, headers=headers
        )
    assert (status, answer["error"]["code"]) == (403, "unauthenticated")
    # Who has shown one is not asked for another: some clients would try for ever.
    assert "WWW-Authenticate" not in front.last.headers
    assert answer["error"]["hint"]
    assert front.keys.signed == []


PRIVATE = [
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("GET", "/api/v1/keys/hot"),
    ("GET", "/api/v1/keys/hot/ciphertext"),
    ("POST", "/api/v1/keys/import"),
    ("POST", "/api/v1/keys/import-kms"),
    ("POST", "/api/v1/keys/hot/disable"),
    ("POST", "/api/v1/keys/hot/enable"),
    ("POST", "/api/v1/keys/hot/delete"),
    ("POST", "/api/v1/keys/hot/restore"),
    ("POST", "/api/v1/vault/rotate"),
    ("POST", "/api/v1/keys/hot/sign/transaction"),
    ("POST", "/api/v1/keys/hot/sign/message"),
    ("POST", "/api/v1/keys/hot/sign/typed-data"),
    ("POST", "/api/v1/keys/hot/sign/digest"),
    ("POST", "/api/v1/keys/hot/sign/authorization"),
    ("GET", "/api/v1/eth1/publicKeys"),
    ("POST", "/api/v1/eth1/sign/hot"),
    ("GET", "/api/v1/manifest"),
    ("GET", "/api/v1/tls"),
    ("POST", "/api/v1/tls/import"),
    ("POST", "/api/v1/tls/reset"),
    ("POST", "/"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_without_a_credential_nothing_private_is_served(
    front: Any, method: Any, path: Any
) -> None:
    body = TX if method == "POST" else None
    status, answer = front.ask(method, path, body, certificate=None)
    assert (status, answer["error"]["code"]) == (401, "unauthenticated")
    # RFC 9110 demands a challenge of every 401. Java's client reads the first alone.
    first, second = front.last.headers.get_all("WWW-Authenticate")
    assert (first, second) == ('Basic realm="nitrosigner"', "Bearer")
    assert front.keys.signed == []
    assert front.keys.changed == []


def test_every_private_route_is_in_the_table_above() -> None:
    from nitrosigner.trusted.enclave.api.routes import ROUTES

    table = {(method, path.replace("hot", "{key}")) for method, path in PRIVATE}
    assert table == {
        (route.method, route.path)
        for route in ROUTES.all
        if not route.public and not route.validators
    }


def test_the_body_of_a_stranger_is_not_read(front: Any) -> None:
    head = (
        b"POST /api/v1/keys/hot/sign/transaction HTTP/1.1\r\nHost: a\r\n"
        b"Content-Length: 60000\r\n\r\n"
    )
    answer = front.raw(head, certificate=None)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close" in answer


def test_each_guess_costs_a_connection(front: Any) -> None:
    one = b"GET /api/v1/keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess\r\n\r\n"
    answer = front.raw(one * 50, certificate=None)
    assert answer.count(b"HTTP/1.1 ") == 1


def test_guesses_do_not_fill_the_audit_log(front: Any) -> None:
    for _ in range(30):
        front.ask("GET", LIST, certificate=None)
    front.clock.offset += 5
    front.ask("GET", LIST, certificate=None)
    front.wait(
        lambda: sum(1 + e.get("unrecorded", 0) for e in front.services.events) == 32
    )
    strangers = [
        each for each in front.services.events if each["operation"] == "authenticate"
    ]
    assert 10 <= len(strangers) <= 30
    assert {each["code"] for each in strangers} == {"unauthenticated"}


@pytest.mark.parametrize("certificate", ["stranger", "expired-client"])
def test_a_certificate_that_no_client_has_ends_the_handshake(
    front: Any, certificate: Any
) -> None:
    # In TLS 1.3 the client learns of it with its first read.
    with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
        front.ask("GET", "/upcheck", certificate=certificate)
    assert front.alive


def test_a_certificate_that_a_client_issued_is_nobody(front: Any) -> None:
    status, answer = front.ask("GET", LIST, certificate="issued")
    assert (status, answer["error"]["code"]) == (403, "unauthenticated")


def test_a_certificate_and_a_token_of_two_clients_are_refused(front: Any) -> None:
    headers = {"Authorization": f"Bearer {token_of('limited')}"}
    status, answer = front.ask("GET", LIST, certificate="default", headers=headers)
    assert (status, answer["error"]["code"]) == (403, "unauthenticated")
    assert "two clients" in answer["error"]["message"]


def test_a_certificate_and_a_token_of_one_client_are_taken(front: Any) -> None:
    headers = {"Authorization": f"Bearer {token_of('default')}"}
    assert front.ask("GET", LIST, certificate="default", headers=headers)[0] == 200


def test_a_connection_can_carry_several_clients_one_after_the_other(front: Any) -> None:
    connection = front.http(None)
    for name, expected in [("limited", ["cold", "hot"]), ("narrow", ["cold"])] * 2:
        connection.request(
            "GET", LIST, headers={"Authorization": f"Bearer {token_of(name)}"}
        )
        response = connection.getresponse()
        keys = [key["name"] for key in json.loads(response.read())["keys"]]
        assert keys == expected
    connection.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(front: Any, version: Any) -> None:
    context = front.context("default")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    raw = socket.create_connection(("127.0.0.1", front.port), timeout=30)
    with raw, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(raw, server_hostname="localhost")
    assert front.alive


def test_tls_1_2_is_served_and_1_3_preferred(front: Any) -> None:
    for most, expected in [
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.MAXIMUM_SUPPORTED, "TLSv1.3"),
    ]:
        context = front.context("default")
        context.maximum_version = most
        raw = socket.create_connection(("127.0.0.1", front.port), timeout=30)
        with context.wrap_socket(raw, server_hostname="localhost") as connection:
            assert connection.version() == expected
            connection.sendall(
                b"GET /api/v1/keys HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_no_session_is_resumed(front: Any) -> None:
    with front.connect() as connection:
        connection.sendall(
            b"GET /upcheck HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        connection.recv(65536)
        session = connection.session
        assert session is None or not session.has_ticket
