"""
A running front with real TLS, in front of fakes that can fail in every way.

The front runs on its own event loop in a thread, so that tests can use blocking
clients: what a test sends is what really arrives.
"""

import asyncio
import datetime as dt
import hashlib
import http.client
import json
import queue
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID
from eth_account import Account

from nitrosigner.trusted.enclave.attested.recipient import Recipient
from nitrosigner.trusted.enclave.front import Front, start_front
from nitrosigner.trusted.enclave.https.http_protocol import Times
from nitrosigner.trusted.enclave.https.tls_keeping import TlsKeeping
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.trusted.enclave.vault.sealed_singles import Single
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided
from nitrosigner.wire import api, manifest

ALGORITHM = Secp256k1(bytes(32))
SECRETS = {
    "hot": bytes([1]) * 32,
    "cold": bytes([2]) * 32,
    "import": bytes([3]) * 32,
    "off": bytes([4]) * 32,
    "gone": bytes([5]) * 32,
    "kms": bytes([6]) * 32,
    "other-team": bytes([7]) * 32,
}
TOKENS = {
    name: f"token-of-{name}-{hashlib.sha256(name.encode()).hexdigest()}"
    for name in ("default", "reader", "limited", "digest", "narrow")
}


_KMS_KEY = generate_private_key(public_exponent=65537, key_size=2048)
IMPORT_KEY = X25519PrivateKey.generate()


def address_of(name: str) -> str:
    return Account.from_key(SECRETS[name]).address


class FakeKeys:
    """A keyring without vault and store. It counts every signature that it makes."""

    def __init__(self) -> None:
        self.signed: list[Permit] = []
        self.changed: list[tuple[str, str, int | None]] = []
        self.failure: BaseException | None = None
        self.keys: dict[str, api.KeyDescription] = {}
        for name, secret in SECRETS.items():
            with SecretBytes(bytearray(secret)) as buffer:
                public_key = ALGORITHM.public_key(buffer)
            self.keys[name] = api.KeyDescription(
                name=name,
                algorithm="secp256k1",
                kind="kms" if name == "kms" else "vault",
                public_key="0x" + public_key.hex(),
                identity=ALGORITHM.identity(public_key),
                state={"off": "disabled", "gone": "deleted"}.get(name, "enabled"),
                version=1,
                created=1_700_000_000,
            )

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def describe(self, identifier: str) -> api.KeyDescription:
        self._fail()
        for key in self.keys.values():
            if identifier == key.name or identifier.lower() == key.identity.lower():
                return key
        raise Refused(Code.UNKNOWN_KEY, "there is no such key", "nitrosigner keys list")

    def page(self, after: str, limit: int) -> api.KeyPage:
        self._fail()
        names = sorted(name for name in self.keys if name > after)
        return api.KeyPage(
            keys=[self.keys[name] for name in names[:limit]], more=len(names) > limit
        )

    def ciphertext(self, identifier: str) -> api.KeyCiphertext:
        key = self.describe(identifier)
        return api.KeyCiphertext(name=key.name, kind=key.kind, ciphertext="AAAA")

    async def _add(self, name: str, algorithm: str, kind: str) -> api.KeyDescription:
        await asyncio.sleep(0)
        self._fail()
        if algorithm != "secp256k1":
            raise Malformed(Code.MALFORMED_REQUEST, "no such algorithm")
        if name in self.keys:
            raise Refused(Code.VERSION_CONFLICT, "the name is taken")
        key = msgspec.structs.replace(self.keys["hot"], name=name, kind=kind)
        self.keys[name] = key
        self.changed.append(("add", name, None))
        return key

    async def create(self, name: str, algorithm: str) -> api.KeyDescription:
        return await self._add(name, algorithm, "vault")

    async def import_wrapped(self, request: api.ImportKey) -> api.KeyDescription:
        return await self._add(request.name, request.algorithm, "vault")

    async def import_kms(self, request: api.ImportKmsKey) -> api.KeyDescription:
        return await self._add(request.name, request.algorithm, "kms")

    async def _change(
        self, verb: str, identifier: str, version: int | None
    ) -> api.KeyDescription:
        await asyncio.sleep(0)
        self._fail()
        key = self.describe(identifier)
        if version is not None and version != key.version:
            raise Refused(Code.VERSION_CONFLICT, "the version is another one")
        states: dict[str, Any] = {
            "disable": "disabled",
            "enable": "enabled",
            "delete": "deleted",
            "restore": "disabled",
        }
        key = msgspec.structs.replace(key, state=states[verb], version=key.version + 1)
        self.keys[key.name] = key
        self.changed.append((verb, key.name, version))
        return key

    async def disable(self, identifier: str, version: int | None = None) -> Any:
        return await self._change("disable", identifier, version)

    async def enable(self, identifier: str, version: int | None = None) -> Any:
        return await self._change("enable", identifier, version)

    async def delete(self, identifier: str, version: int | None = None) -> Any:
        return await self._change("delete", identifier, version)

    async def restore(self, identifier: str, version: int | None = None) -> Any:
        return await self._change("restore", identifier, version)

    async def rotate_vault(self) -> int:
        await asyncio.sleep(0)
        self._fail()
        return len(self.keys)

    def sign_now(self, permit: Permit) -> Signature | None:
        self._fail()
        if self.keys[permit.key].kind == "kms":
            return None
        return self._sign(permit)

    async def sign(self, permit: Permit) -> Signature:
        await asyncio.sleep(0)
        self._fail()
        return self._sign(permit)

    def _sign(self, permit: Permit) -> Signature:
        self.signed.append(permit)
        with SecretBytes(bytearray(SECRETS[permit.key])) as secret:
            return ALGORITHM.sign(secret, permit.message)

    @property
    def import_public_key(self) -> bytes:
        return IMPORT_KEY.public_key().public_bytes_raw()


