"""The parent substitutes, alters, replays, withholds and reorders sealed records."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nitrosigner.client import verification
from nitrosigner.client.import_tls import TlsFile, import_certificate
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import plaintext_search
from nitrosigner.verdicts import Refused, Undecided
from nitrosigner.wire import services

Outcome = Callable[[str], str]
KEYS = ("created", "second", "imported", "by-kms")


def replaced(scene: Any, collection: str, name: str, **changes: Any) -> None:
    record = scene.parent.records[collection, name]
    scene.parent.records[collection, name] = msgspec.structs.replace(record, **changes)


def test_nothing_is_wrong_without_an_attack(scene: Any, outcome: Outcome) -> None:
    scene.boot_until_ready()
    assert [outcome(name) for name in KEYS] == ["signed"] * len(KEYS)


@pytest.mark.parametrize(
    ("victim", "other"), [("created", "second"), ("imported", "by-kms")]
)
def test_another_keys_record_in_a_keys_place_signs_nothing(
    scene: Any, outcome: Outcome, victim: str, other: str
) -> None:
    replaced(scene, "keys", victim, data=scene.parent.records["keys", other].data)
    scene.boot_until_ready()
    assert outcome(victim) == "record_untrusted"
    assert outcome(other) == "signed"


def test_a_record_under_another_version_signs_nothing(
    scene: Any, outcome: Outcome
) -> None:
    replaced(scene, "keys", "created", version=7)
    scene.boot_until_ready()
    assert outcome("created") == "record_untrusted"


def test_no_altered_byte_of_a_record_goes_unnoticed(
    scene: Any, outcome: Outcome
) -> None:
    data = scene.parent.records["keys", "created"].data
    # One record each, so that one boot tries them all.
    positions = [*range(0, len(data), 7), len(data) - 1]
    for position in positions:
        broken = bytearray(data)
        broken[position] ^= 1
        name = f"broken-{position}"
        scene.parent.records["keys", name] = services.StoredRecord(
            name, 1, bytes(broken)
        )
    broken = bytearray(data)
    broken[-20] ^= 0x80
    replaced(scene, "keys", "created", data=bytes(broken))
    scene.boot_until_ready()
    assert outcome("created") == "record_untrusted"
    assert outcome("second") == "signed"


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_truncated_record_signs_nothing(
    scene: Any, outcome: Outcome, keep: int
) -> None:
    data = scene.parent.records["keys", "created"].data
    replaced(scene, "keys", "created", data=data[:keep])
    scene.boot_until_ready()
    assert outcome("created") == "record_untrusted"


def test_a_withheld_record_is_missed_and_nothing_else_signs_for_it(
    scene: Any, outcome: Outcome
) -> None:
    del scene.parent.records["keys", "created"]
    scene.boot_until_ready()
    assert outcome("created") == "unknown_key"
    assert outcome("second") == "signed"


def test_an_older_state_of_a_key_is_refused_within_one_life(
    scene: Any, outcome: Outcome, client: SignerClient
) -> None:
    scene.boot_until_ready()
    old = scene.parent.records["keys", "created"]
    client.disable_key("created")
    assert outcome("created") == "key_disabled"
    scene.parent.records["keys", "created"] = old
    with pytest.raises((Refused, Undecided)):
        client.enable_key("created")
    assert outcome("created") != "signed"


def test_an_older_record_under_the_newer_number_is_refused_across_a_restart(
    scene: Any, outcome: Outcome, client: SignerClient
) -> None:
    scene.boot_until_ready()
    old = scene.parent.records["keys", "created"]
    client.disable_key("created")
    replaced(scene, "keys", "created", data=old.data)
    scene.boot_until_ready()
    assert outcome("created") == "record_untrusted"


def test_residual_a_whole_older_state_replayed_across_a_restart_is_believed(
    scene: Any, outcome: Outcome, client: SignerClient
) -> None:
    """
    What is *not* protected, kept here so that the threat model says the truth.

    Nothing outside the parent remembers that the key was disabled.
    """
    scene.boot_until_ready()
    old = scene.parent.records["keys", "created"]
    client.disable_key("created")
    scene.parent.records["keys", "created"] = old
    scene.boot_until_ready()
    assert outcome("created") == "signed"


def test_a_store_that_only_says_stored_loses_a_key_and_gives_nothing_away(
    scene: Any, outcome: Outcome, client: SignerClient, deployment: Any
) -> None:
    def lie(request: Any, answer: Any) -> Any:
        if isinstance(request, services.PutRecord) and request.collection == "keys":
            scene.parent.records.pop(("keys", request.name), None)
            return services.Stored(request.expected + 1)
        return answer

    scene.boot_until_ready()
    scene.parent.answers = lie
    made = client.create_key("lost")
    deployment.addresses["lost"] = made.identity
    scene.boot_until_ready()
    assert outcome("lost") == "unknown_key"


def test_pages_that_repeat_a_record_do_not_end_in_a_boot(
    scene: Any, outcome: Outcome
) -> None:
    def repeat(request: Any, answer: Any) -> Any:
        if isinstance(request, services.ListRecords):
            first = scene.parent.records["keys", "created"]
            return services.Page([first, first], more=False)
        return answer

    scene.parent.answers = repeat
    scene.boot()
    scene.stuck_with("storage_unavailable")
    assert outcome("created") in ("signer_unreachable", "not_ready")


def test_pages_out_of_order_do_not_end_in_a_boot(scene: Any) -> None:
    def reorder(request: Any, answer: Any) -> Any:
        if isinstance(request, services.ListRecords):
            return services.Page(answer.records[::-1], more=False)
        return answer

    scene.parent.answers = reorder
    scene.boot()
    scene.stuck_with("storage_unavailable")


def test_a_page_without_an_end_is_not_followed_for_ever(scene: Any) -> None:
    def endless(request: Any, answer: Any) -> Any:
        if isinstance(request, services.ListRecords) and not answer.more:
            return services.Page([], more=True)
        return answer

    scene.parent.answers = endless
    scene.boot()
    scene.stuck_with("storage_unavailable")


@pytest.mark.parametrize("purpose", ["tls", "vault"])
def test_an_altered_single_record_opens_no_door(
    scene: Any, outcome: Outcome, purpose: str
) -> None:
    data = bytearray(scene.parent.records[purpose, "current"].data)
    data[-3] ^= 1
    replaced(scene, purpose, "current", data=bytes(data))
    scene.boot()
    scene.stuck_with("record_untrusted", "kms_refused", "kms_untrusted")
    assert outcome("created") == "signer_unreachable"


def test_the_records_of_two_purposes_exchanged_open_no_door(scene: Any) -> None:
    replaced(scene, "tls", "current", data=scene.parent.records["keys", "created"].data)
    scene.boot()
    scene.stuck_with("record_untrusted")


def test_a_withheld_vault_does_not_become_a_new_deployment_with_the_old_keys(
    scene: Any, outcome: Outcome
) -> None:
    """A new vault may be made; it opens none of the old records and has another CA."""
    del scene.parent.records["vault", "current"]
    scene.boot()
    scene.until(
        lambda: "ready" in scene.states or bool(scene.codes), "the boot ends somehow"
    )
    # The client knows the deployment's authority: it does not even ask.
    assert outcome("created") in ("certificate_untrusted", "signer_unreachable")


def test_a_withheld_tls_record_gives_an_authority_that_no_client_knows(
    scene: Any, outcome: Outcome
) -> None:
    del scene.parent.records["tls", "current"]
    scene.boot_until_ready()
    assert outcome("created") == "certificate_untrusted"


@pytest.fixture
def company(scene: Any, deployment: Any, company_pki: Any, tmp_path: Path) -> Path:
    """A company's certificate is in force; its root. The enclave is down."""
    pki = company_pki.Company()
    server = pki.server()
    scene.boot_until_ready()
    files = deployment.clients["operator"]
    with SignerClient(scene.url, certificate=files.cert, key=files.key) as operator:
        proof = verification.verify(
            operator,
            now=dt.datetime.now(dt.UTC),
            anchors=[deployment.pki.trust_anchor],
            pcrs={0: deployment.image.pcrs[0]},
        )
        file = TlsFile(
            tuple(one.certificate for one in (server, pki.below, pki.root)), server.key
        )
        assert import_certificate(operator, proof, file).origin == "imported"
    number = server.key.private_numbers().private_value.to_bytes(32, "big")
    for secret in (server.secret, number):
        assert not plaintext_search.spellings_in(bytes(scene.parent.seen), secret)
    scene.end()
    root: Path = pki.root_file(tmp_path)
    return root


