"""The store is the parent's: it swaps, renames, cuts and edits sealed records."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.verdicts import Refused
from nitrosigner.wire import services

DIGEST = bytes(32)
Attack = Callable[[dict[tuple[str, str], services.StoredRecord]], None]


async def fill(run: Any) -> None:
    for name in ("a", "b", "c"):
        await run.keyring.create(name, "secp256k1")
    await run.keyring.disable("c")


def replaced(records: Any, name: str, **changes: Any) -> None:
    records["keys", name] = msgspec.structs.replace(records["keys", name], **changes)


def swap(records: Any) -> None:
    a, b = records["keys", "a"].data, records["keys", "b"].data
    replaced(records, "a", data=b)
    replaced(records, "b", data=a)


def swap_with_names(records: Any) -> None:
    """Envelope of b, header of a: the parent can cut and paste what it sees."""
    a = msgspec.msgpack.decode(records["keys", "a"].data)
    b = msgspec.msgpack.decode(records["keys", "b"].data)
    b[1] = a[1]
    replaced(records, "a", data=msgspec.msgpack.encode(b))


def edited(change: Callable[[list[Any]], None]) -> Attack:
    """Edit the header, which is not secret, and put it back well-formed."""

    def attack(records: Any) -> None:
        envelope = msgspec.msgpack.decode(records["keys", "a"].data)
        header = msgspec.msgpack.decode(envelope[1])
        change(header)
        envelope[1] = msgspec.msgpack.encode(header)
        replaced(records, "a", data=msgspec.msgpack.encode(envelope))

    return attack


def setting(index: int, value: Any) -> Attack:
    return edited(lambda header: header.__setitem__(index, value))


def flip(bit: int) -> Attack:
    def attack(records: Any) -> None:
        data = bytearray(records["keys", "a"].data)
        data[bit // 8 % len(data)] ^= 1 << bit % 8
        replaced(records, "a", data=bytes(data))

    return attack


ATTACKS: dict[str, Attack] = {
    "another key's record": swap,
    "another key's seal": swap_with_names,
    "renamed in the store": lambda records: records.__setitem__(
        ("keys", "a"), msgspec.structs.replace(records["keys", "b"], name="a")
    ),
    "cut": lambda records: replaced(records, "a", data=records["keys", "a"].data[:-9]),
    "one byte": lambda records: replaced(records, "a", data=b"\0"),
    "grown": lambda records: replaced(
        records, "a", data=records["keys", "a"].data + b"\0"
    ),
    "another version": lambda records: replaced(records, "a", version=2),
    "header: purpose": setting(1, "validator"),
    "header: deployment": setting(2, "other"),
    "header: name": setting(3, "b"),
    "header: algorithm": setting(4, "bls"),
    "header: kind": setting(5, "kms"),
    "header: public key": setting(6, b"\x02" + bytes(31) + b"\x01"),
    "header: identity": setting(7, "0x" + "11" * 20),
    "header: state": setting(8, "disabled"),
    "header: created": setting(10, 1),
    "header: manifest": setting(12, 0),
    "header: too short": edited(lambda header: header.pop()),
    "header: too long": edited(lambda header: header.append(1)),
    **{f"bit {bit}": flip(bit) for bit in (5, 80, 1001, 1501, 2017, 2222)},
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_altered_record_costs_its_own_key_and_signs_nothing(
    lab: Any, parent: Any, attack: Attack
) -> None:
    lab.booted(parent, fill)
    attack(parent.records)

    async def look(run: Any) -> None:
        with pytest.raises(Refused) as caught:
            run.keyring.sign_now(Permit("a", DIGEST))
        assert caught.value.code == "record_untrusted"
        assert "c" in {key.name for key in run.keyring.page("", 9).keys}
        assert run.checks["keys"]
        assert not run.checks["records"]
        # Nor may a new key take the name: the store has something under it.
        with pytest.raises(Refused) as caught:
            await run.keyring.create("a", "secp256k1")
        assert caught.value.code == "record_untrusted"

    lab.booted(parent, look)
    assert parent.reports[-1].code == "record_untrusted"
    assert "a" in parent.reports[-1].message


def test_a_record_of_another_deployment_does_not_open(lab: Any, parent: Any) -> None:
    """Not even of the same administrator, KMS key and name."""
    other = lab.parent(lab.sign(lab.wanted(1)))
    lab.booted(other, fill)
    lab.booted(parent, fill)
    parent.records["keys", "a"] = other.record("keys", "a")

    async def look(run: Any) -> None:
        with pytest.raises(Refused):
            run.keyring.sign_now(Permit("a", DIGEST))

    lab.booted(parent, look)


def test_a_purged_key_that_comes_back_under_another_life_loses_to_the_newer(
    lab: Any, parent: Any
) -> None:
    """One identity, two authentic records: the one made later is meant."""
    import base64

    from eth_account import Account

    from nitrosigner.wire import api, import_wrapping

    secret = bytes(31) + b"\x09"
    address = Account.from_key(secret).address

    async def take(run: Any, name: str) -> None:
        info = import_wrapping.import_info(
            deployment="lab", name=name, algorithm="secp256k1", identity=address
        )
        wrapped = import_wrapping.wrap(secret, run.keyring.import_public_key, info)
        await run.keyring.import_wrapped(
            api.ImportKey(
                name=name,
                identity=address,
                wrapped_key=base64.b64encode(wrapped).decode(),
            )
        )

    async def first(run: Any) -> None:
        await take(run, "old")

    async def second(run: Any) -> None:
        await run.keyring.delete("old")
        lab.clock.ahead += 31 * 86_400
        await run.keyring.purge_expired()
        await take(run, "new")

    lab.booted(parent, first)
    kept = parent.record("keys", "old")
    lab.booted(parent, second)
    lab.clock.ahead = 0.0
    parent.records["keys", "old"] = kept

    async def look(run: Any) -> None:
        assert run.keyring.describe(address).name == "new"
        with pytest.raises(Refused):
            run.keyring.sign_now(Permit("old", DIGEST))

    lab.booted(parent, look)


@pytest.mark.parametrize("collection", ["vault", "tls", "state"])
@pytest.mark.parametrize("how", ["garbage", "cut", "swapped"])
def test_a_damaged_single_record_stops_the_boot_with_a_reason(
    lab: Any, parent: Any, collection: str, how: str
) -> None:
    lab.booted(parent, fill)
    held = parent.record(collection, "current")
    data = {
        "garbage": b"\xc1garbage",
        "cut": held.data[:-3],
        "swapped": parent.record("keys", "a").data,
    }[how]
    parent.records[collection, "current"] = msgspec.structs.replace(held, data=data)
    parent.reports.clear()
    report = lab.stuck(parent)
    assert report.code == "record_untrusted"
    state = {"vault": "vault", "tls": "tls", "state": "records"}[collection]
    assert report.state == state


def test_tls_and_state_cannot_stand_in_for_each_other(lab: Any, parent: Any) -> None:
    lab.booted(parent, fill)
    parent.records["tls", "current"] = parent.record("state", "current")
    parent.reports.clear()
    assert lab.stuck(parent).code == "record_untrusted"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda page: msgspec.structs.replace(page, records=page.records[::-1]),
        lambda page: msgspec.structs.replace(page, records=page.records * 2),
        lambda page: services.Page([], True),
        lambda page: services.Absent(),
    ],
    ids=["reversed", "repeated", "an endless list", "no page"],
)
def test_a_page_that_cannot_be_is_undecided(lab: Any, parent: Any, spoil: Any) -> None:
    lab.booted(parent, fill)

    def lie(request: Any, answer: Any) -> Any:
        return spoil(answer) if isinstance(request, services.ListRecords) else answer

    parent.after = lie
    parent.reports.clear()
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("records", "storage_unavailable")


def test_a_page_that_repeats_itself_from_the_start_ends(lab: Any, parent: Any) -> None:
    """The parent answers every page with the first one, and says that more follows."""
    lab.booted(parent, fill)
    first = parent.honest(services.ListRecords("keys", "", 2))

    def loop(request: Any, answer: Any) -> Any:
        return first if isinstance(request, services.ListRecords) else answer

    parent.after = loop
    parent.reports.clear()
    assert lab.stuck(parent).code == "storage_unavailable"


def test_more_records_than_keys_allowed_are_not_loaded(lab: Any, parent: Any) -> None:
    from nitrosigner.wire import manifest

    lab.booted(parent, fill)
    held = parent.record("manifest", "current")
    smaller = lab.sign(lab.wanted(2, limits=manifest.Limits(max_keys=2)))
    parent.records["manifest", "current"] = msgspec.structs.replace(held, data=smaller)

    async def look(run: Any) -> None:
        assert run.keyring.count == 2
        assert not run.checks["records"]

    lab.booted(parent, look)
    assert parent.reports[-1].code == "over_limit"
