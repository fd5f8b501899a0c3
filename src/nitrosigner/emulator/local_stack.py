"""
A local stack's life: prepare, start, wait until it is ready, keep it, stop it.

What stands here does for a laptop what an operator does on AWS: makes the KMS key
with its policy, signs the manifest, puts it where the enclave finds it. The programs
themselves are the same as in production, beside the emulated KMS and hypervisor.
"""

import asyncio
import contextlib
import datetime as dt
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.client import verification
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout, stack_programs
from nitrosigner.emulator.data_folder import (
    DataFolder,
    is_ours,
    locked,
    make_private,
    replace,
)
from nitrosigner.emulator.first_run import (
    REGION,
    VALIDATOR_CLIENT,
    Identities,
    ensure_identities,
    ensure_manifest,
)
from nitrosigner.emulator.manifest_store import publish_manifest, published_version
from nitrosigner.emulator.nitro_pki import NitroPki
from nitrosigner.emulator.run_folder import run_folder
from nitrosigner.emulator.stack_programs import Machine, Places
from nitrosigner.emulator.supervisor import Death, Supervisor
from nitrosigner.emulator.watched_enclave import WatchedEnclave
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.manifest import AcceptedManifest, Aws
from nitrosigner.wire.manifest_validators import Validators

READY_DEADLINE: Final = 60.0
"""Seconds for the whole start. A first run takes about three on an idle machine."""
MACHINE_DEADLINE: Final = 180.0
"""The same with a virtual machine, under software emulation, on a busy machine."""
HYPERVISOR: Final = "hypervisor"
"""What the enclave's process is called among the process ids."""
MANY_DEATHS: Final = 4
"""A program that died so often before the stack was ever ready will not recover."""
_POLL: Final = 0.05


class StackFailed(Verdict):
    """The local stack could not be started; nothing is left running."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(Code.LOCAL_STACK, message, hint)


class ClientEntry(msgspec.Struct, frozen=True):
    """One client's credential files."""

    cert: str
    key: str
    token_file: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The ready line, and what stack.json holds."""

    url: str
    ca: str
    clients: dict[str, ClientEntry]
    pid: int
    pids: dict[str, int]
    """By program; `hypervisor`, which the watchdog runs, only while it is there."""
    control: str = ""
    """The watchdog's socket, where the enclave is told to start and stop."""
    emulated: bool = True
    data: str
    run: str
    """Where the sockets are that stand in for the vsock."""
    region: str
    kms_url: str
    kms_ca: str
    kms_key_arn: str
    trust_root: str
    """SHA-256 of the emulated root certificate's DER, hex."""
    trust_root_file: str
    pcr0: str
    image: str | None = None
    """The enclave image that runs in a virtual machine; None: the source tree runs."""
    administrator: str
    deployment: str
    manifest: str
    """SHA-256 of the manifest's payload, hex."""
    manifest_version: int
    version: str
    beacon_network: str = ""
    """The chain that validators sign for; empty: none."""
    plain_http: str = ""
    """Where unencrypted HTTP is let in. Empty: nowhere."""
    metrics: str = ""
    """Where Prometheus reads the parent's and the enclave's counters."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `nitrosigner up` was asked for."""

    data: Path
    port: int
    """0: any free one."""
    source: Path
    """The package that the emulated hypervisor measures and launches."""
    validators: Validators | None = None
    """The beacon chain to sign for; absent: whatever the folder's manifest says."""
    plain_http_port: int | None = None
    """Where unencrypted HTTP is let in as a client. Absent: nowhere. 0: any free."""
    machine: Machine | None = None
    """Boot an enclave image in a virtual machine instead."""


@dataclass(frozen=True, slots=True)
class Announcements:
    """Where to say what happens: `progress` and `warning` go to people."""

    progress: Callable[[str], None]
    warning: Callable[[str], None]
    ready: Callable[[Ready], None]


