"""
The programs of a local stack, as they are started: emulated KMS, parent, watchdog.

Parent and watchdog are the production programs with a local configuration. In place of
nitro-cli the watchdog runs the emulated hypervisor, which is handed a copy of the
trusted source, or of the enclave image, that was taken when the stack started: it is
built once and then run however often the enclave is restarted.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import nitrosigner
from nitrosigner.emulator.client_credentials import ClientFiles
from nitrosigner.emulator.data_folder import DataFolder, replace
from nitrosigner.emulator.first_run import ACCOUNT, REGION
from nitrosigner.emulator.supervisor import Program
from nitrosigner.image import contents
from nitrosigner.image.eif.reader import read_eif
from nitrosigner.image.source_measurement import emulated_pcr0
from nitrosigner.untrusted.parent import enclave_program
from nitrosigner.untrusted.parent.configuration import (
    Audit,
    Configuration,
    Egress,
    Limits,
    Listen,
    Metrics,
    Sqlite,
    SqliteWatermarks,
    UnixMode,
)
from nitrosigner.untrusted.parent.enclave_program import ProgramEnclave
from nitrosigner.untrusted.parent.watchdog_configuration import (
    BackOff,
    Probe,
    WatchdogConfiguration,
)
from nitrosigner.verdicts import Code, Refused

AUDIT_ROTATE_BYTES: Final = 64 << 20
DRAIN_SECONDS: Final = 1.0
"""Given to requests under way when the stack is stopped."""
CHECK_SECONDS: Final = 1.0
"""Between the watchdog's questions. Of an enclave's end it is told at once."""
MACHINE_ANSWER_SECONDS: Final = 20.0
"""A machine without hardware's help takes seconds for a TLS handshake on a busy host;
that is no silence."""
FIRST_BACK_OFF: Final = 0.2
LAST_BACK_OFF: Final = 5.0
STEADY_SECONDS: Final = 10.0
"""Seconds of being ready after which past failures are forgotten."""
HYPERVISOR_LOG: Final = "hypervisor.log"
CONTROL: Final = "watchdog.sock"
"""In the run folder: where the watchdog takes orders."""
PARENT_CONTROL: Final = "parent.sock"
VERSION: Final = nitrosigner.__version__
IMAGE_SOURCE: Final = "source"
"""In the run folder: the copy of the trusted source that is measured and run."""
WATCHDOG_STATUS: Final = "watchdog-status.json"
"""In the parent's folder."""
_TETHER: Final = Path(__file__).with_name("tether.py")
IMAGE_FILE: Final = "enclave.eif"
"""In the run folder: the copy of the image that is measured and booted."""
PARENT_ROLE: Final = f"arn:aws:iam::{ACCOUNT}:role/nitrosigner-parent"
KMS_HOST: Final = f"kms.{REGION}.amazonaws.com"
"""What the enclave connects to; its certificate must name it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine that boots an enclave image, in place of a process."""

    image: Path
    memory: int
    """MiB."""
    accelerator: str
    cache: Path
    """Where QEMU is unpacked."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of one running stack is."""

    folder: DataFolder
    run: Path
    """Of the sockets; private to this run."""
    source: Path
    """The folder that holds the package whose trusted part is to run."""
    port: int
    kms_port: int
    metadata_port: int
    metrics_port: int = 0
    """Where the parent shows its counters; 0: any free one."""

    @property
    def image_source(self) -> Path:
        """The copy of the trusted source that is measured and run."""
        return self.run / IMAGE_SOURCE

    @property
    def image_file(self) -> Path:
        """The copy of the image that is measured and booted."""
        return self.run / IMAGE_FILE

    @property
    def control(self) -> Path:
        """The socket on which the watchdog is told to start and stop the enclave."""
        return self.run / CONTROL

    @property
    def watchdog_status(self) -> Path:
        """What the watchdog does just now."""
        return self.folder.parent / WATCHDOG_STATUS

    @property
    def principals(self) -> Path:
        """Access keys of the emulated account's roles."""
        return self.folder.kms / "principals.json"

    @property
    def kms_ca(self) -> Path:
        """The emulated KMS's certificate authority."""
        return self.folder.kms / "kms-ca.pem"


def take_source(places: Places) -> bytes:
    """
    Copy what ships and return its PCR0. Emulated.

    Raises:
        Refused: The source tree is not one that an image can be made of.
    """
    shutil.rmtree(places.image_source, ignore_errors=True)
    contents.gather_source(places.source, places.image_source)
    return emulated_pcr0(places.image_source)


def take_image(places: Places, image: Path) -> bytes:
    """
    Copy an enclave image and return its PCR0.

    Raises:
        Verdict: It cannot be read, is no image, or its signature is not true.
    """
    try:
        shutil.copyfile(image, places.image_file)
    except OSError as error:
        raise Refused(
            Code.LOCAL_STACK,
            f"the image {image} cannot be read: {error.strerror}",
            "build it: make image",
        ) from None
    with places.image_file.open("rb") as file:
        return read_eif(file).checked_measurements().pcr0


