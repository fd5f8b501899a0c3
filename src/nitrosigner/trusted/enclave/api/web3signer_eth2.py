"""
The `eth2` routes of Web3Signer, as its clients know them. Signing: `duties`.
"""

from typing import Final

from nitrosigner.trusted.enclave.api import duties, duty_batch
from nitrosigner.trusted.enclave.api.calls import Call
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import Response, encode_json, ok
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

_RUNNING: Final = 409


def public_keys(call: Call) -> Response:
    """GET publicKeys: every key that signs for this client."""
    policy, client = call.around.policy, call.client
    facts = call.begin(Operation.LIST_KEYS)
    policy.demand(client, Operation.LIST_KEYS)
    call.facts.remove(facts)
    return ok(
        [name for name in call.job.keys.enabled() if policy.sees_name(client, name)]
    )


def high_watermark(call: Call) -> Response:
    """GET highWatermark: where signing ends for everybody, if it does."""
    return ok(call.job.high_watermark)


def reload(call: Call) -> Response:
    """POST reload: begin to take over what the store holds."""
    facts = call.begin(Operation.MANAGE_KEY)
    facts.operation = "reload"
    call.around.policy.demand(call.client, Operation.MANAGE_KEY)
    begun = call.job.reloading.begin()
    return Response(202 if begun else _RUNNING, encode_json(call.job.reloading.status))


def reload_status(call: Call) -> Response:
    """GET reload."""
    return ok(call.job.reloading.status)


ROUTES: Final = (
    Route(
        "POST",
        f"{PREFIX}/eth2/sign/{{key}}",
        duties.sign,
        validators=True,
        say=duties.say,
    ),
    Route("POST", f"{PREFIX}/eth2/sign", duty_batch.sign_batch, validators=True),
    Route("GET", f"{PREFIX}/eth2/publicKeys", public_keys, validators=True),
    Route("GET", f"{PREFIX}/eth2/highWatermark", high_watermark, validators=True),
    Route("POST", "/reload", reload, validators=True),
    Route("GET", "/reload", reload_status, validators=True),
)
