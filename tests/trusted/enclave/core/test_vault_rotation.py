"""Rotation: addresses stay, and whatever dies in the middle, every key still opens."""

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from nitrosigner.emulator.kms import Fault
from nitrosigner.trusted.enclave import running
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.vault.sealed_records import vault_key_of
from nitrosigner.verdicts import Refused, Undecided, Verdict
from nitrosigner.wire import services

DIGEST = bytes(32)
KEYS = ("a", "b", "c")


async def fill(run: Any) -> dict[str, str]:
    for name in KEYS:
        await run.keyring.create(name, "secp256k1")
    await run.keyring.delete("c")
    return identities(run)


def identities(run: Any) -> dict[str, str]:
    return {key.name: key.identity for key in run.keyring.page("", 100).keys}


def vault_keys(parent: Any) -> set[bytes]:
    sealed = {
        vault_key_of(record)
        for (collection, _), record in parent.records.items()
        if collection == "keys"
    }
    for single in ("tls", "state"):
        sealed.add(msgspec.msgpack.decode(parent.record(single, "current").data)[0])
    return sealed


def rotating(parent: Any) -> bool:
    """Whether the vault record still holds a previous key."""
    record = msgspec.msgpack.decode(parent.record("vault", "current").data)
    return record[2] is not None


def test_rotation_reseals_everything_and_changes_no_address(
    lab: Any, parent: Any
) -> None:
    async def rotate(run: Any) -> Any:
        before = await fill(run)
        old = vault_keys(parent)
        signature = run.keyring.sign_now(Permit("a", DIGEST))
        calls = run.keyring.kms_calls
        assert await run.keyring.rotate_vault() == len(KEYS)
        assert run.keyring.kms_calls == calls + 1
        assert identities(run) == before
        assert run.keyring.sign_now(Permit("a", DIGEST)) == signature
        assert len(vault_keys(parent)) == 1
        assert not vault_keys(parent) & old
        assert not rotating(parent)
        return before

    before = lab.booted(parent, rotate)

    async def look(run: Any) -> None:
        assert identities(run) == before
        assert run.kms_calls == 1
        assert run.keyring.describe("c").state == "deleted"

    lab.booted(parent, look)


def test_rotations_follow_each_other(lab: Any, parent: Any) -> None:
    async def rotate(run: Any) -> None:
        await fill(run)
        for _ in range(3):
            await run.keyring.rotate_vault()
        assert run.keyring.sign_now(Permit("a", DIGEST))

    lab.booted(parent, rotate)
    assert parent.record("vault", "current").version == 7


def writes_of_a_rotation(lab: Any) -> int:
    parent = lab.parent()
    lab.booted(parent, fill)
    parent.requests.clear()
    lab.booted(parent, lambda run: run.keyring.rotate_vault())
    return int(parent.count(services.PutRecord))


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(7))
def test_killed_at_any_write_every_key_still_opens(
    lab: Any, parent: Any, cut: Any, step: int, landed: bool
) -> None:
    """The parent dies at the Nth write of a rotation, just before or after it."""
    before = lab.booted(parent, fill)
    writes = 0

    def at(request: Any, *answer: Any) -> Any:
        nonlocal writes
        if isinstance(request, services.PutRecord) or writes > step:
            writes += 1
            if writes > step:
                raise cut
        return answer[0] if answer else None

    async def die(run: Any) -> None:
        if landed:
            parent.after = at
        else:
            parent.before = at
        with contextlib.suppress(Verdict):
            await run.keyring.rotate_vault()
        assert writes > step
        with contextlib.suppress(Undecided):  # where it is not settled
            assert run.keyring.sign_now(Permit("b", DIGEST))
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Verdict)):
        lab.booted(parent, die)
    parent.after = lambda _request, answer: answer
    parent.before = lambda _request: None

    async def look(run: Any) -> None:
        assert run.keyring.rejected == {}
        assert identities(run) == before
        assert run.kms_calls == 1
        await run.keyring.finish_rotation()
        assert not rotating(parent)
        assert len(vault_keys(parent)) == 1
        await run.keyring.enable("b")
        assert run.keyring.sign_now(Permit("b", DIGEST))

    lab.booted(parent, look)
    assert identities_after(lab, parent) == before


def identities_after(lab: Any, parent: Any) -> Any:
    async def look(run: Any) -> Any:
        assert run.keyring.rejected == {}
        return identities(run)

    return lab.booted(parent, look)