async def run(options: Options, announce: Announcements) -> None:
    """
    Run a local stack until SIGINT or SIGTERM.

    Raises:
        Verdict: It could not be started. Nothing is left running.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    folder = DataFolder(options.data.absolute())
    _make_data_folder(folder)
    with locked(folder), run_folder(folder) as run_path:
        stack = _Stack(options, announce, folder, run_path)
        living = asyncio.ensure_future(stack.live())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({living, stopped}, return_when="FIRST_COMPLETED")
            if living.done():
                living.result()
        finally:
            for task in (living, stopped):
                task.cancel()
            await asyncio.wait({living, stopped})
            announce.progress("stopping")
            await stack.stop()


def _make_data_folder(folder: DataFolder) -> None:
    try:
        # It is closed to others below. Somebody's home is not ours to close.
        if folder.path.exists() and not is_ours(folder):
            raise StackFailed(
                f"there is something else in {folder.path}",
                "choose a folder that is empty or not there with --data",
            )
        make_private(folder.path)
    except OSError as error:
        raise StackFailed(
            f"the data folder {folder.path} cannot be made: {error.strerror}",
            "choose another one with --data",
        ) from None


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _port_to_listen_on(wanted: int, option: str = "--port") -> int:
    if wanted == 0:
        return free_port()
    with socket.socket() as probe:
        # As the relay will: a port in TIME_WAIT is free, a listening one is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise StackFailed(
                f"port {wanted} of 127.0.0.1 cannot be used: {error.strerror}",
                f"choose another one with {option}, or {option} 0 for any free one",
            ) from None
    return wanted


@final
class _Stack:
    def __init__(
        self,
        options: Options,
        announce: Announcements,
        folder: DataFolder,
        run_path: Path,
    ) -> None:
        self._options = options
        self._announce = announce
        self._folder = folder
        self._run_path = run_path
        self._supervisor = Supervisor(self._died, self._noticed)
        self._enclave: WatchedEnclave | None = None
        self._following: asyncio.Task[None] | None = None
        self._ready: Ready | None = None
        self._allowed = READY_DEADLINE
        self._deadline = 0.0
        self._changed = asyncio.Event()

    async def stop(self) -> None:
        await self._supervisor.stop_all()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        self._write_pids()

    async def live(self) -> None:
        """Start everything, announce it, and then keep the notes true."""
        machine = self._options.machine
        self._allowed = READY_DEADLINE if machine is None else MACHINE_DEADLINE
        self._deadline = time.monotonic() + self._allowed
        port = _port_to_listen_on(self._options.port)
        places = Places(
            folder=self._folder,
            run=self._run_path,
            source=self._options.source,
            port=port,
            kms_port=free_port(),
            metadata_port=free_port(),
            metrics_port=free_port(),
        )
        now = dt.datetime.now(dt.UTC)
        identities = ensure_identities(
            self._folder, now, validators=self._options.validators is not None
        )
        anchor = NitroPki.open(self._folder.emulator, now, REGION).trust_anchor
        if machine is None:
            pcr0 = await asyncio.to_thread(stack_programs.take_source, places)
            what = "trusted source"
        else:
            pcr0 = await asyncio.to_thread(
                stack_programs.take_image, places, machine.image
            )
            what = "enclave image"
        self._announce.progress(f"measured the {what}: PCR0 {pcr0.hex()}")

        self._announce.progress("starting the emulated KMS")
        self._supervisor.start(stack_programs.kms(places))
        await self._until("the emulated KMS", "kms", _listening(places.kms_port))
        aws = await asyncio.to_thread(
            kms_rollout.ensure_key,
            places,
            administrator=identities.fingerprint,
            pcr0=pcr0,
            warn=self._announce.warning,
        )
        accepted = await asyncio.to_thread(self._manifest, identities, aws)

        self._announce.progress("starting the parent and the enclave")
        self._supervisor.start(stack_programs.parent(places))
        self._watch_enclave(places)
        await self._until("the enclave", HYPERVISOR, self._answers(port, pcr0, anchor))
        plain_http = await self._open_plain_http(places, identities)
        validators = accepted.manifest.validators
        self._ready = Ready(
            url=f"https://localhost:{port}",
            ca=str(self._folder.ca),
            clients={
                name: ClientEntry(
                    cert=str(files.cert),
                    key=str(files.key),
                    token_file=str(files.token_file),
                )
                for name, files in identities.clients.items()
            },
            pid=os.getpid(),
            pids=self._pids(),
            control=str(places.control),
            data=str(self._folder.path),
            run=str(self._run_path),
            region=REGION,
            kms_url=f"https://localhost:{places.kms_port}",
            kms_ca=str(places.kms_ca),
            kms_key_arn=aws.kms_key_arn,
            trust_root=anchor.fingerprint.hex(),
            trust_root_file=str(self._folder.emulated_root),
            pcr0=pcr0.hex(),
            image=None if machine is None else str(machine.image.absolute()),
            administrator=identities.fingerprint,
            deployment=accepted.manifest.deployment,
            manifest=accepted.digest,
            manifest_version=accepted.manifest.version,
            version=stack_programs.VERSION,
            beacon_network=validators.network if validators else "",
            plain_http=plain_http,
            metrics=f"http://127.0.0.1:{places.metrics_port}/metrics",
        )
        self._write_pids()
        self._announce.ready(self._ready)
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._write_pids()

    def _watch_enclave(self, places: Places) -> None:
        machine = self._options.machine
        self._enclave = WatchedEnclave(
            places.watchdog_status, self._noticed, self._announce.warning
        )
        self._following = asyncio.create_task(self._enclave.follow())
        self._supervisor.start(
            stack_programs.watchdog(
                places,
                stack_programs.hypervisor(places)
                if machine is None
                else stack_programs.virtual_machine(places, machine),
                self._allowed,
                machine=machine is not None,
            )
        )

    async def _open_plain_http(self, places: Places, identities: Identities) -> str:
        wanted = self._options.plain_http_port
        if wanted is None:
            return ""
        client = identities.clients.get(VALIDATOR_CLIENT)
        if client is None:
            raise StackFailed(
                "there is no beacon chain whose validator client could be let in",
                "use --plain-http-loopback together with --preset",
            )
        port = _port_to_listen_on(wanted, "--plain-http-loopback")
        self._supervisor.start(stack_programs.plain_http(places, port, client))
        await self._until("the plain HTTP listener", "plain_http", _listening(port))
        url = f"http://127.0.0.1:{port}"
        self._announce.warning(
            f"{url} takes unencrypted HTTP WITHOUT any credential: every process and"
            f" user of this machine may sign duties there as client {VALIDATOR_CLIENT}."
            " For local development only."
        )
        return url

    def _manifest(self, identities: Identities, aws: Aws) -> AcceptedManifest:
        seen = published_version(self._folder)
        accepted, signed = ensure_manifest(
            self._folder, identities, aws, seen, self._options.validators
        )
        if publish_manifest(self._folder, signed):
            self._announce.progress(
                f"put version {accepted.manifest.version} of the manifest in force"
            )
        return accepted

    def _answers(
        self, port: int, pcr0: bytes, anchor: EmulatedRoot
    ) -> Callable[[], Awaitable[bool]]:
        """Return a check: the enclave answers, and proves what it should."""

        def attempt() -> bool:
            with SignerClient(f"https://localhost:{port}", read_timeout=5) as client:
                try:
                    proof = verification.verify(
                        client,
                        now=dt.datetime.now(dt.UTC),
                        anchors=[anchor],
                        pcrs={0: pcr0},
                    )
                    authority = verification.attested_authority(client, proof)
                except Undecided:
                    return False
            replace(self._folder.ca, authority)
            return True

        return lambda: asyncio.to_thread(attempt)

    async def _until(
        self, what: str, program: str, check: Callable[[], Awaitable[bool]]
    ) -> None:
        while not await check():
            if self._failures(program) >= MANY_DEATHS:
                raise StackFailed(
                    f"{what} ends again and again",
                    f"read {self._folder.logs / program}.log",
                )
            if time.monotonic() > self._deadline:
                raise StackFailed(
                    f"{what} did not become ready in {self._allowed:.0f} seconds",
                    f"nitrosigner doctor --data {self._folder.path} says where the "
                    f"boot stands; logs are in {self._folder.logs}",
                )
            await asyncio.sleep(_POLL)

    def _died(self, death: Death) -> None:
        how = (
            signal.Signals(-death.status).name
            if death.status < 0
            else f"status {death.status}"
        )
        self._announce.warning(
            f"{death.name} ended ({how}); starting it again in {death.delay:.1f} s"
        )

    def _failures(self, program: str) -> int:
        if program == HYPERVISOR and self._enclave is not None:
            return max(self._enclave.failures, self._supervisor.deaths("watchdog"))
        return self._supervisor.deaths(program)

    def _noticed(self) -> None:
        self._changed.set()

    def _pids(self) -> dict[str, int]:
        pids = self._supervisor.pids
        if self._enclave is not None:
            pid = self._enclave.pid(pids.get("watchdog", 0))
            if pid:
                pids[HYPERVISOR] = pid
        return pids

    def _write_pids(self) -> None:
        """Keep stack.json true; it stays behind when the stack has stopped."""
        if self._ready is not None:
            pids = self._pids()
            self._ready = msgspec.structs.replace(
                self._ready, pids=pids, pid=os.getpid() if pids else 0
            )
            with contextlib.suppress(OSError):  # a full disk does not stop the stack
                replace(self._folder.stack, _pretty(self._ready))


def _pretty(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _listening(port: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return check
