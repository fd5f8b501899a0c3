"""Validators' keys inside the enclave: they come, vote once, change, and go."""

import asyncio
import base64
from typing import Any

import pytest
from py_ecc.bls import G2ProofOfPossession

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.validators.validator_keys_port import NO_HISTORY
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Slashable,
    Voted,
    Watermark,
)
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import import_wrapping
from nitrosigner.wire import manifest as manifests
from nitrosigner.wire.manifest_validators import Validators

SECRETS = [bytes([0, n]) + bytes(29) + bytes([n]) for n in range(1, 40)]
SECRET = SECRETS[0]
PUBLIC_KEY = G2ProofOfPossession.SkToPk(int.from_bytes(SECRET, "big"))
NAME = "0x" + PUBLIC_KEY.hex()
ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
DIGEST = bytes(32)


@pytest.fixture
def told() -> dict[str, Any]:
    return {"network": "mainnet"}


@pytest.fixture
def vp(lab: Any, told: dict[str, Any]) -> Any:
    """A parent whose manifest speaks of validators."""
    return lab.parent(lab.sign(lab.wanted(validators=Validators(**told))))


def wrapped(running: Any, secret: bytes, name: str, **changes: Any) -> str:
    info = import_wrapping.import_info(
        deployment="lab", name=name, algorithm="bls12-381", identity=name, **changes
    )
    public = running.validators.import_public_key
    return base64.b64encode(import_wrapping.wrap(secret, public, info)).decode()


def named(secret: bytes) -> str:
    return "0x" + G2ProofOfPossession.SkToPk(int.from_bytes(secret, "big")).hex()


async def imported(
    running: Any, secret: bytes = SECRET, history: Watermark = NO_HISTORY
) -> Any:
    name = NAME if secret == SECRET else named(secret)
    return await running.validators.import_wrapped(
        name, wrapped(running, secret, name), history
    )


