"""
Several signers of one deployment on one machine, as an Auto Scaling group has them.

Each has what an instance has: a parent and a watchdog that something like systemd keeps
running, an enclave that the watchdog keeps running, an audit log and a state of its
own. They share a DynamoDB, the KMS and the administrator's manifest, and stand behind
one load balancer. All of it is what is shipped; only what AWS gives is emulated.
"""

import asyncio
import contextlib
import datetime as dt
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar, final

import msgspec

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.client import verification
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import data_folder, kms_rollout, stack_programs
from nitrosigner.emulator.data_folder import DataFolder, make_private
from nitrosigner.emulator.first_run import (
    REGION,
    Identities,
    ensure_identities,
    ensure_manifest,
)
from nitrosigner.emulator.load_balancer import LoadBalancer
from nitrosigner.emulator.local_stack import free_port
from nitrosigner.emulator.manifest_store import COLLECTION, NAME
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.run_folder import run_folder
from nitrosigner.emulator.running_stack import wait_until
from nitrosigner.emulator.stack_programs import KMS_HOST, Places
from nitrosigner.emulator.supervisor import Death, Program, Supervisor
from nitrosigner.image import contents
from nitrosigner.untrusted.parent.configuration import (
    Audit,
    Configuration,
    DynamoDb,
    Egress,
    Limits,
    Listen,
    UnixMode,
)
from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.parent import open_store
from nitrosigner.untrusted.parent.watchdog_configuration import (
    BackOff,
    Probe,
    WatchdogConfiguration,
)
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.manifest import AcceptedManifest
from nitrosigner.wire.manifest_validators import Validators
from nitrosigner.wire.services import Stored

START_DEADLINE: Final = 60.0
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Tables:
    """A DynamoDB with the two tables that an operator makes."""

    endpoint: str
    records: str
    watermarks: str


