"""
The events that the wallet's Lambda function takes, one type for each operation.

`set_key`, `get_key` and `sign_transaction` are those of AWS's reference, unchanged;
what was added to them is optional. Unknown fields are refused: a misspelt `version`
must not overwrite a key.
"""

from typing import Annotated, Any, Final

import msgspec

from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest import Slug

MAX_TEXT: Final = 200 * 1024
Version = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]


class Event(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag_field="operation",
):
    """What all of them have."""

    key: Slug | None = None
    """Which key; by default the one that the configuration names."""


class SetKey(Event, frozen=True, kw_only=True, tag="set_key"):
    """Encrypt a private key with KMS and store it. Never shown, never logged."""

    eth_key: str
    version: Version | None = None
    """The current version of a key that is to be replaced."""
    reseal: bool = False
    """Seal it under the vault key, instead of asking KMS for each signature."""

    def __repr__(self) -> str:
        return "SetKey(…)"


class GetKey(Event, frozen=True, kw_only=True, tag="get_key"):
    """Return the stored ciphertext."""


class SignTransaction(Event, frozen=True, kw_only=True, tag="sign_transaction"):
    """Sign a transaction."""

    transaction_payload: dict[str, Any]


class CreateKey(Event, frozen=True, kw_only=True, tag="create_key"):
    """Make a key inside the enclave."""

    algorithm: str = "secp256k1"


class ListKeys(Event, frozen=True, kw_only=True, tag="list_keys"):
    """List the keys that the gateway may see."""


class SignMessage(Event, frozen=True, kw_only=True, tag="sign_message"):
    """Sign a message (EIP-191): `message` is text, `data` is 0x hex."""

    message: str | None = None
    data: str | None = None


class SignTypedData(Event, frozen=True, kw_only=True, tag="sign_typed_data"):
    """Sign typed data (EIP-712)."""

    typed_data: dict[str, Any]


class Status(Event, frozen=True, kw_only=True, tag="status"):
    """Where the signer stands, and what its attestation says."""


OPERATIONS: Final[dict[str, type[Event]]] = {
    "set_key": SetKey,
    "get_key": GetKey,
    "sign_transaction": SignTransaction,
    "create_key": CreateKey,
    "list_keys": ListKeys,
    "sign_message": SignMessage,
    "sign_typed_data": SignTypedData,
    "status": Status,
}


def read(event: object) -> Event:
    """
    Read an event as Lambda hands it over: JSON, already parsed.

    Raises:
        Malformed: Says what is missing or too much. Never quotes a value.
    """
    if not isinstance(event, dict):
        raise Malformed(Code.MALFORMED_REQUEST, "the event is not a JSON object")
    operation = event.get("operation")
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
            f"the event is not a {operation}: a field is missing, unknown or of "
            "another type",
            f"its fields are: {_fields(kind)}",
        ) from None


def _fields(kind: type[Event]) -> str:
    described = ["operation"]
    for field in msgspec.structs.fields(kind):
        optional = not field.required
        described.append(f"{field.name} (optional)" if optional else field.name)
    return ", ".join(described)
