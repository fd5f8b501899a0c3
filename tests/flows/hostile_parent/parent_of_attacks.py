"""
A parent that serves as it should until an attack replaces what it says or relays.

Everything that it is told, and every byte that passes it, is kept in `seen`, to be
searched for secrets afterwards. The enclave behind it is a real process, launched by
the emulated hypervisor; KMS is the emulated one, in this process.
"""

import contextlib
import copy
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.emulator.client_credentials import ClientFiles
from nitrosigner.emulator.hypervisor import EmulatedEnclave, Image, measured_nsm
from nitrosigner.emulator.kms import FaultPlan, RunningKms
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.vsock import UnixVsock, socket_path
from nitrosigner.wire import frames, services
from nitrosigner.wire.addresses import (
    EGRESS_PORT,
    HTTPS_PORT,
    PARENT_CID,
    SERVICES_PORT,
)

ENCLAVE_CID = 16
CHUNK = 1 << 16
DEADLINE = 60.0

Records = dict[tuple[str, str], services.StoredRecord]
Reply = services.Answer | bytes | None
"""An answer; bytes for the raw stream in its place; None for silence."""
AnswerAttack = Callable[[services.Request, services.Answer], Reply]
BytesAttack = Callable[[int, bytes], "bytes | None"]
"""From a chunk's number and bytes to what is passed on; None breaks the connection."""


def honest_answer(_request: services.Request, answer: services.Answer) -> Reply:
    return answer


def honest_bytes(_number: int, data: bytes) -> bytes:
    return data