@final
class Instance:
    """One of the signers."""

    def __init__(self, number: int, shared: Places, tables: Tables, run: Path) -> None:
        """Write what its programs read; nothing is started."""
        self.number: Final = number
        self.disk: Final = DataFolder(shared.folder.path / "instances" / str(number))
        self.places: Final = replace(shared, run=run, port=free_port())
        self.url: Final = f"https://localhost:{self.places.port}"
        make_private(self.disk.parent)
        self._write("parent.json", self._parent(tables))
        self._write("watchdog.json", self._watchdog())

    @property
    def audit(self) -> Path:
        """Its audit log."""
        return self.disk.parent / "audit.jsonl"

    def programs(self) -> list[Program]:
        """Return what its systemd starts; the enclave is the watchdog's."""
        parent = self._program("parent", "nitrosigner.untrusted.parent", "parent.json")
        # boto3 asks the instance's metadata for the role, as it does on AWS.
        metadata = f"http://127.0.0.1:{self.places.metadata_port}"
        environment = {
            **parent.environment,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata,
        }
        return [
            replace(parent, environment=environment),
            self._program(
                "watchdog", "nitrosigner.untrusted.parent.watchdog", "watchdog.json"
            ),
        ]

    def name(self, program: str) -> str:
        """Return what the supervisor calls one of its programs."""
        return f"{program}-{self.number}"

    def _program(self, name: str, module: str, configuration: str) -> Program:
        path = self.disk.parent / configuration
        return Program(
            name=self.name(name),
            command=(sys.executable, "-I", "-m", module, "--config", str(path)),
            environment={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            log=self.disk.logs / f"{name}.log",
        )

    def _write(self, name: str, value: msgspec.Struct) -> None:
        data_folder.replace(self.disk.parent / name, msgspec.json.encode(value))

    def _parent(self, tables: Tables) -> Configuration:
        places, disk = self.places, self.disk.parent
        return Configuration(
            listen=Listen(address="127.0.0.1", port=places.port),
            vsock=UnixMode(run=str(places.run)),
            region=REGION,
            store=_table(tables.records, tables),
            watermarks=_table(tables.watermarks, tables),
            imds_endpoint=f"http://127.0.0.1:{places.metadata_port}",
            egress=Egress(pins={f"{KMS_HOST}:443": f"127.0.0.1:{places.kms_port}"}),
            audit=Audit(path=str(self.audit)),
            state=str(disk / "state.json"),
            control=str(places.run / "parent.sock"),
            limits=Limits(drain_seconds=stack_programs.DRAIN_SECONDS),
        )

    def _watchdog(self) -> WatchdogConfiguration:
        enclave = stack_programs.hypervisor(
            self.places, self.disk.logs / stack_programs.HYPERVISOR_LOG
        )
        return WatchdogConfiguration(
            enclave=stack_programs.tethered_enclave(enclave),
            probe=Probe(
                port=self.places.port,
                every_seconds=0.5,
                answer_seconds=3.0,
                boot_seconds=START_DEADLINE,
            ),
            back_off=BackOff(first_seconds=0.5, last_seconds=5.0),
            control=str(self.places.run / "watchdog.sock"),
            status=str(self.disk.parent / "watchdog-status.json"),
            parent_control=str(self.places.run / "parent.sock"),
            parent_state=str(self.disk.parent / "state.json"),
            drain_seconds=stack_programs.DRAIN_SECONDS,
        )


@final
class Fleet:
    """The signers, what they share, and the load balancer. Leave it to stop all."""

    def __init__(self, data: Path, tables: Tables, validators: Validators) -> None:
        """
        Prepare a fleet in the empty folder *data*; `start` starts it.

        This process itself writes the manifest into the table, with whatever AWS
        credentials it has: those of an administrator.
        """
        self.folder: Final = DataFolder(data.absolute())
        self._tables = tables
        self._validators = validators
        self._opened = contextlib.ExitStack()
        self._supervisor = Supervisor(self._died, lambda: None)
        self.deaths: list[Death] = []
        self.instances: list[Instance] = []
        make_private(self.folder.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def start(self, instances: int) -> None:
        """
        Start everything, all signers at once, and wait until they are ready.

        Raises:
            Verdict: Something was refused.
            TimeoutError: Something did not become ready.
        """
        now = dt.datetime.now(dt.UTC)
        make_private(self.folder.logs)
        self.shared = Places(
            folder=self.folder,
            run=self.folder.path,
            source=contents.source_root(),
            port=0,
            kms_port=free_port(),
            metadata_port=free_port(),
        )
        self.identities: Identities = ensure_identities(
            self.folder, now, validators=True
        )
        self.anchor: EmulatedRoot = NitroPki.open(
            self.folder.emulator, now, REGION
        ).trust_anchor
        for number in range(1, instances + 1):
            disk = DataFolder(self.folder.path / "instances" / str(number))
            make_private(disk.path)
            run = self._run_folder(disk)
            one = Instance(number, self.shared, self._tables, run)
            self.instances.append(one)
            self.pcr0 = stack_programs.take_source(one.places)
        self._loop = self._opened.enter_context(_loop_in_a_thread())
        self._opened.callback(self._do, self._supervisor.stop_all)
        self._keep(stack_programs.kms(self.shared))
        self.manifest = self._publish_manifest()
        for one in self.instances:
            for program in one.programs():
                self._keep(program)
        for one in self.instances:
            wait_until(
                lambda one=one: self._proves_itself(one),  # type: ignore[misc]  # mypy knows no defaults in lambdas
                f"signer {one.number} is ready",
                START_DEADLINE,
            )
        self.balancer = LoadBalancer([one.places.port for one in self.instances])
        self._opened.callback(self._do, self.balancer.stop)
        self.url = f"https://localhost:{self._do(self.balancer.start)}"
        wait_until(lambda: all(self.balancer.healthy), "all signers are healthy")

    def client(
        self, name: str, instance: Instance | None = None, *, read_timeout: float = 10
    ) -> SignerClient:
        """Return a client through the balancer, or straight to one signer."""
        files = self.identities.clients[name]
        return SignerClient(
            self.url if instance is None else instance.url,
            ca=self.folder.ca,
            certificate=files.cert,
            key=files.key,
            read_timeout=read_timeout,
        )

    def kill(self, instance: Instance) -> None:
        """Kill -9 the parent and the enclave of *instance*, whatever they are doing."""
        pids = self._supervisor.pids
        # The hypervisor is the watchdog's only child; the enclave dies with it.
        for pid in (
            pids[instance.name("parent")],
            *_children(pids[instance.name("watchdog")]),
        ):
            os.kill(pid, signal.SIGKILL)

    def enclaves(self, instance: Instance) -> list[int]:
        """Return the process ids of *instance*'s hypervisor: one, or none just now."""
        watchdog = self._supervisor.pids.get(instance.name("watchdog"))
        return [] if watchdog is None else _children(watchdog)

    def _run_folder(self, disk: DataFolder) -> Path:
        return self._opened.enter_context(run_folder(disk))

    def _keep(self, program: Program) -> None:
        async def start() -> None:
            self._supervisor.start(program)

        self._do(start)

    def _do(self, what: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)

    def _died(self, death: Death) -> None:
        self.deaths.append(death)

    def _publish_manifest(self) -> AcceptedManifest:
        wait_until(self.shared.principals.exists, "the emulated KMS starts")
        wait_until(self.shared.kms_ca.exists, "the emulated KMS has its certificate")
        aws = kms_rollout.ensure_key(
            self.shared,
            administrator=self.identities.fingerprint,
            pcr0=self.pcr0,
            warn=lambda _: None,
        )
        accepted, signed = ensure_manifest(
            self.folder, self.identities, aws, 0, self._validators
        )
        path = self.instances[0].disk.parent / "parent.json"
        configuration = msgspec.json.decode(path.read_bytes(), type=Configuration)
        log = EventLog(sys.stderr)
        with contextlib.closing(open_store(configuration, log)) as store:
            answer = store.put(COLLECTION, NAME, 0, signed)
        if not isinstance(answer, Stored):
            raise Undecided(
                Code.STORAGE_UNAVAILABLE,
                "there is a manifest in the table already",
                "a fleet begins with empty tables",
            )
        return accepted

    def _proves_itself(self, instance: Instance) -> bool:
        try:
            with SignerClient(instance.url, read_timeout=5) as client:
                proof = verification.verify(
                    client,
                    now=dt.datetime.now(dt.UTC),
                    anchors=[self.anchor],
                    pcrs={0: self.pcr0},
                )
                authority = verification.attested_authority(client, proof)
                healthy = client.health().status == "UP"
        except Undecided:
            return False
        if not data_folder.write_new(self.folder.ca, authority):
            # One deployment has one authority, whoever of them made it.
            return healthy and self.folder.ca.read_bytes() == authority
        return healthy


def _table(name: str, tables: Tables) -> DynamoDb:
    return DynamoDb(table=name, deployment="fleet", endpoint=tables.endpoint)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in task.read_text(encoding="ascii").split()]
    return found


@contextlib.contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield a running loop. What it starts dies with its thread: see `tether`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fleet", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