class FakeServices:
    """An audit log that can refuse, hang, or fail after it has written."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.batches: list[int] = []
        self.failure: BaseException | None = None
        self.fail_after_writing = False
        self.metrics: list[Any] = []
        self.hang: asyncio.Event | None = None

    async def append_audit(self, events: list[bytes]) -> None:
        if self.hang is not None:
            await self.hang.wait()
        if self.failure is not None and not self.fail_after_writing:
            raise self.failure
        self.lines += events
        self.batches.append(len(events))
        if self.failure is not None:
            raise self.failure

    async def report_metrics(self, metrics: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.metrics.append(metrics)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class FakeSingles:
    """Sealed records in memory. They can be away, altered, or lose an answer."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[int, bytes, bytes]] = {}
        self.failure: BaseException | None = None
        self.fail_after_writing = False
        self.handed_out: list[SecretBytes] = []

    async def read(self, purpose: str) -> Single | None:
        await asyncio.sleep(0)
        if self.failure is not None and not self.fail_after_writing:
            raise self.failure
        if purpose not in self.records:
            return None
        version, public, secret = self.records[purpose]
        buffer = SecretBytes(bytearray(secret))
        self.handed_out.append(buffer)
        return Single(version, public, buffer)

    async def write(
        self, purpose: str, *, expected: int, public: bytes, secret: SecretBytes
    ) -> int:
        await asyncio.sleep(0)
        if self.failure is not None and not self.fail_after_writing:
            raise self.failure
        self.handed_out.append(secret)
        if self.records.get(purpose, (0,))[0] != expected:
            raise Refused(Code.VERSION_CONFLICT, "somebody was first")
        self.records[purpose] = (expected + 1, public, bytes(secret.buffer))
        if self.failure is not None:
            raise self.failure
        return expected + 1


class FakeNsm:
    """An NSM whose documents are readable."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.asked = 0

    def attest(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        assert public_key is not None
        assert user_data is not None
        assert nonce is not None
        return json.dumps([public_key.hex(), user_data.decode(), nonce.hex()]).encode()

    def random(self, size: int) -> bytes:
        return bytes(size)


class FakeVsock:
    """Loopback TCP in the place of the vsock."""

    def __init__(self) -> None:
        self.port = 0

    def connect(self, port: int) -> socket.socket:
        raise ConnectionRefusedError

    def listen(self, port: int) -> socket.socket:
        assert port == 8443
        listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = listening.getsockname()[1]
        return listening


class FakeClock:
    """Real time, which a test can move."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


class FakeHealth:
    """What the core says of itself."""

    def __init__(self) -> None:
        self.state = "ready"
        self.steps = [api.BootStep(name="nsm", ok=True, milliseconds=3)]
        self.checks = {"storage": True, "kms": True, "keys": True}
        self.clock_objection: Undecided | None = None
        self.clock_offset = 0.25
        self.keys_loaded = len(SECRETS)
        self.kms_calls = 1


def make_certificate(
    name: str,
    *,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    days: int = 30,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=10)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key if issuer is None else issuer[1], hashes.SHA256())
    )
    return certificate, key