def kms(places: Places) -> Program:
    """Return the emulated KMS, with the emulated instance metadata service."""
    return _program(
        places,
        "kms",
        "nitrosigner.emulator.kms",
        *("--data", str(places.folder.path)),
        *("--port", str(places.kms_port)),
        *("--imds-port", str(places.metadata_port)),
        *("--region", REGION),
        *("--account", ACCOUNT),
    )


def parent(places: Places) -> Program:
    """Return the parent: the production program, with this machine's addresses."""
    folder = places.folder.parent
    configuration = Configuration(
        listen=Listen(address="127.0.0.1", port=places.port),
        vsock=UnixMode(run=str(places.run)),
        region=REGION,
        store=Sqlite(path=str(folder / "store.db")),
        watermarks=SqliteWatermarks(path=str(folder / "watermarks.db")),
        imds_endpoint=f"http://127.0.0.1:{places.metadata_port}",
        egress=Egress(pins={f"{KMS_HOST}:443": f"127.0.0.1:{places.kms_port}"}),
        audit=Audit(path=str(folder / "audit.jsonl"), rotate_bytes=AUDIT_ROTATE_BYTES),
        state=str(folder / "state.json"),
        control=str(places.run / PARENT_CONTROL),
        metrics=Metrics(port=places.metrics_port),
        limits=Limits(drain_seconds=DRAIN_SECONDS),
    )
    path = folder / "config.json"
    replace(path, msgspec.json.format(msgspec.json.encode(configuration)) + b"\n")
    return _program(
        places, "parent", "nitrosigner.untrusted.parent", "--config", str(path)
    )


def watchdog(
    places: Places, enclave: Program, boot_seconds: float, *, machine: bool
) -> Program:
    """Return the watchdog: the production program, which runs *enclave*."""
    usual = Probe()
    configuration = WatchdogConfiguration(
        enclave=tethered_enclave(enclave),
        probe=Probe(
            port=places.port,
            every_seconds=CHECK_SECONDS,
            answer_seconds=MACHINE_ANSWER_SECONDS if machine else usual.answer_seconds,
            boot_seconds=boot_seconds,
        ),
        back_off=BackOff(
            first_seconds=FIRST_BACK_OFF,
            last_seconds=LAST_BACK_OFF,
            steady_seconds=STEADY_SECONDS,
        ),
        control=str(places.control),
        status=str(places.watchdog_status),
        parent_control=str(places.run / PARENT_CONTROL),
        parent_state=str(places.folder.parent / "state.json"),
        drain_seconds=DRAIN_SECONDS,
    )
    path = places.folder.parent / "watchdog.json"
    replace(path, msgspec.json.format(msgspec.json.encode(configuration)) + b"\n")
    return _program(
        places,
        "watchdog",
        "nitrosigner.untrusted.parent.watchdog",
        *("--config", str(path)),
    )


def tethered_enclave(enclave: Program) -> ProgramEnclave:
    """Return *enclave* for a watchdog's configuration: it dies with the watchdog."""
    # It must not outlive one that was killed: the next watchdog starts its own.
    tether = (sys.executable, "-I", "-S", str(_TETHER), enclave_program.PID)
    return ProgramEnclave(
        command=[*tether, *enclave.command], environment=dict(enclave.environment)
    )


def hypervisor(places: Places, log: Path | None = None) -> Program:
    """Return the emulated hypervisor; the enclave is its child."""
    printed = log or places.folder.logs / HYPERVISOR_LOG
    return _program(
        places,
        "hypervisor",
        "nitrosigner.emulator.hypervisor",
        *("--data", str(places.folder.path)),
        *("--run", str(places.run)),
        *("--tree", str(places.image_source)),
        *("--role-arn", PARENT_ROLE),
        *("--log", str(printed)),
    )


def plain_http(places: Places, port: int, client: ClientFiles) -> Program:
    """Return the door for unencrypted HTTP, which lets everybody in as *client*."""
    return _program(
        places,
        "plain_http",
        "nitrosigner.emulator.plain_http",
        *("--port", str(port)),
        *("--to", str(places.port)),
        *("--ca", str(places.folder.ca)),
        *("--certificate", str(client.cert)),
        *("--key", str(client.key)),
    )


def virtual_machine(places: Places, machine: Machine) -> Program:
    """Return the hypervisor that boots the image; QEMU is its child."""
    return _program(
        places,
        "hypervisor",
        "nitrosigner.emulator.vm",
        *("--data", str(places.folder.path)),
        *("--run", str(places.run)),
        *("--image", str(places.image_file)),
        *("--memory", str(machine.memory)),
        *("--accelerator", machine.accelerator),
        *("--cache", str(machine.cache)),
        *("--role-arn", PARENT_ROLE),
        *("--log", str(places.folder.logs / HYPERVISOR_LOG)),
    )


def _program(places: Places, name: str, module: str, *arguments: str) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-I", "-m", module, *arguments),
        # Nothing of the caller's environment: neither AWS credentials nor proxies.
        environment={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        log=places.folder.logs / f"{name}.log",
    )
