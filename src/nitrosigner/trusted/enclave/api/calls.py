"""
One call of the API: who asks, for what, with what around it, and what the audit learns.

A handler gets a `Call` whose caller is known. It reads, has the policy judge, acts, and
says in `facts` what it understood, as soon as it understood it: a refusal is recorded
with everything that was known when it was spoken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from nitrosigner.trusted.enclave.audit import AuditTrail, Facts, Outcome
from nitrosigner.trusted.enclave.boot import HealthSource
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
from nitrosigner.trusted.enclave.https.server_certificate import TlsIdentity
from nitrosigner.trusted.enclave.https.tls_keeping import TlsKeeping
from nitrosigner.trusted.enclave.keys.keys_port import Keys
from nitrosigner.trusted.enclave.permissions.policy import Policy
from nitrosigner.trusted.enclave.permissions.rate import SharedRate
from nitrosigner.trusted.enclave.ports import World
from nitrosigner.trusted.enclave.validators.validator_job import ValidatorJob
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import api
from nitrosigner.wire.manifest import AcceptedManifest, Client, Operation

MAX_REASON: Final = 200
"""Characters of the sentence that says which field is wrong."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all calls share."""

    world: World
    accepted: AcceptedManifest
    payload: bytes
    """The manifest as it was signed."""
    keyring: Keys
    policy: Policy
    audit: AuditTrail
    tls: TlsIdentity
    tls_keeping: TlsKeeping
    health: HealthSource
    statement: bytes
    """`user_data` of our attestation documents."""
    attestation_rate: SharedRate
    attesting: asyncio.Lock
    """Held while the NSM is asked: one request at a time."""
    validators: ValidatorJob | None
    """None: the manifest speaks of none."""
    boot: str
    """A random name for this life of the enclave, in request ids and events."""


class Call(msgspec.Struct, gc=False):
    """One request on its way through a handler."""

    around: Surroundings
    request: Request
    caller: Client | None
    identifier: str
    """The key in the path; empty where the path names none."""
    request_id: str
    facts: list[Facts]
    """One for each operation to be recorded. A batch of JSON-RPC has several."""
    refuse: Callable[[Verdict], Response] = refusal
    """How a verdict is said in this call's protocol."""
    finish: Callable[[], None] | None = None
    """Called once the answer is on its way, or was thrown away."""

    @property
    def client(self) -> Client:
        """Who asks. Routes that need no credential have no such question."""
        if self.caller is None:
            raise Refused(Code.UNAUTHENTICATED, "this needs a client", "")
        return self.caller

    @property
    def job(self) -> ValidatorJob:
        """The validator job. Its routes are not reached without one."""
        if self.around.validators is None:
            raise Refused(Code.UNKNOWN_ROUTE, "there are no validators here", "")
        return self.around.validators

    def begin(self, operation: Operation) -> Facts:
        """Say what is asked for. From here on the verdict is recorded."""
        facts = Facts(operation=operation, client=self.client.name)
        self.facts.append(facts)
        return facts

    def key(self, facts: Facts) -> api.KeyDescription:
        """
        Return the key that the path names.

        Raises:
            Refused: There is none (UNKNOWN_KEY).
        """
        return find(self, self.identifier, facts)


class Later:
    """
    An answer that is still being made, without a task, which would cost more.

    Whoever makes it calls `tell` once; whoever waits for it calls `hear` once, or
    awaits it.
    """

    __slots__ = ("_hears", "_outcome")

    def __init__(self) -> None:
        self._hears: Callable[[Response | Exception], None] | None = None
        self._outcome: Response | Exception | None = None

    def hear(self, hears: Callable[[Response | Exception], None]) -> None:
        """Have *hears* called with the answer or what went wrong, now or later."""
        self._hears = hears
        if self._outcome is not None:
            hears(self._outcome)

    def __await__(self) -> Generator[object, None, Response]:
        """Wait for the answer. Raises what went wrong."""
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def heard(outcome: Response | Exception) -> None:
            if answer.done():
                return  # its caller went away
            if isinstance(outcome, Response):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

        self.hear(heard)
        return answer.__await__()

    def tell(self, outcome: Response | Exception) -> None:
        """Say what the answer is, or what went wrong."""
        self._outcome = outcome
        if self._hears is not None:
            self._hears(outcome)


Handler = Callable[[Call], Response | Later | Awaitable[Response]]


def find(call: Call, identifier: str, facts: Facts) -> api.KeyDescription:
    """
    Return the key called *identifier*, which is a name or an address.

    Raises:
        Refused: There is none (UNKNOWN_KEY).
    """
    key = call.around.keyring.describe(identifier)
    facts.key = key.name
    facts.address = key.identity
    return key


def settle(facts: Facts, verdict: Verdict) -> None:
    """Note in *facts* that *verdict* was spoken."""
    facts.outcome = outcome(verdict)
    facts.code = verdict.code.value


def outcome(verdict: Verdict) -> Outcome:
    """Return which of the three ways to say no *verdict* is."""
    match verdict:
        case Malformed():
            return "malformed"
        case Refused():
            return "refused"
        case _:
            return "undecided"


def read(decoder: msgspec.json.Decoder[_T], body: bytes | msgspec.Raw) -> _T:
    """
    Return *body* as what *decoder* makes of it.

    Raises:
        Malformed: It is no JSON (MALFORMED_JSON) or other JSON (MALFORMED_REQUEST).
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        # The library's sentence names the field and what was expected there. It goes
        # to the caller who sent it, and nowhere else.
        raise Malformed(
            Code.MALFORMED_REQUEST,
            str(error)[:MAX_REASON],
            "see docs/openapi.json for what is expected",
        ) from None
    except (ValueError, RecursionError):
        raise Malformed(
            Code.MALFORMED_JSON,
            "the request's body is not JSON, or nested too deeply",
            "send one JSON value in UTF-8",
        ) from None


class Internal(Undecided):
    """We are at fault; the incident's id is all that leaves."""

    http_status = 500
