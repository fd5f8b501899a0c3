"""Keys: made, imported, changed, and used."""

import asyncio
import base64
from typing import Any

import pytest
from eth_account import Account
from eth_keys import keys as eth_keys

from nitrosigner.emulator.kms import Fault
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.verdicts import Malformed, Refused
from nitrosigner.wire import api, import_wrapping, services
from nitrosigner.wire import manifest as manifests

SECRET = bytes.fromhex(
    "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
)
ADDRESS = Account.from_key(SECRET).address
OTHER = bytes(31) + b"\x05"
OTHER_ADDRESS = Account.from_key(OTHER).address
DIGEST = bytes(range(32))


def recovered(signature: bytes, digest: bytes) -> str:
    made = eth_keys.Signature(bytes(signature))
    return made.recover_public_key_from_msg_hash(digest).to_checksum_address()


def wrapped(
    running: Any, secret: bytes, name: str, identity: str, **changes: Any
) -> api.ImportKey:
    info = import_wrapping.import_info(
        deployment=changes.pop("deployment", "lab"),
        name=changes.pop("wrapped_name", name),
        algorithm="secp256k1",
        identity=identity,
    )
    wrap = import_wrapping.wrap(secret, running.keyring.import_public_key, info)
    return api.ImportKey(
        name=name,
        identity=identity,
        wrapped_key=base64.b64encode(wrap).decode(),
        **changes,
    )


def test_a_key_made_inside_signs_and_survives_a_restart(lab: Any, parent: Any) -> None:
    async def make(running: Any) -> Any:
        made = await running.keyring.create("treasury", "secp256k1")
        signature = running.keyring.sign_now(Permit("treasury", DIGEST))
        assert recovered(signature, DIGEST) == made.identity
        return made

    async def use(running: Any) -> Any:
        signature = running.keyring.sign_now(Permit("treasury", DIGEST))
        return running.keyring.describe("treasury"), recovered(signature, DIGEST)

    made = lab.booted(parent, make)
    assert (made.version, made.state, made.kind) == (1, "enabled", "vault")
    assert lab.booted(parent, use) == (made, made.identity)


def test_what_lies_outside_does_not_hold_the_key(lab: Any, parent: Any) -> None:
    async def take(running: Any) -> None:
        await running.keyring.import_wrapped(wrapped(running, SECRET, "k", ADDRESS))

    lab.booted(parent, take)
    outside = b"".join(record.data for record in parent.records.values())
    outside += bytes(parent.seen) + b"".join(parent.audit)
    for shape in (
        SECRET,
        SECRET.hex().encode(),
        SECRET[::-1],
        base64.b64encode(SECRET),
    ):
        assert shape not in outside


def test_keys_are_found_by_name_and_by_address_in_any_case(
    lab: Any, parent: Any
) -> None:
    async def look(running: Any) -> None:
        keyring = running.keyring
        made = await keyring.create("k", "secp256k1")
        for identifier in (
            "k",
            made.identity,
            made.identity.lower(),
            "0X" + made.identity[2:].upper(),
        ):
            assert keyring.describe(identifier) == made
        for stranger in ("", "K", "0x00", OTHER_ADDRESS, "k ", "../k"):
            with pytest.raises(Refused) as caught:
                keyring.describe(stranger)
            assert caught.value.status == 404

    lab.booted(parent, look)


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "-a", "a" * 65, "ä", "0x" + "a" * 40, "a\n", "a/b"]
)
def test_names_that_are_none_are_malformed(lab: Any, parent: Any, name: str) -> None:
    async def make(running: Any) -> None:
        with pytest.raises(Malformed):
            await running.keyring.create(name, "secp256k1")
        assert running.keyring.count == 0

    lab.booted(parent, make)


def test_a_name_is_taken_once(lab: Any, parent: Any) -> None:
    async def make(running: Any) -> list[Any]:
        return await asyncio.gather(
            *(running.keyring.create("k", "secp256k1") for _ in range(5)),
            return_exceptions=True,
        )

    results = lab.booted(parent, make)
    assert sum(isinstance(result, api.KeyDescription) for result in results) == 1
    assert {r.code for r in results if isinstance(r, Refused)} == {"version_conflict"}


def test_one_identity_has_one_name(lab: Any, parent: Any) -> None:
    """Else a client could sign under one name what the other's policy forbids."""

    async def take(running: Any) -> list[Any]:
        return await asyncio.gather(
            *(
                running.keyring.import_wrapped(wrapped(running, SECRET, name, ADDRESS))
                for name in ("a", "b", "c")
            ),
            return_exceptions=True,
        )

    results = lab.booted(parent, take)
    assert sum(isinstance(result, api.KeyDescription) for result in results) == 1


