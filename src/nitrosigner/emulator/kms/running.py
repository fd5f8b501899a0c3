"""
Starts the emulated KMS in this process, for tests and for the stand-alone program.

Everything it keeps lies in DATA/kms. Two of them never share a folder: the second one
to start says so and gives up.
"""

import contextlib
import datetime as dt
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nitrosigner.emulator.data_folder import make_private
from nitrosigner.emulator.imds import ImdsServer
from nitrosigner.emulator.kms.attested_recipient import DocumentReader, reader_under
from nitrosigner.emulator.kms.call import Kms
from nitrosigner.emulator.kms.certificates import ensure_certificates
from nitrosigner.emulator.kms.faults import FaultPlan
from nitrosigner.emulator.kms.https_server import KmsServer
from nitrosigner.emulator.kms.key_material import RootKey
from nitrosigner.emulator.kms.principals import Principal, Principals, load_or_create
from nitrosigner.emulator.kms.service import Service
from nitrosigner.emulator.kms.store import AuditRow, Store
from nitrosigner.emulator.kms.trail import Trail
from nitrosigner.verdicts import Code, Refused

REGION: Final = "us-east-1"
ACCOUNT: Final = "123456789012"
"""The account number that AWS's own examples use."""
SESSION_LIFE: Final = dt.timedelta(hours=6)
"""Of instance role credentials, as on EC2."""


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be chosen. Everything has a default that suits a local stack."""

    region: str = REGION
    account: str = ACCOUNT
    port: int = 0
    """Of KMS; 0 picks a free one."""
    imds_port: int = 0
    session_life: dt.timedelta = SESSION_LIFE
    now: Callable[[], dt.datetime] = utc_now
    read_document: DocumentReader | None = None
    """None: verify under DATA/emulator/root.pem."""


DEFAULTS: Final = Settings()


class RunningKms:
    """An emulated KMS that answers. Leave its `with` block, or call `stop`."""

    def __init__(
        self, data: Path, settings: Settings, faults: FaultPlan | None
    ) -> None:
        """Open the folder and listen."""
        self._stack = contextlib.ExitStack()
        try:
            self._open(data.resolve(), settings, faults)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, data: Path, settings: Settings, faults: FaultPlan | None) -> None:
        folder = data / "kms"
        make_private(folder)
        self._stack.enter_context(_only_one(folder / "lock"))
        self.region, self.account = settings.region, settings.account
        self.principals_file = folder / "principals.json"
        stored = load_or_create(
            self.principals_file, region=self.region, account=self.account
        )
        if (stored.region, stored.account) != (self.region, self.account):
            raise Refused(
                Code.NOT_ALLOWED,
                f"{folder} belongs to account {stored.account} in {stored.region}",
                "start it with those, or choose another folder",
            )
        root_key = RootKey(folder / "root.key")
        self._store = Store(folder / "kms.db")
        self._stack.callback(self._store.close)
        self._principals = Principals(
            stored.principals, session_key=root_key.session_key, now=settings.now
        )
        trail = Trail(
            self._store,
            folder / "cloudtrail.jsonl",
            region=self.region,
            account=self.account,
        )
        self._stack.callback(trail.close)
        kms = Kms(
            store=self._store,
            root_key=root_key,
            principals=self._principals,
            read_document=settings.read_document
            or reader_under(data / "emulator" / "root.pem"),
            now=settings.now,
            region=self.region,
            account=self.account,
        )
        tls = ensure_certificates(folder, region=self.region, now=settings.now())
        self.ca = tls.authority
        server = KmsServer(settings.port, Service(kms, trail, faults), tls.certificate)
        self._run(server)
        self.port = server.port
        imds = ImdsServer(
            settings.imds_port,
            role=self._principals.role("parent"),
            issue=lambda: self._principals.issue("parent", settings.session_life),
            region=self.region,
            now=settings.now,
        )
        self._run(imds)
        self.imds_port = imds.port

    def _run(self, server: KmsServer | ImdsServer) -> None:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        self._stack.callback(thread.join, 5.0)
        self._stack.callback(server.stop)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def imds_url(self) -> str:
        """The emulated instance metadata service of the parent."""
        return f"http://127.0.0.1:{self.imds_port}"

    @property
    def principals(self) -> Principals:
        """Who may call."""
        return self._principals

    def principal(self, name: str) -> Principal:
        """Return a role and its credentials: `parent`, `gateway`, `administrator`."""
        return self._principals.role(name)

    def audit(self, *, operation: str | None = None) -> list[AuditRow]:
        """Return the trail, oldest first."""
        return self._store.audit(operation=operation)

    def stop(self) -> None:
        """End all connections and close the files. Harmless when repeated."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    data: Path, *, settings: Settings = DEFAULTS, faults: FaultPlan | None = None
) -> RunningKms:
    """
    Start an emulated KMS on the local stack's folder *data*.

    Raises:
        Refused: Another one runs on the folder, or it is of another account.
    """
    return RunningKms(data, settings, faults)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                Code.NOT_ALLOWED,
                f"another emulated KMS runs on {path.parent}",
                "stop it first, or choose another folder",
            ) from None
        yield
    finally:
        os.close(descriptor)
