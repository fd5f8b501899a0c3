"""The validator's Lambda handler: the reference's own events, and those it lacked."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from moto import mock_aws

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.untrusted.gateway import validator as gateway
from nitrosigner.untrusted.gateway.configuration import Configuration
from nitrosigner.untrusted.gateway.instance_control import (
    Names,
    RunCommand,
    names_from,
)
from nitrosigner.untrusted.gateway.validator import Validator
from nitrosigner.verdicts import Malformed

NAMES = Names(
    start_document="nitrosigner-prod-start",
    stop_document="nitrosigner-prod-stop",
    auto_scaling_group="prod-group",
    flag="/nitrosigner/prod/initialised",
)


class FakeSsm:
    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.answer: dict[str, Any] | None = None

    def put_parameter(self, **arguments: Any) -> dict[str, Any]:
        self.calls.append(("put_parameter", arguments))
        return {"Version": 2}

    def send_command(self, **arguments: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.calls.append(("send_command", arguments))
        command = {"CommandId": "c-1", "Status": "Pending"}
        command["DocumentName"] = arguments["DocumentName"]
        return self.answer if self.answer is not None else {"Command": command}


@pytest.fixture
def ssm() -> FakeSsm:
    return FakeSsm()


@pytest.fixture
def validator(signer: Any, fakes: Any, ssm: FakeSsm) -> Iterator[Validator]:
    configuration = Configuration(
        signer_url=signer.url,
        pcr0=frozenset({b"\xc0" * 48}),
        administrator=fakes.ADMINISTRATOR,
        deployment=fakes.DEPLOYMENT,
        trust_root=signer.pki.trust_anchor.fingerprint,
    )
    with SignerClient(signer.url, token=fakes.TOKEN) as client:
        yield Validator(configuration, client, control=lambda: RunCommand(NAMES, ssm))


def ask(validator: Validator, operation: Any, **more: Any) -> Any:
    event = {"operation": operation} | more
    return gateway.answer(event, lambda: validator)


def test_the_references_events_answer_in_its_types(
    validator: Validator, signer: Any, fakes: Any
) -> None:
    key = signer.validators.add("0x" + "a3" * 48, bytes(32))
    signer.validators.add("0x" + "a4" * 48, bytes(32), state="disabled")
    assert ask(validator, "web3signer_status") == "OK"
    assert ask(validator, "web3signer_public_keys") == [key["name"]]
    pem = base64.b64decode(ask(validator, "get_tls_key"))
    assert pem == signer.ca.pem


def test_set_tls_key_proves_the_certificate_that_the_enclave_made(
    validator: Validator, signer: Any
) -> None:
    shown = ask(validator, "set_tls_key")
    der = signer.leaf.certificate.public_bytes(Encoding.DER)
    assert shown["certificate_sha256"] == hashlib.sha256(der).hexdigest()
    leaf = x509.load_pem_x509_certificate(shown["certificate_pem"].encode())
    assert leaf == signer.leaf.certificate
    assert shown["authority_pem"].encode() == signer.ca.pem
    assert (shown["attested"], shown["emulated"]) == (True, True)
    assert shown["pcr0"] == "c0" * 48
    assert "no TLS key was made" in shown["made_by"]
    signer.tls_imported = True
    assert "others may have its key" in ask(validator, "set_tls_key")["made_by"]


def test_set_tls_key_verifies_anew_each_time(validator: Validator, signer: Any) -> None:
    ask(validator, "set_tls_key")
    ask(validator, "web3signer_status")
    asked = [seen for seen in signer.seen if "attestation" in seen.path]
    assert len(asked) == 1
    signer.pcrs[0] = b"\xee" * 48
    assert ask(validator, "web3signer_status") == "OK"
    assert ask(validator, "set_tls_key")["error"]["code"] == "attestation_untrusted"
    # and whoever failed it is not asked anything afterwards
    assert "error" in ask(validator, "web3signer_public_keys")


def test_an_enclave_that_is_not_proved_is_asked_nothing(
    validator: Validator, signer: Any
) -> None:
    signer.administrator = "ee" * 32
    for operation in ("web3signer_status", "web3signer_public_keys", "reload"):
        assert ask(validator, operation)["error"]["code"] == "attestation_untrusted"
    assert {seen.path.split("?")[0] for seen in signer.seen} == {"/api/v1/attestation"}


def test_an_enclave_that_was_started_again_is_verified_again(
    validator: Validator, signer: Any
) -> None:
    first = ask(validator, "set_tls_key")["certificate_sha256"]
    signer.restart_with_new_certificate()
    assert ask(validator, "web3signer_status") == "OK"
    assert ask(validator, "set_tls_key")["certificate_sha256"] != first


def test_an_authority_that_issued_nothing_is_not_handed_out(
    validator: Validator, signer: Any, fakes: Any
) -> None:
    signer.named_authority = fakes.make_certificate("another", ca=True).pem
    for operation in ("set_tls_key", "get_tls_key"):
        assert ask(validator, operation)["error"]["code"] == "certificate_untrusted"


def test_status_is_ok_or_an_error_and_never_something_else(
    validator: Validator, signer: Any
) -> None:
    ask(validator, "set_tls_key")

    def down(handler: Any) -> bool:
        handler.answer(503, b"DOWN", "text/plain")
        return True

    signer.fault = down
    assert ask(validator, "web3signer_status")["error"]["code"] == "not_ready"


def test_health_and_reload_come_through(validator: Validator, signer: Any) -> None:
    assert ask(validator, "healthcheck")["status"] == "UP"
    signer.health = {"status": "DOWN", "state": "kms"}
    assert ask(validator, "healthcheck")["state"] == "kms"
    assert ask(validator, "reload")["status"] == "completed"
    signer.validators.reloading = True
    assert ask(validator, "reload")["status"] == "running"


def test_start_and_stop_set_the_flag_and_then_send_the_document(
    validator: Validator, signer: Any, ssm: FakeSsm
) -> None:
    signer.stop()  # there is nobody to verify yet
    started = ask(validator, "start")
    assert started == {
        "operation": "start",
        "command_id": "c-1",
        "status": "Pending",
        "document": "nitrosigner-prod-start",
    }
    assert ask(validator, "stop")["document"] == "nitrosigner-prod-stop"
    assert [name for name, _ in ssm.calls] == ["put_parameter", "send_command"] * 2
    assert [call["Value"] for name, call in ssm.calls if name == "put_parameter"] == [
        "true",
        "false",
    ]
    sent = ssm.calls[1][1]
    assert sent["Targets"] == [
        {"Key": "tag:aws:autoscaling:groupName", "Values": ["prod-group"]}
    ]
    assert "Parameters" not in sent


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            ClientError(
                {"Error": {"Code": "AccessDeniedException", "Message": "canary"}}, "x"
            ),
            "not_allowed",
        ),
        (ClientError({"Error": {"Code": "InternalServerError"}}, "x"), "internal"),
        (EndpointConnectionError(endpoint_url="https://canary"), "internal"),
    ],
)
def test_what_systems_manager_says_is_a_verdict(
    validator: Validator, ssm: FakeSsm, error: Exception, code: str
) -> None:
    ssm.error = error
    answer = ask(validator, "start")
    assert answer["error"]["code"] == code
    assert "canary" not in str(answer)


def test_an_answer_without_a_command_is_no_success(
    validator: Validator, ssm: FakeSsm
) -> None:
    ssm.answer = {}
    assert ask(validator, "stop")["error"]["code"] == "internal"


def test_the_real_client_takes_these_arguments() -> None:
    """Moto runs no command, but botocore checks each name and type."""
    import boto3

    with mock_aws():
        ssm = boto3.client("ssm", region_name="us-east-1")
        ssm.create_document(
            Name=NAMES.start_document,
            DocumentType="Command",
            Content='{"schemaVersion": "2.2", "description": "", "mainSteps": []}',
        )
        assert NAMES.flag is not None
        ssm.put_parameter(Name=NAMES.flag, Value="false", Type="String")
        RunCommand(NAMES, ssm).order("start")
        value = ssm.get_parameter(Name=NAMES.flag)["Parameter"]["Value"]
        assert value == "true"


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {"operation": None},
        {"operation": []},
        {"operation": "nonsense"},
        {"operation": "start", "document": "AWS-RunShellScript"},
        {"operation": "set_tls_key", "eth_key": "canary"},
    ],
)
def test_an_event_that_is_none_is_an_error_and_not_a_silence(
    validator: Validator, signer: Any, ssm: FakeSsm, event: Any
) -> None:
    answer = gateway.answer(event, lambda: validator)
    assert answer["error"]["code"] == "malformed_request"
    assert "canary" not in str(answer)
    assert (signer.seen, ssm.calls) == ([], [])


def test_the_tls_key_is_decrypted_for_nobody(validator: Validator) -> None:
    error = ask(validator, "decrypt_tls_key")["error"]
    assert error["code"] == "not_allowed"
    assert "given to nobody" in error["message"]


@pytest.mark.parametrize("missing", ["START_DOCUMENT", "AUTO_SCALING_GROUP"])
def test_the_environment_names_the_stacks_parts(missing: str) -> None:
    environment = {
        "START_DOCUMENT": "a-start",
        "STOP_DOCUMENT": "a-stop",
        "AUTO_SCALING_GROUP": "group",
    }
    assert names_from(environment).flag is None
    assert names_from(environment | {"INIT_FLAG": "/a/flag"}).flag == "/a/flag"
    for value in ("", "two words"):
        with pytest.raises(Malformed) as malformed:
            names_from(environment | {missing: value})
        assert missing in malformed.value.message


def test_the_deployed_function_reads_its_environment(
    monkeypatch: pytest.MonkeyPatch, signer: Any, fakes: Any, tmp_path: Path
) -> None:
    for name in ("SIGNER_URL", "EXPECTED_PCR0", "ADMINISTRATOR"):
        monkeypatch.delenv(name, raising=False)
    gateway._validator.cache_clear()
    assert gateway.handler({"operation": "start"}, None)["error"]["code"] == "usage"
    for name, value in {
        "SIGNER_URL": signer.url,
        "EXPECTED_PCR0": "c0" * 48,
        "ADMINISTRATOR": fakes.ADMINISTRATOR,
        "TRUST_ROOT": signer.pki.trust_anchor.fingerprint.hex(),
        "CLIENT_CERTIFICATE": str(signer.cert_file),
        "CLIENT_KEY": str(signer.key_file),
    }.items():
        monkeypatch.setenv(name, value)
    try:
        assert gateway.handler({"operation": "web3signer_public_keys"}, None) == []
        # the stack's names are needed by start and stop alone
        assert gateway.handler({"operation": "stop"}, None)["error"]["code"] == "usage"
        gateway._validator().client.close()
    finally:
        gateway._validator.cache_clear()
