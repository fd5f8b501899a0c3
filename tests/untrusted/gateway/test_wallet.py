"""The wallet's Lambda handler: the reference's own events, and everything around them."""

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from eth_account import Account

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.untrusted.gateway import wallet as gateway
from nitrosigner.untrusted.gateway.configuration import Configuration, from_environment
from nitrosigner.untrusted.gateway.signer import quiet_aws_logs
from nitrosigner.untrusted.gateway.wallet import Wallet
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.manifest import key_encryption_context

ETH_KEY = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
LOCAL = Account.from_key(ETH_KEY)
# Source document 3, to the letter.
SET_KEY = {"operation": "set_key", "eth_key": ETH_KEY}
SIGN = json.loads("""{
  "operation": "sign_transaction",
  "transaction_payload": {
    "value": 0.01,
    "to": "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf",
    "nonce": 0,
    "type": 2,
    "chainId": 4,
    "gas": 100000,
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": 3000000000
  }
}""")


class FakeKms:
    """Keeps the context with the plaintext; gives it back only with the same one."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def encrypt(
        self,
        *,
        KeyId: str,  # noqa: N803 — AWS's name
        Plaintext: bytes,  # noqa: N803 — AWS's name
        EncryptionContext: Mapping[str, str],  # noqa: N803 — AWS's name
    ) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.calls.append(
            {"key": KeyId, "context": dict(EncryptionContext), "plaintext": Plaintext}
        )
        return {"CiphertextBlob": b"kms:%d" % (len(self.calls) - 1)}

    def decrypt(self, blob: bytes) -> bytes:
        plaintext: bytes = self.calls[int(blob.removeprefix(b"kms:"))]["plaintext"]
        return plaintext


@pytest.fixture
def kms() -> FakeKms:
    return FakeKms()


@pytest.fixture
def configuration(signer: Any, fakes: Any) -> Configuration:
    return Configuration(
        signer_url=signer.url,
        pcr0=frozenset({b"\xc0" * 48}),
        administrator=fakes.ADMINISTRATOR,
        deployment=fakes.DEPLOYMENT,
        trust_root=signer.pki.trust_anchor.fingerprint,
        kms_key_arn="arn:aws:kms:us-east-1:123456789012:key/1",
    )


@pytest.fixture
def wallet(
    signer: Any, configuration: Configuration, kms: FakeKms, fakes: Any
) -> Iterator[Wallet]:
    signer.kms_decrypt = kms.decrypt
    with SignerClient(signer.url, token=fakes.TOKEN) as client:
        yield Wallet(configuration, client, kms=lambda: kms)


def ask(wallet: Wallet, event: Any) -> Any:
    return gateway.answer(event, lambda: wallet)


def test_the_events_of_the_source_document_do_what_they_did(wallet: Wallet) -> None:
    stored = ask(wallet, SET_KEY)
    assert (stored["address"], stored["version"], stored["kind"]) == (
        LOCAL.address,
        1,
        "kms",
    )
    assert ask(wallet, {"operation": "get_key"}) == base64.b64encode(b"kms:0").decode()
    signed = ask(wallet, SIGN)
    expected = LOCAL.sign_transaction({**SIGN["transaction_payload"], "value": 10**16})
    assert signed == {
        "transaction_signed": expected.raw_transaction.to_0x_hex(),
        "transaction_hash": expected.hash.to_0x_hex(),
        "from": LOCAL.address,
    }


def test_the_ciphertext_is_bound_to_deployment_administrator_name_and_address(
    wallet: Wallet, kms: FakeKms, fakes: Any
) -> None:
    ask(wallet, SET_KEY)
    assert kms.calls == [
        {
            "key": "arn:aws:kms:us-east-1:123456789012:key/1",
            "plaintext": bytes.fromhex(ETH_KEY),
            "context": key_encryption_context(
                administrator=fakes.ADMINISTRATOR,
                deployment=fakes.DEPLOYMENT,
                name="default",
                algorithm="secp256k1",
                identity=LOCAL.address,
            ),
        }
    ]


def test_a_key_is_overwritten_only_with_its_version(
    wallet: Wallet, kms: FakeKms, signer: Any
) -> None:
    other = {"operation": "set_key", "eth_key": "11" * 32}
    ask(wallet, SET_KEY)
    refused = ask(wallet, other)["error"]
    assert refused["code"] == "version_conflict"
    assert LOCAL.address in refused["message"]
    assert '"version": 1' in refused["hint"]
    assert len(kms.calls) == 1
    assert ask(wallet, {**other, "version": 7})["error"]["code"] == "version_conflict"
    assert signer.secrets["default"].hex() == ETH_KEY
    assert ask(wallet, {**other, "version": 1})["version"] == 2
    assert signer.secrets["default"].hex() == "11" * 32


def test_other_operations(wallet: Wallet, signer: Any) -> None:
    made = ask(wallet, {"operation": "create_key", "key": "hot"})
    assert made["name"] == "hot"
    listed = ask(wallet, {"operation": "list_keys"})["keys"]
    assert [key["identity"] for key in listed] == [made["identity"]]
    signed = ask(
        wallet, {"operation": "sign_message", "key": "hot", "message": "hello"}
    )
    assert signed["from"] == made["identity"]
    assert (
        ask(wallet, {"operation": "sign_message", "key": "hot", "data": "0x68656c6c6f"})
        == signed
    )
    typed = {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}],
            "A": [{"name": "x", "type": "uint256"}],
        },
        "primaryType": "A",
        "domain": {"name": "n"},
        "message": {"x": 1},
    }
    assert (
        ask(
            wallet, {"operation": "sign_typed_data", "key": "hot", "typed_data": typed}
        )["from"]
        == made["identity"]
    )
    status = ask(wallet, {"operation": "status"})
    assert (status["status"], status["attestation"]["emulated"]) == ("UP", True)
    resealed = ask(wallet, {**SET_KEY, "key": "sealed", "reseal": True})
    assert resealed["kind"] == "vault"


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ({"value": "0.000000000000000001"}, "0x1"),
        ({"value": 1}, hex(10**18)),
        ({"value_wei": "1"}, "0x1"),
        ({"value_wei": 10**30}, hex(10**30)),
        ({"value_wei": "0xff"}, "0xff"),
    ],
)
def test_amounts_are_exact(
    wallet: Wallet, signer: Any, payload: dict[str, Any], sent: str
) -> None:
    ask(wallet, SET_KEY)
    fields = {
        name: value
        for name, value in SIGN["transaction_payload"].items()
        if name != "value"
    }
    assert "transaction_signed" in ask(
        wallet, {**SIGN, "transaction_payload": {**fields, **payload}}
    )
    assert json.loads(signer.seen[-1].body)["transaction"]["value"] == sent


@pytest.mark.parametrize(
    "change",
    [
        {"value": 1e-19},
        {"value": -1},
        {"value": "0x1"},
        {"value": True},
        {"value": None, "value_wei": 1},
        {"value": 1, "value_wei": 1},
        {"gas": 100000.0},
        {"nonce": 0.5},
        {"value": float("nan")},
        {"value": 1e300},
    ],
)
def test_amounts_that_are_not_exact_are_malformed_and_nothing_is_sent(
    wallet: Wallet, signer: Any, change: dict[str, Any]
) -> None:
    ask(wallet, SET_KEY)
    before = len(signer.seen)
    answer = ask(
        wallet,
        {**SIGN, "transaction_payload": {**SIGN["transaction_payload"], **change}},
    )
    assert answer["error"]["code"] == "malformed_transaction"
    assert len(signer.seen) == before


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "set_key",
        7,
        {},
        {"operation": None},
        {"operation": "decrypt"},
        {"operation": ["set_key"]},
        {"operation": "set_key"},
        {**SET_KEY, "eth_key": None},
        {**SET_KEY, "verison": 1},
        {**SET_KEY, "version": "1"},
        {**SET_KEY, "version": 0},
        {**SET_KEY, "key": "No Such Name"},
        {"operation": "sign_transaction"},
        {"operation": "sign_transaction", "transaction_payload": []},
        {**SIGN, "secret_id": "arn:of-somebody"},
        {"operation": "sign_message"},
        {"operation": "sign_message", "message": "a", "data": "0x"},
        {"operation": "sign_message", "data": "0xabc"},
        {"operation": "sign_message", "data": "ab cd"},
        {"operation": "get_key", "secret_id": "x"},
    ],
)
def test_events_that_are_none_get_an_error_and_reach_nobody(
    wallet: Wallet, signer: Any, kms: FakeKms, event: Any
) -> None:
    error = ask(wallet, event)["error"]
    assert error["code"].startswith("malformed")
    assert error["message"]
    assert ETH_KEY not in json.dumps(error)
    assert not kms.calls
    assert not any("/keys" in seen.path for seen in signer.seen)


@pytest.mark.parametrize(
    "key", [ETH_KEY[:-1], "0x", "zz" * 32, "00" * 32, "ff" * 32, ETH_KEY + "00", ""]
)
def test_a_key_with_a_typing_error_is_never_encrypted(
    wallet: Wallet, kms: FakeKms, key: str
) -> None:
    error = ask(wallet, {"operation": "set_key", "eth_key": key})["error"]
    assert error["code"] == "malformed_key"
    assert not kms.calls


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            ClientError(
                {"Error": {"Code": "AccessDeniedException", "Message": "canary"}},
                "Encrypt",
            ),
            "kms_refused",
        ),
        (
            ClientError(
                {"Error": {"Code": "ThrottlingException", "Message": "canary"}},
                "Encrypt",
            ),
            "kms_unavailable",
        ),
        (ClientError({}, "Encrypt"), "kms_unavailable"),
        (EndpointConnectionError(endpoint_url="canary"), "kms_unavailable"),
    ],
)
def test_when_kms_says_no_nothing_is_stored(
    wallet: Wallet, kms: FakeKms, signer: Any, error: Exception, code: str
) -> None:
    kms.error = error
    answer = ask(wallet, SET_KEY)["error"]
    assert answer["code"] == code
    assert "canary" not in json.dumps(answer)
    assert not signer.secrets


def test_without_a_kms_key_set_key_says_what_is_missing(wallet: Wallet) -> None:
    object.__setattr__(wallet.configuration, "kms_key_arn", None)
    error = ask(wallet, SET_KEY)["error"]
    assert "KMS_KEY_ARN" in error["message"]


def test_the_signer_is_verified_once_and_before_anything_is_sent(
    wallet: Wallet, signer: Any
) -> None:
    ask(wallet, SET_KEY)
    ask(wallet, SIGN)
    attested = [
        number for number, seen in enumerate(signer.seen) if "attestation" in seen.path
    ]
    assert attested == [0]
    assert "authorization" not in signer.seen[0].headers


@pytest.mark.parametrize(
    "lie",
    [
        {"pcrs": {0: b"\1" * 48, 1: b"\1" * 48, 2: b"\1" * 48}},
        {"administrator": "ee" * 32},
        {"deployment": "x"},
        {"tls_digest": "00" * 32},
        {"debug": True},
    ],
)
def test_another_enclave_gets_nothing(
    wallet: Wallet, signer: Any, kms: FakeKms, lie: dict[str, Any]
) -> None:
    for name, value in lie.items():
        setattr(signer, name, value)
    assert ask(wallet, SET_KEY)["error"]["code"] == "attestation_untrusted"
    assert not kms.calls
    assert len(signer.seen) == 1


def test_an_enclave_that_was_restarted_is_verified_again(
    wallet: Wallet, signer: Any
) -> None:
    ask(wallet, SET_KEY)
    signer.restart_with_new_certificate()
    assert "transaction_signed" in ask(wallet, SIGN)
    signer.restart_with_new_certificate()
    signer.administrator = "ee" * 32
    before = len(signer.seen)
    assert ask(wallet, SIGN)["error"]["code"] == "attestation_untrusted"
    assert [seen.path.split("?")[0] for seen in signer.seen[before:]] == [
        "/api/v1/attestation"
    ]


def test_the_signers_refusals_pass_through(wallet: Wallet, signer: Any) -> None:
    ask(wallet, SET_KEY)
    signer.described["default"]["state"] = "disabled"
    assert ask(wallet, SIGN)["error"]["code"] == "key_disabled"
    assert ask(wallet, {**SIGN, "key": "nobody"})["error"]["code"] == "unknown_key"
    signer.stop()
    error = ask(wallet, SIGN)["error"]
    assert error["code"] == "signer_unreachable"
    assert error["hint"]


def test_nothing_of_an_event_is_logged_even_at_debug(
    wallet: Wallet,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fakes: Any,
) -> None:
    caplog.set_level(logging.DEBUG)
    quiet_aws_logs()
    ask(wallet, SET_KEY)
    ask(wallet, SIGN)
    ask(wallet, {**SET_KEY, "version": "x"})
    out, err = capfd.readouterr()
    everything = caplog.text + out + err
    for secret in (ETH_KEY, fakes.TOKEN, "a5D3241A1591061F2a4bB69CA0215F66520E67cf"):
        assert secret not in everything


def test_botocore_does_not_log_bodies_once_it_is_quiet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    quiet_aws_logs()
    logging.getLogger("botocore.endpoint").debug("body %s", ETH_KEY)
    assert ETH_KEY not in caplog.text


ENVIRONMENT = {
    "SIGNER_URL": "https://signer",
    "EXPECTED_PCR0": "c0" * 48,
    "ADMINISTRATOR": "AD" * 32,
    "SIGNER_TOKEN_SECRET_ARN": "arn:aws:secretsmanager:us-east-1:123456789012:secret:token",
}


def test_the_environment_is_read() -> None:
    read = from_environment(
        {
            **ENVIRONMENT,
            "EXPECTED_PCR0": "c0" * 48 + ", " + "C1" * 48,
            "TRUST_ROOT": "ab" * 32,
            "SIGNER_CA": "/var/task/ca.pem",
            "KMS_KEY_ARN": "arn",
            "KEY_NAME": "hot",
            "DEPLOYMENT": "",
        }
    )
    assert read.pcr0 == {b"\xc0" * 48, b"\xc1" * 48}
    assert read.administrator == "ad" * 32
    assert (read.trust_root, read.default_key, read.deployment) == (
        b"\xab" * 32,
        "hot",
        None,
    )
    assert read.ca == Path("/var/task/ca.pem")


@pytest.mark.parametrize("missing", list(ENVIRONMENT))
def test_what_the_environment_lacks_is_named(missing: str) -> None:
    with pytest.raises(Malformed) as verdict:
        from_environment(
            {name: value for name, value in ENVIRONMENT.items() if name != missing}
        )
    assert verdict.value.code is Code.USAGE
    assert missing in verdict.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [("EXPECTED_PCR0", "c0"), ("ADMINISTRATOR", "x" * 64), ("TRUST_ROOT", "00")],
)
def test_what_the_environment_says_wrongly_is_named(name: str, value: str) -> None:
    with pytest.raises(Malformed) as verdict:
        from_environment({**ENVIRONMENT, name: value})
    assert name in verdict.value.message


def test_the_entry_point_answers_a_missing_configuration_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway._wallet.cache_clear()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert gateway.handler({"operation": "status"}, None)["error"]["code"] == "usage"


def test_the_entry_point_works_from_its_environment(
    monkeypatch: pytest.MonkeyPatch, signer: Any, fakes: Any
) -> None:
    gateway._wallet.cache_clear()
    for name, value in {
        "SIGNER_URL": signer.url,
        "EXPECTED_PCR0": "c0" * 48,
        "ADMINISTRATOR": fakes.ADMINISTRATOR,
        "CLIENT_CERTIFICATE": str(signer.cert_file),
        "CLIENT_KEY": str(signer.key_file),
        "TRUST_ROOT": signer.pki.trust_anchor.fingerprint.hex(),
        "SIGNER_CA": str(signer.ca_file),
    }.items():
        monkeypatch.setenv(name, value)
    try:
        assert gateway.handler({"operation": "create_key"}, None)["name"] == "default"
        assert gateway.handler({"operation": "list_keys"}, None)["keys"]
    finally:
        gateway._wallet().client.close()
        gateway._wallet.cache_clear()
