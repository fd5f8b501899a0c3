"""
The front: connects listener, callers, policy, keyring and audit, and runs each request.

What a request may cause is decided in this order: its head (route, credential, size),
its body (shape), the policy, the key, the record. An answer that holds a signature
leaves only after its event is durable.
"""

import asyncio
import itertools
import secrets
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Final, Protocol

import msgspec

from nitrosigner.trusted.enclave.api.calls import (
    Call,
    Internal,
    Later,
    Surroundings,
    settle,
)
from nitrosigner.trusted.enclave.api.routes import ROUTES
from nitrosigner.trusted.enclave.api.routing import (
    Match,
    NotThisMethod,
    say_json,
    unknown_route,
)
from nitrosigner.trusted.enclave.audit import AuditTrail, Facts, unavailable
from nitrosigner.trusted.enclave.boot import HealthSource
from nitrosigner.trusted.enclave.https import server_certificate
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
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
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.addresses import HTTPS_PORT
from nitrosigner.wire.manifest import AcceptedManifest, Client
from nitrosigner.wire.validator_api import Metrics

Answer = Callable[[Response], None]
_WITH_BODY: Final = ("POST", "DELETE")


class FrontServices(Protocol):
    """What the front needs of the parent."""

    async def append_audit(self, events: list[bytes]) -> None:
        """Append lines durably, in order. Raises Undecided."""
        ...

    async def report_metrics(self, metrics: Metrics) -> None:
        """Keep the counters for whoever watches. Raises Undecided."""
        ...


class _Admitted(msgspec.Struct, frozen=True, gc=False):
    match: Match
    client: Client | None


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
        self.tasks: Final[set[asyncio.Future[Response]]] = set()
        self._identities = identities
        self._report = report
        self._reporting: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
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

        def on_made(transport: asyncio.Transport, too_many: bool) -> _Connection:
            tls_object = transport.get_extra_info("ssl_object")
            certificate = tls_object.getpeercert(binary_form=True)
            caller = Caller(self._identities, certificate)
            return _Connection(self, around, caller, too_many)

        return on_made

    def next_request_id(self) -> str:
        """Return a name for a request: what the audit log and the answer call it."""
        return f"{self.around.boot}-{next(self._numbers)}"

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


class _Connection:
    """What stands behind one connection."""

    __slots__ = ("_around", "_caller", "_front", "_refused", "_too_many")

    def __init__(
        self, front: Front, around: Surroundings, caller: Caller, too_many: bool
    ) -> None:
        self._front = front
        self._around = around
        self._caller = caller
        self._too_many = too_many
        self._refused: tuple[Verdict, Response] | None = None

    def admit(self, request: Request) -> int:
        """Judge a head: room, route, credential. Return the most bytes of body."""
        if self._too_many:
            raise Undecided(
                Code.OVERLOADED,
                "there are too many connections",
                "close connections that are not used; ask again",
            )
        match = ROUTES.match(request.method, request.path)
        if match.route.validators and self._around.validators is None:
            raise unknown_route()
        try:
            if match.route.public:
                client = self._caller.known(request.authorization)
            else:
                client = self._caller.authenticate(request.authorization)
        except Verdict as verdict:
            self._refused = verdict, match.route.say(request, verdict)
            raise
        request.admitted = _Admitted(match, client)
        if request.method not in _WITH_BODY:
            return 0
        return self._around.accepted.manifest.limits.max_request_bytes

    def refuse(self, verdict: Verdict) -> Response:
        """Say no to a head, or to bytes that were none."""
        if verdict.code == Code.UNAUTHENTICATED:
            facts = Facts(operation="authenticate")
            settle(facts, verdict)
            self._around.audit.record_stranger("", facts)
        if self._refused is not None and self._refused[0] is verdict:
            return self._refused[1]
        if isinstance(verdict, NotThisMethod):
            return refusal(verdict, b"\r\nAllow: " + verdict.allowed.encode())
        return refusal(verdict)

    def serve(self, request: Request, answer: Answer) -> None:
        """Run one admitted request."""
        admitted: _Admitted = request.admitted
        match = admitted.match
        call = Call(
            self._around,
            request,
            admitted.client,
            match.identifier,
            self._front.next_request_id(),
            [],
        )
        if match.route.say is not say_json:
            call.refuse = partial(match.route.say, request)
        try:
            result = match.route.handler(call)
        except Exception as error:  # noqa: BLE001 - the one place; see STYLE 6
            result = self._no(call, error)
        if isinstance(result, Response):
            self._answer_recorded(call, result, answer)
        elif isinstance(result, Later):
            result.hear(lambda outcome: self._answer_later(call, outcome, answer))
        else:
            self._answer_when_done(call, result, answer)

    def _answer_when_done(
        self, call: Call, result: Awaitable[Response], answer: Answer
    ) -> None:
        task = asyncio.ensure_future(result)
        self._front.tasks.add(task)

        def done(task: asyncio.Future[Response]) -> None:
            self._front.tasks.discard(task)
            if not task.cancelled():
                error = task.exception()
                # No handler raises what is no Exception, but for the end of the loop.
                outcome = error if isinstance(error, Exception) else task.result()
                self._answer_later(call, outcome, answer)

        task.add_done_callback(done)

    def _answer_later(
        self, call: Call, outcome: Response | Exception, answer: Answer
    ) -> None:
        """Answer from the middle of others' work, none of which is to suffer."""
        try:
            if not isinstance(outcome, Response):
                outcome = self._no(call, outcome)
            self._answer_recorded(call, outcome, answer)
        except Exception as error:  # noqa: BLE001 - as the loop would have
            asyncio.get_running_loop().call_exception_handler(
                {"message": "answering a request failed", "exception": error}
            )

    def _no(self, call: Call, error: Exception) -> Response:
        """Turn what was raised into an answer."""
        if not isinstance(error, Verdict):
            return self._incident(call, error)
        if call.facts:
            settle(call.facts[-1], error)
        return call.refuse(error)

    def _incident(self, call: Call, error: Exception) -> Response:
        """Our own fault: its kind and place go on record, its text goes nowhere."""
        incident = secrets.token_hex(8)
        verdict = Internal(
            Code.INTERNAL,
            f"the signer failed; this is incident {incident}",
            "nothing was signed; look for the incident in the audit log",
        )
        if not call.facts:
            call.facts.append(Facts(operation="request"))
        facts = call.facts[-1]
        settle(facts, verdict)
        facts.at = f"{incident} {type(error).__name__} {_place(error)}"
        return call.refuse(verdict)

    def _answer_recorded(self, call: Call, response: Response, answer: Answer) -> None:
        """Answer when the record is durable; withhold what could not be recorded."""
        if not call.facts:
            answer(response)
            if call.finish is not None:
                call.finish()
            return
        response = Response(
            response.status,
            response.body,
            response.content_type,
            b"%s\r\nRequest-Id: %s" % (response.headers, call.request_id.encode()),
        )

        def recorded(durable: bool) -> None:
            if not durable and any(facts.outcome == "signed" for facts in call.facts):
                answer(call.refuse(unavailable()))
            else:
                answer(response)
            if call.finish is not None:
                call.finish()

        audit = self._around.audit
        for facts in call.facts[:-1]:
            audit.record(call.request_id, facts)
        audit.record(call.request_id, call.facts[-1], recorded)


def _place(error: Exception) -> str:
    """Return the file and line of ours where *error* came up."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if "nitrosigner" in frame.filename:
            return f"{PurePath(frame.filename).name}:{frame.lineno}"
    return ""
