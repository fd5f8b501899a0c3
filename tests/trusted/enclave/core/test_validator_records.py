"""Every record in the store is told, true or not; what is not true can be replaced."""

import base64
from typing import Any

import ckzg
import msgspec
import pytest

from nitrosigner.trusted.enclave.keys.key_news import NOBODY
from nitrosigner.trusted.signing.beacon_domains import GenesisValidatorsRoot
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Proposed,
    Slashable,
    Slot,
    Voted,
    Watermark,
)
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided
from nitrosigner.wire import import_wrapping, services
from nitrosigner.wire.manifest_validators import Validators

SECRET = bytes(31) + b"\x07"
PUBLIC_KEY = bytes(Bls12381(ckzg.__file__).public_key(SecretBytes(bytearray(SECRET))))
NAME = "0x" + PUBLIC_KEY.hex()
ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
STRANGERS = [bytes([0x80 + n]) * 48 for n in range(12)]


def at(target: int, slot: int | None = None) -> Watermark:
    proposed = None if slot is None else Proposed(slot=Slot(slot), signing_root=None)
    voted = Voted(source=Epoch(0), target=Epoch(target), signing_root=None)
    return Watermark(proposed=proposed, voted=voted)


@pytest.fixture
def vp(lab: Any) -> Any:
    return lab.parent(lab.sign(lab.wanted(validators=Validators(network="mainnet"))))


async def take(running: Any, history: Watermark) -> None:
    info = import_wrapping.import_info(
        deployment="lab", name=NAME, algorithm="bls12-381", identity=NAME
    )
    wrap = import_wrapping.wrap(SECRET, running.validators.import_public_key, info)
    await running.validators.import_wrapped(
        NAME, base64.b64encode(wrap).decode(), history
    )


