"""
What the enclave asks of its parent: records, watermarks, credentials, audit, reports.

Nothing that comes back is believed: records are opened under the vault key with their
identity as associated data, watermarks carry the enclave's MAC, the manifest carries
the administrator's signature, and credentials only make KMS calls possible, not
acceptable.

Each message is one frame's payload (`wire.frames`), MessagePack, a tagged union;
unknown tags and unknown fields are refused.
"""

import re
from typing import Annotated, Final

import msgspec

from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.validator_api import Metrics

MAX_RECORD: Final = 64 * 1024
"""Bytes in one stored record, manifest included. Secrets Manager holds 65,536."""
MAX_PAGE: Final = 500
"""Records in one answer to `ListRecords`. Pages are also cut at MAX_PAGE_BYTES."""
MAX_PAGE_BYTES: Final = 512 * 1024
MAX_NAME: Final = 128
MAX_VERSION: Final = (1 << 53) - 1
MAX_AUDIT_BATCH: Final = 512
MAX_AUDIT_EVENT: Final = 4 * 1024
MAX_AUDIT_BATCH_BYTES: Final = 512 * 1024
"""Bytes of all events of one batch together: 512 of the longest would not fit in a
frame."""
MAX_SENTENCE: Final = 512
"""Characters of a message or a hint."""
PUBLIC_KEY_SIZE: Final = 48
"""Bytes of a validator's public key (BLS12-381, compressed), a watermark's name."""
MAX_WATERMARK: Final = 1024
"""Bytes of one stored watermark."""
MAX_WATERMARKS: Final = 512
"""Validators in one question; the largest fits in a frame with room to spare."""

COLLECTIONS: Final = ("manifest", "vault", "tls", "keys", "state")
"""
Closed list. `keys` holds a record for each key; the others hold few of known names:
`current`, and in `state` also `watermark-mac`.
"""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="t"):
    pass


Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]
Data = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_RECORD)]
"""A record's bytes. Never none: Secrets Manager cannot hold an empty value."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class GetRecord(_Message, frozen=True, tag="get"):
    """Ask for one record. Answer: `Found` or `Absent`."""

    collection: str
    name: str


class ListRecords(_Message, frozen=True, tag="list"):
    """
    Ask for the records after *after* (`""`: from the first). Answer: `Page`.

    Name order is the order of the names' bytes. A page may hold fewer than *limit*;
    only its `more` says whether another follows.
    """

    collection: str
    after: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]


class PutRecord(_Message, frozen=True, tag="put"):
    """
    Write a record if its stored version is *expected* (0: only if absent).

    Durable before it is answered. Answer: `Stored`, or `Conflict` and nothing written.
    The stored version becomes `expected + 1`. The very same write sent again, because
    an answer got lost, is `Stored` again.
    """

    collection: str
    name: str
    expected: Version
    data: Data


class RemoveRecord(_Message, frozen=True, tag="remove"):
    """Remove a record for good if its version is *expected*. `Stored` or `Conflict`."""

    collection: str
    name: str
    expected: Version


PublicKey = Annotated[
    bytes, msgspec.Meta(min_length=PUBLIC_KEY_SIZE, max_length=PUBLIC_KEY_SIZE)
]
WatermarkData = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_WATERMARK)]


class ReadWatermarks(_Message, frozen=True, tag="read_watermarks"):
    """
    Ask for the watermarks of these validators, each named once. Answer: `Watermarks`.

    The answer shows every write that was answered before the question was asked.
    """

    public_keys: Annotated[
        list[PublicKey], msgspec.Meta(min_length=1, max_length=MAX_WATERMARKS)
    ]


class ListWatermarks(_Message, frozen=True, tag="list_watermarks"):
    """
    Ask for every watermark, after that of *after* (none: from the first).

    The order is the store's own and always the same. Answer: `WatermarkPage`. What lies
    there from the first question to the last is told exactly once; what is written
    meanwhile may be missing.
    """

    after: PublicKey | None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_WATERMARKS)]


class WatermarkChange(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """Replace a validator's watermark if its version is *expected* (0: absent)."""

    public_key: PublicKey
    expected: Annotated[int, msgspec.Meta(ge=0, lt=MAX_VERSION)]
    data: WatermarkData


class AdvanceWatermarks(_Message, frozen=True, tag="advance_watermarks"):
    """
    Make each change whose condition holds, a validator at most once in one request.

    Each change is atomic by itself and durable before the answer; its version becomes
    `expected + 1`. Answer: `Advanced`. Unlike a record's write, a change that is sent
    again because an answer got lost is *not* written again: whoever asks reads what
    lies there and judges anew. So no two requests are ever told that they wrote one
    version.
    """

    changes: Annotated[
        list[WatermarkChange], msgspec.Meta(min_length=1, max_length=MAX_WATERMARKS)
    ]


class GetCredentials(_Message, frozen=True, tag="credentials"):
    """Ask for the instance role's credentials. Answer: `Credentials`."""


class AppendAudit(_Message, frozen=True, tag="audit"):
    """
    Append JSON lines to the audit log, in order, durably. Answer: `Done`.

    Each event is one line without its line feed. All are written or none; an event
    that is sent again because an answer got lost stands in the log twice.
    """

    events: Annotated[list[bytes], msgspec.Meta(max_length=MAX_AUDIT_BATCH)]


class ReportState(_Message, frozen=True, tag="state"):
    """Say where the boot stands, for whoever runs the parent. Answer: `Done`."""

    state: str
    code: str = ""
    message: str = ""
    hint: str = ""


