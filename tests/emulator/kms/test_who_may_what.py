"""The whole path with unmodified boto3: who gets which answer from the emulated KMS."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nitrosigner.emulator.kms import RunningKms
from nitrosigner.image.key_policy import KeyPolicy

Make = Callable[..., Any]
ADMINISTRATOR = hashlib.sha256(b"administrator").hexdigest()
VAULT = {"administrator": ADMINISTRATOR, "deployment": "local", "purpose": "vault"}
IMPORTED = {**VAULT, "purpose": "key", "name": "alice"}


@pytest.fixture
def vault_key(kms: RunningKms, client: Make, enclave: Any) -> str:
    """A key under the policy that a deployment really has."""
    written = KeyPolicy(
        measurements=[enclave.pcr0],
        administrator=ADMINISTRATOR,
        deployment="local",
        enclave_role=kms.principal("parent").arn,
        gateway_role=kms.principal("gateway").arn,
        key_administrator=kms.principal("administrator").arn,
    )
    made = client("administrator").create_key(Policy=written.text)
    return str(made["KeyMetadata"]["Arn"])


@pytest.fixture
def blob(client: Make, vault_key: str) -> bytes:
    """What the gateway made of an imported private key."""
    answer = client("gateway").encrypt(
        KeyId=vault_key, Plaintext=b"imported private key", EncryptionContext=IMPORTED
    )
    return bytes(answer["CiphertextBlob"])


def test_the_right_enclave_gets_an_envelope_that_only_it_opens(
    client: Make,
    vault_key: str,
    blob: bytes,
    enclave: Any,
    open_envelope: Callable[..., bytes],
) -> None:
    answer = client().decrypt(
        CiphertextBlob=blob,
        KeyId=vault_key,
        EncryptionContext=IMPORTED,
        Recipient=enclave.recipient(),
    )
    assert answer["KeyId"] == vault_key
    assert not answer.get("Plaintext")
    opened = open_envelope(answer["CiphertextForRecipient"], enclave.key)
    assert opened == b"imported private key"


def test_a_vault_key_made_for_the_enclave_opens_for_it_again(
    client: Make, vault_key: str, enclave: Any, open_envelope: Callable[..., bytes]
) -> None:
    made = client().generate_data_key(
        KeyId=vault_key,
        KeySpec="AES_256",
        EncryptionContext=VAULT,
        Recipient=enclave.recipient(),
    )
    assert not made.get("Plaintext")
    first = open_envelope(made["CiphertextForRecipient"], enclave.key)
    assert len(first) == 32
    again = client().decrypt(
        CiphertextBlob=made["CiphertextBlob"],
        EncryptionContext=VAULT,
        Recipient=enclave.recipient(),
    )
    assert open_envelope(again["CiphertextForRecipient"], enclave.key) == first


# name → (role, how the enclave differs, how its document differs, context, error)
REFUSALS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any, str]] = {
    "another role": ("gateway", {}, {}, IMPORTED, "AccessDeniedException"),
    "the administrator": ("administrator", {}, {}, IMPORTED, "AccessDeniedException"),
    "another image": (
        "parent",
        {"image": b"v2"},
        {},
        IMPORTED,
        "AccessDeniedException",
    ),
    "a debug enclave": (
        "parent",
        {"debug": True},
        {},
        IMPORTED,
        "AccessDeniedException",
    ),
    "a stale document": (
        "parent",
        {},
        {"minutes": -6},
        IMPORTED,
        "ValidationException",
    ),
    "a document from the future": (
        "parent",
        {},
        {"minutes": 2},
        IMPORTED,
        "ValidationException",
    ),
    "no public key": (
        "parent",
        {},
        {"public_key": None},
        IMPORTED,
        "ValidationException",
    ),
    "another context": (
        "parent",
        {},
        {},
        {**IMPORTED, "name": "mallory"},
        "InvalidCiphertextException",
    ),
    "a missing context key": (
        "parent",
        {},
        {},
        {key: value for key, value in IMPORTED.items() if key != "name"},
        "InvalidCiphertextException",
    ),
    "another purpose": (
        "parent",
        {},
        {},
        {**IMPORTED, "purpose": "else"},
        "AccessDeniedException",
    ),
    "another administrator": (
        "parent",
        {},
        {},
        {**IMPORTED, "administrator": "00" * 32},
        "AccessDeniedException",
    ),
    "no administrator": (
        "parent",
        {},
        {},
        {"deployment": "local", "purpose": "key"},
        "AccessDeniedException",
    ),
    "another deployment": (
        "parent",
        {},
        {},
        {**IMPORTED, "deployment": "other"},
        "AccessDeniedException",
    ),
    "two administrators that differ in case": (
        "parent",
        {},
        {},
        {**IMPORTED, "Administrator": "00" * 32},
        "AccessDeniedException",
    ),
    "no context": ("parent", {}, {}, {}, "AccessDeniedException"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_it_opens_for_nobody_else(
    case: str,
    client: Make,
    blob: bytes,
    make_enclave: Make,
    error_of: Callable[..., str],
) -> None:
    role, enclave_options, document_options, context, expected = REFUSALS[case]
    changed = dict(document_options)
    if "minutes" in changed:
        away = dt.timedelta(minutes=changed.pop("minutes"))
        changed["at"] = dt.datetime.now(dt.UTC) + away
    code = error_of(
        client(role).decrypt,
        CiphertextBlob=blob,
        EncryptionContext=context,
        Recipient=make_enclave(**enclave_options).recipient(**changed),
    )
    assert code == expected


@pytest.mark.parametrize("role", ["parent", "gateway", "administrator"])
def test_nobody_opens_it_without_a_document(
    role: str, client: Make, blob: bytes, error_of: Callable[..., str]
) -> None:
    one = client(role)
    assert (
        error_of(one.decrypt, CiphertextBlob=blob, EncryptionContext=IMPORTED)
        == "AccessDeniedException"
    )


def test_a_document_under_another_root_is_refused(
    client: Make,
    blob: bytes,
    make_enclave: Make,
    make_pki: Make,
    error_of: Callable[..., str],
) -> None:
    stranger = make_enclave(pki=make_pki())
    assert stranger.pcr0 == make_enclave().pcr0
    code = error_of(
        client().decrypt,
        CiphertextBlob=blob,
        EncryptionContext=IMPORTED,
        Recipient=stranger.recipient(),
    )
    assert code == "ValidationException"


def test_a_document_with_one_flipped_bit_is_refused(
    client: Make, blob: bytes, enclave: Any, error_of: Callable[..., str]
) -> None:
    whole = enclave.attest()
    for position in (-1, -50, len(whole) // 2, 300):
        document = bytearray(whole)
        document[position] ^= 1
        code = error_of(
            client().decrypt,
            CiphertextBlob=blob,
            EncryptionContext=IMPORTED,
            Recipient={
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                "AttestationDocument": bytes(document),
            },
        )
        assert code == "ValidationException", position


def _spki(key: Any) -> bytes:
    return bytes(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@pytest.mark.parametrize(
    "public_key",
    [
        _spki(ec.generate_private_key(ec.SECP256R1())),
        _spki(rsa.generate_private_key(65537, 1024)),
        b"not a key",
    ],
    ids=["P-256", "RSA-1024", "garbage"],
)
def test_a_document_must_carry_an_rsa_key_that_is_long_enough(
    public_key: bytes,
    client: Make,
    blob: bytes,
    enclave: Any,
    error_of: Callable[..., str],
) -> None:
    code = error_of(
        client().decrypt,
        CiphertextBlob=blob,
        EncryptionContext=IMPORTED,
        Recipient=enclave.recipient(public_key=public_key),
    )
    assert code == "ValidationException"


def test_the_gateway_encrypts_for_this_administrator_and_purpose_only(
    client: Make, vault_key: str, error_of: Callable[..., str]
) -> None:
    for context in (VAULT, {**IMPORTED, "administrator": "00" * 32}, {}):
        code = error_of(
            client("gateway").encrypt,
            KeyId=vault_key,
            Plaintext=b"x",
            EncryptionContext=context,
        )
        assert code == "AccessDeniedException"


def test_the_enclave_makes_no_data_key_for_imported_keys(
    client: Make, vault_key: str, enclave: Any, error_of: Callable[..., str]
) -> None:
    code = error_of(
        client().generate_data_key,
        KeyId=vault_key,
        KeySpec="AES_256",
        EncryptionContext=IMPORTED,
        Recipient=enclave.recipient(),
    )
    assert code == "AccessDeniedException"


def test_allowing_the_account_root_everything_opens_the_hole_for_every_role(
    kms: RunningKms, client: Make, policy: Callable[..., str]
) -> None:
    """The default key policy: IAM decides, and the instance role may Decrypt there."""
    made = client("administrator").create_key()["KeyMetadata"]
    text = client("administrator").get_key_policy(KeyId=made["KeyId"])["Policy"]
    assert json.loads(text)["Statement"][0]["Principal"]["AWS"].endswith(":root")
    blob = client("gateway").encrypt(KeyId=made["KeyId"], Plaintext=b"secret")
    answer = client("parent").decrypt(CiphertextBlob=blob["CiphertextBlob"])
    assert answer["Plaintext"] == b"secret"


def test_the_denies_hold_even_beside_a_root_statement(
    kms: RunningKms, client: Make, enclave: Any, vault_key: str, blob: bytes
) -> None:
    one = client("administrator")
    document = json.loads(one.get_key_policy(KeyId=vault_key)["Policy"])
    document["Statement"].append(
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{kms.account}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    )
    one.put_key_policy(KeyId=vault_key, Policy=json.dumps(document))
    with pytest.raises(ClientError, match="explicit deny"):
        client("parent").decrypt(CiphertextBlob=blob, EncryptionContext=IMPORTED)


def test_a_recipient_is_taken_where_aws_takes_one_and_nowhere_else(
    kms: RunningKms,
    client: Make,
    enclave: Any,
    open_envelope: Callable[..., bytes],
    error_of: Callable[..., str],
) -> None:
    key = client("administrator").create_key()["KeyMetadata"]["KeyId"]
    random = client().generate_random(NumberOfBytes=64, Recipient=enclave.recipient())
    assert not random.get("Plaintext")
    assert len(open_envelope(random["CiphertextForRecipient"], enclave.key)) == 64
    pair = client().generate_data_key_pair(
        KeyId=key, KeyPairSpec="ECC_SECG_P256K1", Recipient=enclave.recipient()
    )
    assert not pair.get("PrivateKeyPlaintext")
    private = serialization.load_der_private_key(
        open_envelope(pair["CiphertextForRecipient"], enclave.key), None
    )
    assert _spki(private) == pair["PublicKey"]
    # boto3 knows no Recipient there; a hand-written client must be told.
    one = client("gateway")
    one.meta.events.register(
        "before-call.kms.Encrypt",
        lambda params, **_: params.update(
            body=params["body"][:-1] + b', "Recipient": {}}'
        ),
    )
    code = error_of(one.encrypt, KeyId=key, Plaintext=b"x")
    assert code == "ValidationException"
    derive = {
        "KeyId": key,
        "KeyAgreementAlgorithm": "ECDH",
        "PublicKey": _spki(ec.generate_private_key(ec.SECP256R1())),
        "Recipient": enclave.recipient(),
    }
    assert (
        error_of(client().derive_shared_secret, **derive)
        == "UnsupportedOperationException"
    )


def test_only_the_known_key_encryption_algorithm_is_taken(
    client: Make, enclave: Any, error_of: Callable[..., str]
) -> None:
    recipient = {**enclave.recipient(), "KeyEncryptionAlgorithm": "RSAES_PKCS1_V1_5"}
    code = error_of(client().generate_random, NumberOfBytes=8, Recipient=recipient)
    assert code == "ValidationException"
    del recipient["AttestationDocument"]
    recipient["KeyEncryptionAlgorithm"] = "RSAES_OAEP_SHA_256"
    code = error_of(client().generate_random, NumberOfBytes=8, Recipient=recipient)
    assert code == "ValidationException"
