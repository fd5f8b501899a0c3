"""Every validator route through `SignerClient`, and what may not get in unwrapped."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nitrosigner.client.import_validator import (
    Range,
    derive_validators,
    import_validator,
    wrapped_mnemonic,
)
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided
from nitrosigner.wire import import_wrapping
from nitrosigner.wire import validator_api as wire

WORDS = b"canary " + b"abandon " * 10 + b"about"


@pytest.fixture
def fake(fakes: Any) -> Any:
    return fakes.validators


def named(fake: Any, number: int) -> tuple[bytearray, bytes]:
    secret = fake.secret_of(number)
    return bytearray(secret), bytes.fromhex(fake.public_key(secret)[2:])


def test_a_wrapped_key_arrives_with_its_own_history(
    client: SignerClient, check: Callable[..., Any], signer: Any, fake: Any
) -> None:
    secret, public_key = named(fake, 1)
    name = "0x" + public_key.hex()
    proof = check(client)
    history = wire.SlashingHistory(
        metadata=wire.HistoryMetadata(
            interchange_format_version="5", genesis_validators_root=fake.CHAIN
        ),
        data=[
            wire.ValidatorHistory(
                pubkey=name,
                signed_blocks=[wire.SignedBlock(slot="7")],
                signed_attestations=[],
            )
        ],
    )
    made = import_validator(client, proof, secret, public_key, history=history)
    assert (made.name, made.state) == (name, "enabled")
    assert signer.validators.secrets[name] == bytes(secret)
    assert signer.validators.reached[name] == [7, -1, -1]
    assert secret.hex() not in signer.seen[-1].body.decode()
    # again: what is here stays as it is
    assert import_validator(client, proof, secret, public_key).version == 1


def test_a_key_goes_to_no_enclave_that_was_not_verified_with_this_client(
    client: SignerClient, check: Callable[..., Any], signer: Any, fake: Any, fakes: Any
) -> None:
    secret, public_key = named(fake, 1)
    with SignerClient(signer.url, token=fakes.TOKEN) as other:
        proof = check(other)
    with pytest.raises(Refused) as refused:
        import_validator(client, proof, secret, public_key)
    assert refused.value.code is Code.ATTESTATION_UNTRUSTED
    with pytest.raises(Refused):
        derive_validators(client, proof, bytearray(WORDS), Range())
    assert signer.validators.keys == {}
    assert signer.validators.words == []


def test_an_enclave_that_was_started_again_gets_nothing(
    client: SignerClient, check: Callable[..., Any], signer: Any, fake: Any
) -> None:
    proof = check(client)
    signer.restart_with_new_certificate()
    with pytest.raises(Refused) as refused:
        import_validator(client, proof, *named(fake, 1))
    assert refused.value.code is Code.CERTIFICATE_UNTRUSTED


def test_a_mnemonic_arrives_whole_and_its_backup_opens_offline(
    client: SignerClient, check: Callable[..., Any], signer: Any
) -> None:
    proof = check(client)
    offline = X25519PrivateKey.generate()
    derived = derive_validators(
        client,
        proof,
        bytearray(WORDS + b"\npassphrase"),
        Range(start=2, count=3),
        backup_recipient=offline.public_key().public_bytes_raw(),
    )
    assert [key.name for key in derived.keys] == list(signer.validators.keys)
    assert len(derived.keys) == 3
    assert signer.validators.words == [WORDS + b"\npassphrase"]
    assert b"canary" not in signer.seen[-1].body
    info = import_wrapping.backup_info(deployment=proof.statement.deployment)
    assert derived.backup is not None
    opened = import_wrapping.unwrap(base64.b64decode(derived.backup), offline, info)
    assert opened == WORDS + b"\npassphrase"


def test_a_new_mnemonic_is_made_inside(
    client: SignerClient, check: Callable[..., Any], fake: Any
) -> None:
    offline = X25519PrivateKey.generate()
    derived = derive_validators(
        client,
        check(client),
        None,
        Range(),
        backup_recipient=offline.public_key().public_bytes_raw(),
    )
    info = import_wrapping.backup_info(deployment="test")
    opened = import_wrapping.unwrap(
        base64.b64decode(derived.backup or ""), offline, info
    )
    assert opened == fake.NEW_WORDS


@pytest.mark.parametrize("words", [b"", b"one two", b"a " * 11 + b"b c", b"a " * 500])
def test_what_is_no_mnemonic_is_not_sent(
    client: SignerClient, check: Callable[..., Any], words: bytes
) -> None:
    with pytest.raises(Malformed) as malformed:
        wrapped_mnemonic(check(client), bytearray(words))
    assert malformed.value.code is Code.MALFORMED_KEY


def test_validators_are_listed_over_pages(
    client: SignerClient, signer: Any, fake: Any
) -> None:
    names = sorted(client.create_validator().name for _ in range(8))
    assert [key.name for key in client.list_validators()] == names
    assert client.validator_public_keys() == names
    assert len(client.page_of_validators(names[2]).keys) == 3


def test_a_list_that_never_ends_is_given_up(client: SignerClient, signer: Any) -> None:
    client.create_validator()

    def endless(handler: Any) -> bool:
        handler.json(200, {"keys": list(signer.validators.keys.values()), "more": True})
        return True

    signer.fault = endless
    with pytest.raises(Undecided):
        list(client.list_validators())


def test_validators_change_their_state(client: SignerClient) -> None:
    name = client.create_validator().name
    assert client.disable_validator(name).state == "disabled"
    assert client.enable_validator(name, 2).state == "enabled"
    with pytest.raises(Refused) as refused:
        client.delete_validator(name, 2)
    assert refused.value.code is Code.VERSION_CONFLICT
    assert client.delete_validator(name, 3).state == "deleted"
    assert client.validator(name).version == 4


def test_statements_are_typed(client: SignerClient) -> None:
    name = client.create_validator().name
    deposit = client.deposit_data(
        name, wire.DepositDataRequest(withdrawal_credentials="0x" + "01" * 32)
    )
    assert (deposit.amount, deposit.pubkey) == (32_000_000_000, name[2:])
    ended = client.voluntary_exit(
        name, wire.VoluntaryExitRequest(epoch="5", validator_index="6")
    )
    assert (ended.message.epoch, ended.message.validator_index) == ("5", "6")
    assert client.keymanager_exit(name, epoch=5, validator_index=6) == ended
    changed = client.bls_to_execution_change(
        name,
        wire.BlsToExecutionChangeRequest(
            validator_index="6", to_execution_address="0x" + "ab" * 20
        ),
    )
    assert changed.message.from_bls_pubkey == name


def test_histories_come_in_parts_and_by_name(
    client: SignerClient, signer: Any, fake: Any
) -> None:
    for number in range(150):
        signer.validators.reached[f"0x{number:096x}"] = [number, 1, 2]
    parts = list(client.slashing_history(page=100))
    assert [len(part.data) for part in parts] == [100, 50]
    named = [f"0x{number:096x}" for number in range(3, 103)]
    parts = list(client.slashing_history(named))
    assert [entry.pubkey for part in parts for entry in part.data] == named
    assert all(len(seen.path) < 8000 for seen in signer.seen)
    assert client.import_slashing_history(parts[0]).validators == len(parts[0].data)
    wrong = wire.SlashingHistory(
        metadata=wire.HistoryMetadata(
            interchange_format_version="5", genesis_validators_root="0x" + "00" * 32
        ),
        data=[],
    )
    with pytest.raises(Refused) as refused:
        client.import_slashing_history(wrong)
    assert refused.value.code is Code.WRONG_CHAIN


def test_a_batch_answers_for_each_key_in_order(
    client: SignerClient, signer: Any
) -> None:
    one, two = sorted(client.create_validator().name for _ in range(2))
    stranger = "0x" + "99" * 48
    first, second = {"type": "RANDAO_REVEAL"}, {"type": "AGGREGATION_SLOT"}
    results = client.sign_batch([((one, stranger), first), ((two,), second)])
    assert [result.identifier for result in results] == [one, stranger, two]
    assert results[0].signature == client.sign_duty(one, first)
    assert results[2].signature == client.sign_duty(two, second)
    assert results[1].signature is None
    assert results[1].error is not None
    assert results[1].error.reason == "unknown_key"


def test_a_batch_that_answers_for_others_is_not_believed(
    client: SignerClient, signer: Any
) -> None:
    one, two = (client.create_validator().name for _ in range(2))

    def swapped(handler: Any) -> bool:
        answers = [{"identifier": two, "signature": "0x00"}]
        handler.json(200, answers)
        return True

    signer.fault = swapped
    with pytest.raises(Undecided):
        client.sign_batch([((one,), {})])


def test_reload_says_what_runs_already(client: SignerClient, signer: Any) -> None:
    assert client.reload().status == "completed"
    assert client.reload_status().status == "completed"
    signer.validators.reloading = True
    assert client.reload().status == "running"
    assert client.high_watermark() == wire.HighWatermark(epoch="7", slot="9")


def test_the_keymanager_api_is_spoken_too(client: SignerClient) -> None:
    name = client.create_validator().name
    assert [key.validating_pubkey for key in client.keystores().data] == [name]
    imported = client.import_keystores(
        wire.ImportKeystores(keystores=["{}"], passwords=["canary"])
    )
    assert [status.status for status in imported.data] == ["imported"]
    deleted = client.delete_keystores([name, "0x" + "99" * 48])
    assert [status.status for status in deleted.data] == ["deleted", "not_found"]
    assert name in deleted.slashing_protection
    assert client.remote_keys().data == []
    key = wire.RemoteKey(pubkey=name)
    refused = client.import_remote_keys(wire.ImportRemoteKeys(remote_keys=[key]))
    assert [status.status for status in refused.data] == ["error"]
    assert [s.status for s in client.delete_remote_keys([name]).data] == ["error"]


def test_the_keymanager_apis_refusals_are_verdicts(client: SignerClient) -> None:
    with pytest.raises(Refused) as refused:
        client.keymanager_exit("0x" + "99" * 48, epoch=1, validator_index=1)
    assert refused.value.code is Code.UNKNOWN_KEY
    assert refused.value.message == "no such key"
