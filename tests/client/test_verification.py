"""Verification: each lie that a signer, or something before it, could tell."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nitrosigner.attestation.trust_anchors import EmulatedRoot
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.transport import CertificateChanged
from nitrosigner.client.verification import Proof, attested_authority, verify
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict

Check = Callable[..., Proof]


@pytest.fixture
def stranger(signer: Any, fakes: Any) -> SignerClient:
    """A client that knows no authority, and has a credential to lose."""
    return SignerClient(signer.url, token=fakes.TOKEN)


def test_a_signer_is_verified_without_any_authority(
    stranger: SignerClient, signer: Any, check: Check, fakes: Any
) -> None:
    proof = check(
        stranger, manifest_digest=fakes.MANIFEST, administrator=fakes.ADMINISTRATOR
    )
    assert proof.emulated
    assert proof.import_key == signer.import_key.public_key().public_bytes_raw()
    assert any("EMULATED" in sentence for sentence in proof.proved())
    assert not any("PCR0" in sentence for sentence in proof.not_proved())
    # from here on it may be talked to
    assert stranger.create_key("hot").name == "hot"


def test_no_credential_is_sent_before_the_proof(
    signer: Any, check: Check, fakes: Any
) -> None:
    with SignerClient(
        signer.url, certificate=signer.cert_file, key=signer.key_file, token=fakes.TOKEN
    ) as client:
        check(client)
        assert [seen.certificate for seen in signer.seen] == [False]
        assert "authorization" not in signer.seen[0].headers
        client.create_key("hot")
        assert signer.seen[-1].certificate
        assert signer.seen[-1].headers["authorization"] == f"Bearer {fakes.TOKEN}"


def test_what_was_not_asked_for_is_said_not_to_be_proved(
    stranger: SignerClient, check: Check
) -> None:
    missing = " ".join(check(stranger, pcrs=None).not_proved())
    for word in ("PCR0", "--manifest", "--administrator", "EMULATED"):
        assert word in missing


def test_an_imported_key_takes_back_that_tls_ends_in_the_enclave(
    stranger: SignerClient, signer: Any, check: Check
) -> None:
    honest = check(stranger)
    assert any("TLS ends in the enclave" in one for one in honest.proved())
    assert not any("IMPORTED" in one for one in honest.not_proved())
    signer.tls_imported = True
    proof = check(stranger)
    # The binding itself holds, and is proved as before.
    assert proof.certificate == honest.certificate
    assert any("connection's TLS certificate" in one for one in proof.proved())
    assert not any("TLS ends in the enclave" in one for one in proof.proved())
    assert any("IMPORTED TLS KEY" in one for one in proof.not_proved())


def test_the_root_is_returned_of_a_chain_that_leads_to_the_attested_certificate(
    stranger: SignerClient, signer: Any, check: Check, company_pki: Any
) -> None:
    proof = check(stranger)
    company = company_pki.Company()
    server = company.server()
    attested = replace(proof, certificate_der=server.der)
    root, below = company.root.pem.encode(), company.below.pem.encode()
    signer.named_authority = root + below
    assert attested_authority(stranger, attested) == root
    stranger_root = company_pki.Company().root.pem.encode()
    for named in (below + root, root, below, stranger_root + below, root + root, b""):
        signer.named_authority = named
        with pytest.raises(Refused) as refusal:
            attested_authority(stranger, attested)
        assert refusal.value.code == Code.CERTIFICATE_UNTRUSTED


def test_the_emulator_is_not_trusted_by_default(stranger: SignerClient) -> None:
    with pytest.raises(Refused) as refusal:
        verify(stranger, now=dt.datetime.now(dt.UTC))
    assert refusal.value.code == Code.ATTESTATION_UNTRUSTED


def test_a_document_for_another_certificate_is_refused(
    stranger: SignerClient, signer: Any, check: Check
) -> None:
    # As when a relay ends TLS itself and passes the enclave's document on.
    signer.tls_digest = "00" * 32
    with pytest.raises(Refused) as refusal:
        check(stranger)
    assert "another TLS certificate" in refusal.value.message


def test_an_older_document_is_refused(
    stranger: SignerClient, signer: Any, check: Check
) -> None:
    signer.replayed = signer.document(b"an older nonce, of another client")
    with pytest.raises(Refused) as refusal:
        check(stranger)
    assert "nonce" in refusal.value.message


@pytest.mark.parametrize(
    ("expected", "word"),
    [
        ({"pcrs": {0: b"\x01" * 48}}, "PCR0"),
        ({"pcrs": {0: b"\xc0" * 48, 8: b"\x02" * 48}}, "PCR8"),
        ({"manifest_digest": "ff" * 32}, "manifest"),
        ({"administrator": "ff" * 32}, "administrator"),
        ({"deployment": "another"}, "deployment"),
        ({"anchors": [EmulatedRoot("another", b"\1" * 32)]}, "root"),
        ({"now": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)}, "old"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_pinned(
    stranger: SignerClient, check: Check, expected: dict[str, Any], word: str
) -> None:
    with pytest.raises(Refused) as refusal:
        check(stranger, **expected)
    assert refusal.value.code == Code.ATTESTATION_UNTRUSTED
    assert word in refusal.value.message + refusal.value.hint
    assert not stranger.transport.trusted


def test_debug_mode_needs_to_be_asked_for(
    stranger: SignerClient, signer: Any, check: Check
) -> None:
    signer.debug = True
    with pytest.raises(Refused) as refusal:
        check(stranger, pcrs=None)
    assert "debug" in refusal.value.message
    proof = check(stranger, pcrs=None, allow_debug=True)
    assert any("DEBUG" in sentence for sentence in proof.not_proved())


@pytest.mark.parametrize(
    "user_data", [b"{}", b"\xff", b'{"type":"nitrosigner/2"}', b"x" * 600]
)
def test_another_program_is_refused(
    stranger: SignerClient, signer: Any, check: Check, user_data: bytes
) -> None:
    signer.user_data = user_data
    with pytest.raises(Refused) as refusal:
        check(stranger)
    assert refusal.value.code == Code.ATTESTATION_UNTRUSTED


@pytest.mark.parametrize(
    "document", ["", "AAAA", "not base64!", "é", 7, None, "A" * 100_000]
)
def test_nonsense_for_a_document_is_no_proof(
    stranger: SignerClient, signer: Any, check: Check, document: Any
) -> None:
    body = {"document": document, "manifest": ""}
    signer.fault = lambda handler: handler.json(200, body) is None
    with pytest.raises(Verdict) as verdict:
        check(stranger)
    assert isinstance(verdict.value, Malformed | Undecided)
    assert not stranger.transport.trusted


def test_after_the_proof_no_other_certificate_is_accepted(
    signer: Any, check: Check, fakes: Any
) -> None:
    # The authority is right and the name is right: the pin is what refuses.
    with SignerClient(signer.url, ca=signer.ca_file, token=fakes.TOKEN) as client:
        check(client)
        client.create_key("hot")
        signer.restart_with_new_certificate()
        before = len(signer.seen)
        with pytest.raises(CertificateChanged) as refusal:
            client.create_key("other")
        assert refusal.value.code == Code.CERTIFICATE_UNTRUSTED
        assert len(signer.seen) == before
        check(client)
        assert client.create_key("other").name == "other"


def test_the_authority_is_taken_only_if_it_issued_the_attested_certificate(
    stranger: SignerClient, signer: Any, check: Check, fakes: Any
) -> None:
    proof = check(stranger)
    assert attested_authority(stranger, proof) == signer.ca.pem
    for wrong in (fakes.make_certificate("other", ca=True).pem, b"nonsense"):
        signer.named_authority = wrong
        with pytest.raises(Refused):
            attested_authority(stranger, proof)


@pytest.mark.parametrize("public_key", [b"x", b"x" * 33])
def test_a_document_without_an_import_key_is_refused(
    stranger: SignerClient, signer: Any, check: Check, public_key: bytes
) -> None:
    signer.public_key = public_key
    with pytest.raises(Refused) as refusal:
        check(stranger)
    assert "import key" in refusal.value.message
    assert not stranger.transport.trusted
