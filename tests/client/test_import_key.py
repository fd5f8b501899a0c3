"""Import: the key goes to the enclave that was verified, and is seen by nobody else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account

from nitrosigner.client.import_key import import_private_key
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.verdicts import Code, Malformed, Refused

Check = Callable[..., Proof]
CANARY = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"


def test_an_imported_key_arrives_and_only_wrapped(
    client: SignerClient, signer: Any, check: Check
) -> None:
    proof = check(client)
    with PrivateKey.from_hex(CANARY) as key:
        made = import_private_key(client, proof, key, name="hot")
    assert made.identity == Account.from_key(CANARY).address
    assert signer.secrets["hot"].hex() == CANARY
    for seen in signer.seen:
        assert CANARY.encode() not in seen.body
        assert bytes.fromhex(CANARY) not in seen.body


def test_a_key_is_not_wrapped_for_another_signer(
    client: SignerClient, check: Check
) -> None:
    proof = check(client)
    with PrivateKey.from_hex(CANARY) as key:
        for other in (
            replace(proof, url="https://elsewhere:443"),
            replace(proof, certificate_der=b"another"),
        ):
            with pytest.raises(Refused):
                import_private_key(client, other, key, name="hot")


def test_replacing_a_key_needs_its_version(client: SignerClient, check: Check) -> None:
    proof = check(client)
    client.create_key("hot")
    with PrivateKey.from_hex(CANARY) as key:
        with pytest.raises(Refused) as refusal:
            import_private_key(client, proof, key, name="hot")
        assert refusal.value.code == Code.VERSION_CONFLICT
        assert (
            import_private_key(client, proof, key, name="hot", version=1).version == 2
        )


def test_an_answer_with_another_address_is_not_believed(
    client: SignerClient, signer: Any, check: Check
) -> None:
    proof = check(client)
    other = signer.add_key("other", b"\2" * 32)
    signer.fault = lambda handler: handler.json(201, other) is None
    with PrivateKey.from_hex(CANARY) as key, pytest.raises(Refused) as refusal:
        import_private_key(client, proof, key, name="hot")
    assert refusal.value.code == Code.KEY_MISMATCH


@pytest.mark.parametrize(
    "text", [CANARY, "0x" + CANARY, CANARY.upper(), f"  {CANARY}\r\n"]
)
def test_a_key_is_read_in_the_forms_that_people_have_it_in(text: str) -> None:
    with PrivateKey.from_hex(text) as key:
        assert key.address == Account.from_key(CANARY).address
        assert bytes(key.buffer).hex() == CANARY
    assert bytes(key.buffer) == bytes(32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        CANARY[:-1],
        CANARY[:-2],
        CANARY + "00",
        CANARY[:-1] + "g",
        "00" * 32,
        "ff" * 32,
        CANARY[:32] + " " + CANARY[33:],
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(Malformed) as verdict:
        PrivateKey.from_hex(text)
    said = f"{verdict.value.message} {verdict.value.hint} {verdict.value!r}"
    assert verdict.value.code == Code.MALFORMED_KEY
    assert CANARY[:20] not in said
    assert not text or text not in said or len(text) < 4


def test_a_key_never_prints() -> None:
    with PrivateKey.from_hex(CANARY) as key:
        assert CANARY not in f"{key} {key!r}"
        with pytest.raises(TypeError):
            key.__reduce__()