def attestation(target: int, source: int = 0, block: int = 0) -> dict[str, Any]:
    return {
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
            "source": {"epoch": str(source), "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }


async def vote(running: Any, target: int, key: str = NAME, **more: Any) -> bytes:
    """The whole way of a duty, as the front walks it."""
    validators = running.validators
    found = validators.find(key)
    duty = read_duty(attestation(target, **more), validators.network)
    permit = await validators.guard.permit(found.public_key, found.name, duty)
    return bytes(await validators.sign(permit))


def at(target: int) -> Watermark:
    return Watermark(
        voted=Voted(source=Epoch(0), target=Epoch(target), signing_root=None)
    )


def test_an_imported_key_attests_once_per_epoch_also_after_a_restart(
    lab: Any, vp: Any
) -> None:
    async def first(running: Any) -> bytes:
        made = await imported(running)
        assert made.new
        assert (made.key.name, made.key.identity, made.key.algorithm) == (
            NAME,
            NAME,
            "bls12-381",
        )
        signature = await vote(running, 5)
        duty = read_duty(attestation(5), running.validators.network)
        assert G2ProofOfPossession.Verify(PUBLIC_KEY, duty.signing_root, signature)
        return signature

    async def second(running: Any) -> bytes:
        with pytest.raises(Slashable):
            await vote(running, 5, block=1)
        with pytest.raises(Slashable):
            await vote(running, 4)
        return await vote(running, 5)

    assert lab.booted(vp, first) == lab.booted(vp, second)


# --- coming ---


def test_a_key_made_inside_votes(lab: Any, vp: Any) -> None:
    async def make(running: Any) -> None:
        made = await running.validators.create()
        duty = read_duty(attestation(1), running.validators.network)
        signature = await vote(running, 1, made.name)
        assert G2ProofOfPossession.Verify(
            bytes.fromhex(made.public_key[2:]), duty.signing_root, signature
        )
        assert (await running.validators.create()).name != made.name
        assert running.validators.facts.loaded == 2

    lab.booted(vp, make)


def test_a_history_comes_with_the_key(lab: Any, vp: Any) -> None:
    async def take(running: Any) -> None:
        await imported(running, history=at(100))
        for target in (99, 100):
            with pytest.raises(Slashable):
                await vote(running, target)
        await vote(running, 101)

    lab.booted(vp, take)


def test_a_key_that_is_here_stays_as_it_is_and_its_history_moves(
    lab: Any, vp: Any
) -> None:
    async def take(running: Any) -> None:
        first = await imported(running)
        await running.validators.disable(NAME)
        again = await imported(running, history=at(7))
        assert (first.new, again.new) == (True, False)
        assert again.key.state == "disabled"
        await running.validators.enable(NAME)
        with pytest.raises(Slashable):
            await vote(running, 7)

    lab.booted(vp, take)


def test_a_wrap_is_good_for_one_validator_of_one_deployment(lab: Any, vp: Any) -> None:
    other = named(SECRETS[1])

    async def take(running: Any) -> None:
        validators = running.validators
        for wrap, name, verdict, code in (
            (wrapped(running, SECRET, NAME), other, Malformed, Code.MALFORMED_KEY),
            (wrapped(running, SECRET, other), other, Refused, Code.KEY_MISMATCH),
            (wrapped(running, bytes(32), NAME), NAME, Malformed, Code.MALFORMED_KEY),
            (wrapped(running, b"\xff" * 32, NAME), NAME, Malformed, Code.MALFORMED_KEY),
            (wrapped(running, b"short", NAME), NAME, Malformed, Code.MALFORMED_KEY),
            ("no base64", NAME, Malformed, Code.MALFORMED_KEY),
            ("", NAME, Malformed, Code.MALFORMED_KEY),
        ):
            with pytest.raises(verdict) as caught:
                await validators.import_wrapped(name, wrap, NO_HISTORY)
            assert caught.value.code is code
        assert validators.facts.loaded == 0
        # Nothing that was refused left a registration behind.
        assert vp.watermarks == {}

    lab.booted(vp, take)


def test_no_key_is_found_outside_in_the_clear(lab: Any, vp: Any) -> None:
    async def take(running: Any) -> None:
        await imported(running)
        await vote(running, 1)

    lab.booted(vp, take)
    outside = b"".join(record.data for record in vp.records.values())
    outside += b"".join(mark.data for mark in vp.watermarks.values())
    outside += bytes(vp.seen) + b"".join(vp.audit)
    for shape in (SECRET, SECRET.hex().encode(), SECRET[::-1]):
        assert shape not in outside


def test_keys_of_two_purposes_do_not_meet(lab: Any, vp: Any) -> None:
    async def meet(running: Any) -> None:
        keyring, validators = running.keyring, running.validators
        await imported(running)
        await keyring.create("treasury", "secp256k1")
        for attempt in (
            lambda: keyring.describe(NAME),
            lambda: keyring.ciphertext(NAME),
            lambda: keyring.sign_now(Permit(NAME, DIGEST)),
            lambda: validators.find("treasury"),
        ):
            with pytest.raises(Refused) as caught:
                attempt()
            assert caught.value.code is Code.NOT_ALLOWED
        for change in (
            keyring.disable(NAME),
            keyring.delete(NAME),
            keyring.restore(NAME),
            validators.disable("treasury"),
            validators.delete("treasury"),
            validators.sign(Permit("treasury", DIGEST)),
        ):
            with pytest.raises(Refused) as caught:
                await change
            assert caught.value.code is Code.NOT_ALLOWED
        with pytest.raises(Malformed):
            await keyring.create("hot", "bls12-381")
        assert [key.name for key in keyring.page("", 10).keys] == ["treasury"]
        assert [key.name for key in validators.page("", 10).keys] == [NAME]
        assert validators.enabled() == [NAME]

    lab.booted(vp, meet)


def test_a_validator_is_found_in_every_spelling(lab: Any, vp: Any) -> None:
    async def look(running: Any) -> None:
        await imported(running)
        find = running.validators.find
        for spelling in (NAME, NAME[2:], NAME.upper(), "0x" + NAME[2:].upper()):
            assert find(spelling).public_key == PUBLIC_KEY
        for stranger in ("", "0x", NAME[:-1], NAME + "0", "0x" + "zz" * 48):
            with pytest.raises(Refused) as caught:
                find(stranger)
            assert caught.value.status == 404

    lab.booted(vp, look)


def test_there_are_no_more_keys_than_the_manifest_allows(lab: Any) -> None:
    limits = manifests.Limits(max_keys=1)
    parent = lab.parent(
        lab.sign(lab.wanted(validators=Validators(network="mainnet"), limits=limits))
    )

    async def fill(running: Any) -> None:
        await imported(running)
        with pytest.raises(Refused) as caught:
            await running.validators.create()
        assert caught.value.code is Code.OVER_LIMIT
        await imported(running)

    lab.booted(parent, fill)


# --- without a manifest that speaks of them ---


def test_without_validators_in_the_manifest_there_are_none(
    lab: Any, parent: Any
) -> None:
    async def look(running: Any) -> None:
        assert running.validators is None
        assert "expected_keys" not in running.checks

    lab.booted(parent, look)
    assert ("state", "watermark-mac") not in parent.records


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"network": "nowhere"}, "nowhere"),
        (
            {
                "network": "mainnet",
                "custom": {
                    "preset": "minimal",
                    "genesis_validators_root": "0x" + "11" * 32,
                    "fork_versions": {"phase0": "0x00000001", "capella": "0x03000001"},
                },
            },
            "public",
        ),
        (
            {
                "network": "devnet",
                "custom": {
                    "preset": "minimal",
                    "genesis_validators_root": "0x" + "11" * 32,
                    "fork_versions": {"phase0": "0x00000001"},
                },
            },
            "capella",
        ),
    ],
)
def test_a_chain_that_is_none_stops_the_boot_and_is_named(
    lab: Any, vp: Any, said: str
) -> None:
    report = lab.stuck(vp)
    assert (report.state, report.code) == ("manifest", "malformed_manifest")
    assert said in report.message


