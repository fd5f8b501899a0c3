"""
Health: whether this enclave can sign now. Asked by load balancers, without credential.

`UP` is a promise: the boot is done, keys are there, verdicts can be recorded, and the
clock is right. A failed KMS or storage call shows among the checks, but does not take
an enclave out of service that signs as before.
"""

from typing import Final

import nitrosigner
from nitrosigner.trusted.enclave.api.calls import Call
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import (
    TEXT,
    Response,
    encode_json,
)
from nitrosigner.trusted.enclave.https.tls_keeping import objection
from nitrosigner.wire import api

READY: Final = "ready"
CERTIFICATE_WARNING: Final = 14 * 24 * 3600
"""Seconds before the server certificate ends: restart the enclave until then."""
_NEEDED: Final = {
    "audit": (
        "verdicts cannot be recorded, so nothing is signed",
        "the parent's log says why its audit log cannot be written",
    ),
    "keys": (
        "no stored key can be used",
        "the parent's state says what is wrong with them: nitrosigner doctor",
    ),
    "expected_keys": (
        "fewer validators are enabled than the manifest expects",
        "import the others, or correct validators.expected_keys in the manifest",
    ),
    "watermarks": (
        "the watermark store does not answer, so no duty is signed",
        "the parent's log says why; its database or DynamoDB must be reachable",
    ),
    "signing": (
        "the processes that sign duties have ended",
        "start the enclave again, as its watchdog does by itself",
    ),
    "clock": ("", ""),  # it says itself what is wrong
    "certificate": (
        "the server certificate has ended",
        "start the enclave again: it makes a new one",
    ),
}
"""Checks without which nothing can be signed, or not all that should be, or clients
cannot come; what it means where one fails, and what to do."""


def upcheck(call: Call) -> Response:
    """GET upcheck: somebody listens."""
    del call
    return Response(200, b"OK", content_type=TEXT)


def healthcheck(call: Call) -> Response:
    """GET healthcheck."""
    around = call.around
    health = around.health
    tls = around.tls
    now = around.world.clock.now()
    left = tls.not_after - now
    checks = {
        **health.checks,
        "audit": around.audit.healthy,
        "certificate": tls.imported or left > CERTIFICATE_WARNING,
    }
    if tls.imported or tls.trouble:
        # Another check, and it never takes us out of service: a restart, which makes
        # a certificate of ours anew, would not mend it.
        checks["imported_certificate"] = not objection(tls, now)
    state, message, hint = health.state, "", ""
    passed = {**checks, "certificate": left > 0 or tls.imported}
    failed = [name for name in _NEEDED if not passed.get(name, True)]
    if state == READY and failed:
        state = f"{failed[0]}_unavailable"
        message, hint = _NEEDED[failed[0]]
        objection_of_clock = health.clock_objection
        if failed[0] == "clock" and objection_of_clock is not None:
            state = objection_of_clock.code.value
            message, hint = objection_of_clock.message, objection_of_clock.hint
    body = api.HealthBody(
        status="UP" if state == READY else "DOWN",
        outcome="UP" if state == READY else "DOWN",
        state=state,
        steps=health.steps,
        message=message,
        hint=hint,
        checks=checks,
        keys_loaded=health.keys_loaded,
        kms_calls=health.kms_calls,
        version=nitrosigner.__version__,
    )
    return Response(200 if state == READY else 503, encode_json(body))


ROUTES: Final = (
    Route("GET", "/upcheck", upcheck, public=True),
    Route("GET", "/healthcheck", healthcheck, public=True),
)
