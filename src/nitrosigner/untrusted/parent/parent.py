"""
The parent program: its parts connected, started in order, and ended in order.

The services come first and the callers' door last, so that nobody is let in before the
enclave has what it needs. The enclave may be absent, come late, die and come back at
any time; nothing here waits for it.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

from nitrosigner.untrusted.parent.audit_log import AuditLog
from nitrosigner.untrusted.parent.configuration import (
    Configuration,
    DynamoDb,
    KernelMode,
    SecretsManager,
)
from nitrosigner.untrusted.parent.control_socket import ControlSocket
from nitrosigner.untrusted.parent.credentials import InstanceMetadata, RoleCredentials
from nitrosigner.untrusted.parent.egress_proxy import EgressProxy
from nitrosigner.untrusted.parent.event_log import Event, EventLog, LibraryRecords
from nitrosigner.untrusted.parent.metrics import page
from nitrosigner.untrusted.parent.metrics_listener import MetricsListener
from nitrosigner.untrusted.parent.record_store import RecordStore
from nitrosigner.untrusted.parent.services import Services
from nitrosigner.untrusted.parent.sqlite_store import SqliteStore
from nitrosigner.untrusted.parent.sqlite_watermarks import SqliteWatermarks
from nitrosigner.untrusted.parent.state import StateFile
from nitrosigner.untrusted.parent.tcp_relay import TcpRelay
from nitrosigner.untrusted.parent.vsock import KernelVsock, UnixVsock, Vsock
from nitrosigner.untrusted.parent.watermark_store import WatermarkStore
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.addresses import EGRESS_PORT, HTTPS_PORT, SERVICES_PORT

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run(
    configuration: Configuration, log: EventLog, ready: Callable[[int], None]
) -> None:
    """
    Run until SIGTERM or SIGINT, then let what is open finish.

    Args:
        configuration: Where everything is.
        log: For events.
        ready: Told the port, once callers are let in.

    Raises:
        Verdict: Something could not be started; what had been was ended again.
    """
    # Opening waits for disks and networks; nothing else happens yet.
    with contextlib.ExitStack() as opened:
        store = open_store(configuration, log)
        opened.callback(store.close)
        watermarks = open_watermarks(configuration, log)
        if watermarks is not None:
            opened.callback(watermarks.close)
        audit = AuditLog(
            Path(configuration.audit.path),
            rotate_bytes=configuration.audit.rotate_bytes,
            on_repaired=lambda size: log(Event.AUDIT_REPAIRED, size=size),
            on_rotated=lambda: log(Event.AUDIT_ROTATED),
        )
        opened.callback(audit.close)
        await _serve(configuration, log, ready, store, audit, watermarks=watermarks)
    log(Event.STOPPED)


async def _serve(
    configuration: Configuration,
    log: EventLog,
    ready: Callable[[int], None],
    store: RecordStore,
    audit: AuditLog,
    *,
    watermarks: WatermarkStore | None,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _fault(log, context))
    stop = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)

    vsock = _vsock(configuration)
    limits = configuration.limits
    state = StateFile(Path(configuration.state), log)
    credentials = RoleCredentials(InstanceMetadata(configuration.imds_endpoint), log)
    services = Services(
        store=store,
        watermarks=watermarks,
        credentials=credentials,
        audit=audit,
        reports=state,
        limits=limits.services,
        log=log,
    )
    egress = EgressProxy(
        configuration.allowed(), configuration.pins(), limits.egress, log
    )
    relay = TcpRelay(vsock, HTTPS_PORT, limits.relay, log)
    metrics = MetricsListener(
        lambda: page(state.current(), state.enclave_metrics, services.times)
    )
    control = ControlSocket(
        Path(configuration.control or ""), lambda command: _told(command, relay, log)
    )
    keeping: asyncio.Task[None] | None = None
    try:
        await services.start(vsock, SERVICES_PORT)
        # Only now is it certain that the file is not a living parent's.
        keeping = loop.create_task(state.keep())
        await egress.start(vsock, EGRESS_PORT)
        listen = configuration.listen
        port = await relay.start(listen.address, listen.port)
        state.listening(
            listen.address, port, relay.counts, egress.counts, services.counts
        )
        if configuration.control is not None:
            await control.start()
        if configuration.metrics is not None:
            where = configuration.metrics
            shown = await metrics.start(where.address, where.port)
            log(Event.METRICS, port=shown)
        await state.write()
        log(Event.STARTED, port=port)
        ready(port)
        await stop.wait()
        log(Event.DRAINING, seconds=limits.drain_seconds)
    finally:
        state.stopping()
        await control.stop()
        # The callers' door first: the enclave needs the others to finish its answers.
        await relay.stop(limits.drain_seconds)
        await services.stop(limits.drain_seconds)
        await egress.stop(0)
        await metrics.stop()
        await credentials.stop()
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await state.write()


async def _told(command: str, relay: TcpRelay, log: EventLog) -> dict[str, Any]:
    """Do what the watchdog asks, and say how many answers are outstanding."""
    match command:
        case "status":
            pass
        case "drain":
            log(Event.DRAINING)
            relay.pause()
        case "resume":
            await relay.resume()
        case _:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                "there is no such command",
                "commands: status, drain, resume",
            )
    return {"letting_in": relay.letting_in, "unanswered": relay.unanswered}


def open_store(configuration: Configuration, log: EventLog) -> RecordStore:
    """Return the store that *configuration* names."""
    store = configuration.store
    if isinstance(store, SecretsManager):
        # boto3 is slow to import, and SQLite needs none of it.
        from nitrosigner.untrusted.parent.secrets_manager_store import (
            SecretsManagerStore,
            secrets_manager_client,
        )

        return SecretsManagerStore(
            secrets_manager_client(configuration.region, store.endpoint),
            prefix=store.prefix,
            recovery_days=store.recovery_days,
            kms_key_id=store.kms_key_id,
        )
    if isinstance(store, DynamoDb):
        from nitrosigner.untrusted.parent import dynamodb_store
        from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client

        return dynamodb_store.DynamoDbStore(
            dynamodb_client(
                configuration.region, store.endpoint, parallel=dynamodb_store.PARALLEL
            ),
            table=store.table,
            deployment=store.deployment,
        )
    return SqliteStore(
        Path(store.path),
        on_permissions_mended=lambda: log(Event.STORE_PERMISSIONS_MENDED),
    )


def open_watermarks(
    configuration: Configuration, log: EventLog
) -> WatermarkStore | None:
    """Return the watermark store that *configuration* names, if it names one."""
    watermarks = configuration.watermarks
    if watermarks is None:
        return None
    if isinstance(watermarks, DynamoDb):
        from nitrosigner.untrusted.parent import dynamodb_watermarks
        from nitrosigner.untrusted.parent.dynamodb_client import dynamodb_client

        return dynamodb_watermarks.DynamoDbWatermarks(
            dynamodb_client(
                configuration.region,
                watermarks.endpoint,
                parallel=dynamodb_watermarks.PARALLEL,
            ),
            table=watermarks.table,
            deployment=watermarks.deployment,
        )
    return SqliteWatermarks(
        Path(watermarks.path),
        on_permissions_mended=lambda: log(Event.STORE_PERMISSIONS_MENDED),
    )


def structured_log(stream: TextIO = sys.stderr) -> EventLog:
    """Return the log, with everything that libraries say led into it."""
    log = EventLog(stream)
    root = logging.getLogger()
    root.handlers = [LibraryRecords(log)]
    root.setLevel(logging.WARNING)
    return log


def _vsock(configuration: Configuration) -> Vsock:
    mode = configuration.vsock
    if isinstance(mode, KernelMode):
        return KernelVsock(mode.enclave_cid)
    return UnixVsock(Path(mode.run), mode.enclave_cid)


def _fault(log: EventLog, context: dict[str, object]) -> None:
    """Say where something that nobody caught happened, and not what it said."""
    error = context.get("exception")
    where = ""
    if isinstance(error, BaseException):
        traceback = error.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            where = f"{Path(code.co_filename).name}:{traceback.tb_lineno}"
            traceback = traceback.tb_next
    log(Event.FAULT, kind=type(error).__name__, where=where)
