"""Answers get lost, others write first, the store fails: memory and store stay one."""

import asyncio
from typing import Any

import msgspec
import pytest

from nitrosigner.trusted.enclave import running
from nitrosigner.trusted.enclave.parent_link import durable_write, parent_services
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.verdicts import Refused, Undecided, Verdict
from nitrosigner.wire import services

DIGEST = bytes(32)


def putting(name: str, collection: str = "keys") -> Any:
    def matches(request: Any) -> bool:
        return isinstance(request, services.PutRecord) and (
            request.collection,
            request.name,
        ) == (collection, name)

    return matches


class Times:
    """Calls *action* for the first *times* requests that match."""

    def __init__(self, matches: Any, action: Any, times: int = 1) -> None:
        self.matches, self.action, self.left = matches, action, times

    def __call__(self, request: Any, *answer: Any) -> Any:
        if self.matches(request) and self.left:
            self.left -= 1
            return self.action(request, *answer)
        return answer[0] if answer else None


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_an_answer_lost_after_the_write_is_settled_by_asking_again(
    lab: Any, parent: Any, cut: Any
) -> None:
    def drop(_request: Any, _answer: Any) -> Any:
        raise cut

    async def make(run: Any) -> None:
        parent.after = Times(putting("k"), drop)
        made = await run.keyring.create("k", "secp256k1")
        assert made.version == 1
        assert parent.record("keys", "k").version == 1
        assert run.keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, make)


def test_a_request_lost_before_the_write_is_repeated(
    lab: Any, parent: Any, cut: Any
) -> None:
    def drop(_request: Any) -> Any:
        raise cut

    async def make(run: Any) -> None:
        parent.before = Times(putting("k"), drop, times=2)
        assert (await run.keyring.create("k", "secp256k1")).version == 1

    lab.booted(parent, make)


def test_a_failed_disk_makes_no_key(lab: Any, parent: Any) -> None:
    def full(_request: Any) -> Any:
        return services.Failed("storage_unavailable", "disk full")

    async def make(run: Any) -> None:
        parent.before = Times(putting("k"), full, times=durable_write.ATTEMPTS)
        with pytest.raises(Undecided) as caught:
            await run.keyring.create("k", "secp256k1")
        assert caught.value.code == "storage_unavailable"
        with pytest.raises(Refused):
            run.keyring.describe("k")
        # The disk has room again.
        assert (await run.keyring.create("k", "secp256k1")).version == 1

    lab.booted(parent, make)


