"""A PKCS#12 file is read strictly, put in order, and its key leaves wrapped only."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    NoEncryption,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from nitrosigner.client.import_tls import import_certificate, read_pkcs12
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.emulator.plaintext_search import spellings_in
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict

Check = Callable[..., Proof]
PASSWORD = "canary"


@pytest.fixture(scope="module")
def company(company_pki: Any) -> Any:
    return company_pki.Company()


def test_the_chain_is_put_in_order_whatever_the_files_order(
    company: Any, company_pki: Any
) -> None:
    server, noise = company.server(), company_pki.Company()
    others = (company.root, noise.below, company.below, noise.root)
    expected = (server.certificate, company.below.certificate, company.root.certificate)
    file = read_pkcs12(company.pkcs12(server, PASSWORD, others), PASSWORD)
    assert file.chain == expected
    more = [one.certificate for one in others]
    file = read_pkcs12(company.pkcs12(server, PASSWORD, ()), PASSWORD, more)
    assert file.chain == expected
    assert file.sha256 == server.sha256


def test_who_is_missing_is_named(company: Any) -> None:
    server = company.server()
    for others, missing in (
        ((), "CN=Company TLS"),
        ((company.below,), "CN=Company Root"),
    ):
        with pytest.raises(Malformed, match=missing):
            read_pkcs12(company.pkcs12(server, PASSWORD, others), PASSWORD)


def test_a_ring_of_authorities_comes_to_an_end(company: Any, company_pki: Any) -> None:
    # Two that issued each other, and no root anywhere.
    one = company_pki.make("one", company.root, authority=True)
    other = company_pki.make("other", one, authority=True)
    again = company_pki.make("one", other, authority=True)
    server = company_pki.make("signer", other, names=company_pki.LOCAL)
    crossed = company_pki.Pair(again.certificate, one.key)
    with pytest.raises(Malformed):
        read_pkcs12(company.pkcs12(server, PASSWORD, (other, crossed)), PASSWORD)


@pytest.mark.parametrize("password", ["wrong", "", "canary "])
def test_a_wrong_password_and_damage_are_told_as_one(
    company: Any, password: str
) -> None:
    data = company.pkcs12(company.server(), PASSWORD)
    for given_data, word in ((data, password), (data[:-7], PASSWORD), (b"", PASSWORD)):
        with pytest.raises(Refused) as refusal:
            read_pkcs12(given_data, word)
        assert refusal.value.code == Code.WRONG_PASSWORD


def test_a_file_without_a_key_or_of_another_kind_is_malformed(company: Any) -> None:
    server = company.server()
    lone = pkcs12.serialize_key_and_certificates(
        b"x", None, None, [server.certificate], NoEncryption()
    )
    with pytest.raises(Malformed) as malformed:
        read_pkcs12(lone, "")
    assert malformed.value.code == Code.MALFORMED_KEY


def test_the_key_leaves_wrapped_and_only_for_who_was_verified(
    client: SignerClient, signer: Any, check: Check, company: Any
) -> None:
    proof = check(client)
    server = company.server()
    file = read_pkcs12(
        company.pkcs12(server, PASSWORD), PASSWORD, [company.root.certificate]
    )
    for other in (
        replace(proof, url="https://elsewhere:443"),
        replace(proof, certificate_der=b"another"),
    ):
        with pytest.raises(Refused):
            import_certificate(client, other, file)
    assert not [seen for seen in signer.seen if "tls" in seen.path]
    # This signer has no such route; what was sent to it is what we look at.
    with pytest.raises(Verdict):
        import_certificate(client, proof, file)
    (sent,) = [seen for seen in signer.seen if seen.path == "/api/v1/tls/import"]
    number = server.key.private_numbers().private_value.to_bytes(32, "big")
    for canary in (number, server.secret, PASSWORD.encode()):
        assert not spellings_in(sent.body, canary)
    assert json.loads(sent.body)["certificates"] == company.chain(server)
    assert PASSWORD not in repr(file)
    assert str(server.key.private_numbers().private_value) not in repr(file)


@pytest.fixture(scope="module")
def honest(company: Any) -> bytes:
    made: bytes = company.pkcs12(
        company.server(), PASSWORD, (company.root, company.below)
    )
    return made


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_bytes_are_a_file_or_refused_in_words(data: Any, honest: Any) -> None:
    altered = bytearray(honest)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(altered) - 1))
        altered[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(altered)))
    tail = data.draw(st.binary(max_size=20))
    bytes_given = bytes(altered[:cut]) + tail if data.draw(st.booleans()) else altered
    try:
        file = read_pkcs12(bytes(bytes_given), PASSWORD)
    except (Malformed, Refused):
        return
    assert len(file.chain) == 3
