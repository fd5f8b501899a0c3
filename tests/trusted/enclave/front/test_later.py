"""An answer without a task is heard once, whoever is first, and harms nobody else."""

import asyncio
from typing import Any

import pytest

from nitrosigner.trusted.enclave.api.calls import Later
from nitrosigner.trusted.enclave.https.http_messages import Response
from nitrosigner.verdicts import Code, Undecided, Verdict

ANSWER = Response(200, b"signed")
VERDICT = Undecided(Code.OVERLOADED, "too much")


@pytest.mark.parametrize("outcome", [ANSWER, VERDICT])
@pytest.mark.parametrize("told_first", [True, False])
def test_whoever_waits_hears_it_once(outcome: Any, told_first: bool) -> None:
    heard: list[Any] = []
    later = Later()
    if told_first:
        later.tell(outcome)
    later.hear(heard.append)
    if not told_first:
        assert heard == []
        later.tell(outcome)
    assert heard == [outcome]


def test_it_can_be_awaited() -> None:
    async def main() -> None:
        later = Later()
        asyncio.get_running_loop().call_soon(later.tell, ANSWER)
        assert await later is ANSWER
        later = Later()
        later.tell(VERDICT)
        with pytest.raises(Verdict) as raised:
            await later
        assert raised.value is VERDICT

    asyncio.run(main())


def test_who_went_away_is_not_told() -> None:
    async def main() -> None:
        later = Later()

        async def waits() -> Response:
            return await later

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        later.tell(ANSWER)

    asyncio.run(main())
