"""Messages between enclave and parent: bounded, closed, and the same on both sides."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.verdicts import Malformed
from nitrosigner.wire import frames, services
from nitrosigner.wire.services import (
    Absent,
    Advanced,
    AdvanceWatermarks,
    AppendAudit,
    Conflict,
    Credentials,
    Done,
    Failed,
    Found,
    GetCredentials,
    GetRecord,
    ListRecords,
    ListWatermarks,
    Page,
    PutRecord,
    ReadWatermarks,
    RemoveRecord,
    ReportState,
    Stored,
    StoredRecord,
    StoredWatermark,
    WatermarkChange,
    WatermarkPage,
    Watermarks,
)

KEYS = [number.to_bytes(2, "big") * 24 for number in range(services.MAX_WATERMARKS)]

REQUESTS = [
    GetRecord("keys", "a"),
    ListRecords("keys", "", 1),
    PutRecord("keys", "a", 0, b"x"),
    RemoveRecord("keys", "a", 1),
    ReadWatermarks(KEYS[:2]),
    AdvanceWatermarks([WatermarkChange(KEYS[0], 0, b"x")]),
    GetCredentials(),
    AppendAudit([b"{}"]),
    ReportState("kms", "kms_refused", "no", "why"),
]
ANSWERS = [
    Found(StoredRecord("a", 1, b"x")),
    Absent(),
    Page([StoredRecord("a", 1, b"x")], True),
    Stored(0),
    Conflict(0),
    Watermarks([StoredWatermark(KEYS[0], 1, b"x")]),
    Watermarks([]),
    Advanced([True, False]),
    Credentials("A", "B", "C", 5),
    Done(),
    Failed("internal", "no"),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_read_as_it_was_written(request_: Any) -> None:
    assert services.decode_request(services.encode(request_)) == request_
    services.check(request_)
    with pytest.raises(ValueError):
        services.decode_answer(services.encode(request_))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_read_as_it_was_written(answer: Any) -> None:
    assert services.decode_answer(services.encode(answer)) == answer
    with pytest.raises(ValueError):
        services.decode_request(services.encode(answer))


@pytest.mark.parametrize("message", [*REQUESTS, *ANSWERS])
def test_cut_off_or_prolonged_messages_are_refused(message: Any) -> None:
    whole = services.encode(message)
    for read in (services.decode_request, services.decode_answer):
        for cut in range(len(whole)):
            with pytest.raises(ValueError):
                read(whole[:cut])
        with pytest.raises(ValueError):
            read(whole + b"\0")


@pytest.mark.parametrize(
    "answer",
    [
        Found(StoredRecord("a", 0, b"x")),
        Found(StoredRecord("a", 1, b"")),
        Found(StoredRecord("a", 1, bytes(services.MAX_RECORD + 1))),
        Found(StoredRecord("a" * 129, 1, b"x")),
        Found(StoredRecord("a", services.MAX_VERSION + 1, b"x")),
        Page([StoredRecord("a", 1, b"x")] * 501, False),
        Stored(-1),
        Conflict(1 << 60),
        Watermarks([StoredWatermark(KEYS[0][1:], 1, b"x")]),
        Watermarks([StoredWatermark(KEYS[0], 0, b"x")]),
        Watermarks([StoredWatermark(KEYS[0], 1, b"")]),
        Watermarks([StoredWatermark(KEYS[0], 1, bytes(services.MAX_WATERMARK + 1))]),
        Watermarks([StoredWatermark(KEYS[0], 1, b"x")] * (services.MAX_WATERMARKS + 1)),
        WatermarkPage([StoredWatermark(KEYS[0], 1, b"x")] * 513, more=False),
        Advanced([]),
        Advanced([True] * (services.MAX_WATERMARKS + 1)),
        Failed("internal", "x" * 513),
    ],
)
def test_an_answer_beyond_its_limits_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError):
        services.decode_answer(services.encode(answer))


@pytest.mark.parametrize(
    "request_",
    [
        ReadWatermarks([]),
        ReadWatermarks([KEYS[0] + b"x"]),
        ReadWatermarks([*KEYS, b"\xff" * 48]),
        ListWatermarks(b"", 5),
        ListWatermarks(KEYS[0][1:], 5),
        ListWatermarks(None, 0),
        ListWatermarks(None, 513),
        AdvanceWatermarks([]),
        AdvanceWatermarks([WatermarkChange(KEYS[0][1:], 0, b"x")]),
        AdvanceWatermarks([WatermarkChange(KEYS[0], -1, b"x")]),
        AdvanceWatermarks([WatermarkChange(KEYS[0], services.MAX_VERSION, b"x")]),
        AdvanceWatermarks([WatermarkChange(KEYS[0], 0, b"")]),
        AdvanceWatermarks([WatermarkChange(KEYS[0], 0, bytes(1025))]),
        AdvanceWatermarks([WatermarkChange(KEYS[0], 0, b"x")] * 513),
    ],
)
def test_a_question_for_watermarks_beyond_its_limits_is_refused(request_: Any) -> None:
    with pytest.raises(ValueError):
        services.decode_request(services.encode(request_))


def test_a_validator_named_twice_in_one_request_is_malformed() -> None:
    change = WatermarkChange(KEYS[0], 0, b"x")
    for request in (
        ReadWatermarks([KEYS[0], KEYS[1], KEYS[0]]),
        AdvanceWatermarks([change, WatermarkChange(KEYS[0], 1, b"y")]),
    ):
        with pytest.raises(Malformed, match="twice"):
            services.check(request)


def test_the_largest_questions_and_answers_for_watermarks_fit_in_a_frame() -> None:
    data, last = bytes(services.MAX_WATERMARK), services.MAX_VERSION
    for message in (
        ReadWatermarks(KEYS),
        AdvanceWatermarks([WatermarkChange(key, last - 1, data) for key in KEYS]),
        Watermarks([StoredWatermark(key, last, data) for key in KEYS]),
        WatermarkPage([StoredWatermark(key, last, data) for key in KEYS], more=True),
        ListWatermarks(KEYS[0], len(KEYS)),
        Advanced([True] * len(KEYS)),
    ):
        payload = services.encode(message)
        assert len(payload) <= frames.MAX_PAYLOAD
        read = (
            services.decode_request
            if isinstance(message, (ReadWatermarks, ListWatermarks, AdvanceWatermarks))
            else services.decode_answer
        )
        assert read(payload) == message


def test_the_key_of_the_watermarks_macs_may_be_stored_as_a_record() -> None:
    services.check(PutRecord("state", "watermark-mac", 0, b"sealed"))
    services.check(GetRecord("keys", "0x" + "ab" * 48))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (services.decode_request, services.decode_answer):
        try:
            message = read(data)
        except ValueError:
            continue
        assert read(services.encode(message)) == message


def test_every_request_within_its_limits_fits_in_a_frame() -> None:
    size = services.MAX_AUDIT_BATCH_BYTES // services.MAX_AUDIT_BATCH
    for request in (
        PutRecord("manifest", "n" * 128, services.MAX_VERSION, bytes(64 * 1024)),
        AppendAudit([b"x" * size] * services.MAX_AUDIT_BATCH),
    ):
        services.check(request)
        assert len(services.encode(request)) <= frames.MAX_PAYLOAD


def test_an_audit_batch_that_would_not_fit_in_a_frame_is_malformed() -> None:
    with pytest.raises(Malformed, match="batch"):
        services.check(AppendAudit([b"x" * 4096] * 200))


@pytest.mark.parametrize("name", ["a", "A", "0x9f", "a.b_c-d", "current", "a" * 128])
def test_names_that_every_store_can_hold(name: str) -> None:
    services.check_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".", "a/b", "a\n", "é", "a" * 129, "a\0"])
def test_names_that_some_store_cannot_hold(name: str) -> None:
    with pytest.raises(Malformed, match="name"):
        services.check_name(name)


def test_secrets_of_credentials_are_not_shown() -> None:
    shown = repr(Credentials("ASIA", "CANARY-secret", "CANARY-token", 5))
    assert "CANARY" not in shown
