"""
A signer's HTTPS API in one process, for the tests of everything that talks to one.

It signs with eth-account, so it is an independent oracle for what a client sends; its
documents come from an emulated NSM. Every way in which the real thing can fail or lie
is a field that a test sets.
"""

import base64
import contextlib
import datetime as dt
import hashlib
import importlib.util
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_keys import keys as eth_keys

from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm, initial_pcrs
from nitrosigner.wire import import_wrapping
from nitrosigner.wire import statement as statements


def _sibling(name: str) -> Any:
    full = f"nitrosigner_tests_{name}"
    if full not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(full, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


validators = _sibling("fake_validators")

DEPLOYMENT = "test"
ADMINISTRATOR = "ad" * 32
MANIFEST = "3a" * 32
TOKEN = "canary-token-Zm9vYmFy"
PCR = {index: bytes([0xC0 + index]) * 48 for index in range(3)}
NOW = dt.datetime.now(dt.UTC)


@dataclass
class Made:
    """A certificate and its key, as PEM."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make_certificate(
    name: str, issuer: Made | None = None, *, ca: bool = False
) -> Made:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    above = issuer.key.public_key() if issuer else key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False
        )
    )
    if not ca:
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return Made(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    certificate: bool


Fault = Callable[["_Handler"], bool]
"""Returns whether it has answered (or spoilt) the request itself."""


@dataclass
class FakeSigner:
    pki: NitroPki
    folder: Path
    seen: list[Seen] = field(default_factory=list)
    fault: Fault | None = None
    secrets: dict[str, bytes] = field(default_factory=dict)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    ciphertexts: dict[str, str] = field(default_factory=dict)
    denied: set[str] = field(default_factory=lambda: {"digest"})
    page: int = 2
    connections: int = 0
    # what it says of itself, each of which a test may make a lie
    pcrs: dict[int, bytes] = field(default_factory=lambda: dict(PCR))
    debug: bool = False
    administrator: str = ADMINISTRATOR
    deployment: str = DEPLOYMENT
    manifest: str = MANIFEST
    tls_digest: str | None = None
    tls_imported = False
    user_data: bytes | None = None
    public_key: bytes | None = None
    replayed: bytes | None = None
    named_authority: bytes | None = None
    health: dict[str, Any] = field(default_factory=dict)
    kms_decrypt: Callable[[bytes], bytes] | None = None
    validators: Any = field(default_factory=validators.FakeValidators)

    def __post_init__(self) -> None:
        self.ca = make_certificate("fake authority", ca=True)
        self.client = make_certificate("default")
        self.leaf = make_certificate("localhost", self.ca)
        self.import_key = X25519PrivateKey.generate()
        self.ca_file = self._file("ca.pem", self.ca.pem)
        self.cert_file = self._file("cert.pem", self.client.pem)
        self.key_file = self._file("key.pem", self.client.key_pem)
        self.token_file = self._file("token", TOKEN.encode() + b"\n")
        self.server = _Server(self, self._context())
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}"
        self._serve()

    def _serve(self) -> None:
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        )
        self.thread.start()

    def _file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)
        return path

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = self._file("leaf.pem", self.leaf.pem + self.leaf.key_pem)
        context.load_cert_chain(chain)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.client.pem.decode())
        return context

    def restart_with_new_certificate(self) -> None:
        """As an enclave that was started again: same authority, new leaf."""
        self.stop()
        self.leaf = make_certificate("localhost", self.ca)
        self.import_key = X25519PrivateKey.generate()
        self.server = _Server(self, self._context(), self.port)
        self._serve()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.server.close_connections()
        self.thread.join(30)

    # --- what the enclave does ----------------------------------------------------

    def document(self, nonce: bytes) -> bytes:
        code = initial_pcrs(self.pcrs, instance_id="i-0", debug=self.debug)
        nsm = EmulatedNsm(self.pki, code, lambda: dt.datetime.now(dt.UTC))
        der = self.leaf.certificate.public_bytes(serialization.Encoding.DER)
        statement = statements.Statement(
            deployment=self.deployment,
            manifest=self.manifest,
            manifest_version=1,
            administrator=self.administrator,
            tls=self.tls_digest or hashlib.sha256(der).hexdigest(),
            tls_imported=self.tls_imported,
        )
        return nsm.attest(
            public_key=self.public_key
            or self.import_key.public_key().public_bytes_raw(),
            user_data=self.user_data or statements.encode(statement),
            nonce=nonce,
        )

    def add_key(
        self, name: str, secret: bytes, kind: str = "vault", version: int = 1
    ) -> dict[str, Any]:
        public_key = eth_keys.PrivateKey(secret).public_key
        self.secrets[name] = secret
        self.described[name] = {
            "name": name,
            "algorithm": "secp256k1",
            "kind": kind,
            "public_key": "0x" + public_key.to_compressed_bytes().hex(),
            "identity": public_key.to_checksum_address(),
            "state": "enabled",
            "version": version,
            "created": 1_700_000_000,
            "purge_after": None,
        }
        return self.described[name]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, signer: FakeSigner, context: ssl.SSLContext, port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.signer = signer
        self.context = context
        self.open: list[Any] = []

    def get_request(self) -> Any:
        raw, address = super().get_request()
        self.signer.connections += 1
        raw.settimeout(30)
        tls = self.context.wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        )
        self.open.append(tls)
        return tls, address

    def close_connections(self) -> None:
        for connection in self.open:
            # `close` alone leaves it open for as long as a handler reads from it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up, or a fault that closed the connection.
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # Bodies and heads go out in one segment each; without this they wait for acks.
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        signer = self.server.signer
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        authenticated = bool(self.connection.getpeercert())  # type: ignore[attr-defined]
        headers = {name.lower(): value for name, value in self.headers.items()}
        signer.seen.append(Seen(method, self.path, headers, body, authenticated))
        if signer.fault is not None and signer.fault(self):
            return
        if headers.get("authorization") == f"Bearer {TOKEN}":
            authenticated = True
        try:
            self._route(method, body, authenticated)
        except Problem as problem:
            self.problem(problem.status, problem.code, str(problem))

    def _route(self, method: str, body: bytes, authenticated: bool) -> None:
        signer = self.server.signer
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        match method, *[unquote(part) for part in url.path.strip("/").split("/")]:
            case "GET", "upcheck":
                self.answer(200, b"OK", "text/plain")
                return
            case "GET", "healthcheck":
                health = {
                    "status": "UP",
                    "state": "ready",
                    "keys_loaded": len(signer.secrets),
                    "steps": [{"name": "nsm", "ok": True, "milliseconds": 3}],
                    "checks": {"storage": True},
                    "kms_calls": 1,
                    "version": "0",
                } | signer.health
                health["outcome"] = health["status"]
                self.json(200 if health["status"] == "UP" else 503, health)
                return
            case "GET", "api", "v1", "ca":
                self.answer(
                    200,
                    signer.named_authority or signer.ca.pem,
                    "application/x-pem-file",
                )
                return
            case "GET", "api", "v1", "attestation":
                nonce = bytes.fromhex(query["nonce"][0])
                document = signer.replayed or signer.document(nonce)
                self.json(
                    200,
                    {"document": base64.b64encode(document).decode(), "manifest": ""},
                )
                return
        if not authenticated:
            raise Problem(401, "unauthenticated", "no credential")
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if validators.route(self, Problem, method, parts, query, body):
            return
        sent = json.loads(body) if body else {}
        match method, *parts:
            case "GET", "api", "v1", "keys":
                after = query.get("after", [""])[0]
                names = sorted(name for name in signer.described if name > after)
                cut = min(signer.page, int(query.get("limit", ["500"])[0]))
                listed = [signer.described[name] for name in names[:cut]]
                self.json(200, {"keys": listed, "more": len(names) > cut})
            case "POST", "api", "v1", "keys":
                if sent["name"] in signer.described:
                    raise Problem(412, "version_conflict", "there is such a key")
                secret = hashlib.sha256(sent["name"].encode()).digest()
                self.json(201, signer.add_key(sent["name"], secret))
            case "POST", "api", "v1", "keys", "import":
                info = import_wrapping.import_info(
                    deployment=DEPLOYMENT,
                    name=sent["name"],
                    algorithm=sent["algorithm"],
                    identity=sent["identity"],
                )
                wrapped = base64.b64decode(sent["wrapped_key"])
                try:
                    secret = import_wrapping.unwrap(wrapped, signer.import_key, info)
                except ValueError:
                    raise Problem(
                        400, "malformed_key", "not wrapped for this"
                    ) from None
                self._import(sent, secret, "vault")
            case "POST", "api", "v1", "keys", "import-kms":
                assert signer.kms_decrypt is not None
                secret = signer.kms_decrypt(base64.b64decode(sent["ciphertext"]))
                signer.ciphertexts[sent["name"]] = sent["ciphertext"]
                self._import(sent, secret, "vault" if sent["reseal"] else "kms")
            case "GET", "api", "v1", "keys", key:
                self.json(200, self._key(key))
            case "GET", "api", "v1", "keys", key, "ciphertext":
                name = self._key(key)["name"]
                self.json(
                    200,
                    {
                        "name": name,
                        "kind": self._key(key)["kind"],
                        "ciphertext": signer.ciphertexts.get(name, "c2VhbGVk"),
                    },
                )
            case "POST", "api", "v1", "keys", key, (
                "disable" | "enable" | "delete" | "restore"
            ) as what:
                described = self._key(key)
                if sent.get("version") not in (None, described["version"]):
                    raise Problem(412, "version_conflict", "another version")
                described["state"] = {"disable": "disabled", "delete": "deleted"}.get(
                    what, "enabled"
                )
                described["version"] += 1
                described["purge_after"] = 1_800_000_000 if what == "delete" else None
                self.json(200, described)
            case "POST", "api", "v1", "vault", "rotate":
                self.json(200, {"keys": len(signer.secrets)})
            case "POST", "api", "v1", "keys", key, "sign", what:
                self._sign(key, what, sent)
            case _:
                raise Problem(404, "unknown_route", "no such route")

    def _key(self, key: str) -> dict[str, Any]:
        for described in self.server.signer.described.values():
            if key in (described["name"], described["identity"]):
                return described
        raise Problem(404, "unknown_key", "there is no such key")

    def _import(self, sent: dict[str, Any], secret: bytes, kind: str) -> None:
        signer = self.server.signer
        name = sent["name"]
        stored = signer.described.get(name, {"version": 0})["version"]
        if stored != sent["version"]:
            raise Problem(412, "version_conflict", "another version")
        if (
            eth_keys.PrivateKey(secret).public_key.to_checksum_address()
            != sent["identity"]
        ):
            raise Problem(403, "key_mismatch", "another address")
        self.json(201, signer.add_key(name, secret, kind, stored + 1))

    def _sign(self, key: str, what: str, sent: dict[str, Any]) -> None:
        signer = self.server.signer
        described = self._key(key)
        if what in signer.denied:
            raise Problem(403, "not_allowed", "this client may not")
        if described["state"] != "enabled":
            raise Problem(403, "key_disabled", "the key is disabled")
        account = Account.from_key(signer.secrets[described["name"]])
        match what:
            case "transaction":
                transaction = sent["transaction"]
                for name, value in transaction.items():
                    assert not isinstance(value, float), name
                transaction.pop("from", None)
                signed = account.sign_transaction(transaction)
                self.json(
                    200,
                    {
                        "raw": signed.raw_transaction.to_0x_hex(),
                        "hash": signed.hash.to_0x_hex(),
                        "from": account.address,
                    },
                )
                return
            case "message":
                text, data = sent.get("text"), sent.get("data")
                message = (
                    encode_defunct(text=text)
                    if text is not None
                    else encode_defunct(hexstr=data)
                )
                signed = account.sign_message(message)
            case "typed-data":
                signed = account.sign_message(
                    encode_typed_data(full_message=sent["typed_data"])
                )
            case "digest":
                signed = account.unsafe_sign_hash(sent["digest"])
            case "authorization":
                made = account.sign_authorization(
                    {
                        "chainId": int(sent["chain_id"], 16),
                        "address": sent["address"],
                        "nonce": int(sent["nonce"], 16),
                    }
                )
                self.json(
                    200,
                    {
                        "chainId": sent["chain_id"],
                        "address": sent["address"],
                        "nonce": sent["nonce"],
                        "yParity": hex(made.y_parity),
                        "r": hex(made.r),
                        "s": hex(made.s),
                    },
                )
                return
            case _:
                raise Problem(404, "unknown_route", "no such route")
        self.json(
            200,
            {
                "signature": signed.signature.to_0x_hex(),
                "digest": signed.message_hash.to_0x_hex(),
                "from": account.address,
            },
        )

    def json(self, status: int, value: Any) -> None:
        self.answer(status, json.dumps(value).encode(), "application/json")

    def problem(
        self, status: int, code: str, message: str, hint: str = "try this"
    ) -> None:
        self.json(status, {"error": {"code": code, "message": message, "hint": hint}})

    def answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self) -> None:
        """Close the connection in the middle of nowhere."""
        self.close_connection = True
        self.connection.close()

    def drip(self, stop: threading.Event) -> None:
        """Answer without end, a byte at a time."""
        self.send_response(200)
        self.send_header("content-length", "1000000")
        self.end_headers()
        while not stop.wait(0.02):
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                return


class Problem(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
