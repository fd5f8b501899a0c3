"""Whatever dies or gets lost: no key without its protection, no half of a change."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import ckzg
import msgspec
import pytest

from nitrosigner.trusted.enclave.keys.key_news import NOBODY
from nitrosigner.trusted.enclave.keys.key_writer import header_of
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.vault.sealed_records import seal
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import Epoch, Slashable, Voted, Watermark
from nitrosigner.verdicts import Code, Refused, Undecided, Verdict
from nitrosigner.wire import import_wrapping, services
from nitrosigner.wire.manifest_validators import Validators

SECRET = bytes(31) + b"\x07"
ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
HISTORY = Watermark(voted=Voted(source=Epoch(1), target=Epoch(50), signing_root=None))


@pytest.fixture
def vp(lab: Any) -> Any:
    return lab.parent(lab.sign(lab.wanted(validators=Validators(network="mainnet"))))


PUBLIC_KEY = bytes(Bls12381(ckzg.__file__).public_key(SecretBytes(bytearray(SECRET))))
NAME = "0x" + PUBLIC_KEY.hex()


async def import_key(running: Any, history: Watermark = HISTORY) -> Any:
    info = import_wrapping.import_info(
        deployment="lab", name=NAME, algorithm="bls12-381", identity=NAME
    )
    wrap = import_wrapping.wrap(SECRET, running.validators.import_public_key, info)
    return await running.validators.import_wrapped(
        NAME, base64.b64encode(wrap).decode(), history
    )


async def vote(running: Any, target: int, block: int = 0) -> bytes:
    validators = running.validators
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
            "beacon_block_root": "0x" + bytes([block] * 32).hex(),
            "source": {"epoch": "1", "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }
    found = validators.find(NAME)
    duty = read_duty(body, validators.network)
    permit = await validators.guard.permit(found.public_key, found.name, duty)
    return bytes(await validators.sign(permit))


class Times:
    """Calls *action* for the first *times* requests of *kind*."""

    def __init__(self, matches: Callable[[Any], bool], action: Any, times: int) -> None:
        self.matches, self.action, self.left = matches, action, times

    def __call__(self, request: Any, *answer: Any) -> Any:
        if self.matches(request) and self.left:
            self.left -= 1
            return self.action(request, *answer)
        return answer[0] if answer else None


def registering(request: Any) -> bool:
    """And no note to other enclaves, which lies in the same store."""
    return isinstance(request, services.AdvanceWatermarks) and NOBODY not in {
        change.public_key for change in request.changes
    }


def sealing(request: Any) -> bool:
    return isinstance(request, services.PutRecord) and request.collection == "keys"


def test_a_key_is_registered_before_it_is_stored(lab: Any, vp: Any) -> None:
    async def take(running: Any) -> None:
        vp.requests.clear()
        await import_key(running)
        order = [
            type(request)
            for request in vp.requests
            if registering(request) or sealing(request)
        ]
        assert order == [services.AdvanceWatermarks, services.PutRecord]

    lab.booted(vp, take)


@pytest.mark.parametrize("kind", [registering, sealing])
@pytest.mark.parametrize("done", [False, True])
def test_an_import_whose_answers_get_lost_is_finished_by_asking_again(
    lab: Any, vp: Any, cut: Any, kind: Any, done: bool
) -> None:
    def drop(_request: Any, *_answer: Any) -> Any:
        raise cut

    async def take(running: Any) -> None:
        hook = Times(kind, drop, 40)
        if done:
            vp.after = hook
        else:
            vp.before = hook
        with pytest.raises(Verdict) as caught:
            await import_key(running)
        assert isinstance(caught.value, Undecided)
        if kind is registering:
            assert ("keys", NAME) not in vp.records
        hook.left = 0
        async with asyncio.timeout(30):
            while True:
                try:
                    made = await import_key(running)
                    break
                except Undecided:
                    await asyncio.sleep(0.02)
        assert made.key.state == "enabled"
        with pytest.raises(Slashable):
            await vote(running, 50)
        await vote(running, 51)

    lab.booted(vp, take)


@pytest.mark.parametrize("kind", [registering, sealing])
def test_an_enclave_that_dies_during_an_import_leaves_nothing_unprotected(
    lab: Any, vp: Any, silence: Any, kind: Any
) -> None:
    """It is killed at the very moment that it waits for this answer."""

    def never(_request: Any, _answer: Any) -> Any:
        raise silence

    async def die(running: Any) -> None:
        vp.after = Times(kind, never, 1000)
        task = asyncio.create_task(import_key(running))
        async with asyncio.timeout(30):
            while not any(kind(request) for request in vp.requests):
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for change in running.validators._changes._under_way:
            change.cancel()

    lab.booted(vp, die)
    vp.after = lambda _request, answer: answer

    async def afterwards(running: Any) -> None:
        stored = ("keys", NAME) in vp.records
        assert running.validators.facts.loaded == (1 if stored else 0)
        assert running.validators.facts.unprotected == 0
        assert PUBLIC_KEY in vp.watermarks
        await import_key(running)
        with pytest.raises(Slashable):
            await vote(running, 50)
        await vote(running, 51)

    lab.booted(vp, afterwards)


def test_a_caller_that_leaves_does_not_stop_an_import(lab: Any, vp: Any) -> None:
    async def leave(running: Any) -> None:
        task = asyncio.create_task(import_key(running))
        async with asyncio.timeout(30):
            while not any(registering(request) for request in vp.requests):
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await running.keyring.drain()
        assert running.validators.describe(NAME).state == "enabled"

    lab.booted(vp, leave)


def test_no_answer_from_the_watermark_store_means_no_signature(
    lab: Any, vp: Any
) -> None:
    def full(_request: Any) -> Any:
        return services.Failed("storage_unavailable", "disk full")

    async def votes(running: Any) -> None:
        await import_key(running)
        vp.before = Times(registering, full, 100)
        with pytest.raises(Undecided):
            await vote(running, 60)
        assert not running.checks["watermarks"]
        vp.before = lambda _request: None
        await vote(running, 61)
        assert running.checks["watermarks"]

    lab.booted(vp, votes)


def test_a_store_that_is_back_is_noticed_without_duties(lab: Any, vp: Any) -> None:
    def full(_request: Any) -> Any:
        return services.Failed("storage_unavailable", "disk full")

    async def votes(running: Any) -> None:
        await import_key(running)
        hook = Times(
            lambda request: (
                registering(request) or isinstance(request, services.ReadWatermarks)
            ),
            full,
            1000,
        )
        vp.before = hook
        with pytest.raises(Undecided):
            await vote(running, 60)
        assert not running.checks["watermarks"]
        hook.left = 0
        async with asyncio.timeout(30):
            while not running.checks["watermarks"]:
                await asyncio.sleep(0.02)

    lab.booted(vp, votes)


# --- watermarks that are lost, altered, or of another time ---


def boot_with(lab: Any, vp: Any, spoil: Callable[[], None]) -> None:
    async def take(running: Any) -> None:
        await import_key(running)
        await vote(running, 60)

    lab.booted(vp, take)
    spoil()


def spoiled(vp: Any, **changes: Any) -> None:
    vp.watermarks[PUBLIC_KEY] = msgspec.structs.replace(
        vp.watermarks[PUBLIC_KEY], **changes
    )


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda vp: vp.watermarks.clear(), Code.NOT_REGISTERED),
        (lambda vp: spoiled(vp, data=b"garbage"), Code.RECORD_UNTRUSTED),
        (lambda vp: spoiled(vp, version=9), Code.RECORD_UNTRUSTED),
        (
            lambda vp: vp.records.pop(("state", "watermark-mac")),
            Code.RECORD_UNTRUSTED,
        ),
    ],
)
def test_a_key_without_a_watermark_to_trust_is_loaded_and_does_not_vote(
    lab: Any, vp: Any, spoil: Any, code: Code
) -> None:
    boot_with(lab, vp, lambda: spoil(vp))

    async def look(running: Any) -> None:
        facts = running.validators.facts
        assert (facts.loaded, facts.enabled, facts.unprotected) == (1, 1, 1)
        assert not running.checks["slashing_protection"]
        assert [report.code for report in vp.reports][-1] == "not_registered"
        with pytest.raises(Refused) as caught:
            await vote(running, 100)
        assert caught.value.code is code
        # What cannot be slashed is signed: the chain needs it, and it hurts nobody.
        assert len(await running.validators.sign(Permit(NAME, bytes(32)))) == 96

    lab.booted(vp, look)


def test_a_history_gives_a_lost_validator_its_vote_back(lab: Any, vp: Any) -> None:
    boot_with(lab, vp, vp.watermarks.clear)

    async def mend(running: Any) -> None:
        assert await running.validators.import_history({PUBLIC_KEY: HISTORY}) == 1
        assert running.validators.facts.unprotected == 0
        with pytest.raises(Slashable):
            await vote(running, 50)
        await vote(running, 51)

    lab.booted(vp, mend)


def test_histories_may_come_before_their_keys(lab: Any, vp: Any) -> None:
    async def take(running: Any) -> None:
        validators = running.validators
        await validators.import_history({PUBLIC_KEY: HISTORY, b"\x01" * 48: HISTORY})
        await import_key(running, Watermark())
        with pytest.raises(Slashable):
            await vote(running, 50)
        history = await validators.history([PUBLIC_KEY, b"\x01" * 48, b"\x02" * 48])
        assert history.reached == {PUBLIC_KEY: HISTORY, b"\x01" * 48: HISTORY}
        assert history.lost == [b"\x02" * 48]

    lab.booted(vp, take)


def test_a_swapped_key_record_does_not_open(lab: Any, vp: Any) -> None:
    async def make(running: Any) -> str:
        await import_key(running)
        return (await running.validators.create()).name

    other = lab.booted(vp, make)
    stored = vp.record("keys", other)
    vp.records["keys", NAME] = msgspec.structs.replace(stored, name=NAME)

    async def look(running: Any) -> None:
        assert set(running.keyring.rejected) == {NAME}
        with pytest.raises(Refused) as caught:
            running.validators.find(NAME)
        assert caught.value.code is Code.RECORD_UNTRUSTED

    lab.booted(vp, look)


def test_a_record_with_another_ones_private_key_never_signs(lab: Any, vp: Any) -> None:
    """Only we could have sealed it so: a fault of our own, noticed at the first duty."""

    async def make(running: Any) -> None:
        await import_key(running)
        validators = running.validators
        slot = validators.find(NAME)
        wrong = SecretBytes(bytearray(bytes(31) + b"\x08"))
        async with validators._changes.alone(NAME):
            await validators._changes.write(header_of(slot), wrong)
        with pytest.raises(Refused) as caught:
            await vote(running, 60)
        assert caught.value.code is Code.RECORD_UNTRUSTED

    lab.booted(vp, make)
    lab.booted(vp, no_vote)


async def no_vote(running: Any) -> None:
    with pytest.raises(Refused):
        await vote(running, 70)


# --- two enclaves on one store ---


def test_two_enclaves_that_race_sign_one_vote(lab: Any, vp: Any) -> None:
    async def race() -> None:
        async with lab.boot(vp) as one:
            await import_key(one)
            async with lab.boot(vp) as two:
                assert two.validators.facts.loaded == 1
                for target in range(60, 75):
                    outcomes = await asyncio.gather(
                        vote(one, target, block=1),
                        vote(two, target, block=2),
                        return_exceptions=True,
                    )
                    refused = [o for o in outcomes if isinstance(o, Slashable)]
                    signed = [o for o in outcomes if isinstance(o, bytes)]
                    assert (len(refused), len(signed)) == (1, 1)

    asyncio.run(race())


def test_both_make_one_key_for_watermarks(lab: Any, vp: Any) -> None:
    async def race() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            assert vp.record("state", "watermark-mac").version == 1
            await import_key(one)
            await two.validators.reload()
            await vote(two, 60)
            with pytest.raises(Slashable):
                await vote(one, 60, block=1)

    asyncio.run(race())


def test_a_reload_takes_over_all_of_the_others_changes_at_once(
    lab: Any, vp: Any
) -> None:
    async def play() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            kept = [(await one.validators.create()).name for _ in range(3)]
            reloaded = await two.validators.reload()
            assert (reloaded.added, reloaded.changed, reloaded.removed) == (3, 0, 0)
            await import_key(one)
            await one.validators.disable(kept[0])
            await one.validators.delete(kept[1])
            seen: set[tuple[str, ...]] = set()

            async def look() -> None:
                while True:
                    seen.add(tuple(two.validators.enabled()))
                    await asyncio.sleep(0)

            watching = asyncio.create_task(look())
            reloaded = await two.validators.reload()
            await asyncio.sleep(0)
            watching.cancel()
            assert (reloaded.added, reloaded.changed, reloaded.removed) == (1, 2, 0)
            before, after = tuple(sorted(kept)), tuple(sorted([kept[2], NAME]))
            assert seen == {before, after}
            await vote(two, 60)
            reloaded = await two.validators.reload()
            assert (reloaded.added, reloaded.changed, reloaded.removed) == (0, 0, 0)

    asyncio.run(play())


def test_a_reload_that_fails_half_way_changes_nothing(lab: Any, vp: Any) -> None:
    def full(_request: Any) -> Any:
        return services.Failed("storage_unavailable", "disk full")

    async def play() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            for _ in range(3):
                await one.validators.create()
            # The keys are read, the watermarks are not.
            vp.before = Times(
                lambda request: isinstance(request, services.ReadWatermarks), full, 50
            )
            with pytest.raises(Undecided):
                await two.validators.reload()
            assert two.validators.facts.loaded == 0
            vp.before = lambda _request: None
            assert (await two.validators.reload()).added == 3

    asyncio.run(play())


def test_a_record_that_was_taken_out_of_the_store_is_forgotten(
    lab: Any, vp: Any
) -> None:
    async def play(running: Any) -> None:
        await import_key(running)
        await running.keyring.create("wallet", "secp256k1")
        kept = vp.records.pop(("keys", NAME))
        wallet = vp.records.pop(("keys", "wallet"))
        reloaded = await running.validators.reload()
        assert (reloaded.removed, running.validators.facts.loaded) == (1, 0)
        # A wallet's key that vanishes is a fault of the store: it stays.
        assert running.keyring.describe("wallet").state == "enabled"
        vp.records["keys", NAME], vp.records["keys", "wallet"] = kept, wallet
        assert (await running.validators.reload()).added == 1
        await vote(running, 60)

    lab.booted(vp, play)


def test_a_key_that_is_made_during_a_reload_stays(lab: Any, vp: Any) -> None:
    async def play(running: Any) -> None:
        making = [asyncio.create_task(running.validators.create()) for _ in range(8)]
        reloads = [asyncio.create_task(running.validators.reload()) for _ in range(8)]
        names = {made.name for made in await asyncio.gather(*making)}
        await asyncio.gather(*reloads)
        assert set(running.validators.enabled()) == names

    lab.booted(vp, play)


def test_a_key_deleted_in_one_enclave_votes_in_none(lab: Any, vp: Any) -> None:
    async def play() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            await import_key(one)
            await two.validators.reload()
            await vote(two, 60)
            _, final = await one.validators.delete(NAME)
            assert final.voted.target == 60
            # Two has heard of nothing: its record says enabled.
            assert two.validators.describe(NAME).state == "enabled"
            with pytest.raises(Refused) as caught:
                await vote(two, 61)
            assert caught.value.code is Code.NOT_REGISTERED
            # An import through the one that has not heard of it brings it back.
            made = await import_key(two, Watermark())
            assert made.new
            await vote(two, 61)

    asyncio.run(play())


# --- what happens between a reload's reading and its one step ---


def between(running: Any, act: Callable[[], Any]) -> None:
    """Have *act* awaited after a reload has read and before it changes anything."""
    refresh = running.validators._parts.refresh
    before = refresh.before

    async def both(coming: Any) -> None:
        await before(coming)
        await act()

    refresh.before = both


def test_a_change_during_a_reload_is_not_undone_by_it(lab: Any, vp: Any) -> None:
    async def play() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            await import_key(one)
            await two.validators.reload()
            await one.validators.disable(NAME)
            await one.validators.enable(NAME)

            async def act() -> None:
                # By now two has read version 3, where the key is enabled.
                with pytest.raises(Refused):
                    await two.validators.disable(NAME, 1)
                await one.validators.disable(NAME)
                with pytest.raises(Refused):
                    await two.validators.disable(NAME, 3)

            between(two, act)
            await two.validators.reload()
            assert two.validators.describe(NAME).state == "disabled"

    asyncio.run(play())


def test_a_key_that_comes_back_during_a_reload_stays(lab: Any, vp: Any) -> None:
    async def play(running: Any) -> None:
        await import_key(running)
        kept = vp.records.pop(("keys", NAME))

        async def act() -> None:
            vp.records["keys", NAME] = kept
            await running.validators.disable(NAME)

        between(running, act)
        assert (await running.validators.reload()).removed == 0
        assert running.validators.describe(NAME).state == "disabled"

    lab.booted(vp, play)


def test_a_reload_learns_who_lost_and_who_regained_protection(
    lab: Any, vp: Any
) -> None:
    async def play() -> None:
        async with lab.boot(vp) as one, lab.boot(vp) as two:
            await import_key(one)
            kept = dict(vp.watermarks)
            vp.watermarks.clear()
            await two.validators.reload()
            assert two.validators.facts.unprotected == 1
            vp.watermarks.update(kept)
            await two.validators.reload()
            assert two.validators.facts.unprotected == 0
            await vote(two, 60)

    asyncio.run(play())


def test_no_history_is_shown_that_the_store_does_not_have(lab: Any, vp: Any) -> None:
    async def play(running: Any) -> None:
        await import_key(running)
        vp.watermarks.clear()
        history = await running.validators.history([PUBLIC_KEY])
        assert (history.reached, history.lost) == ({}, [PUBLIC_KEY])

    lab.booted(vp, play)


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "wallet"},
        {"purpose": "other"},
        {"kind": "kms"},
        {"identity": "0x" + "ab" * 48},
        {"public_key": b"\xab" * 48},
        {"algorithm": "secp256k1"},
        {"algorithm": "bls"},
    ],
)
def test_a_record_that_does_not_agree_with_itself_is_rejected(
    lab: Any, vp: Any, changes: dict[str, Any]
) -> None:
    """Only we could have sealed it so: a fault of our own, or of another release."""

    async def make(running: Any) -> None:
        await import_key(running)
        slot = running.validators.find(NAME)
        header = msgspec.structs.replace(header_of(slot), **changes)
        with slot.unseal() as secret:
            made = seal(slot.vault_key, header, secret, bytes)
        vp.records["keys", NAME] = services.StoredRecord(NAME, 1, made.stored())

    lab.booted(vp, make)

    async def look(running: Any) -> None:
        assert set(running.keyring.rejected) == {NAME}
        assert running.validators.facts.loaded == 0

    lab.booted(vp, look)