def test_an_unknown_algorithm_is_malformed(lab: Any, parent: Any) -> None:
    async def make(running: Any) -> None:
        with pytest.raises(Malformed) as caught:
            await running.keyring.create("k", "rot13")
        assert "secp256k1" in caught.value.hint

    lab.booted(parent, make)


def test_there_are_no_more_keys_than_the_manifest_allows(lab: Any) -> None:
    limited = lab.wanted(limits=manifests.Limits(max_keys=2))
    parent = lab.parent(lab.sign(limited))

    async def make(running: Any) -> None:
        await running.keyring.create("a", "secp256k1")
        await running.keyring.create("b", "secp256k1")
        with pytest.raises(Refused) as caught:
            await running.keyring.create("c", "secp256k1")
        assert caught.value.code == "over_limit"

    lab.booted(parent, make)


def test_pages_follow_names(lab: Any, parent: Any) -> None:
    async def make(running: Any) -> None:
        for name in ("b", "a", "d", "c"):
            await running.keyring.create(name, "secp256k1")
        first = running.keyring.page("", 3)
        assert [key.name for key in first.keys] == ["a", "b", "c"]
        assert first.more
        rest = running.keyring.page("c", 3)
        assert ([key.name for key in rest.keys], rest.more) == (["d"], False)

    lab.booted(parent, make)


# --- import ---


@pytest.mark.parametrize(
    "given", [SECRET, SECRET.hex().encode(), b"0x" + SECRET.hex().encode()]
)
def test_a_wrapped_key_is_taken_raw_or_as_hex_text(
    lab: Any, parent: Any, given: bytes
) -> None:
    async def take(running: Any) -> str:
        request = wrapped(running, given, "k", ADDRESS)
        made = await running.keyring.import_wrapped(request)
        assert (
            recovered(running.keyring.sign_now(Permit("k", DIGEST)), DIGEST) == ADDRESS
        )
        return made.identity

    assert lab.booted(parent, take) == ADDRESS


def test_a_lower_case_address_is_the_same_address(lab: Any, parent: Any) -> None:
    async def take(running: Any) -> str:
        request = wrapped(running, SECRET, "k", ADDRESS.lower())
        return (await running.keyring.import_wrapped(request)).identity

    assert lab.booted(parent, take) == ADDRESS


@pytest.mark.parametrize(
    ("secret", "identity", "changes", "code"),
    [
        (SECRET, OTHER_ADDRESS, {}, "key_mismatch"),
        (SECRET, ADDRESS, {"wrapped_name": "other"}, "malformed_key"),
        (SECRET, ADDRESS, {"deployment": "other"}, "malformed_key"),
        (bytes(32), ADDRESS, {}, "malformed_key"),
        (b"\xff" * 32, ADDRESS, {}, "malformed_key"),
        (SECRET[:31], ADDRESS, {}, "malformed_key"),
        (b"zz" * 32, ADDRESS, {}, "malformed_key"),
        (SECRET, ADDRESS, {"version": 3}, "unknown_key"),
        (SECRET, ADDRESS, {"algorithm": "rot13"}, "malformed_key"),
    ],
)
def test_a_wrap_that_does_not_fit_stores_nothing(  # noqa: PLR0917  # a table
    lab: Any,
    parent: Any,
    secret: bytes,
    identity: str,
    changes: dict[str, Any],
    code: str,
) -> None:
    async def take(running: Any) -> None:
        request = wrapped(running, secret, "k", identity, **changes)
        with pytest.raises((Malformed, Refused)) as caught:
            await running.keyring.import_wrapped(request)
        assert caught.value.code == code
        assert running.keyring.count == 0

    lab.booted(parent, take)
    assert ("keys", "k") not in parent.records


def test_a_wrap_for_an_earlier_boot_does_not_open(lab: Any, parent: Any) -> None:
    async def keep(running: Any) -> api.ImportKey:
        return wrapped(running, SECRET, "k", ADDRESS)

    request = lab.booted(parent, keep)

    async def take(running: Any) -> None:
        with pytest.raises(Malformed) as caught:
            await running.keyring.import_wrapped(request)
        assert "wrap anew" in caught.value.hint

    lab.booted(parent, take)


