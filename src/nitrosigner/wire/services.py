"""
What the enclave asks of its parent: records, credentials, audit, a place to report to.

Nothing that comes back is believed: records are opened under the vault key with their
identity as associated data, the manifest carries the administrator's signature, and
credentials only make KMS calls possible, not acceptable.

Each message is one frame's payload (`wire.frames`), MessagePack, a tagged union;
unknown tags and unknown fields are refused.
"""

from typing import Final

import msgspec

MAX_RECORD: Final = 64 * 1024
"""Bytes in one stored record, manifest included. Secrets Manager holds 65,536."""
MAX_PAGE: Final = 500
"""Records in one answer to `ListRecords`. Pages are also cut at MAX_PAGE_BYTES."""
MAX_PAGE_BYTES: Final = 512 * 1024
MAX_NAME: Final = 128
MAX_AUDIT_BATCH: Final = 512
MAX_AUDIT_EVENT: Final = 4 * 1024

COLLECTIONS: Final = ("manifest", "vault", "tls", "keys", "state")
"""Closed list. All but `keys` hold one record, called `current`."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="t"):
    pass


class GetRecord(_Message, frozen=True, tag="get"):
    """Ask for one record. Answer: `Found` or `Absent`."""

    collection: str
    name: str


class ListRecords(_Message, frozen=True, tag="list"):
    """Ask for the records after *after* in name order. Answer: `Page`."""

    collection: str
    after: str
    limit: int


class PutRecord(_Message, frozen=True, tag="put"):
    """
    Write a record if its stored version is *expected* (0: only if absent).

    Durable before it is answered. Answer: `Stored`, or `Conflict` and nothing written.
    The stored version becomes `expected + 1`.
    """

    collection: str
    name: str
    expected: int
    data: bytes


class RemoveRecord(_Message, frozen=True, tag="remove"):
    """Remove a record for good if its version is *expected*. `Stored` or `Conflict`."""

    collection: str
    name: str
    expected: int


class GetCredentials(_Message, frozen=True, tag="credentials"):
    """Ask for the instance role's credentials. Answer: `Credentials`."""


class AppendAudit(_Message, frozen=True, tag="audit"):
    """Append JSON lines to the audit log, in order, durably. Answer: `Done`."""

    events: list[bytes]


class ReportState(_Message, frozen=True, tag="state"):
    """Say where the boot stands, for whoever runs the parent. Answer: `Done`."""

    state: str
    code: str = ""
    message: str = ""
    hint: str = ""


Request = (
    GetRecord
    | ListRecords
    | PutRecord
    | RemoveRecord
    | GetCredentials
    | AppendAudit
    | ReportState
)


class StoredRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as it lies in the store."""

    name: str
    version: int
    data: bytes


class Found(_Message, frozen=True, tag="found"):
    """The record that was asked for."""

    record: StoredRecord


class Absent(_Message, frozen=True, tag="absent"):
    """There is no such record."""


class Page(_Message, frozen=True, tag="page"):
    """Records in name order; *more* says that another page follows the last name."""

    records: list[StoredRecord]
    more: bool


class Stored(_Message, frozen=True, tag="stored"):
    """It is durable, with this version (0 after a removal)."""

    version: int


class Conflict(_Message, frozen=True, tag="conflict"):
    """Nothing was written: the stored version (0: absent) was not the expected one."""

    version: int


class Credentials(_Message, frozen=True, tag="role"):
    """Temporary credentials of the instance role. *expires* is Unix seconds, UTC."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires: int


class Done(_Message, frozen=True, tag="done"):
    """Accepted and, where the request says so, durable."""


class Failed(_Message, frozen=True, tag="failed"):
    """The parent could not do it. *code* is a `verdicts.Code`; nothing was written."""

    code: str
    message: str


Answer = Found | Absent | Page | Stored | Conflict | Credentials | Done | Failed

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return *message* as a frame's payload."""
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """
    Read what an enclave asked.

    Raises:
        ValueError: *payload* is no request. Close the connection.
    """
    return _request_decoder.decode(payload)


def decode_answer(payload: bytes) -> Answer:
    """
    Read what a parent answered.

    Raises:
        ValueError: *payload* is no answer. Close the connection.
    """
    return _answer_decoder.decode(payload)
