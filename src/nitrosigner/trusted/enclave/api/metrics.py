"""
The counters, for clients that the manifest knows. The parent offers the same outside.
"""

from typing import Final

from nitrosigner.trusted.enclave.calls import Call
from nitrosigner.trusted.enclave.http_messages import Response
from nitrosigner.trusted.enclave.routing import Route
from nitrosigner.wire import prometheus_text


def metrics(call: Call) -> Response:
    """GET metrics."""
    counted = call.job.metrics(call.around.health.kms_calls)
    return Response(
        200,
        prometheus_text.exposition(counted),
        content_type=prometheus_text.CONTENT_TYPE,
    )


ROUTES: Final = (Route("GET", "/metrics", metrics, validators=True),)
