"""The typed client: what it sends, what it makes of answers, what it survives."""

import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from eth_account import Account

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.transport import MAX_RESPONSE, Transport
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict

SECRET = bytes.fromhex(
    "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
)
TRANSACTION = {
    "type": 2,
    "chainId": 4,
    "nonce": 0,
    "gas": 100000,
    "value": 10**16,
    "to": "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf",
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": 3000000000,
}


def test_a_key_is_created_listed_shown_and_retired(client: SignerClient) -> None:
    made = client.create_key("hot")
    assert client.key("hot") == client.key(made.identity) == made
    assert [key.name for key in client.list_keys()] == ["hot"]
    assert client.disable_key("hot").state == "disabled"
    assert client.enable_key("hot").state == "enabled"
    deleted = client.delete_key("hot", version=3)
    assert deleted.state == "deleted"
    assert deleted.purge_after is not None
    assert client.restore_key("hot").state == "enabled"
    assert client.rotate_vault().keys == 1
    assert client.ciphertext("hot").name == "hot"


def test_all_pages_of_keys_are_listed(client: SignerClient, signer: Any) -> None:
    names = [f"key-{number:02}" for number in range(7)]
    for name in names:
        signer.add_key(name, name.encode().rjust(32, b"\1"))
    assert [key.name for key in client.list_keys()] == names
    assert sum("/keys?" in seen.path for seen in signer.seen) == 4


def test_a_list_that_does_not_move_on_ends(client: SignerClient, signer: Any) -> None:
    signer.add_key("a", SECRET)
    listed = {"keys": [signer.described["a"]], "more": True}
    signer.fault = lambda handler: handler.json(200, listed) is None
    with pytest.raises(Undecided):
        list(client.list_keys())


def test_a_transaction_is_sent_exactly_and_comes_back_signed(
    client: SignerClient, signer: Any
) -> None:
    signer.add_key("hot", SECRET)
    signed = client.sign_transaction("hot", TRANSACTION)
    expected = Account.from_key(SECRET).sign_transaction(TRANSACTION)
    assert signed.raw == expected.raw_transaction.to_0x_hex()
    assert signed.sender == Account.from_key(SECRET).address
    # 10^16 as hex: a JSON number of that size would be rounded elsewhere.
    assert b'"value":"0x2386f26fc10000"' in signer.seen[-1].body


@pytest.mark.parametrize("value", [0.01, float("nan"), object()])
def test_no_float_is_ever_sent_as_an_amount(
    client: SignerClient, signer: Any, value: Any
) -> None:
    signer.add_key("hot", SECRET)
    with pytest.raises(Malformed):
        client.sign_transaction("hot", {**TRANSACTION, "value": value})
    assert not signer.seen


def test_a_name_with_slashes_stays_one_segment(
    client: SignerClient, signer: Any
) -> None:
    with pytest.raises(Refused) as refusal:
        client.key("a/../b?c")
    assert refusal.value.code == Code.UNKNOWN_KEY
    assert signer.seen[-1].path == "/api/v1/keys/a%2F..%2Fb%3Fc"


@pytest.mark.parametrize(
    ("status", "code", "kind", "expected"),
    [
        (400, "malformed_transaction", Malformed, Code.MALFORMED_TRANSACTION),
        (408, "too_slow", Malformed, Code.TOO_SLOW),
        (413, "too_large", Malformed, Code.TOO_LARGE),
        (403, "wrong_chain", Refused, Code.WRONG_CHAIN),
        (404, "unknown_key", Refused, Code.UNKNOWN_KEY),
        (405, "method_not_allowed", Refused, Code.METHOD_NOT_ALLOWED),
        (412, "version_conflict", Refused, Code.VERSION_CONFLICT),
        # Where the validator's contract has another status than the code's usual one.
        (401, "unauthenticated", Refused, Code.UNAUTHENTICATED),
        (412, "slashable", Refused, Code.SLASHABLE),
        (412, "key_disabled", Refused, Code.KEY_DISABLED),
        (404, "key_deleted", Refused, Code.KEY_DELETED),
        (400, "wrong_chain", Malformed, Code.WRONG_CHAIN),
        (503, "kms_unavailable", Undecided, Code.KMS_UNAVAILABLE),
        (500, "internal", Undecided, Code.INTERNAL),
        # codes of a later version of the signer
        (400, "later", Malformed, Code.MALFORMED_REQUEST),
        (403, "later", Refused, Code.NOT_ALLOWED),
        (503, "later", Undecided, Code.INTERNAL),
    ],
)
def test_errors_come_back_as_the_verdicts_that_they_were(
    *,
    client: SignerClient,
    signer: Any,
    status: int,
    code: str,
    kind: type[Verdict],
    expected: Code,
) -> None:
    signer.fault = lambda handler: handler.problem(status, code, "why", "so") is None
    with pytest.raises(Verdict) as raised:
        client.sign_message("hot", "text")
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert (raised.value.code, raised.value.message, raised.value.hint) == (
        expected,
        "why",
        "so",
    )