def shown_by(scene: Any, ca: Path) -> bool:
    """Return whether a client that knows *ca* alone gets an answer."""
    with SignerClient(scene.url, ca=ca) as client:
        try:
            return client.upcheck()
        except Refused:
            return False


def test_an_imported_certificate_is_there_after_a_restart(
    scene: Any, company: Path, outcome: Outcome
) -> None:
    scene.boot_until_ready()
    assert shown_by(scene, company)
    assert outcome("created") == "certificate_untrusted"


@pytest.mark.parametrize("how", ["altered", "exchanged", "renumbered"])
def test_an_imported_certificate_that_is_not_ours_opens_no_door(
    scene: Any, company: Path, how: str
) -> None:
    record = scene.parent.records["tls", "imported"]
    if how == "altered":
        data = bytearray(record.data)
        data[-3] ^= 1
        replaced(scene, "tls", "imported", data=bytes(data))
    elif how == "exchanged":
        own = scene.parent.records["tls", "current"]
        replaced(scene, "tls", "imported", data=own.data, version=own.version)
    else:
        replaced(scene, "tls", "imported", version=record.version + 1)
    scene.boot()
    scene.stuck_with("record_untrusted")
    assert company.is_file()


def test_a_withheld_import_gives_a_certificate_that_its_clients_do_not_take(
    scene: Any, company: Path, outcome: Outcome
) -> None:
    del scene.parent.records["tls", "imported"]
    scene.boot_until_ready()
    assert not shown_by(scene, company)
    # Who knows the enclave's own authority is served: nobody else can show that one.
    assert outcome("created") == "signed"