class ReportMetrics(_Message, frozen=True, tag="metrics"):
    """Say how much was permitted and refused since boot. Answer: `Done`."""

    metrics: Metrics


Request = (
    GetRecord
    | ListRecords
    | PutRecord
    | RemoveRecord
    | ReadWatermarks
    | ListWatermarks
    | AdvanceWatermarks
    | GetCredentials
    | AppendAudit
    | ReportState
    | ReportMetrics
)


class StoredRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as it lies in the store."""

    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)]
    data: Data


class Found(_Message, frozen=True, tag="found"):
    """The record that was asked for."""

    record: StoredRecord


class Absent(_Message, frozen=True, tag="absent"):
    """There is no such record."""


class Page(_Message, frozen=True, tag="page"):
    """Records in name order; *more* says that another page follows the last name."""

    records: Annotated[list[StoredRecord], msgspec.Meta(max_length=MAX_PAGE)]
    more: bool


class Stored(_Message, frozen=True, tag="stored"):
    """It is durable, with this version (0 after a removal)."""

    version: Version


class Conflict(_Message, frozen=True, tag="conflict"):
    """Nothing was written: the stored version (0: absent) was not the expected one."""

    version: Version


class StoredWatermark(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A watermark as it lies in the store."""

    public_key: PublicKey
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)]
    data: WatermarkData


class Watermarks(_Message, frozen=True, tag="watermarks"):
    """The watermarks that were asked for, in any order. Those left out are absent."""

    items: Annotated[list[StoredWatermark], msgspec.Meta(max_length=MAX_WATERMARKS)]


class WatermarkPage(_Message, frozen=True, tag="watermark_page"):
    """Some watermarks; *more* says that others follow the last of them."""

    items: Annotated[list[StoredWatermark], msgspec.Meta(max_length=MAX_WATERMARKS)]
    more: bool


class Advanced(_Message, frozen=True, tag="advanced"):
    """Which changes were written, in the order of the request; the others were not."""

    written: Annotated[
        list[bool], msgspec.Meta(min_length=1, max_length=MAX_WATERMARKS)
    ]


class Credentials(_Message, frozen=True, tag="role"):
    """Temporary credentials of the instance role. *expires* is Unix seconds, UTC."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires: int

    def __repr__(self) -> str:
        return f"<Credentials of {self.access_key_id}, not shown>"


class Done(_Message, frozen=True, tag="done"):
    """Accepted and, where the request says so, durable."""


class Failed(_Message, frozen=True, tag="failed"):
    """
    The parent could not do it. *code* is a `verdicts.Code`.

    After `malformed_request` nothing was written. After any other code a put or a
    removal may or may not have happened: ask again with the same *expected* version
    and compare what a `Conflict` names, or get the record. The same goes for each
    change of `AdvanceWatermarks`: read, and judge anew.
    """

    code: str
    message: Annotated[str, msgspec.Meta(max_length=MAX_SENTENCE)]


Answer = (
    Found
    | Absent
    | Page
    | Stored
    | Conflict
    | Watermarks
    | WatermarkPage
    | Advanced
    | Credentials
    | Done
    | Failed
)

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return *message* as a frame's payload."""
    return _encoder.encode(message)


def check(request: Request) -> None:
    """
    Check what types don't say: names, and sizes that only hold together.

    Raises:
        Malformed: The store need not be asked.
    """
    match request:
        case GetRecord() | PutRecord() | RemoveRecord():
            check_collection(request.collection)
            check_name(request.name)
        case ListRecords():
            check_collection(request.collection)
            if request.after:
                check_name(request.after)
        case ReadWatermarks():
            _check_distinct(request.public_keys)
        case AdvanceWatermarks():
            _check_distinct([change.public_key for change in request.changes])
        case AppendAudit():
            _check_audit(request.events)
        case ReportState():
            sentences = (request.state, request.code, request.message, request.hint)
            if max(map(len, sentences)) > MAX_SENTENCE:
                raise Malformed(Code.MALFORMED_REQUEST, "a sentence is too long")
        case GetCredentials() | ReportMetrics() | ListWatermarks():
            pass


def check_collection(collection: str) -> None:
    """Raise `Malformed` if *collection* is not in the closed list."""
    if collection not in COLLECTIONS:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "there is no such collection",
            f"collections: {', '.join(COLLECTIONS)}",
        )


def check_name(name: str) -> None:
    """Raise `Malformed` if *name* is no record's name: it must suit every store."""
    if len(name) > MAX_NAME or not _NAME.match(name):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a record's name has 1 to {MAX_NAME} letters, digits, dots, underscores "
            "and dashes, and begins with a letter or a digit",
        )


def _check_distinct(public_keys: list[bytes]) -> None:
    if len(set(public_keys)) != len(public_keys):
        raise Malformed(
            Code.MALFORMED_REQUEST, "a validator is named twice in one request"
        )


def _check_audit(events: list[bytes]) -> None:
    if sum(map(len, events)) > MAX_AUDIT_BATCH_BYTES:
        raise Malformed(Code.MALFORMED_REQUEST, "the audit batch is too large")
    for event in events:
        if not 0 < len(event) <= MAX_AUDIT_EVENT:
            raise Malformed(Code.MALFORMED_REQUEST, "an audit event has a bad size")
        if b"\n" in event or b"\r" in event:
            raise Malformed(Code.MALFORMED_REQUEST, "an audit event is one line")


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