def test_what_the_signer_says_cannot_paint_the_terminal(
    client: SignerClient, signer: Any
) -> None:
    signer.fault = lambda handler: (
        handler.problem(403, "not_allowed", "no\x1b[2J\r\nway" + "x" * 9999) is None
    )
    with pytest.raises(Refused) as refusal:
        client.key("hot")
    assert refusal.value.message.startswith("no [2J way")
    assert len(refusal.value.message) < 600


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[1]", b'{"keys": 1}', b'{"error": "x"}', b"\xff\xfe"],
)
@pytest.mark.parametrize("status", [200, 302, 403, 500])
def test_answers_of_something_else_are_undecided(
    client: SignerClient, signer: Any, body: bytes, status: int
) -> None:
    signer.fault = lambda handler: handler.answer(status, body, "text/html") is None
    with pytest.raises(Undecided) as verdict:
        client.create_key("hot")
    assert "API" in verdict.value.message


def test_a_redirect_is_not_followed(client: SignerClient, signer: Any) -> None:
    def redirect(handler: Any) -> bool:
        handler.send_response(307)
        handler.send_header("location", signer.url + "/elsewhere")
        handler.send_header("content-length", "0")
        handler.end_headers()
        return True

    signer.fault = redirect
    with pytest.raises(Undecided):
        client.create_key("hot")
    assert len(signer.seen) == 1


def test_an_answer_without_end_is_cut_off(client: SignerClient, signer: Any) -> None:
    signer.fault = lambda handler: (
        handler.answer(200, b" " * (MAX_RESPONSE + 1), "application/json") is None
    )
    with pytest.raises(Undecided) as verdict:
        client.key("hot")
    assert "longer" in verdict.value.message


def test_an_answer_that_drips_is_given_up(signer: Any) -> None:
    stop = threading.Event()
    signer.fault = lambda handler: handler.drip(stop) is None
    with (
        SignerClient(
            signer.url,
            ca=signer.ca_file,
            certificate=signer.cert_file,
            key=signer.key_file,
            read_timeout=0.3,
        ) as client,
        pytest.raises(Undecided) as verdict,
    ):
        client.create_key("hot")
    stop.set()
    assert verdict.value.code == Code.SIGNER_UNREACHABLE


def test_a_silent_signer_is_given_up_and_asked_once(signer: Any) -> None:
    stop = threading.Event()
    signer.fault = lambda handler: stop.wait(20)
    with (
        SignerClient(
            signer.url,
            ca=signer.ca_file,
            certificate=signer.cert_file,
            key=signer.key_file,
            read_timeout=0.2,
        ) as client,
        pytest.raises(Undecided) as verdict,
    ):
        client.create_key("hot")
    stop.set()
    assert verdict.value.code == Code.SIGNER_UNREACHABLE
    assert len(signer.seen) == 1


def test_a_get_survives_a_connection_that_breaks(
    client: SignerClient, signer: Any
) -> None:
    signer.add_key("hot", SECRET)
    signer.fault = lambda handler: len(signer.seen) == 1 and handler.hang_up() is None
    assert client.key("hot").name == "hot"
    assert len(signer.seen) == 2


def test_a_post_is_not_repeated_when_its_fate_is_unknown(
    client: SignerClient, signer: Any
) -> None:
    signer.fault = lambda handler: handler.hang_up() is None
    with pytest.raises(Undecided) as verdict:
        client.create_key("hot")
    assert verdict.value.code == Code.SIGNER_UNREACHABLE
    assert len(signer.seen) == 1


def test_nobody_there_is_undecided_with_a_way_on(signer: Any) -> None:
    signer.stop()
    with (
        SignerClient(signer.url, ca=signer.ca_file) as client,
        pytest.raises(Undecided) as verdict,
    ):
        client.health()
    assert verdict.value.code == Code.SIGNER_UNREACHABLE
    assert "doctor" in verdict.value.hint