def write_pair(
    folder: Path, name: str, pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
) -> Path:
    path = folder / f"{name}.pem"
    path.write_bytes(
        pair[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + pair[0].public_bytes(serialization.Encoding.PEM)
    )
    return path


def pem(pair: tuple[x509.Certificate, Any]) -> str:
    return pair[0].public_bytes(serialization.Encoding.PEM).decode()


ALL = list(manifest.Operation)
DEFAULT = [
    each
    for each in ALL
    if each not in (manifest.Operation.SIGN_DIGEST, manifest.Operation.ROTATE_VAULT)
]


class RunningFront:
    """A front, its fakes, and clients for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = FakeKeys()
        self.services = FakeServices()
        self.nsm = FakeNsm()
        self.vsock = FakeVsock()
        self.clock = FakeClock()
        self.health = FakeHealth()
        self.singles = FakeSingles()
        self.recipient = Recipient(self.nsm, self.clock, _KMS_KEY, IMPORT_KEY)
        self.incidents: list[dict[str, Any]] = []
        # What the folder `validators` adds.
        self.validators: Any = None
        self.told_of_validators: Any = None
        self.more_clients: list[manifest.Client] = []
        self.tls_names = ["localhost", "127.0.0.1"]
        self.pairs = {
            name: make_certificate(name)
            for name in ("default", "reader", "stranger", "expired-client")
        }
        self.pairs["expired-client"] = make_certificate("expired-client", days=5)
        self.pairs["issued"] = make_certificate("issued", issuer=self.pairs["default"])
        # In the manifest as it is; its issuer is nowhere to be found.
        self.pairs["company"] = make_certificate(
            "company", issuer=make_certificate("company's authority")
        )
        self.files = {
            name: write_pair(folder, name, pair) for name, pair in self.pairs.items()
        }
        self.limits = manifest.Limits(max_connections=24, max_request_bytes=64 * 1024)
        self.times = Times(
            handshake=0.4,
            head=0.4,
            body=0.4,
            idle=0.8,
            write=0.6,
            drain=0.1,
            sweep=0.02,
        )
        self.front: Front | None = None
        self.port = 0

    @property
    def manifest(self) -> manifest.Manifest:
        client = manifest.Client

        def token(name: str) -> list[str]:
            return [hashlib.sha256(TOKENS[name].encode()).hexdigest()]

        return manifest.Manifest(
            deployment="test",
            version=3,
            aws=manifest.Aws(
                region="eu-west-1",
                kms_key_arn="arn:aws:kms:eu-west-1:111122223333:key/abc",
            ),
            networks=[
                manifest.Network(name="anvil", chain_id=31337),
                manifest.Network(name="mainnet", chain_id=1),
                manifest.Network(name="sepolia", chain_id=11155111),
            ],
            clients=[
                client(
                    name="default",
                    certificates=[pem(self.pairs["default"])],
                    token_sha256=token("default"),
                    operations=DEFAULT,
                    keys=["*"],
                ),
                client(
                    name="reader",
                    certificates=[
                        pem(self.pairs["reader"]),
                        pem(self.pairs["company"]),
                    ],
                    token_sha256=token("reader"),
                    operations=[manifest.Operation.LIST_KEYS],
                    keys=["*"],
                ),
                client(
                    name="limited",
                    token_sha256=token("limited"),
                    operations=DEFAULT,
                    keys=["hot", "c*"],
                    networks=["mainnet"],
                    limits=manifest.ClientLimits(
                        max_value_wei="1000",
                        max_fee_wei="21000000",
                        destinations=["0x" + "11" * 20],
                    ),
                ),
                client(
                    name="digest",
                    token_sha256=token("digest"),
                    operations=ALL,
                    keys=["*"],
                    unprotected_legacy=True,
                ),
                client(
                    name="narrow",
                    token_sha256=token("narrow"),
                    certificates=[pem(self.pairs["expired-client"])],
                    operations=DEFAULT,
                    keys=["cold"],
                    networks=[],
                ),
                *self.more_clients,
            ],
            tls_names=self.tls_names,
            limits=self.limits,
            validators=self.told_of_validators,
        )

    async def start(self) -> None:
        payload = msgspec.json.encode(self.manifest)
        accepted = manifest.AcceptedManifest(
            manifest=manifest.parse(payload),
            digest=hashlib.sha256(payload).hexdigest(),
            administrator="ab" * 32,
        )
        self.payload = payload
        self.front = await start_front(
            world=World(nsm=self.nsm, vsock=self.vsock, clock=self.clock),
            accepted=accepted,
            payload=payload,
            keyring=self.keys,
            services=self.services,
            tls=TlsKeeping(self.singles, self.recipient, accepted, self.clock),
            health_source=self.health,
            validator_keys=self.validators,
            times=self.times,
        )
        self.port = self.vsock.port
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(self.front.around.tls.authority_pem)

    @property
    def authority(self) -> bytes:
        assert self.front is not None
        return self.front.around.tls.authority

    @property
    def leaf(self) -> bytes:
        assert self.front is not None
        return self.front.around.tls.certificate

    # --- clients --------------------------------------------------------------------

    def context(self, certificate: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if certificate is not None:
            context.load_cert_chain(self.files[certificate])
        return context

    def connect(self, certificate: str | None = "default") -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return self.context(certificate).wrap_socket(raw, server_hostname="localhost")

    def http(self, certificate: str | None = "default") -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.context(certificate), timeout=30
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        certificate: str | None = "default",
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Ask once, on a connection of its own; return status and decoded body."""
        headers = dict(headers or {})
        if token is not None:
            certificate = None
            headers["Authorization"] = f"Bearer {TOKENS.get(token, token)}"
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection = self.http(certificate)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
            self.last = response
        finally:
            connection.close()
        if response.headers.get("Content-Type") == "application/json" and data:
            return response.status, json.loads(data)
        return response.status, data

    def rpc(
        self, method: str, *params: Any, path: str = "/", **options: Any
    ) -> dict[str, Any]:
        status, answer = self.ask(
            "POST",
            path,
            {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)},
            **options,
        )
        assert status == 200, answer
        assert answer["jsonrpc"] == "2.0"
        assert answer["id"] == 7
        return answer  # type: ignore[no-any-return]

    def raw(self, data: bytes, *, certificate: str | None = "default") -> bytes:
        """Send bytes as they are; return everything until the front closes."""
        with self.connect(certificate) as connection:
            connection.sendall(data)
            return read_all(connection)

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come to be in time"
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        return self.ask("GET", "/upcheck", certificate=None) == (200, b"OK")