class AttackingParent:
    """Replace its attributes to attack; they are looked at for each message."""

    def __init__(self, run: Path, kms: RunningKms, records: Records) -> None:
        self.records: Records = copy.copy(records)
        self.reports: list[services.ReportState] = []
        self.audit: list[bytes] = []
        self.requests: list[services.Request] = []
        self.seen = bytearray()
        self.answers: AnswerAttack = honest_answer
        self.to_kms: BytesAttack = honest_bytes
        self.from_kms: BytesAttack = honest_bytes
        self.to_enclave: BytesAttack = honest_bytes
        self.from_enclave: BytesAttack = honest_bytes
        self.kms_address = ("127.0.0.1", kms.port)
        self.destinations: list[str] = []
        self._kms = kms
        self._run = run
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        vsock = UnixVsock(run, PARENT_CID)
        callers = socket.create_server(("127.0.0.1", 0))
        self.port: int = callers.getsockname()[1]
        for listener, serve in (
            (vsock.listen(SERVICES_PORT), self._serve_services),
            (vsock.listen(EGRESS_PORT), self._serve_egress),
            (callers, self._serve_caller),
        ):
            self._open.append(listener)
            threading.Thread(
                target=self._accept, args=(listener, serve), daemon=True
            ).start()

    def close(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def drop_connections(self) -> None:
        """Break off everything that is under way; keep listening."""
        with self._lock:
            for one in self._open[3:]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def credentials(self) -> services.Credentials:
        issued = self._kms.principals.issue("parent", dt.timedelta(hours=6))
        return services.Credentials(
            access_key_id=issued.access_key_id,
            secret_access_key=issued.secret_access_key,
            session_token=issued.session_token,
            expires=int(issued.expires.timestamp()),
        )

    # --- what a parent does ---

    def honestly(self, request: services.Request) -> services.Answer:
        match request:
            case services.GetRecord(collection, name):
                found = self.records.get((collection, name))
                return services.Absent() if found is None else services.Found(found)
            case services.ListRecords(collection, after, limit):
                names = sorted(
                    name for kind, name in self.records if kind == collection
                )
                names = [name for name in names if name > after]
                page = [self.records[collection, name] for name in names[:limit]]
                return services.Page(page, more=len(names) > limit)
            case services.PutRecord(collection, name, expected, data):
                found = self.records.get((collection, name))
                stored = 0 if found is None else found.version
                if stored != expected:
                    return services.Conflict(stored)
                self.records[collection, name] = services.StoredRecord(
                    name, expected + 1, data
                )
                return services.Stored(expected + 1)
            case services.RemoveRecord(collection, name, expected):
                found = self.records.get((collection, name))
                stored = 0 if found is None else found.version
                if stored != expected:
                    return services.Conflict(stored)
                self.records.pop((collection, name), None)
                return services.Stored(0)
            case services.GetCredentials():
                return self.credentials()
            case services.AppendAudit(events):
                self.audit += events
                return services.Done()
            case services.ReportState():
                self.reports.append(request)
                return services.Done()

    def _accept(
        self, listener: socket.socket, serve: Callable[[socket.socket], None]
    ) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.append(connection)
            threading.Thread(
                target=self._guarded, args=(serve, connection), daemon=True
            ).start()

    def _guarded(
        self, serve: Callable[[socket.socket], None], connection: socket.socket
    ) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def _serve_services(self, connection: socket.socket) -> None:
        reader = frames.FrameReader()
        while data := connection.recv(CHUNK):
            self.seen += data
            reader.feed(data)
            while (frame := reader.next()) is not None:
                request = services.decode_request(frame.payload)
                with self._lock:
                    self.requests.append(request)
                    reply = self.answers(request, self.honestly(request))
                match reply:
                    case None:
                        continue
                    case bytes():
                        connection.sendall(reply)
                    case answer:
                        connection.sendall(
                            frames.encode(frame.request_id, services.encode(answer))
                        )

    def _serve_egress(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(CHUNK)
            if not part:
                return
            head += part
        self.destinations.append(head.split(b" ")[1].decode())
        with socket.create_connection(self.kms_address, timeout=DEADLINE) as kms:
            connection.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")
            self._pump(connection, kms, "to_kms", "from_kms")

    def _serve_caller(self, connection: socket.socket) -> None:
        enclave = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with enclave:
            enclave.connect(str(socket_path(self._run, ENCLAVE_CID, HTTPS_PORT)))
            self._pump(connection, enclave, "to_enclave", "from_enclave")

    def _pump(
        self, near: socket.socket, far: socket.socket, out: str, back: str
    ) -> None:
        other = threading.Thread(target=self._copy, args=(far, near, back), daemon=True)
        other.start()
        self._copy(near, far, out)
        other.join(DEADLINE)

    def _copy(self, source: socket.socket, sink: socket.socket, attack: str) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.seen += data
                passed: bytes | None = getattr(self, attack)(number, data)
                number += 1
                if passed is None:
                    break
                if passed:
                    sink.sendall(passed)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@dataclass
class Deployment:
    """What an honest first boot left behind, and all that is needed to boot again."""

    kms: RunningKms
    faults: FaultPlan
    pki: NitroPki
    image: Image
    clients: dict[str, ClientFiles]
    kms_key_arn: str
    administrator: str
    """The fingerprint."""
    administrator_key: Ed25519PrivateKey
    secret: bytes
    """The private key of `imported`: what must never be seen outside."""
    records: Records = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    ca: Path = Path()


@dataclass
class Scene:
    """One enclave behind one attacking parent."""

    deployment: Deployment
    parent: AttackingParent
    run: Path
    enclave: EmulatedEnclave | None = None
    asked_before: int = 0
    """Calls in KMS's trail when the enclave was started."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.parent.port}"

    def boot(self) -> None:
        """Start the enclave; it need not become ready."""
        self.end()
        self.asked_before = len(self.deployment.kms.audit())
        nsm = measured_nsm(
            self.deployment.pki, self.deployment.image, role_arn=None, debug=False
        )
        self.enclave = EmulatedEnclave.launch(self.deployment.image, nsm, self.run)

    def boot_until_ready(self) -> None:
        self.boot()
        self.until(lambda: "ready" in self.states, "the enclave is ready")

    def end(self) -> None:
        if self.enclave is not None:
            self.enclave.kill()
            self.enclave.wait()
            self.enclave = None
        self.parent.reports.clear()

    @property
    def states(self) -> list[str]:
        return [report.state for report in self.parent.reports]

    @property
    def codes(self) -> set[str]:
        return {report.code for report in self.parent.reports if report.code}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert self.enclave is not None
            assert time.monotonic() < deadline, (what, self.parent.reports)
            time.sleep(0.01)

    def stuck_with(self, *codes: str) -> None:
        """Wait until the boot says no with one of *codes*; it must not be ready."""
        self.until(lambda: bool(self.codes & set(codes)), f"a report of {codes}")
        assert "ready" not in self.states

    def turned_away(self, attempts: int = 4) -> None:
        """
        Wait until the boot says no, or has asked KMS in vain so many times.

        It says no only when its patience is at an end; that it is still asking after
        several answers shows as much, and sooner.
        """
        self.until(
            lambda: (
                bool(self.codes)
                or len(self.parent.destinations) >= attempts
                or len(self.deployment.kms.audit()) - self.asked_before >= attempts
            ),
            "the boot does not get what it asks KMS for",
        )
        assert "ready" not in self.states


@contextlib.contextmanager
def impostor(
    certificate: Path, answer: bytes
) -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """
    End TLS with *certificate* and serve *answer*; yield where, and what was said to it.

    Nobody should say anything: whoever checks certificates never sends a request.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    said: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with (
                connection,
                contextlib.suppress(OSError),
                context.wrap_socket(connection, server_side=True) as secure,
            ):
                if heard := secure.recv(CHUNK):
                    said.append(heard)
                    secure.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname(), said
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
