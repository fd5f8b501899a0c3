"""No signature without a durable record, however the audit log fails."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from nitrosigner.trusted.enclave import audit
from nitrosigner.trusted.enclave.audit import AuditTrail, Facts
from nitrosigner.verdicts import Code, Undecided

SIGN = "/api/v1/keys/hot/sign/transaction"
TX = {
    "transaction": {
        "type": "0x2",
        "chainId": 31337,
        "nonce": 0,
        "to": "0x" + "11" * 20,
        "value": 100,
        "gas": 21000,
        "maxFeePerGas": 1000,
    }
}


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Log:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.batches: list[int] = []
        self.failure: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def append(self, lines: list[bytes]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.lines += lines
        self.batches.append(len(lines))


def run(test: Callable[[AuditTrail, Log, Clock], Any]) -> None:
    async def main() -> None:
        log, clock = Log(), Clock()
        trail = AuditTrail(log.append, clock, "boot")
        trail.start()
        async with asyncio.timeout(20):
            await test(trail, log, clock)
        await trail.close()

    asyncio.run(main())


async def settled(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_every_line_names_the_one_before_it() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        for number in range(20):
            trail.record(f"r{number}", Facts(operation="test"))
            if number % 5 == 0:
                await asyncio.sleep(0)
        await settled(lambda: len(log.lines) == 20)
        previous = "0" * 64
        for sequence, line in enumerate(log.lines, 1):
            event = json.loads(line)
            assert event["previous"] == previous
            assert event["sequence"] == sequence
            assert event["boot"] == "boot"
            assert b"\n" not in line
            previous = hashlib.sha256(line).hexdigest()

    run(test)


def test_what_comes_during_a_write_goes_together_in_the_next() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.gate = asyncio.Event()
        trail.record("first", Facts(operation="test"))
        await asyncio.sleep(0)
        for _ in range(1000):
            trail.record("more", Facts(operation="test"))
        log.gate.set()
        await settled(lambda: len(log.lines) == 1001)
        assert log.batches == [1, 512, 488]

    run(test)


def test_nobody_is_told_before_it_is_written() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.gate = asyncio.Event()
        told: list[bool] = []
        trail.record("r", Facts(operation="test"), told.append)
        for _ in range(20):
            await asyncio.sleep(0)
        assert told == []
        log.gate.set()
        await settled(lambda: told)
        assert told == [True]

    run(test)


FAILURES = [
    Undecided(Code.AUDIT_UNAVAILABLE, "the disk is full"),
    OSError("broken"),
    TimeoutError(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=["verdict", "os", "time"])
def test_a_failed_write_is_told_at_once_and_tried_again(failure: Any) -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.failure = failure
        told: list[bool] = []
        trail.record("r", Facts(operation="test"), told.append)
        await settled(lambda: told)
        assert told == [False]
        assert not trail.healthy
        with pytest.raises(Undecided) as refused:
            trail.demand()
        assert refused.value.code == "audit_unavailable"
        log.failure = None
        await settled(lambda: trail.healthy)
        trail.demand()
        assert [json.loads(line)["request"] for line in log.lines] == ["r"]
        assert told == [False]

    run(test)


def test_an_append_that_hangs_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "APPEND_TIME", 0.05)

    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.gate = asyncio.Event()
        told: list[bool] = []
        trail.record("r", Facts(operation="test"), told.append)
        await settled(lambda: told)
        assert told == [False]
        log.gate.set()
        await settled(lambda: trail.healthy)

    run(test)


def test_a_full_queue_stops_signing_and_counts_what_it_drops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING", 5)

    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.gate = asyncio.Event()
        told: list[bool] = []
        for _ in range(8):
            trail.record("r", Facts(operation="test"), told.append)
        await settled(lambda: told)
        assert told == [False] * 3
        with pytest.raises(Undecided):
            trail.demand()
        log.gate.set()
        await settled(lambda: len(told) == 8)
        trail.demand()
        trail.record("r", Facts(operation="test"))
        await settled(lambda: len(log.lines) == 6)
        assert json.loads(log.lines[-1])["unrecorded"] == 3

    run(test)


def test_after_the_writer_died_nothing_is_signed() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.failure = RuntimeError("a bug")
        told: list[bool] = []
        trail.record("r", Facts(operation="test"), told.append)
        await settled(lambda: told)
        assert told == [False]
        assert not trail.healthy
        with pytest.raises(Undecided):
            trail.demand()
        trail._task = None  # its exception is expected here

    async def main() -> None:
        log, clock = Log(), Clock()
        trail = AuditTrail(log.append, clock, "boot")
        trail.start()
        task = trail._task
        assert task is not None
        await test(trail, log, clock)
        with pytest.raises(RuntimeError):
            await task

    asyncio.run(main())


def test_strangers_are_recorded_within_a_rate() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        for _ in range(100):
            trail.record_stranger("", Facts(operation="authenticate"))
        clock.time += 1
        trail.record_stranger("", Facts(operation="authenticate"))
        await settled(lambda: len(log.lines) == 11)
        assert json.loads(log.lines[-1])["unrecorded"] == 90

    run(test)


# --- through the front -----------------------------------------------------------------


def test_a_signature_is_recorded_with_what_it_is_for(front: Any, address: Any) -> None:
    status, body = front.ask("POST", SIGN, TX)
    assert status == 200
    boot, event = front.services.events
    assert boot["operation"] == "boot"
    assert boot["digest"] == hashlib.sha256(front.payload).hexdigest()
    assert event.pop("time") > 1_700_000_000
    assert event == {
        "boot": boot["boot"],
        "sequence": 2,
        "previous": hashlib.sha256(front.services.lines[0]).hexdigest(),
        "request": front.last.headers["Request-Id"],
        "client": "default",
        "operation": "sign_transaction",
        "outcome": "signed",
        "key": "hot",
        "address": address("hot"),
        "chain_id": 31337,
        "to": "0x" + "11" * 20,
        "value": "100",
        "digest": front.keys.signed[0].message.hex(),
        "hash": body["hash"][2:],
    }


def test_a_refusal_is_recorded_with_its_reason(front: Any) -> None:
    tx = {"transaction": TX["transaction"] | {"chainId": 1, "value": "1001"}}
    status, answer = front.ask("POST", SIGN, tx, token="limited")
    assert (status, answer["error"]["code"]) == (403, "over_limit")
    front.wait(lambda: len(front.services.lines) == 2)
    event = front.services.events[-1]
    assert event["outcome"] == "refused"
    assert event["code"] == "over_limit"
    assert event["value"] == "1001"
    assert "digest" not in event
    assert "hash" not in event


@pytest.mark.parametrize(
    "failure", [Undecided(Code.AUDIT_UNAVAILABLE, "full"), OSError("x")]
)
@pytest.mark.parametrize("key", ["hot", "kms"])
def test_without_a_record_the_signature_is_withheld(
    front: Any, failure: Any, key: Any
) -> None:
    path = f"/api/v1/keys/{key}/sign/transaction"
    front.wait(lambda: front.services.lines)
    front.services.failure = failure
    status, answer = front.ask("POST", path, TX)
    assert (status, answer["error"]["code"]) == (503, "audit_unavailable")
    assert "raw" not in answer
    made = len(front.keys.signed)
    # From now on it is known that nothing can be recorded: nothing is even made.
    for _ in range(3):
        status, answer = front.ask("POST", path, TX)
        assert (status, answer["error"]["code"]) == (503, "audit_unavailable")
    assert len(front.keys.signed) == made <= 1
    status, answer = front.ask("GET", "/healthcheck")
    assert (status, answer["status"]) == (503, "DOWN")
    assert answer["state"] == "audit_unavailable"
    assert answer["checks"]["audit"] is False
    front.services.failure = None
    front.wait(lambda: front.ask("GET", "/healthcheck")[0] == 200)
    assert front.ask("POST", path, TX)[0] == 200
    outcomes = [
        event["outcome"]
        for event in front.services.events
        if event["operation"] == "sign_transaction"
    ]
    assert outcomes.count("signed") == len(front.keys.signed)


def test_an_answer_that_is_lost_on_the_way_may_repeat_lines_but_hides_none(
    front: Any,
) -> None:
    front.wait(lambda: front.services.lines)
    front.services.failure = Undecided(Code.AUDIT_UNAVAILABLE, "no answer")
    front.services.fail_after_writing = True
    assert front.ask("POST", SIGN, TX)[0] == 503
    front.services.failure = None
    front.wait(lambda: front.ask("GET", "/healthcheck")[0] == 200)
    sequences = [event["sequence"] for event in front.services.events]
    assert sorted(set(sequences)) == list(range(1, max(sequences) + 1))
    assert len(sequences) > len(set(sequences))


def test_reading_is_recorded_only_when_it_is_refused(front: Any) -> None:
    assert front.ask("GET", "/api/v1/keys")[0] == 200
    assert front.ask("GET", "/api/v1/keys/hot")[0] == 200
    assert front.rpc("eth_accounts")["result"]
    assert front.ask("GET", "/api/v1/keys/hot", token="narrow")[0] == 403
    front.wait(lambda: len(front.services.lines) == 2)
    event = front.services.events[-1]
    assert (event["operation"], event["code"]) == ("list_keys", "not_allowed")


def test_a_change_is_recorded_before_and_after(front: Any) -> None:
    assert front.ask("POST", "/api/v1/keys", {"name": "new"})[0] == 201
    assert front.ask("POST", "/api/v1/keys/new/disable", {"version": 7})[0] == 412
    front.wait(lambda: len(front.services.lines) == 5)
    seen = [
        (event["operation"], event["outcome"], event["key"], event.get("code"))
        for event in front.services.events[1:]
    ]
    assert seen == [
        ("create_key", "begun", "new", None),
        ("create_key", "done", "new", None),
        ("disable_key", "begun", "new", None),
        ("disable_key", "refused", "new", "version_conflict"),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/keys", {"name": "new"}),
        ("/api/v1/keys/hot/disable", {}),
        ("/api/v1/keys/hot/delete", {}),
    ],
)
def test_without_a_record_nothing_is_changed(front: Any, path: Any, body: Any) -> None:
    front.wait(lambda: front.services.lines)
    front.services.failure = OSError("full")
    for _ in range(2):
        status, answer = front.ask("POST", path, body)
        assert (status, answer["error"]["code"]) == (503, "audit_unavailable")
    assert front.keys.changed == []


def test_one_listener_that_fails_keeps_no_other_from_hearing() -> None:
    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: faults.append(context["exception"])
        )
        told: list[bool] = []

        def fails(_: bool) -> None:
            raise RuntimeError

        for done in (told.append, fails, told.append):
            assert trail.record("r", Facts(operation="test"), done)
        await settled(lambda: len(told) == 2)
        assert told == [True, True]
        assert [type(fault) for fault in faults] == [RuntimeError]
        assert trail.healthy

    run(test)


def test_what_finds_no_room_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING", 2)

    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        log.gate = asyncio.Event()
        taken = [trail.record("r", Facts(operation="test")) for _ in range(3)]
        assert taken == [True, True, False]
        log.gate.set()

    run(test)


def test_a_line_is_one_json_object_with_its_place_in_the_chain() -> None:
    every = {
        name: {"chain_id": 1, "slot": 2, "source": 3, "target": 4, "count": 5}.get(
            name, f'{name} "quoted"\\\n\u2028'
        )
        for name in Facts.__struct_fields__
    } | {"keys": ("a", "b"), "outcome": "refused"}

    async def test(trail: AuditTrail, log: Log, clock: Clock) -> None:
        clock.time = 1234.56789
        trail.record("boot-1", Facts(**every))
        trail.record("", Facts(operation="boot"))
        await settled(lambda: len(log.lines) == 2)
        first, second = log.lines
        assert b"\n" not in first
        assert json.loads(first) == every | {
            "time": 1234.568,
            "boot": "boot",
            "sequence": 1,
            "previous": "0" * 64,
            "request": "boot-1",
            "keys": ["a", "b"],
        }
        assert json.loads(second) == {
            "time": 1234.568,
            "boot": "boot",
            "sequence": 2,
            "previous": hashlib.sha256(first).hexdigest(),
            "operation": "boot",
            "outcome": "done",
        }

    run(test)
