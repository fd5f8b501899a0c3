"""
The events that the validator's Lambda function takes, one type for each operation.

`set_tls_key`, `get_tls_key`, `web3signer_status` and `web3signer_public_keys` are those
of AWS's reference, unchanged. Unknown fields are refused.
"""

from typing import Final

import msgspec

from nitrosigner.verdicts import Code, Malformed, Refused


class Event(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="operation",
):
    """What all of them have: nothing."""


class SetTlsKey(Event, frozen=True, kw_only=True, tag="set_tls_key"):
    """Verify the enclave anew and show the TLS certificate that it made itself."""


class GetTlsKey(Event, frozen=True, kw_only=True, tag="get_tls_key"):
    """Return the authority that clients of the signer must trust."""


class Web3signerStatus(Event, frozen=True, kw_only=True, tag="web3signer_status"):
    """Return "OK" if the signer is up."""


class Web3signerPublicKeys(
    Event, frozen=True, kw_only=True, tag="web3signer_public_keys"
):
    """List the public keys that sign."""


class Start(Event, frozen=True, kw_only=True, tag="start"):
    """Start the signer on all instances, and on those that come later."""


class Stop(Event, frozen=True, kw_only=True, tag="stop"):
    """Stop it, and keep it stopped."""


class Reload(Event, frozen=True, kw_only=True, tag="reload"):
    """Have the signer take over what its store holds."""


class Healthcheck(Event, frozen=True, kw_only=True, tag="healthcheck"):
    """Where the signer stands, ready or not."""


OPERATIONS: Final[dict[str, type[Event]]] = {
    "set_tls_key": SetTlsKey,
    "get_tls_key": GetTlsKey,
    "web3signer_status": Web3signerStatus,
    "web3signer_public_keys": Web3signerPublicKeys,
    "start": Start,
    "stop": Stop,
    "reload": Reload,
    "healthcheck": Healthcheck,
}


def read(event: object) -> Event:
    """
    Read an event as Lambda hands it over: JSON, already parsed.

    Raises:
        Malformed: Says what is wrong. Never quotes a value.
        Refused: It is the reference's `decrypt_tls_key`.
    """
    if not isinstance(event, dict):
        raise Malformed(Code.MALFORMED_REQUEST, "the event is not a JSON object")
    operation = event.get("operation")
    if operation == "decrypt_tls_key":
        raise Refused(
            Code.NOT_ALLOWED,
            "the TLS key is made in the enclave and is given to nobody",
            "get_tls_key returns what a client needs",
        )
    kind = OPERATIONS.get(operation) if isinstance(operation, str) else None
    if kind is None:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "the event has no `operation` that this function knows",
            f"it is one of {', '.join(OPERATIONS)}",
        )
    try:
        return msgspec.convert(event, kind)
    except msgspec.ValidationError:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"the event is not a {operation}: it has no field but `operation`",
        ) from None
