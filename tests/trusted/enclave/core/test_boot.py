"""The boot: its states, what is tried again, and what it refuses."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nitrosigner.emulator.kms import Fault
from nitrosigner.trusted.enclave.boot import STATES
from nitrosigner.wire import services


async def nothing(running: Any) -> Any:
    return running


def test_the_states_are_passed_in_order_and_reported(lab: Any, parent: Any) -> None:
    running = lab.booted(parent, nothing)
    assert tuple(step.name for step in running.steps) == STATES
    assert all(step.ok for step in running.steps)
    assert running.state == "ready"
    reported = [report.state for report in parent.reports]
    assert list(dict.fromkeys(reported)) == list(STATES)
    assert running.checks == {
        "storage": True,
        "kms": True,
        "keys": True,
        "records": True,
        "clock": True,
    }


def test_a_later_boot_makes_one_kms_call_however_many_keys_there_are(
    lab: Any, parent: Any
) -> None:
    async def fill(running: Any) -> int:
        await asyncio.gather(
            *(running.keyring.create(f"k{n}", "secp256k1") for n in range(20))
        )
        return running.keyring.kms_calls

    assert lab.booted(parent, fill) == 1
    before = lab.decrypts()
    running = lab.booted(parent, nothing)
    assert running.keyring.count == 20
    assert running.kms_calls == 1
    assert lab.decrypts() - before == 1


def test_without_a_manifest_the_enclave_waits_for_one(lab: Any, parent: Any) -> None:
    signed = parent.records.pop(("manifest", "current"))
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("manifest", "not_ready")

    def deliver(request: Any) -> None:
        if parent.count(services.GetRecord) > 3:
            parent.records["manifest", "current"] = signed

    parent.before = deliver
    assert lab.booted(parent, nothing).state == "ready"


def test_a_foreign_administrator_s_manifest_opens_nothing(
    lab: Any, parent: Any
) -> None:
    lab.booted(parent, nothing)
    foreign = lab.sign(lab.wanted(9), by=Ed25519PrivateKey.generate())
    held = parent.record("manifest", "current")
    parent.records["manifest", "current"] = msgspec.structs.replace(held, data=foreign)
    parent.reports.clear()
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("vault", "kms_refused")
    assert "administrator" in report.hint


def test_an_altered_image_is_refused_by_kms(lab: Any, parent: Any) -> None:
    lab.pcr0 = bytes([8]) * 48
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("vault", "kms_refused")
    assert "PCR0" in report.hint


def test_a_refused_boot_succeeds_when_the_manifest_is_mended(
    lab: Any, parent: Any
) -> None:
    good = parent.record("manifest", "current")
    parent.records["manifest", "current"] = msgspec.structs.replace(
        good, data=lab.sign(lab.wanted(), by=Ed25519PrivateKey.generate())
    )

    def mend(_request: Any) -> None:
        if any(report.code for report in parent.reports):
            parent.records["manifest", "current"] = good

    parent.before = mend
    assert lab.booted(parent, nothing).state == "ready"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: data[:-20], "malformed_manifest"),
        (lambda data: b" ", "malformed_manifest"),
        (lambda data: data.replace(b"signature", b"signaturf"), "malformed_manifest"),
    ],
    ids=["cut", "blank", "other field"],
)
def test_a_damaged_manifest_is_named(
    lab: Any, parent: Any, spoil: Any, code: str
) -> None:
    held = parent.record("manifest", "current")
    parent.records["manifest", "current"] = msgspec.structs.replace(
        held, data=spoil(held.data)
    )
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("manifest", code)


def test_an_older_manifest_is_refused_and_a_newer_one_taken(
    lab: Any, parent: Any
) -> None:
    first = parent.record("manifest", "current")
    second = msgspec.structs.replace(first, data=lab.sign(lab.wanted(2)))
    parent.records["manifest", "current"] = second
    lab.booted(parent, nothing)
    parent.records["manifest", "current"] = first
    report = lab.stuck(parent)
    assert (report.state, report.code) == ("records", "manifest_untrusted")
    assert "version 2" in report.message
    parent.records["manifest", "current"] = msgspec.structs.replace(
        first, data=lab.sign(lab.wanted(3))
    )
    assert lab.booted(parent, nothing).state == "ready"


def test_two_manifests_of_one_version_are_not_interchangeable(
    lab: Any, parent: Any
) -> None:
    lab.booted(parent, nothing)
    held = parent.record("manifest", "current")
    other = lab.sign(lab.wanted(1, deleted_keys_kept_days=8))
    parent.records["manifest", "current"] = msgspec.structs.replace(held, data=other)
    parent.reports.clear()
    assert lab.stuck(parent).code == "manifest_untrusted"


def test_keys_written_under_a_newer_manifest_do_not_open_under_an_older_one(
    lab: Any, parent: Any
) -> None:
    """Even if the parent puts the sealed memory of versions back with the manifest."""
    first = parent.record("manifest", "current")
    lab.booted(parent, nothing)
    state = parent.record("state", "current")
    parent.records["manifest", "current"] = msgspec.structs.replace(
        first, data=lab.sign(lab.wanted(2))
    )
    lab.booted(parent, lambda running: running.keyring.create("new", "secp256k1"))
    parent.records["manifest", "current"] = first
    parent.records["state", "current"] = state
    running = lab.booted(parent, nothing)
    assert running.keyring.count == 0
    assert "newer manifest" in running.keyring.rejected["new"].message


@pytest.mark.parametrize("fault", [Fault.THROTTLE, Fault.INTERNAL, Fault.DROP])
def test_kms_trouble_at_boot_is_waited_out(lab: Any, parent: Any, fault: Fault) -> None:
    lab.faults.next("GenerateDataKey", fault, times=2)
    assert lab.booted(parent, nothing).state == "ready"


def test_a_parent_that_is_not_there_yet_is_waited_for(lab: Any, parent: Any) -> None:
    parent.absent = True
    asked = []
    honest = parent.connect

    def connect(port: int) -> Any:
        asked.append(port)
        parent.absent = len(asked) < 6
        return honest(port)

    parent.connect = connect
    assert lab.booted(parent, nothing).state == "ready"
    assert len(asked) >= 6


def test_an_nsm_that_fails_is_a_named_state(lab: Any, parent: Any) -> None:
    broken = lab.nsm()
    calls = []

    def transport(request: bytes) -> bytes:
        calls.append(request)
        if len(calls) < 4:
            raise OSError
        return honest(request)

    honest = broken._transport
    broken._transport = transport
    lab.nsm = lambda: broken
    try:
        assert lab.booted(parent, nothing).state == "ready"
    finally:
        del lab.nsm
    assert ("nsm", "nsm_unavailable") in {
        (report.state, report.code) for report in parent.reports
    }


def test_two_enclaves_that_boot_first_share_one_vault(lab: Any, parent: Any) -> None:
    async def both() -> list[bytes]:
        async with lab.boot(parent) as one, lab.boot(parent) as two:
            made = await one.keyring.create("shared", "secp256k1")
            assert two.keyring.count == 0
            return made.identity, parent.count(services.PutRecord)

    identity, _ = asyncio.run(both())

    async def look(running: Any) -> str:
        return running.keyring.describe("shared").identity

    assert lab.booted(parent, look) == identity


def test_losing_the_race_of_the_first_boot_opens_the_winner_s_vault(
    lab: Any, parent: Any
) -> None:
    winner = lab.parent()
    lab.booted(winner, lambda running: running.keyring.create("k", "secp256k1"))

    def overtake(request: Any) -> None:
        if isinstance(request, services.PutRecord) and request.collection == "vault":
            parent.records |= {
                place: record
                for place, record in winner.records.items()
                if place[0] != "manifest"
            }

    parent.before = overtake

    async def sign(running: Any) -> str:
        return running.keyring.describe("k").identity

    assert lab.booted(parent, sign).startswith("0x")


def test_ten_thousand_keys_load_in_three_seconds(lab: Any, parent: Any) -> None:
    """In process, beside the emulators; `make bench` measures the real one."""

    async def fill(running: Any) -> None:
        making = running.keyring._making
        writer = making._writer
        made = await running.keyring.create("k", "secp256k1")
        del made
        from nitrosigner.trusted.enclave.keys.key_writer import header_of
        from nitrosigner.trusted.enclave.vault.sealed_records import seal
        from nitrosigner.trusted.signing.secret_bytes import SecretBytes

        algorithm = writer.algorithms["secp256k1"]
        template = header_of(running.keyring._index.named("k"))
        for number in range(1, 10_000):
            secret = SecretBytes(bytearray(number.to_bytes(32, "big")))
            public_key = algorithm.public_key(secret)
            header = msgspec.structs.replace(
                template,
                name=f"n{number}",
                public_key=public_key,
                identity=algorithm.identity(public_key),
                version=1,
            )
            slot = seal(writer.vault.current, header, secret, writer.randomness)
            parent.records["keys", slot.name] = services.StoredRecord(
                slot.name, 1, slot.stored()
            )

    lab.booted(parent, fill)
    parent.requests.clear()
    started = time.process_time()  # what others do at the time is not our slowness
    running = lab.booted(parent, nothing)
    assert running.keyring.count == 10_000
    assert running.kms_calls == 1
    assert time.process_time() - started < 10  # 3 s is the bench's
