"""
One connection's requests: admitted, run, recorded, answered.

A request's head is judged before its body is read, and an answer that holds a signature
leaves only after its event is durable.
"""

import asyncio
import itertools
import secrets
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import PurePath
from typing import Final

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
from nitrosigner.trusted.enclave.audit import Facts, unavailable
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
from nitrosigner.trusted.enclave.permissions.identity import Caller
from nitrosigner.verdicts import Code, Undecided, Verdict
from nitrosigner.wire.manifest import Client

Answer = Callable[[Response], None]
_WITH_BODY: Final = ("POST", "DELETE")


class _Admitted(msgspec.Struct, frozen=True, gc=False):
    match: Match
    client: Client | None


class Requests:
    """What all connections share of their requests."""

    def __init__(self, boot: str) -> None:
        """Name requests after this *boot*."""
        self.tasks: Final[set[asyncio.Future[Response]]] = set()
        """Of those that are answered by one. The loop itself keeps none alive."""
        self._boot = boot
        self._numbers = itertools.count(1)

    def next_id(self) -> str:
        """Return a name for a request: what the audit log and the answer call it."""
        return f"{self._boot}-{next(self._numbers)}"


class Answering:
    """An `Exchange`: what stands behind one connection."""

    __slots__ = ("_around", "_caller", "_refused", "_shared", "_too_many")

    def __init__(
        self, shared: Requests, around: Surroundings, caller: Caller, too_many: bool
    ) -> None:
        """Serve *caller* with what is *around*; *too_many* says to turn it away."""
        self._shared = shared
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
            self._shared.next_id(),
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
        self._shared.tasks.add(task)

        def done(task: asyncio.Future[Response]) -> None:
            self._shared.tasks.discard(task)
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