@pytest.mark.parametrize("told", [{"network": "mainnet", "expected_keys": 2}])
def test_fewer_keys_than_expected_are_not_ready(lab: Any, vp: Any) -> None:
    async def fill(running: Any) -> None:
        assert not running.checks["expected_keys"]
        assert [report.code for report in vp.reports if report.state == "ready"] == [
            "",
            "not_ready",
        ]
        await imported(running)
        assert not running.checks["expected_keys"]
        await imported(running, SECRETS[1])
        assert running.checks["expected_keys"]
        await running.validators.disable(NAME)
        assert not running.checks["expected_keys"]

    lab.booted(vp, fill)


@pytest.mark.parametrize("told", [{"network": "mainnet", "ceiling_epoch": 10}])
def test_nobody_votes_beyond_the_ceiling(lab: Any, vp: Any) -> None:
    async def votes(running: Any) -> None:
        await imported(running)
        await vote(running, 10)
        with pytest.raises(Slashable):
            await vote(running, 11)

    lab.booted(vp, votes)


# --- changing and going ---


def test_a_disabled_key_signs_nothing_until_it_is_enabled(lab: Any, vp: Any) -> None:
    async def change(running: Any) -> None:
        await imported(running)
        made = await running.validators.disable(NAME)
        assert made.state == "disabled"
        with pytest.raises(Refused) as caught:
            await vote(running, 1)
        assert caught.value.code is Code.KEY_DISABLED
        with pytest.raises(Refused) as caught:
            await running.validators.enable(NAME, made.version - 1)
        assert caught.value.code is Code.VERSION_CONFLICT
        await running.validators.enable(NAME, made.version)
        await vote(running, 2)

    lab.booted(vp, change)


def test_a_deleted_key_leaves_its_final_history_and_signs_no_more(
    lab: Any, vp: Any
) -> None:
    async def go(running: Any) -> None:
        validators = running.validators
        await imported(running)
        await vote(running, 3)
        described, final = await validators.delete(NAME)
        assert described.state == "deleted"
        assert final.voted.target == 3
        with pytest.raises(Refused) as caught:
            await validators.sign(Permit(NAME, DIGEST))
        assert caught.value.code is Code.KEY_DELETED
        assert (await validators.delete(NAME))[1] == final
        assert validators.enabled() == []
        assert PUBLIC_KEY in vp.watermarks
        # It comes back where it was.
        assert (await imported(running)).new
        with pytest.raises(Slashable):
            await vote(running, 3, block=1)
        await vote(running, 4)

    lab.booted(vp, go)


