"""What a wrong clock changes in an enclave that boots and runs: health and dates."""

from typing import Any

import pytest

from nitrosigner.verdicts import Undecided

HOUR = 3600.0


async def checks(running: Any) -> Any:
    return running.checks


def test_a_clock_that_is_right_is_a_check_that_passes(lab: Any, parent: Any) -> None:
    assert lab.booted(parent, checks)["clock"] is True


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_is_said_and_what_is_dated_keeps_its_date(
    lab: Any, parent: Any, jump: float
) -> None:
    async def use(running: Any) -> None:
        before = running.keyring.count
        lab.clock.wrong = jump
        assert running.checks["clock"] is False
        assert running.clock_offset == pytest.approx(jump, abs=1)
        assert running.clock_objection.code == "clock_unsound"
        made = await running.keyring.create("dated", "secp256k1")
        assert made.created == pytest.approx(lab.clock.true().timestamp(), abs=5)
        assert running.keyring.count == before + 1
        lab.clock.wrong = 0.0
        assert running.checks["clock"] is True

    lab.booted(parent, use)


def test_a_clock_that_jumps_ahead_purges_nothing_early(lab: Any, parent: Any) -> None:
    async def use(running: Any) -> None:
        made = await running.keyring.create("kept", "secp256k1")
        await running.keyring.delete("kept", made.version)
        lab.clock.wrong = 3650 * 24 * HOUR
        assert await running.keyring.purge_expired() == 0
        lab.clock.wrong = 0.0
        assert await running.keyring.purge_expired() == 0

    lab.booted(parent, use)


def test_an_aws_that_has_another_time_stops_dating_and_nothing_else(
    lab: Any, parent: Any
) -> None:
    """Of two clocks that should be right one is wrong, and nobody knows which."""

    async def use(running: Any) -> None:
        await running.keyring.create("before", "secp256k1")
        lab.clock.ahead = -120.0  # AWS takes what is dated so
        await running.keyring.rotate_vault()  # asks KMS, which says what time it is
        assert running.checks["clock"] is False
        assert "AWS" in running.clock_objection.message
        with pytest.raises(Undecided) as caught:
            await running.keyring.create("undated", "secp256k1")
        assert caught.value.code == "clock_unsound"
        assert running.keyring.describe("before").state == "enabled"

    lab.booted(parent, use)


def test_no_certificate_is_dated_by_a_clock_that_aws_contradicts(
    lab: Any, parent: Any
) -> None:
    lab.clock.ahead = -120.0
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("tls", "clock_unsound")
    assert "start the enclave again" in report.hint