def test_replacing_a_key_needs_its_current_version(lab: Any, parent: Any) -> None:
    async def replace(running: Any) -> None:
        keyring = running.keyring
        await keyring.import_wrapped(wrapped(running, SECRET, "k", ADDRESS))
        for version in (0, 2):
            with pytest.raises(Refused) as caught:
                await keyring.import_wrapped(
                    wrapped(running, OTHER, "k", OTHER_ADDRESS, version=version)
                )
            assert caught.value.status == 412
        assert keyring.describe("k").identity == ADDRESS
        made = await keyring.import_wrapped(
            wrapped(running, OTHER, "k", OTHER_ADDRESS, version=1)
        )
        assert (made.version, made.identity) == (2, OTHER_ADDRESS)
        with pytest.raises(Refused):
            keyring.describe(ADDRESS)

    lab.booted(parent, replace)


def test_replacing_does_not_enable_what_was_disabled(lab: Any, parent: Any) -> None:
    async def replace(running: Any) -> str:
        keyring = running.keyring
        await keyring.import_wrapped(wrapped(running, SECRET, "k", ADDRESS))
        await keyring.disable("k")
        request = wrapped(running, OTHER, "k", OTHER_ADDRESS, version=2)
        return (await keyring.import_wrapped(request)).state

    assert lab.booted(parent, replace) == "disabled"


# --- the source documents' way ---


def kms_request(
    lab: Any,
    given: bytes = SECRET,
    identity: str = ADDRESS,
    name: str = "k",
    **more: Any,
) -> api.ImportKmsKey:
    context = manifests.kms_key_context(
        lab.accepted(), name=name, algorithm="secp256k1", identity=identity
    )
    ciphertext = lab.encrypt(given, context)
    return api.ImportKmsKey(
        name=more.pop("as_name", name), identity=identity, ciphertext=ciphertext, **more
    )


@pytest.mark.parametrize(
    "given", [SECRET, SECRET.hex().encode(), b"0x" + SECRET.hex().upper().encode()]
)
def test_a_kms_key_is_opened_by_kms_for_each_signature(
    lab: Any, parent: Any, given: bytes
) -> None:
    async def take(running: Any) -> None:
        keyring = running.keyring
        made = await keyring.import_kms(kms_request(lab, given))
        assert (made.kind, made.identity) == ("kms", ADDRESS)
        before = keyring.kms_calls
        assert keyring.sign_now(Permit("k", DIGEST)) is None
        for _ in range(2):
            signature = await keyring.sign(Permit("k", DIGEST))
            assert recovered(signature, DIGEST) == ADDRESS
        assert keyring.kms_calls - before == 2

    lab.booted(parent, take)


def test_a_resealed_kms_key_needs_kms_once(lab: Any, parent: Any) -> None:
    async def take(running: Any) -> None:
        keyring = running.keyring
        made = await keyring.import_kms(kms_request(lab, reseal=True))
        assert made.kind == "vault"
        before = keyring.kms_calls
        assert recovered(keyring.sign_now(Permit("k", DIGEST)), DIGEST) == ADDRESS
        assert keyring.kms_calls == before

    lab.booted(parent, take)


def test_get_key_returns_the_very_ciphertext_that_set_key_made(
    lab: Any, parent: Any
) -> None:
    request = kms_request(lab)

    async def take(running: Any) -> str:
        await running.keyring.import_kms(request)
        return running.keyring.ciphertext("k").ciphertext

    assert lab.booted(parent, take) == request.ciphertext


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"as_name": "other"}, "kms_refused"),
        ({"given": OTHER}, "key_mismatch"),
        ({"given": b"hello"}, "malformed_key"),
        ({"identity": ADDRESS.lower()}, "key_mismatch"),
    ],
    ids=["for another name", "another key", "no key", "no checksum"],
)
def test_a_kms_ciphertext_that_does_not_fit_stores_nothing(
    lab: Any, parent: Any, changes: dict[str, Any], code: str
) -> None:
    request = kms_request(lab, **changes)

    async def take(running: Any) -> None:
        with pytest.raises((Malformed, Refused)) as caught:
            await running.keyring.import_kms(request)
        assert caught.value.code == code

    lab.booted(parent, take)
    assert not [place for place in parent.records if place[0] == "keys"]


@pytest.mark.parametrize("text", ["", "!", "AAAA", "A" * 20_000, "ä"])
def test_what_is_no_ciphertext_is_refused(lab: Any, parent: Any, text: str) -> None:
    request = api.ImportKmsKey(name="k", identity=ADDRESS, ciphertext=text)

    async def take(running: Any) -> None:
        with pytest.raises((Malformed, Refused)):
            await running.keyring.import_kms(request)

    lab.booted(parent, take)