def test_another_authority_is_refused_before_anything_is_sent(
    signer: Any, fakes: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(fakes.make_certificate("other", ca=True).pem)
    with (
        SignerClient(signer.url, ca=other, token=fakes.TOKEN) as client,
        pytest.raises(Refused) as refusal,
    ):
        client.create_key("hot")
    assert refusal.value.code == Code.CERTIFICATE_UNTRUSTED
    assert not signer.seen


def test_a_certificate_for_another_name_is_refused(signer: Any) -> None:
    url = signer.url.replace("localhost", "127.0.0.1")
    with (
        SignerClient(url, ca=signer.ca_file) as client,
        pytest.raises(Refused) as refusal,
    ):
        client.health()
    assert refusal.value.code == Code.CERTIFICATE_UNTRUSTED


def test_without_authority_and_pin_nothing_is_sent(signer: Any, fakes: Any) -> None:
    with (
        SignerClient(signer.url, token=fakes.TOKEN) as client,
        pytest.raises(Refused) as refusal,
    ):
        client.create_key("hot")
    assert refusal.value.code == Code.CERTIFICATE_UNTRUSTED
    assert signer.connections == 0


def test_a_token_is_enough_and_no_credential_is_refused(
    signer: Any, fakes: Any
) -> None:
    with SignerClient(signer.url, ca=signer.ca_file, token=fakes.TOKEN) as client:
        assert client.create_key("hot").name == "hot"
    with (
        SignerClient(signer.url, ca=signer.ca_file) as client,
        pytest.raises(Refused) as refusal,
    ):
        client.create_key("other")
    assert refusal.value.code == Code.UNAUTHENTICATED


def test_health_is_read_ready_or_not(client: SignerClient, signer: Any) -> None:
    assert client.upcheck()
    assert client.health().status == "UP"
    signer.health = {"status": "DOWN", "state": "kms"}
    assert client.health().state == "kms"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:8443",
        "",
        "https://",
        "https://h/path",
        "https://u:p@h",
        "https://h?x=1",
        "https://h:99999",
        "https://h:x",
        "ftp://h",
        "https://[::1",
        "https://h#f",
    ],
)
def test_a_url_that_is_none_is_named_before_anything_is_sent(url: str) -> None:
    with pytest.raises(Malformed) as verdict:
        Transport(url)
    assert verdict.value.code == Code.USAGE


def test_an_address_of_version_six_is_a_url() -> None:
    assert Transport("https://[::1]:8443").url == "https://[::1]:8443"


def test_files_that_do_not_fit_are_named(signer: Any, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    cases: list[dict[str, Any]] = [
        {"ca": tmp_path / "absent.pem"},
        {"ca": nonsense},
        {"ca": tmp_path},
        {"ca": signer.ca_file, "certificate": nonsense},
        {"ca": signer.ca_file, "certificate": tmp_path / "absent.pem"},
        {"ca": signer.ca_file, "certificate": signer.cert_file},
        {"ca": signer.ca_file, "certificate": signer.ca_file, "key": signer.key_file},
        {"ca": signer.ca_file, "key": signer.key_file},
        {"ca": signer.ca_file, "token": "two lines\nof text"},
        {"ca": signer.ca_file, "token": ""},
    ]
    for case in cases:
        with pytest.raises(Malformed) as verdict:
            SignerClient(signer.url, **case)
        assert verdict.value.code == Code.USAGE


def test_one_pem_may_hold_certificate_and_key(signer: Any, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(signer.cert_file.read_bytes() + signer.key_file.read_bytes())
    with SignerClient(signer.url, ca=signer.ca_file, certificate=both) as client:
        assert client.create_key("hot").name == "hot"


def test_a_token_never_prints(signer: Any, fakes: Any) -> None:
    with SignerClient(signer.url, ca=signer.ca_file, token=fakes.TOKEN) as client:
        shown = repr(client) + repr(vars(client)) + repr(vars(client.transport))
    assert fakes.TOKEN not in shown


def test_an_encrypted_key_is_named_and_nobody_is_asked_for_its_password(
    signer: Any, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        signer.client.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(Malformed) as verdict:
        SignerClient(
            signer.url,
            ca=signer.ca_file,
            certificate=signer.cert_file,
            key=encrypted,
        )
    assert "encrypted" in verdict.value.message
