"""
Two enclaves on one store: what one of them does with a key, the other one follows.

Votes, blocks and what is signed for good stop before the order is answered. All else
follows within seconds, unasked.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import ckzg
import pytest

from nitrosigner.trusted.enclave import running
from nitrosigner.trusted.enclave.keys import key_hearing
from nitrosigner.trusted.enclave.keys.key_news import NOBODY, NOTES
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Epoch, Slashable, Voted, Watermark
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire import import_wrapping, services
from nitrosigner.wire import manifest as manifests
from nitrosigner.wire.manifest_validators import Validators

SECRET = bytes(31) + b"\x07"
PUBLIC_KEY = bytes(Bls12381(ckzg.__file__).public_key(SecretBytes(bytearray(SECRET))))
NAME = "0x" + PUBLIC_KEY.hex()
ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
HISTORY = Watermark(voted=Voted(source=Epoch(0), target=Epoch(9), signing_root=None))
PATIENCE = 20.0
"""Seconds: many times the bound that the documents promise, for a busy machine."""


@pytest.fixture
def vp(lab: Any) -> Any:
    return lab.parent(lab.sign(lab.wanted(validators=Validators(network="mainnet"))))


@asynccontextmanager
async def two(lab: Any, vp: Any) -> AsyncIterator[tuple[Any, Any]]:
    async with lab.boot(vp) as one, lab.boot(vp) as other:
        yield one, other


def play(lab: Any, vp: Any, scene: Callable[[Any, Any], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with two(lab, vp) as (one, other):
            await scene(one, other)

    asyncio.run(whole())


async def take(enclave: Any, history: Watermark = HISTORY) -> Any:
    info = import_wrapping.import_info(
        deployment="lab", name=NAME, algorithm="bls12-381", identity=NAME
    )
    wrap = import_wrapping.wrap(SECRET, enclave.validators.import_public_key, info)
    return await enclave.validators.import_wrapped(
        NAME, base64.b64encode(wrap).decode(), history
    )


async def vote(enclave: Any, target: int) -> bytes:
    validators = enclave.validators
    body = {
        "type": "ATTESTATION",
        "fork_info": {
            "fork": {
                "previous_version": "0x05000000",
                "current_version": "0x06000000",
                "epoch": "0",
            },
            "genesis_validators_root": ROOT,
        },
        "attestation": {
            "slot": str(32 * target),
            "index": "0",
            "beacon_block_root": "0x" + "22" * 32,
            "source": {"epoch": "1", "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }
    duty = read_duty(body, validators.network)
    permit = await validators.guard.permit(PUBLIC_KEY, NAME, duty)
    return bytes(await validators.sign(permit))


async def reveal(enclave: Any) -> bytes:
    """Sign what cannot be slashed, as for RANDAO."""
    return bytes(await enclave.validators.sign(Permit(NAME, bytes(32))))


async def leave(enclave: Any) -> Any:
    return await enclave.validators.voluntary_exit(NAME, validator_index=1, epoch=1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def state(enclave: Any) -> str:
    try:
        return str(enclave.validators.find(NAME).state)
    except Refused as verdict:
        return str(verdict.code.value)


async def refused(wanted: Awaitable[Any]) -> Code:
    with pytest.raises(Refused) as caught:
        await wanted
    return caught.value.code


# --- what stops before the order is answered ---


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens unless something makes him."""
    monkeypatch.setattr(running, "LISTEN_EVERY", 1e9)


