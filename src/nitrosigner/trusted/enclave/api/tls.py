"""
The server certificate: which one is shown, another one in its place, and back.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, read, settle
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import Response, ok
from nitrosigner.trusted.enclave.https.server_certificate import TlsIdentity
from nitrosigner.trusted.enclave.https.tls_keeping import objection
from nitrosigner.verdicts import Verdict
from nitrosigner.wire import api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

_import: Final = msgspec.json.Decoder(api.ImportTls)


def show(call: Call) -> Response:
    """GET tls."""
    return ok(_described(call, call.around.tls))


async def import_(call: Call) -> Response:
    """POST tls/import."""
    keeping = call.around.tls_keeping

    def wanted() -> Callable[[], Awaitable[TlsIdentity]]:
        request = read(_import, call.request.body)
        return lambda: keeping.import_(request)

    return await _changed(call, "import_tls", wanted)


async def reset(call: Call) -> Response:
    """POST tls/reset."""
    return await _changed(call, "reset_tls", lambda: call.around.tls_keeping.reset)


async def _changed(
    call: Call, verb: str, wanted: Callable[[], Callable[[], Awaitable[TlsIdentity]]]
) -> Response:
    facts = call.begin(Operation.MANAGE_TLS)
    facts.operation = verb
    call.around.policy.demand(call.client, Operation.MANAGE_TLS)
    change = wanted()
    facts.outcome = "begun"
    await call.around.audit.durable(call.request_id, facts)
    try:
        tls = await change()
    except Verdict as verdict:
        settle(facts, verdict)
        raise
    facts.outcome = "done"
    body = _described(call, tls)
    facts.digest = body.sha256
    return ok(body)


def _described(call: Call, tls: TlsIdentity) -> api.ServerTls:
    return api.ServerTls(
        origin="imported" if tls.imported else "enclave",
        sha256=hashlib.sha256(tls.certificate).hexdigest(),
        authority_sha256=hashlib.sha256(tls.authority).hexdigest(),
        not_after=tls.not_after,
        objection=objection(tls, call.around.world.clock.now()),
    )


ROUTES: Final = (
    Route("GET", f"{PREFIX}/tls", show),
    Route("POST", f"{PREFIX}/tls/import", import_),
    Route("POST", f"{PREFIX}/tls/reset", reset),
)
