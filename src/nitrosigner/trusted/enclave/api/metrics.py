"""
The counters, for clients that the manifest knows. The parent shows them to Prometheus.
"""

from typing import Final

from nitrosigner.trusted.enclave.api.calls import Call
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import Response, ok
from nitrosigner.wire.api import PREFIX


def metrics(call: Call) -> Response:
    """GET metrics."""
    around = call.around
    return ok(call.job.metrics(around.health, around.tls.not_after))


ROUTES: Final = (Route("GET", f"{PREFIX}/metrics", metrics, validators=True),)
