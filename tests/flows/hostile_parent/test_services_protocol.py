"""The parent breaks the framed protocol: garbage, lies about ids, silence."""

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nitrosigner.wire import frames, services

Outcome = Callable[[str], str]


def once(kind: type, reply: Any, *, times: int = 2) -> Callable[[Any, Any], Any]:
    """Answer the first requests of *kind* with *reply*, then honestly."""
    left = [times]

    def attack(request: Any, answer: Any) -> Any:
        if isinstance(request, kind) and left[0] > 0:
            left[0] -= 1
            return reply
        return answer

    return attack


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 64,
        b"HTTP/1.1 200 OK\r\n\r\n",
        struct.pack(">BII", frames.VERSION, 1, frames.MAX_PAYLOAD + 1),
        struct.pack(">BII", frames.VERSION, 1, (1 << 32) - 1),
        frames.encode(999_999, services.encode(services.Done())),
        frames.encode(1, b"\xc1 no message"),
        frames.encode(1, b""),
    ],
    ids=["zeros", "http", "too-long", "longest", "wrong-id", "garbage", "empty"],
)
def test_a_broken_stream_is_given_up_and_the_boot_goes_on_when_it_is_mended(
    scene: Any, outcome: Outcome, raw: bytes
) -> None:
    scene.parent.answers = once(services.GetRecord, raw)
    scene.boot_until_ready()
    assert outcome("created") == "signed"


@pytest.mark.parametrize(
    "answer",
    [
        services.Done(),
        services.Stored(1),
        services.Page([], more=False),
        services.Found(services.StoredRecord("other", 1, b"x")),
        services.Failed("storage_unavailable", "no"),
        services.Failed("no such code \x1b[31m", "x" * 500),
        services.Credentials("a", "b", "c", 0),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_an_answer_to_another_question_is_not_taken(
    scene: Any, outcome: Outcome, answer: services.Answer
) -> None:
    scene.parent.answers = once(services.GetRecord, answer)
    scene.boot_until_ready()
    assert outcome("created") == "signed"


def test_answers_exchanged_between_requests_are_not_taken(
    scene: Any, outcome: Outcome
) -> None:
    """The record of one collection comes as the answer for another."""

    def exchange(request: Any, answer: Any) -> Any:
        if isinstance(request, services.GetRecord) and request.collection == "tls":
            record = scene.parent.records["vault", "current"]
            return services.Found(msgspec.structs.replace(record, name=request.name))
        return answer

    scene.parent.answers = exchange
    scene.boot()
    scene.stuck_with("record_untrusted")
    assert outcome("created") == "signer_unreachable"


def test_silence_is_no_permission_and_no_end(scene: Any, outcome: Outcome) -> None:
    """An audit log that never answers: nothing is signed without its event."""
    scene.boot_until_ready()
    scene.parent.answers = lambda request, answer: (
        None if isinstance(request, services.AppendAudit) else answer
    )
    assert outcome("created") == "audit_unavailable"
    scene.parent.answers = lambda request, answer: answer
    scene.until(lambda: outcome("created") == "signed", "it signs again")


def test_a_store_that_fails_while_a_key_is_made_makes_no_key_that_signs(
    scene: Any, client: Any, outcome: Outcome, deployment: Any
) -> None:
    from nitrosigner.verdicts import Undecided

    scene.boot_until_ready()
    scene.parent.answers = lambda request, answer: (
        services.Failed("storage_unavailable", "no")
        if isinstance(request, services.PutRecord | services.GetRecord)
        else answer
    )
    with pytest.raises(Undecided):
        client.create_key("never")
    deployment.addresses.setdefault("never", "")
    scene.parent.answers = lambda request, answer: answer
    assert outcome("created") == "signed"