@pytest.mark.usefixtures("unheard")
def test_a_key_that_one_disables_the_other_votes_with_no_more(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        await other.validators.seek([NAME])
        await vote(other, 10)
        await one.validators.disable(NAME)
        # It has not heard of it: this is the watermark's work.
        assert state(other) == "enabled"
        assert await refused(vote(other, 11)) is Code.KEY_DISABLED
        assert await refused(leave(other)) is Code.KEY_DISABLED
        await one.validators.enable(NAME)
        await vote(one, 12)
        await other.validators.listen()
        await vote(other, 13)

    play(lab, vp, scene)


@pytest.mark.usefixtures("unheard")
def test_a_key_that_one_deletes_the_other_signs_nothing_for_good_with(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        await other.validators.seek([NAME])
        _, final = await one.validators.delete(NAME)
        assert final.voted.target == 9
        assert await refused(vote(other, 10)) is Code.NOT_REGISTERED
        assert await refused(leave(other)) is Code.KEY_DELETED
        # Brought back to the one that deleted it, it votes in both.
        assert (await take(one)).new
        await vote(one, 11)
        await other.validators.listen()
        await vote(other, 12)
        with pytest.raises(Slashable):
            await vote(one, 10)

    play(lab, vp, scene)


@pytest.mark.usefixtures("unheard")
def test_disabling_under_load_in_the_other_enclave_ends_its_votes(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        await other.validators.seek([NAME])
        signed: list[int] = []

        async def load() -> None:
            for target in range(10, 10_000):
                await vote(other, target)
                signed.append(target)

        loading = asyncio.create_task(load())
        await until(lambda: len(signed) > 5)
        await one.validators.disable(NAME)
        # What was permitted before the mark may come out yet, nothing beyond it.
        (held,) = (await one.validators.history([PUBLIC_KEY])).reached.values()
        with pytest.raises(Refused):
            await loading
        assert max(signed) <= held.voted.target

    play(lab, vp, scene)


# --- what follows by itself ---


def test_all_else_stops_within_seconds_and_goes_on_again(lab: Any, vp: Any) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        # The documents promise two seconds: a look each second, and time to read.
        assert running.LISTEN_EVERY <= 1
        await until(lambda: state(other) == "enabled")
        await reveal(other)
        await one.validators.disable(NAME)
        await until(lambda: state(other) == "disabled")
        assert await refused(reveal(other)) is Code.KEY_DISABLED
        await one.validators.enable(NAME)
        await until(lambda: state(other) == "enabled")
        await reveal(other)
        await one.validators.delete(NAME)
        await until(lambda: state(other) == "deleted")
        assert await refused(reveal(other)) is Code.KEY_DELETED

    play(lab, vp, scene)


@pytest.mark.usefixtures("unheard")
def test_a_key_made_in_one_signs_in_the_other_at_its_first_request(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        name = (await one.validators.create()).name
        with pytest.raises(Refused) as caught:
            other.validators.find(name)
        assert caught.value.code is Code.UNKNOWN_KEY
        await other.validators.seek([name])
        assert other.validators.find(name).state == "enabled"
        assert len(await other.validators.sign(Permit(name, bytes(32)))) == 96

    play(lab, vp, scene)


@pytest.mark.usefixtures("unheard")
def test_keys_that_nobody_has_are_sought_together(lab: Any, vp: Any) -> None:
    async def scene(one: Any, other: Any) -> None:
        del one
        await other.validators.listen()
        vp.requests.clear()
        names = [f"0x{number:096x}" for number in range(500)]
        await asyncio.gather(*(other.validators.seek([name]) for name in names))
        await other.validators.seek(["hot", "0x12", ""])
        # One that was under way, and one for all who came meanwhile.
        assert vp.count(services.ReadWatermarks) == 2
        assert vp.count(services.GetRecord) == 0

    play(lab, vp, scene)


def test_a_history_that_one_imports_mends_the_health_of_the_other(
    lab: Any, vp: Any
) -> None:
    async def first(enclave: Any) -> None:
        await take(enclave)

    lab.booted(vp, first)
    vp.watermarks.clear()

    async def scene(one: Any, other: Any) -> None:
        assert one.validators.facts.unprotected == 1
        assert other.validators.facts.unprotected == 1
        await one.validators.import_history({PUBLIC_KEY: HISTORY})
        await until(lambda: other.validators.facts.unprotected == 0)

    play(lab, vp, scene)


# --- when telling or hearing fails ---


def noting(request: Any) -> bool:
    """Return whether *request* notes a change for other enclaves."""
    return isinstance(request, services.AdvanceWatermarks) and any(
        change.public_key == NOBODY for change in request.changes
    )


def failing(matches: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def fail(request: Any) -> Any:
        if matches(request):
            return services.Failed("storage_unavailable", "disk full")
        return None

    return fail


def test_an_order_that_could_not_be_told_is_undecided_and_asked_again(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        await other.validators.seek([NAME])
        vp.before = failing(noting)
        with pytest.raises(Undecided):
            await one.validators.disable(NAME)
        # The other one votes no more, told or not.
        assert await refused(vote(other, 10)) is Code.KEY_DISABLED
        vp.before = lambda _request: None
        assert (await one.validators.disable(NAME)).state == "disabled"
        await other.validators.listen()
        assert state(other) == "disabled"

    play(lab, vp, scene)


def test_a_key_that_came_untold_is_told_of_when_the_store_is_back(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        vp.before = failing(noting)
        assert (await take(one)).new
        await other.validators.seek([NAME])
        assert state(other) == "unknown_key"
        vp.before = lambda _request: None
        await until(lambda: state(other) == "enabled")

    play(lab, vp, scene)


def test_who_cannot_hear_signs_nothing_for_good(lab: Any, vp: Any) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        await other.validators.seek([NAME])
        vp.before = failing(
            lambda request: isinstance(request, services.ReadWatermarks)
        )
        for wanted in (
            leave(other),
            other.validators.deposit_data(
                NAME,
                withdrawal_credentials=b"\x01" + bytes(11) + b"\x22" * 20,
                amount=32 * 10**9,
            ),
            other.validators.bls_to_execution_change(
                NAME, validator_index=1, to_execution_address=b"\x22" * 20
            ),
            other.validators.seek(["0x" + "99" * 48]),
        ):
            with pytest.raises(Undecided):
                await wanted
        await reveal(other)

    play(lab, vp, scene)


def test_a_caller_that_leaves_does_not_spoil_the_look_for_others(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        await take(one)
        first = asyncio.create_task(other.validators.listen())
        second = asyncio.create_task(other.validators.listen())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert state(other) == "enabled"

    play(lab, vp, scene)


def test_a_note_about_a_record_that_is_not_ours_costs_one_key(
    lab: Any, vp: Any
) -> None:
    async def scene(one: Any, other: Any) -> None:
        made = [(await one.validators.create()).name for _ in range(2)]
        vp.records["keys", made[0]] = services.StoredRecord(made[0], 1, b"garbage")
        await other.validators.listen()
        assert other.validators.enabled() == [made[1]]
        assert list(other.keyring.rejected) == [made[0]]

    play(lab, vp, scene)


@pytest.mark.usefixtures("unheard")
def test_no_more_keys_are_taken_over_than_the_manifest_allows(lab: Any) -> None:
    limits = manifests.Limits(max_keys=2)
    vp = lab.parent(
        lab.sign(lab.wanted(validators=Validators(network="mainnet"), limits=limits))
    )

    async def scene(one: Any, other: Any) -> None:
        names = [(await one.validators.create()).name for _ in range(2)]
        await other.validators.create()
        await other.validators.seek(names)
        assert len(other.validators.enabled()) == 2

    play(lab, vp, scene)


# --- when thousands come ---


def test_who_missed_too_much_reads_everything_and_then_rests(
    lab: Any, vp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_hearing, "REST", 1e9)

    async def scene(one: Any, other: Any) -> None:
        names = [(await one.validators.create()).name for _ in range(NOTES + 5)]
        await other.validators.listen()
        assert other.validators.enabled() == sorted(names)
        more = [(await one.validators.create()).name for _ in range(NOTES + 5)]
        vp.requests.clear()
        await other.validators.listen()
        assert vp.count(services.ListRecords) == 0  # it rests
        # And still finds what it is asked for.
        await other.validators.seek(more[:3])
        assert set(more[:3]) <= set(other.validators.enabled())

    play(lab, vp, scene)
