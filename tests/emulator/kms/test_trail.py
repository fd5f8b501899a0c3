"""The audit trail: every call, by whom, with which document, and how it ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nitrosigner.emulator.kms import RunningKms

Make = Callable[..., Any]
Code = Callable[..., str]


def _events(data: Path) -> list[dict[str, Any]]:
    lines = (data / "kms" / "cloudtrail.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_attested_call_names_caller_key_context_and_image(
    kms: RunningKms, client: Make, key: str, enclave: Any, data: Path
) -> None:
    context = {"purpose": "key"}
    blob = client("gateway").encrypt(
        KeyId=key, Plaintext=b"plain-canary", EncryptionContext=context
    )["CiphertextBlob"]
    client().decrypt(
        CiphertextBlob=blob, EncryptionContext=context, Recipient=enclave.recipient()
    )
    row = kms.audit(operation="Decrypt")[-1]
    assert row.caller == kms.principal("parent").caller_arn
    assert ":assumed-role/nitrosigner-parent/" in row.caller
    assert row.key == key
    assert json.loads(row.context) == context
    assert row.image == enclave.pcr0
    assert row.outcome == "ok"
    event = _events(data)[-1]
    assert event["eventName"] == "Decrypt"
    assert event["userIdentity"]["arn"] == row.caller
    assert event["requestParameters"]["encryptionContext"] == context
    recipient = event["additionalEventData"]["recipient"]
    assert recipient["attestationDocumentEnclaveImageDigest"] == enclave.pcr0
    assert recipient["attestationDocumentModuleId"].startswith("i-")
    assert "plain-canary" not in (data / "kms" / "cloudtrail.jsonl").read_text()


def test_refusals_are_recorded_with_what_was_tried(
    kms: RunningKms,
    client: Make,
    key: str,
    make_enclave: Make,
    error_of: Code,
) -> None:
    blob = client("gateway").encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    altered = make_enclave(image=b"altered")
    code = error_of(
        client().decrypt, CiphertextBlob=blob, Recipient=altered.recipient()
    )
    row = kms.audit(operation="Decrypt")[-1]
    assert row.outcome == code == "AccessDeniedException"
    assert row.image == altered.pcr0
    assert row.key == key


def test_calls_of_strangers_are_recorded_without_a_name(
    kms: RunningKms, client: Make, error_of: Code, data: Path
) -> None:
    stranger = client(aws_access_key_id="ASIASTRANGER")
    code = error_of(stranger.generate_random, NumberOfBytes=8)
    row = kms.audit()[-1]
    assert (row.caller, row.outcome) == ("", code)
    assert row.operation == "GenerateRandom"
    event = _events(data)[-1]
    assert event["errorCode"] == code
    assert event["userIdentity"] == {"type": "Unknown"}


def test_the_request_id_of_the_answer_finds_the_row(
    kms: RunningKms, client: Make
) -> None:
    answer = client().generate_random(NumberOfBytes=8)
    assert kms.audit()[-1].request == answer["ResponseMetadata"]["RequestId"]
