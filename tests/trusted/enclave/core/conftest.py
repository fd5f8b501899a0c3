"""
A laboratory for the enclave's core: the emulated KMS and NSM, and a parent that can
fail in every way that a real one can.
"""

import asyncio
import base64
import contextlib
import copy
import datetime as dt
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.emulator.kms import FaultPlan, RunningKms, start
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.nsm import EmulatedNsm, initial_pcrs
from nitrosigner.image.key_policy import KeyPolicy
from nitrosigner.trusted.enclave import assembly
from nitrosigner.trusted.enclave.attested.nsm import NsmClient
from nitrosigner.trusted.enclave.boot import Pace
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.trusted.enclave.running import Running
from nitrosigner.wire import frames, manifest, services
from nitrosigner.wire.addresses import EGRESS_PORT, SERVICES_PORT

PCR0 = bytes([7]) * 48
DEADLINE = 20.0
Records = dict[tuple[str, str], services.StoredRecord]


class Clock:
    """Real clocks, which can be moved: all of them, or the kernel's away from time."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Time that has passed: here and at the hypervisor, not at KMS."""
        self.wrong = 0.0
        """By which only the kernel's wall clock is wrong."""

    def true(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.ahead)

    def now(self) -> float:
        return self.true().timestamp() + self.wrong

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Cut(Exception):
    """Raised by a hook: the parent closes the connection instead."""


class Silence(Exception):
    """Raised by a hook: the parent never answers this request."""


