"""
From a request as it arrived to the answer that leaves: no sockets in here.

The order is AWS's: who is it (signature), what is asked (operation, JSON), may they
(documents and policies, in the operation), and every end of it goes into the trail.
"""

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from nitrosigner.emulator.kms import cryptographic_operations as cryptographic
from nitrosigner.emulator.kms import key_operations as keys
from nitrosigner.emulator.kms import requests, signature
from nitrosigner.emulator.kms.call import Call, Kms
from nitrosigner.emulator.kms.errors import KmsError
from nitrosigner.emulator.kms.faults import (
    Fault,
    FaultPlan,
    PlannedFault,
    raise_for,
    spoil,
)
from nitrosigner.emulator.kms.principals import Principal
from nitrosigner.emulator.kms.trail import Outcome, Trail

Handler = Callable[[Call, Any], dict[str, Any]]
_TARGET: Final = "TrentService."
CONTENT_TYPE: Final = "application/x-amz-json-1.1"

OPERATIONS: Final[dict[str, tuple[type[requests.Request], Handler]]] = {
    "CreateKey": (requests.CreateKey, keys.create_key),
    "DescribeKey": (requests.DescribeKey, keys.describe_key),
    "ListKeys": (requests.ListKeys, keys.list_keys),
    "GetKeyPolicy": (requests.GetKeyPolicy, keys.get_key_policy),
    "PutKeyPolicy": (requests.PutKeyPolicy, keys.put_key_policy),
    "ListGrants": (requests.ListGrants, keys.list_grants),
    "EnableKey": (requests.OfKey, keys.enable_key),
    "DisableKey": (requests.OfKey, keys.disable_key),
    "ScheduleKeyDeletion": (requests.ScheduleKeyDeletion, keys.schedule_key_deletion),
    "CancelKeyDeletion": (requests.OfKey, keys.cancel_key_deletion),
    "CreateAlias": (requests.CreateAlias, keys.create_alias),
    "DeleteAlias": (requests.DeleteAlias, keys.delete_alias),
    "ListAliases": (requests.ListAliases, keys.list_aliases),
    "Encrypt": (requests.Encrypt, cryptographic.encrypt),
    "Decrypt": (requests.Decrypt, cryptographic.decrypt),
    "ReEncrypt": (requests.ReEncrypt, cryptographic.re_encrypt),
    "GenerateDataKey": (requests.GenerateDataKey, cryptographic.generate_data_key),
    "GenerateDataKeyWithoutPlaintext": (
        requests.GenerateDataKeyWithoutPlaintext,
        cryptographic.generate_data_key_without_plaintext,
    ),
    "GenerateDataKeyPair": (
        requests.GenerateDataKeyPair,
        cryptographic.generate_data_key_pair,
    ),
    "GenerateDataKeyPairWithoutPlaintext": (
        requests.GenerateDataKeyPairWithoutPlaintext,
        cryptographic.generate_data_key_pair_without_plaintext,
    ),
    "GenerateRandom": (requests.GenerateRandom, cryptographic.generate_random),
}
NOT_EMULATED: Final = frozenset(
    {
        "CreateGrant",
        "Decapsulate",
        "DeriveSharedSecret",
        "DisableKeyRotation",
        "EnableKeyRotation",
        "Encapsulate",
        "GenerateMac",
        "GetKeyRotationStatus",
        "GetParametersForImport",
        "GetPublicKey",
        "ImportKeyMaterial",
        "ListKeyPolicies",
        "ListKeyRotations",
        "ListResourceTags",
        "ListRetirableGrants",
        "ReplicateKey",
        "RetireGrant",
        "RevokeGrant",
        "RotateKeyOnDemand",
        "Sign",
        "TagResource",
        "UntagResource",
        "UpdateAlias",
        "UpdateKeyDescription",
        "Verify",
        "VerifyMac",
    }
)
"""Operations that AWS has and this emulator refuses by name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, ready for the wire."""

    status: int
    body: bytes
    request_id: str
    fault: PlannedFault | None = None
    """What the wire shall do to it. Only ever set by a test's plan."""


class Service:
    """The emulated KMS without its socket."""

    def __init__(self, kms: Kms, trail: Trail, faults: FaultPlan | None) -> None:
        """Serve *kms*. *faults* comes from tests only."""
        self._kms, self._trail, self._faults = kms, trail, faults

    def answer(self, request: signature.Received) -> Reply:
        """Answer *request*, whatever it is."""
        request_id = str(uuid.uuid4())
        operation = _shown_operation(request)
        planned = self._faults.take(operation) if self._faults else None
        call: Call | None = None
        error: KmsError | None = None
        answer: dict[str, Any] = {}
        try:
            call = Call(self._kms, self._authenticate(request), operation)
            if planned is not None:
                raise_for(planned.fault)
            answer = _perform(call, request)
        except KmsError as refusal:
            error = refusal
        if planned is not None and error is None:
            public_key = call.document.public_key if call and call.document else None
            answer = spoil(planned.fault, answer, public_key)
        outcome = Outcome(
            operation=operation,
            request_id=request_id,
            user_agent=" ".join(request.values("user-agent"))[:512],
            error=error.code if error else "",
            message=error.message if error else "",
        )
        self._trail.write(outcome, call, self._kms.now())
        if error is not None:
            return Reply(error.status, _encode(error.body), request_id, planned)
        return Reply(200, _encode(answer), request_id, planned)

    def _authenticate(self, request: signature.Received) -> Principal:
        found: list[Principal] = []

        def secret_of(access_key_id: str, token: str | None) -> str:
            principal, secret = self._kms.principals.find(access_key_id, token)
            found.append(principal)
            return secret

        claim = signature.read_claim(
            request, region=self._kms.region, service="kms", now=self._kms.now()
        )
        signature.check(request, claim, secret_of)
        return found[0]


def _shown_operation(request: signature.Received) -> str:
    """Return the operation's name, from the closed list of those that exist."""
    target = "".join(request.values("x-amz-target")[:1])
    name = target.removeprefix(_TARGET)
    known = name in OPERATIONS or name in NOT_EMULATED
    return name if target.startswith(_TARGET) and known else "unknown"


def _perform(call: Call, request: signature.Received) -> dict[str, Any]:
    if call.operation in NOT_EMULATED:
        raise KmsError(
            "UnsupportedOperationException", "The emulated KMS does not have this."
        )
    if call.operation not in OPERATIONS or request.path != "/":
        raise KmsError("UnknownOperationException")
    kind, handler = OPERATIONS[call.operation]
    return handler(call, requests.read(request.body, kind))


def _encode(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, default=_base64, separators=(",", ":")).encode()


def _base64(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError
    return base64.b64encode(value).decode()


def wire_fault(reply: Reply) -> Fault | None:
    """Return the fault that the wire has to play."""
    return None if reply.fault is None else reply.fault.fault