def test_deleting_under_load_leaves_no_vote_outside_the_history(
    lab: Any, vp: Any
) -> None:
    async def go(running: Any) -> None:
        await imported(running)

        async def attempt(target: int) -> int:
            try:
                await vote(running, target)
            except Verdict:
                return 0
            return target

        votes = [asyncio.create_task(attempt(target)) for target in range(1, 60)]
        await votes[5]
        _, final = await running.validators.delete(NAME)
        signed = {task.result() for task in votes if task.done()}
        after = set(await asyncio.gather(*votes))
        assert after - {0} == signed - {0}
        assert final.voted.target >= max(after)

    lab.booted(vp, go)


def test_a_purged_key_keeps_its_watermark_for_ever(lab: Any, vp: Any) -> None:
    async def go(running: Any) -> None:
        await imported(running)
        await vote(running, 3)
        await running.validators.delete(NAME)
        lab.clock.ahead = 400 * 24 * 3600
        assert await running.keyring.purge_expired() == 1
        assert running.validators.facts.loaded == 0
        assert PUBLIC_KEY in vp.watermarks
        lab.clock.ahead = 0
        await imported(running)
        with pytest.raises(Slashable):
            await vote(running, 3, block=1)

    lab.booted(vp, go)


def test_a_vault_rotation_leaves_keys_and_watermarks_good(lab: Any, vp: Any) -> None:
    async def rotate(running: Any) -> None:
        await imported(running)
        await vote(running, 3)
        before = vp.record("state", "watermark-mac").data
        assert await running.keyring.rotate_vault() == 1
        assert vp.record("state", "watermark-mac").data != before
        await vote(running, 4)

    async def after(running: Any) -> None:
        assert running.validators.facts.unprotected == 0
        with pytest.raises(Slashable):
            await vote(running, 4, block=1)
        await vote(running, 5)

    lab.booted(vp, rotate)
    lab.booted(vp, after)


# --- many at once ---


def test_a_batch_has_a_verdict_for_each_permit(lab: Any, vp: Any) -> None:
    async def batch(running: Any) -> None:
        validators = running.validators
        names = [(await validators.create()).name for _ in range(4)]
        duty = read_duty(attestation(1), validators.network)
        permits = await validators.guard.permit_many(
            [(validators.find(name).public_key, name, duty) for name in names]
        )
        await validators.disable(names[1])
        permits.insert(2, Permit("0x" + "00" * 48, DIGEST))
        outcomes = await validators.sign_many(permits)
        codes = [
            outcome.code if isinstance(outcome, Verdict) else None
            for outcome in outcomes
        ]
        assert codes == [None, Code.KEY_DISABLED, Code.UNKNOWN_KEY, None, None]
        for outcome in outcomes[1:3]:
            assert "validators" in outcome.hint
        for name, signature in zip(
            (names[0], names[2], names[3]),
            (outcome for outcome in outcomes if not isinstance(outcome, Verdict)),
            strict=True,
        ):
            assert G2ProofOfPossession.Verify(
                bytes.fromhex(name[2:]), duty.signing_root, bytes(signature)
            )
        assert await validators.sign_many([]) == []
        assert validators.facts.waiting == 0
        assert validators.facts.signatures == 3

    lab.booted(vp, batch)


def test_more_than_the_threads_can_bear_is_turned_away(lab: Any, vp: Any) -> None:
    async def overload(running: Any) -> None:
        await imported(running)
        signing = running.validators._signing
        signing.waiting += 16_384
        with pytest.raises(Undecided) as caught:
            await running.validators.sign(Permit(NAME, DIGEST))
        assert caught.value.code is Code.OVERLOADED
        signing.waiting -= 16_384
        assert len(await running.validators.sign(Permit(NAME, DIGEST))) == 96

    lab.booted(vp, overload)


def test_a_caller_that_went_away_costs_nothing(lab: Any, vp: Any) -> None:
    async def leave(running: Any) -> None:
        await imported(running)
        tasks = [asyncio.create_task(vote(running, n)) for n in range(1, 20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await vote(running, 100)
        assert running.validators.facts.waiting == 0

    lab.booted(vp, leave)
