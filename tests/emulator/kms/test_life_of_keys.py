"""Keys are made, described, disabled, scheduled for deletion, named and given policies."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from nitrosigner.emulator.kms import RunningKms
from nitrosigner.emulator.kms.store import Store

Make = Callable[..., Any]
Code = Callable[..., str]


@pytest.fixture
def open_key(client: Make) -> str:
    """A key without a policy of its own: IAM decides."""
    made = client("administrator").create_key(Description="for tests")
    return str(made["KeyMetadata"]["Arn"])


def test_a_key_describes_itself_as_aws_does(client: Make, open_key: str) -> None:
    described = client("administrator").describe_key(KeyId=open_key)["KeyMetadata"]
    assert described["Arn"] == open_key
    assert described["KeyId"] == open_key.rsplit("/", 1)[-1]
    assert described["KeyState"] == "Enabled"
    assert described["Enabled"] is True
    assert described["Description"] == "for tests"
    assert described["KeySpec"] == "SYMMETRIC_DEFAULT"
    age = dt.datetime.now(dt.UTC) - described["CreationDate"]
    assert dt.timedelta() <= age < dt.timedelta(minutes=1)


def test_a_key_is_found_by_id_arn_and_alias(
    kms: RunningKms, client: Make, open_key: str, error_of: Code
) -> None:
    one = client("administrator")
    one.create_alias(AliasName="alias/vault", TargetKeyId=open_key)
    prefix = f"arn:aws:kms:{kms.region}:{kms.account}:"
    key_id = open_key.rsplit("/", 1)[-1]
    for name in (open_key, key_id, "alias/vault", f"{prefix}alias/vault"):
        assert one.describe_key(KeyId=name)["KeyMetadata"]["Arn"] == open_key
    for name in (
        "00000000-0000-4000-8000-000000000000",
        "alias/other",
        open_key.replace(kms.account, "999999999999"),
        open_key.replace(kms.region, "eu-west-1"),
    ):
        assert error_of(one.describe_key, KeyId=name) == "NotFoundException"
    listed = one.list_aliases()["Aliases"]
    assert [(alias["AliasName"], alias["TargetKeyId"]) for alias in listed] == [
        ("alias/vault", key_id)
    ]
    code = error_of(one.create_alias, AliasName="alias/vault", TargetKeyId=open_key)
    assert code == "AlreadyExistsException"
    one.delete_alias(AliasName="alias/vault")
    assert error_of(one.describe_key, KeyId="alias/vault") == "NotFoundException"


def test_keys_are_listed_page_by_page(client: Make) -> None:
    one = client("administrator")
    made = {one.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
    pages = one.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
    listed = [key["KeyId"] for page in pages for key in page["Keys"]]
    assert len(listed) == 5
    assert set(listed) == made


def test_a_disabled_key_does_nothing_until_it_is_enabled(
    client: Make, open_key: str, error_of: Code
) -> None:
    one = client("administrator")
    blob = one.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
    one.disable_key(KeyId=open_key)
    assert one.describe_key(KeyId=open_key)["KeyMetadata"]["KeyState"] == "Disabled"
    for call, arguments in (
        (one.encrypt, {"KeyId": open_key, "Plaintext": b"x"}),
        (one.decrypt, {"CiphertextBlob": blob}),
        (one.generate_data_key, {"KeyId": open_key, "KeySpec": "AES_256"}),
        (one.re_encrypt, {"CiphertextBlob": blob, "DestinationKeyId": open_key}),
    ):
        assert error_of(call, **arguments) == "DisabledException"
    # Who may not use it is not told its state.
    code = error_of(client("gateway").decrypt, CiphertextBlob=blob)
    assert code == "AccessDeniedException"
    one.enable_key(KeyId=open_key)
    assert one.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_a_key_is_gone_after_its_waiting_period_and_not_before(
    kms: RunningKms, client: Make, open_key: str, error_of: Code, data: Path
) -> None:
    one = client("administrator")
    blob = one.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
    scheduled = one.schedule_key_deletion(KeyId=open_key, PendingWindowInDays=7)
    assert scheduled["KeyState"] == "PendingDeletion"
    for call, arguments in (
        (one.decrypt, {"CiphertextBlob": blob}),
        (one.enable_key, {"KeyId": open_key}),
        (one.schedule_key_deletion, {"KeyId": open_key}),
        (one.create_alias, {"AliasName": "alias/a", "TargetKeyId": open_key}),
    ):
        assert error_of(call, **arguments) == "KMSInvalidStateException"
    one.cancel_key_deletion(KeyId=open_key)
    assert one.describe_key(KeyId=open_key)["KeyMetadata"]["KeyState"] == "Disabled"
    code = error_of(one.cancel_key_deletion, KeyId=open_key)
    assert code == "KMSInvalidStateException"
    one.schedule_key_deletion(KeyId=open_key, PendingWindowInDays=7)
    kms.stop()
    # The signatures of boto3 are of today, so the store itself is asked.
    store = Store(data / "kms" / "kms.db")
    try:
        day = dt.timedelta(days=1)
        now, key_id = dt.datetime.now(dt.UTC), open_key.rsplit("/", 1)[-1]
        assert store.key(key_id, now + 6 * day) is not None
        assert store.key(key_id, now + 8 * day) is None
        assert store.key(key_id, now) is None
    finally:
        store.close()


def test_a_window_outside_seven_to_thirty_days_is_refused(
    client: Make, open_key: str, error_of: Code
) -> None:
    for days in (6, 31):
        code = error_of(
            client("administrator").schedule_key_deletion,
            KeyId=open_key,
            PendingWindowInDays=days,
        )
        assert code == "ValidationException"


def test_a_policy_is_returned_as_it_was_put(
    kms: RunningKms, client: Make, open_key: str, policy: Make, error_of: Code
) -> None:
    one = client("administrator")
    text = policy(
        {
            "Sid": "Only me",
            "Effect": "Allow",
            "Principal": {"AWS": kms.principal("administrator").arn},
            "Action": "kms:*",
            "Resource": "*",
        }
    )
    one.put_key_policy(KeyId=open_key, PolicyName="default", Policy=text)
    assert one.get_key_policy(KeyId=open_key)["Policy"] == text
    code = error_of(one.get_key_policy, KeyId=open_key, PolicyName="other")
    assert code == "NotFoundException"
    code = error_of(client("gateway").encrypt, KeyId=open_key, Plaintext=b"x")
    assert code == "AccessDeniedException"


def test_a_policy_that_locks_its_author_out_needs_the_bypass(
    kms: RunningKms, client: Make, open_key: str, policy: Make, error_of: Code
) -> None:
    one = client("administrator")
    locked = policy(
        {
            "Effect": "Allow",
            "Principal": {"AWS": kms.principal("administrator").arn},
            "Action": ["kms:DescribeKey", "kms:GetKeyPolicy"],
            "Resource": "*",
        }
    )
    malformed = "MalformedPolicyDocumentException"
    assert error_of(one.create_key, Policy=locked) == malformed
    assert error_of(one.put_key_policy, KeyId=open_key, Policy=locked) == malformed
    one.put_key_policy(
        KeyId=open_key, Policy=locked, BypassPolicyLockoutSafetyCheck=True
    )
    code = error_of(
        one.put_key_policy,
        KeyId=open_key,
        Policy=locked,
        BypassPolicyLockoutSafetyCheck=True,
    )
    assert code == "AccessDeniedException"


def test_a_policy_that_names_a_role_which_is_not_there_is_refused(
    kms: RunningKms, client: Make, policy: Make, error_of: Code
) -> None:
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": principal},
            "Action": "kms:*",
            "Resource": "*",
        }
        for principal in (
            f"arn:aws:iam::{kms.account}:root",
            f"arn:aws:iam::{kms.account}:role/nobody",
        )
    ]
    code = error_of(client("administrator").create_key, Policy=policy(*statements))
    assert code == "MalformedPolicyDocumentException"


def test_only_who_may_makes_keys_and_changes_policies(
    client: Make, open_key: str, error_of: Code
) -> None:
    for role in ("parent", "gateway"):
        one = client(role)
        assert error_of(one.create_key) == "AccessDeniedException"
        assert error_of(one.list_keys) == "AccessDeniedException"
        text = json.dumps({"Version": "2012-10-17", "Statement": []})
        code = error_of(one.put_key_policy, KeyId=open_key, Policy=text)
        assert code == "AccessDeniedException"


@pytest.mark.parametrize(
    "changed",
    [
        {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        {"Origin": "EXTERNAL"},
        {"MultiRegion": True},
    ],
)
def test_keys_that_are_not_emulated_are_refused(
    client: Make, error_of: Code, changed: dict[str, Any]
) -> None:
    code = error_of(client("administrator").create_key, **changed)
    assert code == "UnsupportedOperationException"


def test_a_ciphertext_is_bound_to_its_context_and_its_bytes(
    client: Make, open_key: str, error_of: Code
) -> None:
    one = client("administrator")
    blob = one.encrypt(
        KeyId=open_key, Plaintext=b"x", EncryptionContext={"a": "1", "b": "2"}
    )["CiphertextBlob"]
    same = {"b": "2", "a": "1"}
    opened = one.decrypt(CiphertextBlob=blob, EncryptionContext=same)
    assert opened["Plaintext"] == b"x"
    for context in ({}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1,b:2"}):
        code = error_of(one.decrypt, CiphertextBlob=blob, EncryptionContext=context)
        assert code == "InvalidCiphertextException"
    for position in range(len(blob)):
        altered = bytearray(blob)
        altered[position] ^= 1
        code = error_of(
            one.decrypt, CiphertextBlob=bytes(altered), EncryptionContext=same
        )
        # Altered in its key id, it names a key that is not there.
        assert code in ("InvalidCiphertextException", "AccessDeniedException")
    for short in (blob[:-1], blob[:40], b"x"):
        code = error_of(one.decrypt, CiphertextBlob=short, EncryptionContext=same)
        assert code == "InvalidCiphertextException"


def test_a_ciphertext_of_another_key_is_the_wrong_key(
    client: Make, open_key: str, error_of: Code
) -> None:
    one = client("administrator")
    other = one.create_key()["KeyMetadata"]["KeyId"]
    blob = one.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
    code = error_of(one.decrypt, CiphertextBlob=blob, KeyId=other)
    assert code == "IncorrectKeyException"
    moved = one.re_encrypt(
        CiphertextBlob=blob,
        DestinationKeyId=other,
        DestinationEncryptionContext={"a": "1"},
    )
    opened = one.decrypt(
        CiphertextBlob=moved["CiphertextBlob"],
        KeyId=other,
        EncryptionContext={"a": "1"},
    )
    assert opened["Plaintext"] == b"x"


def test_data_keys_have_the_size_that_was_asked_for(
    client: Make, open_key: str, error_of: Code
) -> None:
    one = client("administrator")
    for asked, size in (
        ({"KeySpec": "AES_128"}, 16),
        ({"KeySpec": "AES_256"}, 32),
        ({"NumberOfBytes": 1024}, 1024),
    ):
        made = one.generate_data_key(KeyId=open_key, **asked)
        assert len(made["Plaintext"]) == size
        opened = one.decrypt(CiphertextBlob=made["CiphertextBlob"])
        assert opened["Plaintext"] == made["Plaintext"]
    sealed = one.generate_data_key_without_plaintext(KeyId=open_key, KeySpec="AES_256")
    assert "Plaintext" not in sealed
    opened = one.decrypt(CiphertextBlob=sealed["CiphertextBlob"])
    assert len(opened["Plaintext"]) == 32
    for wrong in ({}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"KeySpec": "DES"}):
        code = error_of(one.generate_data_key, KeyId=open_key, **wrong)
        assert code == "ValidationException"


@pytest.mark.parametrize(
    "spec",
    [
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "ECC_NIST_EDWARDS25519",
        "RSA_2048",
    ],
)
def test_data_key_pairs_belong_together(client: Make, open_key: str, spec: str) -> None:
    one = client("administrator")
    made = one.generate_data_key_pair(KeyId=open_key, KeyPairSpec=spec)
    private = serialization.load_der_private_key(made["PrivateKeyPlaintext"], None)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public == made["PublicKey"]
    opened = one.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"])
    assert opened["Plaintext"] == made["PrivateKeyPlaintext"]


def test_a_dry_run_says_whether_it_would_succeed_and_does_nothing(
    client: Make, open_key: str, error_of: Code
) -> None:
    dry = {"KeyId": open_key, "Plaintext": b"x", "DryRun": True}
    one = client("administrator")
    assert error_of(one.encrypt, **dry) == "DryRunOperationException"
    blob = one.encrypt(KeyId=open_key, Plaintext=b"x")["CiphertextBlob"]
    code = error_of(client("gateway").decrypt, CiphertextBlob=blob, DryRun=True)
    assert code == "AccessDeniedException"


def test_an_encryption_context_that_is_too_large_is_refused(
    client: Make, open_key: str, error_of: Code
) -> None:
    code = error_of(
        client("administrator").encrypt,
        KeyId=open_key,
        Plaintext=b"x",
        EncryptionContext={"a": "x" * 8192},
    )
    assert code == "ValidationException"


def test_operations_that_are_not_emulated_say_so(
    kms: RunningKms, client: Make, open_key: str, error_of: Code
) -> None:
    code = error_of(
        client("administrator").create_grant,
        KeyId=open_key,
        GranteePrincipal=kms.principal("gateway").arn,
        Operations=["Decrypt"],
    )
    assert code == "UnsupportedOperationException"
