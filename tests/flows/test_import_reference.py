"""A validator moves out of the AWS reference's table, by command, into a real stack."""

import base64
import hashlib
import json
from pathlib import Path

import boto3
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from moto import mock_aws

from nitrosigner.cli.bls import bls12_381
from nitrosigner.cli.main import run
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout
from nitrosigner.emulator.demo_validator import attestation, interop_key
from nitrosigner.emulator.kms.principals import PrincipalsFile
from nitrosigner.emulator.running_stack import RunningStack
from nitrosigner.emulator.stack_programs import Places
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.wire.manifest import accept, sign

STACK = "arn:aws:cloudformation:eu-west-1:111122223333:stack/v/f97f"
SECRET = interop_key(3)
WORDS = "canary canary canary"


def reference_item(public_key: str, password: str) -> bytes:
    """What the reference's load_validator_keys.py encrypts."""
    derived = hashlib.pbkdf2_hmac("sha256", password.encode(), bytes(32), 10, 32)
    cipher = Cipher(algorithms.AES128(derived[:16]), modes.CTR(bytes(16)))
    message = cipher.encryptor().update(SECRET)
    kdf = {"dklen": 32, "c": 10, "prf": "hmac-sha256", "salt": bytes(32).hex()}
    checksum = hashlib.sha256(derived[16:] + message).hexdigest()
    keystore = {
        "crypto": {
            "kdf": {"function": "pbkdf2", "params": kdf, "message": ""},
            "checksum": {"function": "sha256", "params": {}, "message": checksum},
            "cipher": {
                "function": "aes-128-ctr",
                "params": {"iv": bytes(16).hex()},
                "message": message.hex(),
            },
        },
        "description": "",
        "pubkey": public_key,
        "path": "m/12381/3600/0/0/0",
        "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
        "version": 4,
    }
    item = {
        "keystore_b64": base64.b64encode(json.dumps(keystore).encode()).decode(),
        "password_b64": base64.b64encode(password.encode()).decode(),
        "mnemonic_b64": base64.b64encode(WORDS.encode()).decode(),
    }
    return json.dumps(item).encode()


def encrypted_by_the_reference(
    stack: RunningStack, plaintext: bytes
) -> tuple[str, bytes]:
    """A KMS key of its own, which admits the enclave, and what it makes of an item."""
    ready = stack.ready
    places = Places(
        folder=stack.folder,
        run=Path(ready.run),
        source=Path(),
        port=0,
        kms_port=int(ready.kms_url.rpartition(":")[2]),
        metadata_port=0,
    )
    roles = msgspec.json.decode(places.principals.read_bytes(), type=PrincipalsFile)
    statement = {"Effect": "Allow", "Resource": "*"}
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            statement
            | {
                "Principal": {"AWS": roles.principals["administrator"].arn},
                "Action": "kms:*",
            },
            statement
            | {
                "Principal": {"AWS": roles.principals["parent"].arn},
                "Action": "kms:Decrypt",
                "Condition": {
                    "StringEqualsIgnoreCase": {
                        "kms:RecipientAttestation:PCR0": ready.pcr0
                    }
                },
            },
        ],
    }
    kms = kms_rollout.client(places, "administrator")
    made = kms.create_key(Policy=json.dumps(policy), Description="the reference's")
    arn = made["KeyMetadata"]["Arn"]
    return arn, kms.encrypt(KeyId=arn, Plaintext=plaintext)["CiphertextBlob"]


def name_its_key(stack: RunningStack, arn: str) -> None:
    """What an administrator does: edit the manifest, and sign it."""
    manifest = accept(stack.folder.manifest.read_bytes()).manifest
    assert manifest.validators is not None
    told = msgspec.structs.replace(manifest.validators, reference_kms_key_arn=arn)
    key = serialization.load_pem_private_key(
        stack.folder.administrator_key.read_bytes(), None
    )
    assert isinstance(key, Ed25519PrivateKey)
    edited = msgspec.structs.replace(
        manifest, validators=told, version=manifest.version + 1
    )
    stack.folder.manifest.write_bytes(sign(edited, key))


def test_a_key_moves_from_the_references_table_into_the_enclave(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    public_key = bls12_381().public_key(SecretBytes(bytearray(SECRET))).hex()
    stack = RunningStack.start(tmp_path / "data", options=("--preset", "minimal"))
    try:
        item = reference_item(public_key, "canary-password")
        arn, ciphertext = encrypted_by_the_reference(stack, item)
        name_its_key(stack, arn)
    finally:
        stack.stop()
    stack = RunningStack.start(tmp_path / "data")
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with mock_aws():
            fill_table(public_key, ciphertext)
            code = run(
                [
                    *("validators", "import-reference", "--table", "keys"),
                    *("--stack", STACK, "--chain", "devnet", "--region", "eu-west-1"),
                    *("--data", str(stack.folder.path), "--client", "operator"),
                    "--json",
                ]
            )
        said = capsys.readouterr()
        assert code == 0, said
        answer = json.loads(said.out)
        assert answer["imported"] == ["0x" + public_key]
        (left_out,) = answer["left_out"]
        assert left_out["reason"] == "it is switched off"
        with SignerClient.from_data(stack.folder.path, "validator") as client:
            signature = client.sign_duty(public_key, attestation(1, 2))
        assert len(signature) == 2 + 192
    finally:
        stack.stop()
    assert "canary" not in said.out + said.err
    for file in stack.folder.path.rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert b"canary" not in held, file
            assert SECRET not in held, file


def fill_table(public_key: str, ciphertext: bytes) -> None:
    resource = boto3.resource("dynamodb", region_name="eu-west-1")
    names = ("web3signer_uuid", "pubkey")
    table = resource.create_table(
        TableName="keys",
        KeySchema=[
            {"AttributeName": name, "KeyType": kind}
            for name, kind in zip(names, ("HASH", "RANGE"), strict=True)
        ],
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": "S"} for name in names
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    for pubkey, active in ((public_key, True), ("a" * 96, False)):
        table.put_item(
            Item={
                "web3signer_uuid": STACK,
                "pubkey": pubkey,
                "chain": "devnet",
                "active": active,
                "encrypted_key_password_mnemonic_b64": base64.b64encode(
                    ciphertext
                ).decode(),
            }
        )
    resource.meta.client.close()
