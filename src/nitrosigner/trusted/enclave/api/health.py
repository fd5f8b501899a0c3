"""
Health: whether this enclave can sign now. Asked by load balancers, without credential.

`UP` is a promise: the boot is done, keys are there, and verdicts can be recorded. A
failed KMS or storage call shows among the checks, but does not take an enclave out of
service that signs as before.
"""

from typing import Final

import nitrosigner
from nitrosigner.trusted.enclave.calls import Call
from nitrosigner.trusted.enclave.http_messages import (
    TEXT,
    Response,
    encode_json,
)
from nitrosigner.trusted.enclave.routing import Route
from nitrosigner.trusted.enclave.tls_keeping import objection
from nitrosigner.wire import api

READY: Final = "ready"
CERTIFICATE_WARNING: Final = 14 * 24 * 3600
"""Seconds before the server certificate ends: restart the enclave until then."""
_NEEDED: Final = ("audit", "keys", "expected_keys", "watermarks")
"""Checks without which nothing can be signed, or not all that should be."""


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
    state = health.state
    failed = [name for name in _NEEDED if not checks.get(name, True)]
    if state == READY and left <= 0 and not tls.imported:
        failed.append("certificate")
    if state == READY and failed:
        state = f"{failed[0]}_unavailable"
    body = api.HealthBody(
        status="UP" if state == READY else "DOWN",
        outcome="UP" if state == READY else "DOWN",
        state=state,
        steps=health.steps,
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