def read_all(connection: ssl.SSLSocket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except (ssl.SSLError, ConnectionResetError):
        pass
    return data


class _Loop:
    """An event loop in a thread. What goes wrong unseen there fails the test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.complaints: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.loop.set_exception_handler(lambda _, about: self.complaints.put(about))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        assert self.complaints.empty(), self.complaints.get()


@contextmanager
def running_front(
    folder: Path, prepare: Callable[[RunningFront], None] = lambda _: None
) -> Iterator[RunningFront]:
    running = RunningFront(folder)
    prepare(running)
    # Libraries of Ethereum that only tests import raise it to 100,000; the enclave
    # has Python's own limit.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    loop = _Loop()
    running.loop = loop  # type: ignore[attr-defined]
    try:
        loop.run(running.start())
        yield running

        async def close() -> None:
            assert running.front is not None
            running.front.close()
            await asyncio.wait_for(running.front.wait_closed(), 30)

        loop.run(close())
    finally:
        loop.stop()
        sys.setrecursionlimit(limit)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[RunningFront]:
    """A front of its own for each test."""
    with running_front(tmp_path) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningFront]]:
    """For tests that prepare the front before it starts."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda prepare: stack.enter_context(running_front(tmp_path, prepare))


@pytest.fixture
def patient_front(start: Callable[..., RunningFront]) -> RunningFront:
    """With the times that it has in service: for clients that take theirs."""

    def prepare(running: RunningFront) -> None:
        running.times = Times()

    return start(prepare)


TRANSACTION = {
    "type": "0x2",
    "chainId": "0x7a69",
    "nonce": "0x0",
    "to": "0x" + "11" * 20,
    "value": "0x64",
    "gas": "0x5208",
    "maxFeePerGas": "0x3e8",
    "maxPriorityFeePerGas": "0x1",
    "data": "0x",
}


@pytest.fixture
def transaction() -> dict[str, Any]:
    """A transaction that the default client may have signed."""
    return dict(TRANSACTION)


@pytest.fixture
def address() -> Callable[[str], str]:
    """The address of a fake key."""
    return address_of


@pytest.fixture
def read_to_end() -> Callable[[ssl.SSLSocket], bytes]:
    return read_all
