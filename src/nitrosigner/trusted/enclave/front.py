"""
The front: connects listener, callers, policy, keyring and audit.

What a request may cause is decided in this order: its head (route, credential, size),
its body (shape), the policy, the key, the record.
"""

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from nitrosigner.trusted.enclave.answering import Answering, Requests
from nitrosigner.trusted.enclave.api.calls import Surroundings
from nitrosigner.trusted.enclave.audit import AuditTrail, Facts
from nitrosigner.trusted.enclave.boot import HealthSource
from nitrosigner.trusted.enclave.https import server_certificate
from nitrosigner.trusted.enclave.https.http_protocol import Times
from nitrosigner.trusted.enclave.https.listener import Listener, OnMade
from nitrosigner.trusted.enclave.https.server_certificate import TlsIdentity
from nitrosigner.trusted.enclave.https.tls_keeping import TlsKeeping, statement_of
from nitrosigner.trusted.enclave.keys.keys_port import Keys
from nitrosigner.trusted.enclave.metrics_reporting import report_metrics
from nitrosigner.trusted.enclave.permissions.identity import Caller, Identities
from nitrosigner.trusted.enclave.permissions.policy import Policy
from nitrosigner.trusted.enclave.permissions.rate import SharedRate
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.trusted.enclave.validators.validator_job import job_of
from nitrosigner.trusted.enclave.validators.validator_keys_port import ValidatorKeys
from nitrosigner.verdicts import Code, Undecided
from nitrosigner.wire.addresses import HTTPS_PORT
from nitrosigner.wire.manifest import AcceptedManifest
from nitrosigner.wire.validator_api import Metrics


class FrontServices(Protocol):
    """What the front needs of the parent."""

    async def append_audit(self, events: list[bytes]) -> None:
        """Append lines durably, in order. Raises Undecided."""
        ...

    async def report_metrics(self, metrics: Metrics) -> None:
        """Keep the counters for whoever watches. Raises Undecided."""
        ...


class Front:
    """Serves until closed."""

    def __init__(
        self,
        around: Surroundings,
        identities: Identities,
        listening: socket.socket,
        times: Times,
        report: Callable[[Metrics], Awaitable[None]],
    ) -> None:
        self.around = around
        """Of new connections; a connection keeps what it began with."""
        self._identities = identities
        self._report = report
        self._reporting: asyncio.Task[None] | None = None
        self._requests = Requests(around.boot)
        self._listener = Listener(
            listening,
            self._context(),
            self._on_made(),
            max_connections=around.accepted.manifest.limits.max_connections,
            times=times,
        )

    def present(self, tls: TlsIdentity) -> None:
        """Show another certificate to new connections, and end the others gently."""
        self.around = replace(
            self.around, tls=tls, statement=statement_of(self.around.accepted, tls)
        )
        self._listener.present(self._context(), self._on_made())

    def _context(self) -> ssl.SSLContext:
        return server_certificate.server_context(
            self.around.tls, self._identities.certificates
        )

    def _on_made(self) -> OnMade:
        # Bound to what the context presents: an attestation document must name the
        # certificate of the very connection that it goes out over.
        around = self.around

        def on_made(transport: asyncio.Transport, too_many: bool) -> Answering:
            tls_object = transport.get_extra_info("ssl_object")
            certificate = tls_object.getpeercert(binary_form=True)
            caller = Caller(self._identities, certificate)
            return Answering(self._requests, around, caller, too_many)

        return on_made

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._listener.connections

    def start(self) -> None:
        """Begin to serve; the first event says under which manifest."""
        self.around.audit.start()
        self.around.audit.record(
            "", Facts(operation="boot", digest=self.around.accepted.digest)
        )
        self._listener.start()
        job = self.around.validators
        if job is not None:
            self._reporting = asyncio.get_running_loop().create_task(
                report_metrics(
                    lambda: job.metrics(self.around.health, self.around.tls.not_after),
                    self._report,
                ),
                name="metrics",
            )

    def close(self) -> None:
        """Accept nobody more; finish what is under way."""
        self._listener.close()

    async def wait_closed(self) -> None:
        """Wait until everything is finished. Call `close` first."""
        await self._listener.wait_closed()
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        if self.around.validators is not None:
            await self.around.validators.reloading.close()
        await self.around.audit.close()

    async def serve_forever(self) -> None:
        """Serve until cancelled."""
        await self._listener.serve_forever()


async def start_front(
    *,
    world: World,
    accepted: AcceptedManifest,
    payload: bytes,
    keyring: Keys,
    services: FrontServices,
    tls: TlsKeeping,
    health_source: HealthSource,
    validator_keys: ValidatorKeys | None = None,
    times: Times | None = None,
) -> Front:
    """
    Listen on the vsock, and serve.

    Args:
        world: NSM, vsock and clock.
        accepted: The manifest in force.
        payload: Its bytes, as they were signed.
        keyring: The keys.
        services: Where the audit trail and the counters go.
        tls: What to present, and what may come to be presented.
        health_source: What the boot and the core know of their health.
        validator_keys: If the manifest speaks of validators.
        times: How long a peer may take.

    Raises:
        Malformed: The manifest names a destination that is no address.
        Refused: The sealed TLS record is not ours.
        Undecided: The vsock's port cannot be listened on, or there is no TLS record.
    """
    identity = await tls.open()
    boot = secrets.token_hex(4)
    around = Surroundings(
        world=world,
        accepted=accepted,
        payload=payload,
        keyring=keyring,
        policy=Policy(accepted.manifest),
        audit=AuditTrail(
            services.append_audit,
            world.clock,
            boot,
            busy=(lambda: False) if validator_keys is None else validator_keys.busy,
        ),
        tls=identity,
        tls_keeping=tls,
        health=health_source,
        statement=statement_of(accepted, identity),
        attestation_rate=SharedRate(world.clock),
        attesting=asyncio.Lock(),
        validators=job_of(validator_keys, accepted, world.clock),
        boot=boot,
    )
    try:
        listening = world.vsock.listen(HTTPS_PORT)
    except OSError:
        raise Undecided(
            Code.INTERNAL,
            "the enclave cannot listen on its vsock port",
            "look for another process of the enclave that is still running",
        ) from None

    front = Front(
        around,
        Identities(accepted.manifest),
        listening,
        times or Times(),
        services.report_metrics,
    )
    tls.present = front.present
    if around.validators is not None:
        around.validators.reloading.also = tls.refresh
    front.start()
    return front
