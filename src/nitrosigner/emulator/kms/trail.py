"""
The audit trail: a durable row for each call, and a JSON line as CloudTrail writes it.

The row is on disk before the answer leaves. The lines in cloudtrail.jsonl are for
people and for the demo; after a crash the last one may be missing, the row is not.

Source: KMS Developer Guide, "Monitoring requests for Nitro enclaves".
"""

import datetime as dt
import json
import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nitrosigner.emulator.kms.call import Call
from nitrosigner.emulator.kms.key_material import canonical_context
from nitrosigner.emulator.kms.store import AuditRow, Store

_READ_ONLY: Final = (
    "Describe",
    "List",
    "Get",
    "Encrypt",
    "Decrypt",
    "Generate",
    "ReEncrypt",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    operation: str
    request_id: str
    user_agent: str
    error: str = ""
    """AWS's error code, empty if it succeeded."""
    message: str = ""


class Trail:
    """Writes both. Calls may come from any thread."""

    def __init__(self, store: Store, path: Path, *, region: str, account: str) -> None:
        """Append to the lines in *path*."""
        self._store = store
        self._region, self._account = region, account
        self._lock = threading.Lock()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o600), "ab")
        # A line that a crash cut short must not swallow the next one.
        if not _ends_a_line(path):
            file.write(b"\n")
        self._file = file

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            self._file.close()

    def write(self, outcome: Outcome, call: Call | None, at: dt.datetime) -> None:
        """Record how a call ended. *call* is None if nobody authenticated it."""
        document = None if call is None else call.document
        row = AuditRow(
            at=at.timestamp(),
            caller="" if call is None else call.caller.session_arn,
            operation=outcome.operation,
            key="" if call is None else call.key_arn,
            context="{}"
            if call is None
            else canonical_context(call.encryption_context),
            image="" if document is None else document.image_digest,
            outcome=outcome.error or "ok",
            request=outcome.request_id,
        )
        self._store.add_audit(row)
        line = json.dumps(self._event(outcome, call, at), separators=(",", ":"))
        with self._lock:
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    def _event(
        self, outcome: Outcome, call: Call | None, at: dt.datetime
    ) -> dict[str, Any]:
        event: dict[str, Any] = {
            "eventVersion": "1.08",
            "userIdentity": _identity(call),
            "eventTime": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "eventSource": "kms.amazonaws.com",
            "eventName": outcome.operation,
            "awsRegion": self._region,
            "sourceIPAddress": "127.0.0.1",
            "userAgent": outcome.user_agent,
            "requestParameters": None,
            "responseElements": None,
            "requestID": outcome.request_id,
            "eventID": str(uuid.uuid4()),
            "readOnly": outcome.operation.startswith(_READ_ONLY),
            "resources": [],
            "eventType": "AwsApiCall",
            "recipientAccountId": self._account,
            "emulated": True,
        }
        if outcome.error:
            event["errorCode"] = outcome.error
            event["errorMessage"] = outcome.message
        if call is not None:
            event["requestParameters"] = _parameters(call)
            if call.key_arn:
                event["resources"] = [
                    {
                        "accountId": self._account,
                        "type": "AWS::KMS::Key",
                        "ARN": call.key_arn,
                    }
                ]
            if call.document is not None:
                event["additionalEventData"] = {"recipient": _recipient(call)}
        return event


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _identity(call: Call | None) -> dict[str, Any]:
    if call is None:
        return {"type": "Unknown"}
    return {
        "type": "AssumedRole",
        "arn": call.caller.session_arn,
        "accountId": call.caller.account,
        "accessKeyId": call.principal.access_key_id,
        "sessionContext": {
            "sessionIssuer": {"type": "Role", "arn": call.caller.principal_arn}
        },
    }


def _parameters(call: Call) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if call.key_arn:
        parameters["keyId"] = call.key_arn
    if call.encryption_context:
        parameters["encryptionContext"] = dict(call.encryption_context)
    return parameters


def _recipient(call: Call) -> dict[str, str]:
    document = call.document
    if document is None:
        return {}
    # Names as in AWS's examples; registers that measured nothing are left out there.
    recipient = {
        "attestationDocumentModuleId": document.module_id,
        "attestationDocumentEnclaveImageDigest": document.image_digest,
    }
    for index, value in sorted(document.pcrs.items()):
        if index and any(value):
            recipient[f"attestationDocumentEnclavePCR{index}"] = value.hex()
    return recipient
