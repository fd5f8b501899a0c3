"""The whole path with unmodified boto3: who gets which answer from the emulated KMS."""

from collections.abc import Callable
from typing import Any

CONTEXT = {"purpose": "key", "administrator": "aa"}


def test_the_right_enclave_gets_an_envelope_that_only_it_opens(
    client: Callable[..., Any],
    key: str,
    enclave: Any,
    open_envelope: Callable[..., bytes],
) -> None:
    blob = client("gateway").encrypt(
        KeyId=key, Plaintext=b"secret", EncryptionContext=CONTEXT
    )["CiphertextBlob"]
    answer = client("parent").decrypt(
        CiphertextBlob=blob,
        KeyId=key,
        EncryptionContext=CONTEXT,
        Recipient=enclave.recipient(),
    )
    assert answer["KeyId"] == key
    assert not answer.get("Plaintext")
    assert open_envelope(answer["CiphertextForRecipient"], enclave.key) == b"secret"