def test_another_key_out_of_kms_signs_nothing(lab: Any, parent: Any) -> None:
    async def forge(running: Any) -> None:
        await running.keyring.import_kms(kms_request(lab))
        lab.faults.next("Decrypt", Fault.FORGED_ENVELOPE)
        with pytest.raises(Refused) as caught:
            await running.keyring.sign(Permit("k", DIGEST))
        assert caught.value.code == "key_mismatch"

    lab.booted(parent, forge)


def test_a_kms_key_disabled_while_kms_is_asked_does_not_sign(
    lab: Any, parent: Any
) -> None:
    async def race(running: Any) -> None:
        keyring = running.keyring
        await keyring.import_kms(kms_request(lab))
        lab.faults.next(
            "Decrypt",
            Fault.SLOW,
            seconds=0.3,
        )
        signing = asyncio.create_task(keyring.sign(Permit("k", DIGEST)))
        while keyring._signing._queue == 0:
            await asyncio.sleep(0)
        await keyring.disable("k")
        with pytest.raises(Refused) as caught:
            await signing
        assert caught.value.code == "key_disabled"

    lab.booted(parent, race)


# --- states ---


def test_a_disabled_key_signs_nothing_until_it_is_enabled(
    lab: Any, parent: Any
) -> None:
    async def change(running: Any) -> None:
        keyring = running.keyring
        await keyring.create("k", "secp256k1")
        assert (await keyring.disable("k")).version == 2
        with pytest.raises(Refused) as caught:
            keyring.sign_now(Permit("k", DIGEST))
        assert caught.value.code == "key_disabled"
        assert (await keyring.disable("k")).version == 2
        assert (await keyring.enable("k", 2)).version == 3
        assert keyring.sign_now(Permit("k", DIGEST))

    lab.booted(parent, change)


def test_a_change_names_the_current_version(lab: Any, parent: Any) -> None:
    async def change(running: Any) -> None:
        await running.keyring.create("k", "secp256k1")
        with pytest.raises(Refused) as caught:
            await running.keyring.disable("k", 7)
        assert caught.value.status == 412
        assert running.keyring.describe("k").state == "enabled"

    lab.booted(parent, change)


def test_a_deleted_key_can_be_restored_disabled(lab: Any, parent: Any) -> None:
    async def delete(running: Any) -> None:
        keyring = running.keyring
        made = await keyring.create("k", "secp256k1")
        gone = await keyring.delete("k")
        assert gone.state == "deleted"
        assert gone.purge_after >= lab.clock.now() + 29 * 86_400
        for use in (lambda: keyring.sign_now(Permit("k", DIGEST)),):
            with pytest.raises(Refused) as caught:
                use()
            assert caught.value.code == "key_deleted"
        for change in (keyring.enable, keyring.disable):
            with pytest.raises(Refused):
                await change("k")
        with pytest.raises(Refused):
            await keyring.create("k", "secp256k1")
        back = await keyring.restore("k")
        assert (back.state, back.purge_after) == ("disabled", None)
        await keyring.enable("k")
        signature = keyring.sign_now(Permit("k", DIGEST))
        assert recovered(signature, DIGEST) == made.identity

    lab.booted(parent, delete)


def test_an_expired_deletion_is_for_good(lab: Any, parent: Any) -> None:
    async def delete(running: Any) -> None:
        keyring = running.keyring
        await keyring.create("kept", "secp256k1")
        await keyring.create("k", "secp256k1")
        await keyring.delete("k")
        assert await keyring.purge_expired() == 0
        lab.clock.ahead = 31 * 86_400
        assert await keyring.purge_expired() == 1
        with pytest.raises(Refused) as caught:
            keyring.describe("k")
        assert caught.value.code == "unknown_key"
        assert keyring.count == 1
        await keyring.create("k", "secp256k1")

    lab.booted(parent, delete)
    assert parent.count(services.RemoveRecord) == 1


def test_a_deletion_survives_a_restart(lab: Any, parent: Any) -> None:
    async def delete(running: Any) -> None:
        await running.keyring.create("k", "secp256k1")
        await running.keyring.delete("k")

    async def look(running: Any) -> str:
        return running.keyring.describe("k").state

    lab.booted(parent, delete)
    assert lab.booted(parent, look) == "deleted"