class FakeParent:
    """
    A parent in memory. `before` and `after` may replace, refuse, cut or spoil anything:
    they see the request (and the honest answer) and return an answer, raw bytes for the
    stream, or raise `Cut` or `Silence`.
    """

    def __init__(self, credentials: services.Credentials, kms_port: int) -> None:
        self.records: Records = {}
        self.watermarks: dict[bytes, services.StoredWatermark] = {}
        self.given = credentials
        self.kms_port = kms_port
        self.requests: list[Any] = []
        self.reports: list[services.ReportState] = []
        self.audit: list[bytes] = []
        self.before: Callable[[Any], Any] = lambda _request: None
        self.after: Callable[[Any, Any], Any] = lambda _request, answer: answer
        self.absent = False
        self.greeting = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.seen = bytearray()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    # --- the parent's honest work ---

    def honest(self, request: Any) -> Any:
        records = self.records
        match request:
            case services.GetRecord(collection, name):
                found = records.get((collection, name))
                return services.Found(found) if found else services.Absent()
            case services.ListRecords(collection, after, limit):
                names = sorted(
                    name
                    for kind, name in records
                    if kind == collection and name > after
                )
                page = [records[collection, name] for name in names[:limit]]
                return services.Page(page, len(names) > limit)
            case services.PutRecord(collection, name, expected, data):
                held = records.get((collection, name))
                version = held.version if held else 0
                if version != expected:
                    return services.Conflict(version)
                records[collection, name] = services.StoredRecord(
                    name, expected + 1, data
                )
                return services.Stored(expected + 1)
            case services.RemoveRecord(collection, name, expected):
                held = records.get((collection, name))
                if (held.version if held else 0) != expected or not held:
                    return services.Conflict(held.version if held else 0)
                del records[collection, name]
                return services.Stored(0)
            case services.ReadWatermarks(keys):
                marks = self.watermarks
                return services.Watermarks([marks[key] for key in keys if key in marks])
            case services.ListWatermarks(after_key, limit):
                marks = self.watermarks
                keys = sorted(key for key in marks if key > (after_key or b""))
                return services.WatermarkPage(
                    [marks[key] for key in keys[:limit]], len(keys) > limit
                )
            case services.AdvanceWatermarks(changes):
                return services.Advanced([self._advance(change) for change in changes])
            case services.GetCredentials():
                return self.given
            case services.AppendAudit(events):
                self.audit += events
                return services.Done()
            case services.ReportMetrics():
                return services.Done()
            case services.ReportState():
                self.reports.append(request)
                return services.Done()
        raise AssertionError(request)

    def _advance(self, change: services.WatermarkChange) -> bool:
        held = self.watermarks.get(change.public_key)
        if (held.version if held else 0) != change.expected:
            return False
        self.watermarks[change.public_key] = services.StoredWatermark(
            change.public_key, change.expected + 1, change.data
        )
        return True

    def _serve(self, connection: socket.socket) -> None:
        reader = frames.FrameReader()
        with contextlib.suppress(OSError, Cut), connection:
            while data := connection.recv(1 << 16):
                reader.feed(data)
                while (frame := reader.next()) is not None:
                    with contextlib.suppress(Silence):
                        connection.sendall(self._answer(frame))

    def _answer(self, frame: frames.Frame) -> bytes:
        request = services.decode_request(frame.payload)
        with self._lock:
            self.requests.append(request)
            answer = self.before(request)
            if answer is None:
                answer = self.after(request, self.honest(request))
        if isinstance(answer, bytes):
            return answer
        return frames.encode(frame.request_id, services.encode(answer))

    def _relay(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            connection.sendall(self.greeting)
            if b" 200 " not in self.greeting:
                return
            with socket.create_connection(("127.0.0.1", self.kms_port)) as kms:
                back = threading.Thread(
                    target=self._pump, args=(kms, connection), daemon=True
                )
                back.start()
                self._pump(connection, kms)
                back.join(30)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    # --- the enclave's side: the port Vsock ---

    def connect(self, port: int) -> socket.socket:
        if self.absent:
            raise ConnectionRefusedError
        target = {SERVICES_PORT: self._serve, EGRESS_PORT: self._relay}[port]
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=target, args=(ours,), daemon=True)
        self._open.append(ours)
        self._threads.append(thread)
        thread.start()
        return theirs

    def listen(self, _port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        return listener

    def hang_up(self) -> None:
        """Close every connection, as a parent that dies does."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.hang_up()
        for thread in self._threads:
            thread.join(30)

    # --- for tests ---

    def record(self, collection: str, name: str) -> services.StoredRecord:
        return self.records[collection, name]

    def snapshot(self) -> Records:
        with self._lock:
            return copy.copy(self.records)

    def count(self, kind: type) -> int:
        return sum(isinstance(request, kind) for request in self.requests)


@dataclass
class Lab:
    """One deployment. Every test has a store of its own; KMS is shared."""

    kms: RunningKms
    faults: FaultPlan
    pki: NitroPki
    arn: str
    administrator: Ed25519PrivateKey
    clock: Clock = field(default_factory=Clock)
    pcr0: bytes = PCR0
    parents: list[FakeParent] = field(default_factory=list)

    def aws(self) -> manifest.Aws:
        return manifest.Aws(
            region=self.kms.region,
            kms_key_arn=self.arn,
            kms_certificate_authorities=(Path(self.kms.ca).read_text(),),
        )

    def wanted(self, version: int = 1, **changes: Any) -> manifest.Manifest:
        fields: dict[str, Any] = {
            "deployment": "lab",
            "version": version,
            "aws": self.aws(),
            "networks": (manifest.Network(name="anvil", chain_id=31337),),
            "clients": (
                manifest.Client(
                    name="default",
                    token_sha256=("00" * 32,),
                    operations=(manifest.Operation.LIST_KEYS,),
                    keys=("*",),
                ),
            ),
        }
        return manifest.Manifest(**fields | changes)

    def sign(
        self, wanted: manifest.Manifest, by: Ed25519PrivateKey | None = None
    ) -> bytes:
        return manifest.sign(wanted, by or self.administrator)

    def accepted(self, version: int = 1) -> manifest.AcceptedManifest:
        return manifest.accept(self.sign(self.wanted(version)))

    def credentials(self, role: str = "parent") -> services.Credentials:
        principal = self.kms.principal(role)
        return services.Credentials(
            principal.access_key_id,
            principal.secret_access_key,
            principal.session_token or "",
            int(self.clock.now()) + 3600,
        )

    def parent(self, signed: bytes | None = None) -> FakeParent:
        """A new parent, with an empty store but for the manifest."""
        made = FakeParent(self.credentials(), self.kms.port)
        made.records["manifest", "current"] = services.StoredRecord(
            "current", 1, signed or self.sign(self.wanted())
        )
        self.parents.append(made)
        return made

    def nsm(self) -> NsmClient:
        pcrs = initial_pcrs(
            {0: self.pcr0, 1: self.pcr0, 2: self.pcr0},
            instance_id="i-0123456789abcdef0",
        )
        device = EmulatedNsm(self.pki, pcrs, self.clock.true)
        return NsmClient(device.handle)

    def world(self, parent: FakeParent) -> World:
        return World(nsm=self.nsm(), vsock=parent, clock=self.clock)

    @contextlib.asynccontextmanager
    async def boot(self, parent: FakeParent) -> AsyncIterator[Running]:
        """An enclave that has booted on *parent*. It ends as a crash would."""
        connection = ParentServices(parent, self.clock)
        try:
            pace = Pace(first=0.01, longest=0.05, refused=0.01, longest_refused=0.05)
            async with asyncio.timeout(DEADLINE):
                running = await assembly.start(self.world(parent), connection, pace)
            try:
                yield running
            finally:
                await running.close()
        finally:
            connection.close()

    def booted(
        self, parent: FakeParent, use: Callable[[Running], Coroutine[Any, Any, Any]]
    ) -> Any:
        """Boot, run *use* on it, end; return what *use* returned."""

        async def whole() -> Any:
            async with self.boot(parent) as running:
                return await use(running)

        return asyncio.run(whole())

    def stuck(self, parent: FakeParent) -> services.ReportState:
        """Boot until a verdict is reported; return it. It must not become ready."""

        async def whole() -> services.ReportState:
            connection = ParentServices(parent, self.clock)
            pace = Pace(first=0.01, longest=0.02, refused=0.01, longest_refused=0.02)
            task = asyncio.create_task(
                assembly.start(self.world(parent), connection, pace)
            )
            try:
                async with asyncio.timeout(DEADLINE):
                    while True:
                        bad = [report for report in parent.reports if report.code]
                        if bad:
                            return bad[0]
                        assert not task.done()
                        await asyncio.sleep(0.005)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                connection.close()

        return asyncio.run(whole())

    def encrypt(self, plaintext: bytes, context: dict[str, str]) -> str:
        """KMS Encrypt, as the Lambda's set_key does it, outside. Base64."""
        client = _boto(self.kms, "gateway")
        blob = client.encrypt(
            KeyId=self.arn, Plaintext=plaintext, EncryptionContext=context
        )["CiphertextBlob"]
        client.close()
        return base64.b64encode(blob).decode()

    def decrypts(self) -> int:
        """Decrypt calls that KMS has answered so far, refusals included."""
        return len(self.kms.audit(operation="Decrypt"))


def _boto(kms: RunningKms, role: str) -> Any:
    principal = kms.principal(role)
    return boto3.session.Session().client(
        "kms",
        region_name=kms.region,
        endpoint_url=kms.url,
        verify=str(kms.ca),
        aws_access_key_id=principal.access_key_id,
        aws_secret_access_key=principal.secret_access_key,
        aws_session_token=principal.session_token,
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    data = tmp_path_factory.mktemp("lab")
    pki = NitroPki.open(data / "emulator", dt.datetime.now(dt.UTC))
    administrator = Ed25519PrivateKey.generate()
    faults = FaultPlan()
    with start(data, faults=faults) as kms:
        client = _boto(kms, "administrator")
        policy = KeyPolicy(
            measurements=[PCR0.hex()],
            administrator=manifest.fingerprint(administrator.public_key()),
            deployment="lab",
            enclave_role=kms.principal("parent").arn,
            gateway_role=kms.principal("gateway").arn,
            key_administrator=kms.principal("administrator").arn,
        )
        arn = client.create_key(Policy=policy.text)["KeyMetadata"]["Arn"]
        client.close()
        yield Lab(kms, faults, pki, arn, administrator)


@pytest.fixture
def lab(_shared: Lab) -> Iterator[Lab]:
    _shared.faults.clear()
    _shared.clock.ahead = _shared.clock.wrong = 0.0
    _shared.pcr0 = PCR0
    yield _shared
    _shared.faults.clear()
    while _shared.parents:
        _shared.parents.pop().stop()


@pytest.fixture
def parent(lab: Lab) -> FakeParent:
    return lab.parent()


@pytest.fixture(scope="session")
def cut() -> type[Cut]:
    return Cut


@pytest.fixture(scope="session")
def silence() -> type[Silence]:
    return Silence


@pytest.fixture
def permit() -> Callable[[str], Permit]:
    generator = random.Random(1)
    return lambda name: Permit(name, generator.randbytes(32))