def test_a_key_whose_disabling_is_not_settled_signs_nothing(
    lab: Any, parent: Any, cut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SETTLE_EVERY", 0.01)

    def down(_request: Any, _answer: Any = None) -> Any:
        raise cut

    async def change(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        # It is written, and from then on nobody answers.
        parent.after = Times(lambda _: True, down, times=10_000)
        with pytest.raises(Undecided):
            await keyring.disable("k")
        with pytest.raises(Undecided) as caught:
            keyring.sign_now(Permit("k", DIGEST))
        assert caught.value.code == "storage_unavailable"
        parent.after = lambda _request, answer: answer
        await until(lambda: not keyring._changes.unsettled)
        assert keyring.describe("k").state == "disabled"
        with pytest.raises(Refused):
            keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, change)


def test_a_disabling_that_never_arrived_is_found_out(
    lab: Any, parent: Any, cut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SETTLE_EVERY", 0.01)

    def down(_request: Any) -> Any:
        raise cut

    async def change(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        parent.before = Times(lambda _: True, down, times=10_000)
        with pytest.raises(Undecided):
            await keyring.disable("k")
        parent.before = lambda _request: None
        await until(lambda: not keyring._changes.unsettled)
        assert keyring.describe("k").state == "enabled"
        assert keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, change)


def test_a_change_is_finished_although_its_caller_is_gone(
    lab: Any, parent: Any
) -> None:
    async def change(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        asking = asyncio.create_task(keyring.disable("k"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await keyring.drain()
        assert parent.record("keys", "k").version == 2
        assert keyring.describe("k").state == "disabled"

    lab.booted(parent, change)


def test_another_enclave_s_change_is_taken_over_on_conflict(
    lab: Any, parent: Any
) -> None:
    async def both() -> None:
        async with lab.boot(parent) as one:
            await one.keyring.create("k", "secp256k1")
            async with lab.boot(parent) as two:
                await one.keyring.disable("k")
                assert two.keyring.describe("k").version == 1
                with pytest.raises(Refused) as caught:
                    await two.keyring.delete("k")
                assert caught.value.code == "version_conflict"
                assert two.keyring.describe("k").version == 2
                assert two.keyring.describe("k").state == "disabled"
                await two.keyring.delete("k")

    asyncio.run(both())


def test_a_conflict_that_never_ends_is_an_answer(lab: Any, parent: Any) -> None:
    def conflict(_request: Any) -> Any:
        return services.Conflict(17)

    async def make(run: Any) -> None:
        parent.before = Times(putting("k"), conflict, times=10_000)
        with pytest.raises(Refused) as caught:
            await run.keyring.create("k", "secp256k1")
        assert caught.value.code == "version_conflict"
        assert run.keyring.count == 0

    lab.booted(parent, make)


@pytest.mark.parametrize(
    "answer",
    [
        services.Absent(),
        services.Stored(9),
        services.Conflict(0),
        services.Conflict(-1),
        services.Done(),
        services.Page([], False),
        b"\x01\x00\x00\x00\x63\x00\x00\x00\x01\xc0",
        b"\x01\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=lambda answer: repr(answer)[:20],
)
def test_nonsense_for_an_answer_is_undecided_and_the_connection_dropped(
    lab: Any, parent: Any, answer: Any
) -> None:
    async def make(run: Any) -> None:
        parent.before = Times(putting("k"), lambda _: answer, times=10_000)
        before = run.keyring._changes._writer.store._connection
        with pytest.raises(Undecided) as caught:
            await run.keyring.create("k", "secp256k1")
        assert caught.value.code == "storage_unavailable"
        assert before.closed
        assert run.keyring.count == 0
        parent.before = lambda _request: None
        assert (await run.keyring.create("k", "secp256k1")).version == 1

    lab.booted(parent, make)


def test_silence_is_undecided_after_the_deadline(
    lab: Any, parent: Any, silence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nitrosigner.trusted.enclave.parent_link import parent_services

    def silent(_request: Any) -> Any:
        raise silence

    async def make(run: Any) -> None:
        parent.before = Times(putting("k"), silent, times=durable_write.ATTEMPTS)
        with monkeypatch.context() as patience, pytest.raises(Undecided):
            patience.setattr(parent_services, "RECORD_DEADLINE", 0.05)
            await run.keyring.create("k", "secp256k1")
        assert (await run.keyring.create("k", "secp256k1")).version == 1

    lab.booted(parent, make)


def test_a_record_that_went_back_is_noticed_in_the_same_life(
    lab: Any, parent: Any
) -> None:
    async def change(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        old = parent.record("keys", "k")
        await keyring.disable("k")
        parent.records["keys", "k"] = old
        for _ in range(2):
            with pytest.raises(Verdict) as caught:
                await keyring.delete("k")
        assert caught.value.code == "record_untrusted"
        with pytest.raises(Undecided):
            keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, change)


def test_a_vault_that_went_back_is_noticed_in_the_same_life(
    lab: Any, parent: Any
) -> None:
    async def change(run: Any) -> None:
        old = parent.record("vault", "current")
        await run.keyring.rotate_vault()
        parent.records["vault", "current"] = old
        with pytest.raises(Refused) as caught:
            await run.keyring.create("k", "secp256k1")
        assert caught.value.code == "record_untrusted"

    lab.booted(parent, change)


def test_a_purge_whose_answer_is_lost_is_settled(
    lab: Any, parent: Any, cut: Any
) -> None:
    def drop(_request: Any, _answer: Any) -> Any:
        raise cut

    async def purge(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        await keyring.delete("k")
        lab.clock.ahead = 31 * 86_400
        parent.after = Times(lambda r: isinstance(r, services.RemoveRecord), drop)
        assert await keyring.purge_expired() == 1
        assert keyring.count == 0

    lab.booted(parent, purge)


def test_a_restored_key_is_not_purged(lab: Any, parent: Any) -> None:
    async def restore(run: Any) -> None:
        keyring = run.keyring
        await keyring.create("k", "secp256k1")
        await keyring.delete("k")
        await keyring.restore("k")
        lab.clock.ahead = 31 * 86_400
        assert await keyring.purge_expired() == 0
        assert keyring.count == 1

    lab.booted(parent, restore)


def test_versions_in_the_store_and_in_the_header_are_one(lab: Any, parent: Any) -> None:
    async def change(run: Any) -> None:
        await run.keyring.create("k", "secp256k1")
        for _ in range(3):
            await run.keyring.disable("k")
            await run.keyring.enable("k")

    lab.booted(parent, change)
    record = parent.record("keys", "k")
    assert record.version == 7
    parent.records["keys", "k"] = msgspec.structs.replace(record, version=8)

    async def look(run: Any) -> None:
        with pytest.raises(Refused) as caught:
            run.keyring.describe("k")
        assert caught.value.code == "record_untrusted"

    lab.booted(parent, look)


# --- what other enclaves did ---


def test_another_enclave_s_keys_and_changes_are_taken_over(
    lab: Any, parent: Any
) -> None:
    async def both() -> None:
        async with lab.boot(parent) as one:
            await one.keyring.create("a", "secp256k1")
            async with lab.boot(parent) as two:
                made = await one.keyring.create("b", "secp256k1")
                await one.keyring.disable("a")
                await one.keyring.rotate_vault()
                assert two.keyring.sign_now(Permit("a", DIGEST))
                await two.keyring.refresh()
                assert two.keyring.describe("b").identity == made.identity
                assert two.keyring.sign_now(Permit("b", DIGEST))
                with pytest.raises(Refused) as caught:
                    two.keyring.sign_now(Permit("a", DIGEST))
                assert caught.value.code == "key_disabled"

    asyncio.run(both())


def test_refreshing_never_goes_back(lab: Any, parent: Any) -> None:
    async def change(run: Any) -> None:
        await run.keyring.create("k", "secp256k1")
        old = parent.record("keys", "k")
        await run.keyring.disable("k")
        parent.records["keys", "k"] = old
        await run.keyring.refresh()
        assert run.keyring.describe("k").state == "disabled"
        del parent.records["keys", "k"]
        await run.keyring.refresh()
        assert run.keyring.describe("k").state == "disabled"

    lab.booted(parent, change)


def test_a_mended_record_needs_no_restart(lab: Any, parent: Any) -> None:
    async def make(run: Any) -> None:
        await run.keyring.create("k", "secp256k1")

    lab.booted(parent, make)
    good = parent.record("keys", "k")
    parent.records["keys", "k"] = msgspec.structs.replace(good, data=b"garbage")

    async def mend(run: Any) -> None:
        await run.keyring.refresh()
        assert "k" in run.keyring.rejected
        parent.records["keys", "k"] = good
        await run.keyring.refresh()
        assert run.keyring.rejected == {}
        assert run.keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, mend)


def test_garbage_under_a_higher_version_does_not_replace_a_key(
    lab: Any, parent: Any
) -> None:
    async def change(run: Any) -> None:
        made = await run.keyring.create("k", "secp256k1")
        parent.records["keys", "k"] = services.StoredRecord("k", 9, b"garbage")
        parent.records["keys", "z"] = services.StoredRecord("z", 1, b"garbage")
        await run.keyring.refresh()
        assert run.keyring.describe("k") == made
        assert set(run.keyring.rejected) == {"z"}
        with pytest.raises(Undecided):
            run.keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, change)


def test_a_slow_store_is_an_answer_in_time_and_the_change_is_made_all_the_same(
    lab: Any, parent: Any, silence: Any
) -> None:
    """Undecided is said early; nobody is told no about what then happens."""

    def nothing(_request: Any, _answer: Any) -> Any:
        raise silence  # it is written; that is not said

    async def make(run: Any) -> None:
        made = await run.keyring.create("slow", "secp256k1")
        parent.after = Times(putting("slow"), nothing)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Undecided) as caught:
            await run.keyring.disable("slow", made.version)
        took = asyncio.get_running_loop().time() - began
        assert took < parent_services.RECORD_DEADLINE - 1
        assert caught.value.code == "storage_unavailable"
        assert "may happen yet" in caught.value.message
        # Until it is known, it is not signed with.
        await until(lambda: "slow" in run.keyring._changes.unsettled)
        with pytest.raises(Undecided):
            run.keyring.sign_now(Permit("slow", DIGEST))
        # The lost answer is asked for again, and the change is there.
        await until(lambda: run.keyring.describe("slow").state == "disabled")
        await until(lambda: "slow" not in run.keyring._changes.unsettled)
        assert parent.record("keys", "slow").version == made.version + 1

    lab.booted(parent, make)


def test_a_create_that_was_not_answered_in_time_is_there_or_not_but_never_half(
    lab: Any, parent: Any, silence: Any
) -> None:
    def nothing(_request: Any) -> Any:
        raise silence  # and nothing is written

    async def make(run: Any) -> None:
        parent.before = Times(putting("later"), nothing)
        with pytest.raises(Undecided):
            await run.keyring.create("later", "secp256k1")
        # Whoever asks again meanwhile waits for the first, and hears the same.
        await until(lambda: run.keyring._changes._under_way == set())
        assert run.keyring.describe("later").identity == identity_of(parent, run)
        assert "later" not in run.keyring._changes.unsettled

    def identity_of(parent: Any, run: Any) -> str:
        assert parent.record("keys", "later").version == 1
        return str(run.keyring._changes._index.named("later").identity)

    lab.booted(parent, make)
