"""The same with the parent's own services and SQLite stores, restarted under way."""

import asyncio
import base64
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ckzg
import pytest

from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Epoch, Slashable, Voted, Watermark
from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.untrusted.parent.event_log import EventLog
from nitrosigner.untrusted.parent.services import Services, ServicesLimits
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.untrusted.parent.vsock import UnixVsock
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire import import_wrapping
from nitrosigner.wire.addresses import EGRESS_PORT, SERVICES_PORT
from nitrosigner.wire.manifest_validators import Validators

ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
BLS = Bls12381(ckzg.__file__)


class Nothing:
    """Reports that nobody reads."""

    def report(self, _report: Any) -> None:
        pass

    def metrics(self, _metrics: Any) -> None:
        pass

    def enclave_connected(self, _connections: int) -> None:
        pass


class Given:
    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    async def get(self) -> Any:
        return self.credentials


class RealParent:
    """The parent's services in a thread; its way to KMS is the laboratory's."""

    def __init__(self, folder: Path, lab: Any) -> None:
        self.folder = folder
        self.lab = lab
        self.fake = lab.parent()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        ready = threading.Event()

        async def serve() -> None:
            store = SqliteStore(self.folder / "store.db")
            watermarks = SqliteWatermarks(self.folder / "watermarks.db")
            audit = AuditLog(self.folder / "audit.jsonl")
            log = (self.folder / "log").open("a")
            services = Services(
                store=store,
                credentials=Given(self.lab.credentials()),
                audit=audit,
                reports=Nothing(),
                limits=ServicesLimits(),
                log=EventLog(log),
                watermarks=watermarks,
            )
            if store.get("manifest", "current") is None:
                signed = self.lab.sign(
                    self.lab.wanted(validators=Validators(network="mainnet"))
                )
                store.put("manifest", "current", 0, signed)
            await services.start(UnixVsock(self.folder, 16), SERVICES_PORT)
            self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self.ended.wait()
            await services.stop(1)
            audit.close()
            watermarks.close()
            store.close()
            log.close()

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        assert ready.wait(30)

    def stop(self) -> None:
        if self.thread is not None and self.loop is not None:
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(30)
            self.thread = None

    # --- the port Vsock ---

    def connect(self, port: int) -> socket.socket:
        if port == EGRESS_PORT:
            reached: socket.socket = self.fake.connect(port)
            return reached
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(self.folder / "vsock" / f"3.{port}.sock"))
        except OSError:
            made.close()
            raise
        return made

    def listen(self, port: int) -> socket.socket:
        listening: socket.socket = self.fake.listen(port)
        return listening


@pytest.fixture
def real(lab: Any) -> Iterator[RealParent]:
    # UNIX sockets' paths are short: pytest's own folders are not.
    folder = Path(tempfile.mkdtemp(prefix="ns"))
    parent = RealParent(folder, lab)
    parent.start()
    yield parent
    parent.stop()
    shutil.rmtree(folder)


def secret_of(number: int) -> bytes:
    return bytes(30) + number.to_bytes(2, "big")


def name_of(number: int) -> str:
    return "0x" + BLS.public_key(SecretBytes(bytearray(secret_of(number)))).hex()


async def import_key(running: Any, number: int) -> Any:
    name = name_of(number)
    info = import_wrapping.import_info(
        deployment="lab", name=name, algorithm="bls12-381", identity=name
    )
    wrap = import_wrapping.wrap(
        secret_of(number), running.validators.import_public_key, info
    )
    history = Watermark(
        voted=Voted(source=Epoch(0), target=Epoch(10), signing_root=None)
    )
    return await running.validators.import_wrapped(
        name, base64.b64encode(wrap).decode(), history
    )


async def vote(running: Any, number: int, target: int, block: int) -> bytes:
    validators = running.validators
    body = {
        "type": "ATTESTATION",
        "fork_info": {
            "fork": {
                "previous_version": "0x05000000",
                "current_version": "0x06000000",
                "epoch": "0",
            },
            "genesis_validators_root": ROOT,
        },
        "attestation": {
            "slot": str(32 * target),
            "index": "0",
            "beacon_block_root": "0x" + bytes([block] * 32).hex(),
            "source": {"epoch": "1", "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }
    found = validators.find(name_of(number))
    duty = read_duty(body, validators.network)
    permit = await validators.guard.permit(found.public_key, found.name, duty)
    return bytes(await validators.sign(permit))


def test_keys_and_watermarks_survive_both_sides(lab: Any, real: RealParent) -> None:
    async def first(running: Any) -> None:
        made = await asyncio.gather(*(import_key(running, n) for n in range(1, 25)))
        assert all(one.new for one in made)
        await asyncio.gather(*(vote(running, n, 11, 1) for n in range(1, 25)))
        await running.validators.delete(name_of(3))

    async def second(running: Any) -> None:
        facts = running.validators.facts
        assert (facts.loaded, facts.enabled, facts.unprotected) == (24, 23, 0)
        outcomes = await asyncio.gather(
            *(vote(running, n, 11, 2) for n in range(4, 25)), return_exceptions=True
        )
        assert all(isinstance(outcome, Slashable) for outcome in outcomes)
        await asyncio.gather(*(vote(running, n, 12, 2) for n in range(4, 25)))
        with pytest.raises(Refused):
            await vote(running, 3, 12, 2)
        assert await running.keyring.rotate_vault() == 24

    lab.booted(real, first)
    real.stop()
    real.start()
    lab.booted(real, second)


def test_two_enclaves_and_a_parent_that_restarts_sign_each_vote_once(
    lab: Any, real: RealParent
) -> None:
    signed: dict[tuple[int, int], set[int]] = {}

    async def ask(running: Any, number: int, target: int, block: int) -> None:
        try:
            await vote(running, number, target, block)
        except (Refused, Undecided):
            return
        signed.setdefault((number, target), set()).add(block)

    async def play() -> None:
        async with lab.boot(real) as one:
            await asyncio.gather(*(import_key(one, n) for n in range(1, 7)))
            async with lab.boot(real) as two:
                for target in range(11, 31):
                    if target in (17, 24):
                        restart = asyncio.to_thread(lambda: (real.stop(), real.start()))
                    else:
                        restart = asyncio.sleep(0)
                    await asyncio.gather(
                        restart,
                        *(ask(one, n, target, 1) for n in range(1, 7)),
                        *(ask(two, n, target, 2) for n in range(1, 7)),
                    )

    asyncio.run(play())
    assert all(len(blocks) == 1 for blocks in signed.values())
    # Most of them were signed at all.
    assert len(signed) > 6 * 14
