"""The door for unencrypted HTTP: whom it lets in, and that it changes nothing."""

import asyncio
import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nitrosigner.emulator.client_credentials import ClientFiles, ensure_client
from nitrosigner.emulator.plain_http import Foreign, PlainHttp, Requests, tls_context

GOOD = b"POST /sign HTTP/1.1\r\nHost: localhost:9\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize(
    "head",
    [
        b"Origin: http://evil.example\r\n",
        b"ORIGIN: null\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Host: localhost\r\n",
    ],
)
def test_what_browsers_send_is_foreign(head: bytes) -> None:
    with pytest.raises(Foreign):
        Requests().saw(GOOD.replace(b"Content", head + b"Content"))


@pytest.mark.parametrize("host", [b"evil.example", b"127.0.0.1.evil.example", b""])
def test_another_hosts_name_is_foreign(host: bytes) -> None:
    with pytest.raises(Foreign):
        Requests().saw(GOOD.replace(b"localhost:9", host))


def test_a_request_without_a_host_is_foreign() -> None:
    with pytest.raises(Foreign):
        Requests().saw(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"CONNECT a:1 HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_foreign(data: bytes) -> None:
    with pytest.raises(Foreign):
        Requests().saw(data)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_it_is_noticed_however_it_is_cut(size: int) -> None:
    reader = Requests()
    bad = GOOD + GOOD.replace(b"Content", b"Origin: x\r\nContent")
    pieces = [bad[at : at + size] for at in range(0, len(bad), size)]
    with pytest.raises(Foreign):
        for piece in pieces:
            reader.saw(piece)


def test_requests_one_after_another_pass() -> None:
    reader = Requests()
    for _ in range(3):
        reader.saw(GOOD)


def test_what_node_js_sends_passes() -> None:
    Requests().saw(GOOD.replace(b"Content", b"sec-fetch-mode: cors\r\nContent"))


@pytest.fixture
def files(tmp_path: Path) -> ClientFiles:
    return ensure_client(tmp_path, "validator", dt.datetime.now(dt.UTC))


def _server_tls(files: ClientFiles, server: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    server.write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(pem)
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(server)
    tls.load_verify_locations(files.cert)
    tls.verify_mode = ssl.CERT_REQUIRED
    return tls


async def _through(files: ClientFiles, sent: bytes) -> tuple[bytes, list[bytes]]:
    """Return what the caller and what the signer saw."""
    arrived: list[bytes] = []

    async def signer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(4096):
            arrived.append(data)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    server = files.cert.with_name("server.pem")
    inner = await asyncio.start_server(
        signer, "127.0.0.1", 0, ssl=_server_tls(files, server)
    )
    tls = tls_context(server, files.cert, files.key)
    to = inner.sockets[0].getsockname()[1]
    outer = await PlainHttp(to, tls).start(0)
    port = outer.sockets[0].getsockname()[1]
    async with inner, outer, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read(4096)
        writer.close()
        await writer.wait_closed()
    return answer, arrived


def test_a_request_arrives_as_the_client_and_its_answer_comes_back(
    files: ClientFiles,
) -> None:
    answer, arrived = asyncio.run(_through(files, GOOD))
    assert answer.endswith(b"ok")
    assert b"".join(arrived) == GOOD


def test_a_web_pages_request_never_arrives(files: ClientFiles) -> None:
    sent = GOOD.replace(b"Content", b"Origin: x\r\nContent")
    answer, arrived = asyncio.run(_through(files, sent))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert arrived == []