async def vote(running: Any, target: int) -> bytes:
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
            "beacon_block_root": "0x" + "22" * 32,
            "source": {"epoch": "0", "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }
    duty = read_duty(body, validators.network)
    permit = await validators.guard.permit(PUBLIC_KEY, NAME, duty)
    return bytes(await validators.sign(permit))


def spoil(vp: Any, public_key: bytes = PUBLIC_KEY, **changes: Any) -> None:
    changed = msgspec.structs.replace(vp.watermarks[public_key], **changes)
    vp.watermarks[public_key] = changed


async def refused(running: Any, history: Watermark, key: bytes = PUBLIC_KEY) -> Code:
    with pytest.raises(Refused) as caught:
        await running.validators.records.repair(key, history)
    return caught.value.code


@pytest.mark.parametrize("limit", [1, 4, 500])
def test_records_of_keys_that_are_gone_or_never_came_are_told(
    lab: Any, vp: Any, limit: int
) -> None:
    async def look(running: Any) -> None:
        validators = running.validators
        await take(running, at(9, slot=3))
        await validators.delete(NAME)
        await validators.import_history({key: at(5) for key in STRANGERS})
        spoil(vp, STRANGERS[4], data=b"garbage")
        spoil(vp, STRANGERS[5], version=9)
        vp.watermarks[STRANGERS[7]] = services.StoredWatermark(
            STRANGERS[7], 1, vp.watermarks[STRANGERS[8]].data
        )
        assert NOBODY in vp.watermarks
        reached: dict[bytes, Watermark] = {}
        untrusted: list[Any] = []
        after = None
        while True:
            part = await validators.records.page(after, limit)
            assert not reached.keys() & part.reached.keys()
            reached |= part.reached
            untrusted += part.untrusted
            after = part.after
            if after is None:
                break
        lost = {STRANGERS[4], STRANGERS[5], STRANGERS[7]}
        assert {one.public_key for one in untrusted} == lost
        assert {one.why.code for one in untrusted} == {Code.RECORD_UNTRUSTED}
        assert reached == {PUBLIC_KEY: at(9, slot=3)} | {
            key: at(5) for key in STRANGERS if key not in lost
        }

    lab.booted(vp, look)


def test_what_moved_since_it_was_listed_is_told_as_it_is_now(lab: Any, vp: Any) -> None:
    async def look(running: Any) -> None:
        await take(running, at(9))
        listed = services.WatermarkPage([vp.watermarks[PUBLIC_KEY]], more=False)
        await vote(running, 10)
        vp.after = lambda request, answer: (
            listed if isinstance(request, services.ListWatermarks) else answer
        )
        part = await running.validators.records.page(None, 500)
        assert part.untrusted == []
        assert part.reached[PUBLIC_KEY].voted.target == 10

    lab.booted(vp, look)


def test_a_record_that_is_in_order_is_not_replaced(lab: Any, vp: Any) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        before = vp.watermarks[PUBLIC_KEY]
        assert await refused(running, at(20)) is Code.VERSION_CONFLICT
        assert await refused(running, at(20), STRANGERS[0]) is Code.NOT_REGISTERED
        assert vp.watermarks[PUBLIC_KEY] == before
        assert STRANGERS[0] not in vp.watermarks

    lab.booted(vp, scene)


@pytest.mark.parametrize(
    "history", [Watermark(), Watermark(proposed=at(1, 9).proposed)]
)
def test_a_record_is_never_replaced_by_one_without_a_vote(
    lab: Any, vp: Any, history: Watermark
) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        spoil(vp, data=b"garbage")
        with pytest.raises(Malformed):
            await running.validators.records.repair(PUBLIC_KEY, history)
        assert vp.watermarks[PUBLIC_KEY].data == b"garbage"

    lab.booted(vp, scene)


@pytest.mark.parametrize("changes", [{"data": b"garbage"}, {"version": 77}])
def test_after_a_repair_it_votes_beyond_the_history_only(
    lab: Any, vp: Any, changes: Any
) -> None:
    async def first(running: Any) -> None:
        await take(running, at(9))

    lab.booted(vp, first)
    spoil(vp, **changes)

    async def scene(running: Any) -> None:
        assert running.validators.facts.unprotected == 1
        repaired = await running.validators.records.repair(PUBLIC_KEY, at(20, slot=7))
        assert repaired.reached == at(20, slot=7)
        assert repaired.replaced.why.code is Code.RECORD_UNTRUSTED
        assert running.validators.facts.unprotected == 0
        with pytest.raises(Slashable):
            await vote(running, 20)
        await vote(running, 21)

    lab.booted(vp, scene)

    async def after_a_restart(running: Any) -> None:
        assert running.validators.facts.unprotected == 0
        with pytest.raises(Slashable):
            await vote(running, 20)

    lab.booted(vp, after_a_restart)


def test_what_the_running_signer_has_seen_counts_whatever_the_history_says(
    lab: Any, vp: Any
) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        old = vp.watermarks[PUBLIC_KEY]
        await vote(running, 30)
        # The store is put back: an item that is ours, from before.
        vp.watermarks[PUBLIC_KEY] = old
        with pytest.raises(Refused):
            await vote(running, 31)
        repaired = await running.validators.records.repair(PUBLIC_KEY, at(12))
        assert repaired.reached.voted.target == 30
        # And once more, with nothing left of it at all.
        del vp.watermarks[PUBLIC_KEY]
        with pytest.raises(Refused):
            await running.validators.import_history({PUBLIC_KEY: at(12)})
        repaired = await running.validators.records.repair(PUBLIC_KEY, at(12))
        assert repaired.replaced.stored is None
        assert repaired.reached.voted.target == 30
        with pytest.raises(Slashable):
            await vote(running, 29)
        await vote(running, 31)

    lab.booted(vp, scene)


@pytest.mark.parametrize("state", ["disabled", "deleted"])
def test_what_was_stopped_stays_so(lab: Any, vp: Any, state: str) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        order = getattr(running.validators, state[:-1])
        await order(NAME)
        spoil(vp, data=b"garbage")
        await running.validators.records.repair(PUBLIC_KEY, at(20))

    lab.booted(vp, scene)

    async def elsewhere(running: Any) -> None:
        code = Code.KEY_DISABLED if state == "disabled" else Code.NOT_REGISTERED
        with pytest.raises(Refused) as caught:
            await vote(running, 21)
        assert caught.value.code is code

    lab.booted(vp, elsewhere)


def test_a_record_of_another_chain_is_left_alone(lab: Any, vp: Any) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        book = running.validators.guard._book
        ours, book._chain = book._chain, GenesisValidatorsRoot(b"\x09" * 32)
        change = book.change(PUBLIC_KEY, 1, at(9))
        book._chain = ours
        spoil(vp, version=2, data=change.data)
        before = vp.watermarks[PUBLIC_KEY]
        assert await refused(running, at(20)) is Code.WRONG_CHAIN
        assert vp.watermarks[PUBLIC_KEY] == before

    lab.booted(vp, scene)


def test_of_a_repair_whose_answer_is_lost_the_signer_looks_before_it_votes(
    lab: Any, vp: Any
) -> None:
    async def scene(running: Any) -> None:
        await take(running, at(9))
        spoil(vp, data=b"garbage")

        def lose(request: Any, answer: Any) -> Any:
            if isinstance(request, services.AdvanceWatermarks):
                return services.Failed("storage_unavailable", "lost")
            return answer

        vp.after = lose
        with pytest.raises(Undecided):
            await running.validators.records.repair(PUBLIC_KEY, at(20))
        vp.after = lambda _request, answer: answer
        with pytest.raises(Slashable):
            await vote(running, 20)
        await vote(running, 21)
        assert await refused(running, at(20)) is Code.VERSION_CONFLICT

    lab.booted(vp, scene)