def test_a_rotation_has_as_many_writes_as_the_kill_test_tries(lab: Any) -> None:
    assert writes_of_a_rotation(lab) == 1 + 2 + len(KEYS) + 1


def test_an_interrupted_rotation_is_finished_without_being_asked(
    lab: Any, parent: Any, cut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.booted(parent, fill)

    def drop(request: Any) -> Any:
        if isinstance(request, services.PutRecord) and request.collection == "keys":
            raise cut

    async def begin(run: Any) -> None:
        parent.before = drop
        with pytest.raises(Undecided):
            await run.keyring.rotate_vault()

    lab.booted(parent, begin)
    parent.before = lambda _request: None
    assert rotating(parent)
    monkeypatch.setattr(running, "SETTLE_EVERY", 0.01)

    async def wait(_run: Any) -> None:
        async with asyncio.timeout(30):
            while rotating(parent):
                await asyncio.sleep(0.01)

    lab.booted(parent, wait)
    assert len(vault_keys(parent)) == 1


def test_keys_made_during_a_rotation_survive_it(lab: Any, parent: Any) -> None:
    async def rotate(run: Any) -> Any:
        await fill(run)
        await asyncio.gather(
            run.keyring.rotate_vault(),
            *(run.keyring.create(f"n{number}", "secp256k1") for number in range(12)),
            run.keyring.disable("a"),
        )
        return identities(run)

    made = lab.booted(parent, rotate)
    assert len(made) == len(KEYS) + 12
    assert identities_after(lab, parent) == made


def test_a_key_that_another_enclave_makes_meanwhile_survives(
    lab: Any, parent: Any
) -> None:
    """It seals under the key that it knows; by the time it answers, under the new."""

    async def both() -> Any:
        async with lab.boot(parent) as one, lab.boot(parent) as two:
            await one.keyring.create("mine", "secp256k1")
            await asyncio.gather(
                one.keyring.rotate_vault(),
                *(two.keyring.create(f"t{number}", "secp256k1") for number in range(8)),
            )
            await two.keyring.create("late", "secp256k1")
            assert two.keyring.sign_now(Permit("late", DIGEST))
            return identities(two) | identities(one)

    made = asyncio.run(both())
    found = identities_after(lab, parent)
    assert found.keys() >= {"mine", "late", *(f"t{number}" for number in range(8))}
    assert made.items() <= found.items()


def test_an_old_key_is_kept_while_a_record_needs_it(lab: Any, parent: Any) -> None:
    """A record that was rejected at boot, but is authentic, must not be lost."""
    lab.booted(parent, fill)
    held = parent.record("manifest", "current")
    state = parent.record("state", "current")
    newer = msgspec.structs.replace(held, data=lab.sign(lab.wanted(2)))
    parent.records["manifest", "current"] = newer
    lab.booted(parent, lambda run: run.keyring.create("new", "secp256k1"))
    parent.records["manifest", "current"] = held
    parent.records["state", "current"] = state

    async def rotate(run: Any) -> None:
        with pytest.raises(Refused) as caught:
            await run.keyring.rotate_vault()
        assert caught.value.code == "record_untrusted"

    lab.booted(parent, rotate)
    assert rotating(parent)
    parent.records["manifest", "current"] = newer
    assert "new" in identities_after(lab, parent)


def test_garbage_in_the_store_does_not_keep_the_old_key(lab: Any, parent: Any) -> None:
    lab.booted(parent, fill)
    parent.records["keys", "zz"] = services.StoredRecord("zz", 1, b"garbage")

    async def rotate(run: Any) -> None:
        assert await run.keyring.rotate_vault() == len(KEYS)

    lab.booted(parent, rotate)
    assert not rotating(parent)


def test_kms_down_means_no_rotation_and_nothing_changed(lab: Any, parent: Any) -> None:
    async def rotate(run: Any) -> None:
        await fill(run)
        old = parent.record("vault", "current")
        lab.faults.always("GenerateDataKey", Fault.ONLY_PLAINTEXT)
        with pytest.raises(Refused) as caught:
            await run.keyring.rotate_vault()
        assert caught.value.code == "kms_untrusted"
        assert parent.record("vault", "current") == old
        assert run.keyring.sign_now(Permit("a", DIGEST))

    lab.booted(parent, rotate)
