"""A clock is right if the hypervisor's, AWS's and the kernel's agree; time is faked."""

import asyncio
import datetime as dt
from typing import Any

import cbor2
import pytest

from nitrosigner.trusted.enclave.attested.clock_check import (
    AWS_KEPT,
    READING_KEPT,
    TOLERANCE,
    ClockCheck,
)
from nitrosigner.verdicts import Code, Undecided

NOW = dt.datetime(2026, 11, 21, 3, 4, 5, tzinfo=dt.UTC).timestamp()


class World:
    """Four clocks, each of which can be moved alone, and an NSM that can fail."""

    def __init__(self) -> None:
        self.kernel = self.hypervisor = self.aws = NOW
        self.monotonic_ = 1000.0
        self.failure: Exception | None = None
        self.document: bytes | None = None

    def passes(self, seconds: float) -> None:
        self.kernel += seconds
        self.hypervisor += seconds
        self.aws += seconds
        self.monotonic_ += seconds

    def date(self) -> str:
        when = dt.datetime.fromtimestamp(self.aws, dt.UTC)
        return f"{when:%a, %d %b %Y %H:%M:%S} GMT"

    # --- Clock ---

    def now(self) -> float:
        return self.kernel

    def monotonic(self) -> float:
        return self.monotonic_

    # --- Nsm ---

    def attest(self, **_: Any) -> bytes:
        if self.failure is not None:
            raise self.failure
        if self.document is not None:
            return self.document
        payload = cbor2.dumps({"timestamp": round(self.hypervisor * 1000)})
        return cbor2.dumps([b"", {}, payload, b""])

    def random(self, size: int) -> bytes:
        return bytes(size)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def check(world: World) -> ClockCheck:
    made = ClockCheck(world, world)
    asyncio.run(made.look())
    return made


def sentence(check: ClockCheck) -> str:
    objection = check.objection
    if objection is None:
        return ""
    assert objection.code is Code.CLOCK_UNSOUND
    assert "start the enclave again" in objection.hint
    return objection.message


def test_clocks_that_agree_are_right_for_as_long_as_they_do(
    world: World, check: ClockCheck
) -> None:
    for _ in range(200):
        check.heard(world.date())
        world.passes(59.0)
        asyncio.run(check.look())
        assert sentence(check) == ""
    assert check.now() == pytest.approx(world.kernel, abs=0.01)
    assert check.offset == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("jump", [TOLERANCE + 1, -TOLERANCE - 1, 86_400, -1e9, 1e9])
def test_a_jump_of_the_kernels_clock_shows_at_once_and_dates_stay_right(
    world: World, check: ClockCheck, jump: float
) -> None:
    world.kernel += jump
    assert "off the hypervisor's" in sentence(check)
    assert check.offset == pytest.approx(jump)
    world.passes(5)
    assert check.now() == pytest.approx(world.hypervisor)
    world.kernel -= jump
    assert sentence(check) == ""


@pytest.mark.parametrize("off", [TOLERANCE - 1, 1 - TOLERANCE])
def test_what_is_within_the_bound_is_no_jump(
    world: World, check: ClockCheck, off: float
) -> None:
    world.kernel += off
    assert sentence(check) == ""


def test_a_clock_that_drifts_is_found_out(world: World, check: ClockCheck) -> None:
    for _ in range(60):
        world.passes(60)
        world.kernel += 1
        asyncio.run(check.look())
    assert "+60 s off" in sentence(check)


@pytest.mark.parametrize("lie", [600, -600])
def test_where_aws_contradicts_the_hypervisor_nothing_is_dated(
    world: World, check: ClockCheck, lie: float
) -> None:
    world.aws += lie
    check.heard(world.date())
    assert "AWS" in sentence(check)
    with pytest.raises(Undecided) as caught:
        check.now()
    assert caught.value.code is Code.CLOCK_UNSOUND
    world.aws -= lie
    check.heard(world.date())
    assert sentence(check) == ""
    check.now()


def test_what_aws_said_holds_for_a_day(world: World, check: ClockCheck) -> None:
    world.aws += 600
    check.heard(world.date())
    world.passes(AWS_KEPT - 60)
    asyncio.run(check.look())
    assert "AWS" in sentence(check)
    world.passes(61)
    asyncio.run(check.look())
    assert sentence(check) == ""


@pytest.mark.parametrize(
    "date", ["", "now", "Sat, 32 Nov 2026 03:04:05 GMT", "1700000000", "x" * 5000]
)
def test_a_date_that_is_none_is_as_good_as_none(check: ClockCheck, date: str) -> None:
    check.heard(date)
    assert sentence(check) == ""


def test_a_machine_that_was_paused_is_right_again_with_the_next_reading(
    world: World, check: ClockCheck
) -> None:
    """All clocks but the monotonic one go on."""
    check.heard(world.date())
    for name in ("kernel", "hypervisor", "aws"):
        setattr(world, name, getattr(world, name) + 8 * 3600)
    assert sentence(check)  # nobody knows yet which of them is wrong
    asyncio.run(check.look())
    assert sentence(check) == ""
    assert check.now() == pytest.approx(world.hypervisor)


def test_without_the_hypervisor_it_is_right_for_an_hour_and_then_unknown(
    world: World, check: ClockCheck
) -> None:
    world.failure = Undecided(Code.NSM_UNAVAILABLE, "gone")
    for _ in range(int(READING_KEPT // 60)):
        world.passes(60)
        with pytest.raises(Undecided):
            asyncio.run(check.look())
        assert sentence(check) == ""
    world.passes(60)
    assert "for long" in sentence(check)
    world.failure = None
    asyncio.run(check.look())
    assert sentence(check) == ""


@pytest.mark.parametrize("document", [b"", b"\xff", cbor2.dumps([1, 2, 3, 4])])
def test_a_document_without_a_time_changes_nothing(
    world: World, check: ClockCheck, document: bytes
) -> None:
    world.document = document
    with pytest.raises(Undecided) as caught:
        asyncio.run(check.look())
    assert caught.value.code is Code.NSM_UNAVAILABLE
    assert sentence(check) == ""


def test_before_the_first_reading_nobody_knows(world: World) -> None:
    check = ClockCheck(world, world)
    assert sentence(check)
    with pytest.raises(Undecided):
        check.now()
