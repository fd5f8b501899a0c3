"""Keystores, seeds, the AWS reference's items; deposits, exits, changes of credentials."""

import asyncio
import base64
import hashlib
import json
import os
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from eth_account.hdaccount.mnemonic import Language, Mnemonic
from py_ecc.bls import G2ProofOfPossession
from remerkleable.basic import uint64
from remerkleable.byte_arrays import Bytes32, Bytes48, ByteVector
from remerkleable.complex import Container

from nitrosigner.trusted.enclave.validators.validator_keys_port import (
    NO_HISTORY,
    WrappedSeed,
)
from nitrosigner.trusted.signing.beacon_networks import PUBLIC_NETWORKS
from nitrosigner.trusted.signing.slashing import Epoch, Voted, Watermark
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import import_wrapping
from nitrosigner.wire.manifest_validators import Validators

SECRET = bytes(31) + b"\x09"
PUBLIC_KEY = G2ProofOfPossession.SkToPk(9)
NAME = "0x" + PUBLIC_KEY.hex()
PASSWORD = "correct horse 🐎"
PHRASE = (
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon"
    " abandon about"
)
SEED = Mnemonic(Language.ENGLISH).to_seed(PHRASE)
ADDRESS = bytes(range(1, 21))
GENESIS = bytes.fromhex("00000000")
CAPELLA = bytes.fromhex("03000000")
CHAIN = bytes(PUBLIC_NETWORKS["mainnet"].genesis_validators_root)
OFFLINE = X25519PrivateKey.generate()


# --- the second opinion: containers as the specification writes them ---


class Bytes4(ByteVector[4]):
    pass


class Bytes20(ByteVector[20]):
    pass


class Bytes96(ByteVector[96]):
    pass


class ForkData(Container):
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):
    object_root: Bytes32
    domain: Bytes32


class DepositMessage(Container):
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64


class DepositData(Container):
    pubkey: Bytes48
    withdrawal_credentials: Bytes32
    amount: uint64
    signature: Bytes96


class VoluntaryExit(Container):
    epoch: uint64
    validator_index: uint64


class BLSToExecutionChange(Container):
    validator_index: uint64
    from_bls_pubkey: Bytes48
    to_execution_address: Bytes20


def signing_root(
    message: Container, domain_type: str, version: bytes, chain: bytes
) -> bytes:
    fork = ForkData(
        current_version=Bytes4(version), genesis_validators_root=Bytes32(chain)
    )
    domain = bytes.fromhex(domain_type) + bytes(fork.hash_tree_root())[:28]
    data = SigningData(object_root=message.hash_tree_root(), domain=Bytes32(domain))
    return bytes(data.hash_tree_root())


def keystore(secret: bytes = SECRET, pubkey: str | None = None, **changes: Any) -> str:
    salt, iv = os.urandom(32), os.urandom(16)
    key = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, 1000, 32)
    encryptor = Cipher(algorithms.AES128(key[:16]), modes.CTR(iv)).encryptor()
    message = encryptor.update(secret)
    if pubkey is None:
        pubkey = G2ProofOfPossession.SkToPk(int.from_bytes(secret, "big")).hex()
    return json.dumps(
        {
            "crypto": {
                "kdf": {
                    "function": "pbkdf2",
                    "params": {
                        "dklen": 32,
                        "c": 1000,
                        "prf": "hmac-sha256",
                        "salt": salt.hex(),
                    },
                    "message": "",
                },
                "checksum": {
                    "function": "sha256",
                    "params": {},
                    "message": hashlib.sha256(key[16:32] + message).hexdigest(),
                },
                "cipher": {
                    "function": "aes-128-ctr",
                    "params": {"iv": iv.hex()},
                    "message": message.hex(),
                },
            },
            "description": "",
            "pubkey": pubkey,
            "path": "m/12381/3600/0/0/0",
            "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
            "version": 4,
        }
        | changes
    )


@pytest.fixture
def vp(lab: Any) -> Any:
    return lab.parent(lab.sign(lab.wanted(validators=Validators(network="mainnet"))))


def at(target: int) -> Watermark:
    return Watermark(
        voted=Voted(source=Epoch(0), target=Epoch(target), signing_root=None)
    )


# --- keystores ---


def test_a_keystore_comes_with_its_history(lab: Any, vp: Any) -> None:
    async def take(running: Any) -> None:
        validators = running.validators
        made = await validators.import_keystore(keystore(), PASSWORD, at(9))
        assert (made.key.name, made.new) == (NAME, True)
        assert (await validators.history([PUBLIC_KEY])).reached == {PUBLIC_KEY: at(9)}
        again = await validators.import_keystore(keystore(), PASSWORD, at(5))
        assert not again.new
        assert validators.guard.watermark(PUBLIC_KEY) == at(9)

    lab.booted(vp, take)


@pytest.mark.parametrize(
    ("document", "password", "code"),
    [
        (keystore(), "wrong", Code.WRONG_PASSWORD),
        ("{}", PASSWORD, Code.MALFORMED_KEYSTORE),
        ("", PASSWORD, Code.MALFORMED_KEYSTORE),
        (keystore(version=3), PASSWORD, Code.MALFORMED_KEYSTORE),
        (keystore(pubkey="aa" * 48), PASSWORD, Code.KEY_MISMATCH),
        (keystore(bytes(32), "aa" * 48), PASSWORD, Code.MALFORMED_KEY),
        (keystore(b"\xff" * 32, "aa" * 48), PASSWORD, Code.MALFORMED_KEY),
    ],
)
def test_a_keystore_that_is_none_leaves_nothing(
    lab: Any, vp: Any, document: str, password: str, code: Code
) -> None:
    async def take(running: Any) -> None:
        with pytest.raises((Malformed, Refused)) as caught:
            await running.validators.import_keystore(document, password, NO_HISTORY)
        assert caught.value.code is code
        assert running.validators.facts.loaded == 0
        assert vp.watermarks == {}

    lab.booted(vp, take)


def test_keystores_are_opened_one_at_a_time(lab: Any, vp: Any) -> None:
    secrets = [bytes(31) + bytes([n]) for n in range(20, 28)]

    async def take(running: Any) -> None:
        made = await asyncio.gather(
            *(
                running.validators.import_keystore(
                    keystore(secret), PASSWORD, NO_HISTORY
                )
                for secret in secrets
            )
        )
        assert len({one.key.name for one in made}) == len(secrets)
        worker = running.validators._worker
        worker._waiting = 256
        with pytest.raises(Exception, match="too many keystores"):
            await running.validators.import_keystore(keystore(), PASSWORD, NO_HISTORY)
        worker._waiting = 0

    lab.booted(vp, take)


# --- seeds ---


def entered(running: Any, form: str, plaintext: bytes, **changes: Any) -> WrappedSeed:
    info = import_wrapping.seed_info(
        deployment=changes.get("deployment", "lab"), form=changes.get("said", form)
    )
    wrap = import_wrapping.wrap(plaintext, running.validators.import_public_key, info)
    return WrappedSeed(form=form, wrapped=base64.b64encode(wrap).decode())  # type: ignore[arg-type]  # the tests' forms are


def opened_backup(backup: bytes) -> bytes:
    info = import_wrapping.backup_info(deployment="lab")
    return import_wrapping.unwrap(backup, OFFLINE, info)


OFFLINE_PUBLIC = OFFLINE.public_key().public_bytes_raw()


def test_keys_of_a_mnemonic_and_of_its_seed_are_the_same(lab: Any, vp: Any) -> None:
    async def derive(running: Any) -> None:
        validators = running.validators
        by_words = await validators.derive(
            entered(running, "mnemonic", PHRASE.encode()), start=0, count=3
        )
        assert [one.new for one in by_words.keys] == [True] * 3
        assert by_words.backup == b""
        by_seed = await validators.derive(
            entered(running, "seed", SEED), start=1, count=3,
            backup_recipient=OFFLINE_PUBLIC,
        )  # fmt: skip
        assert [one.new for one in by_seed.keys] == [False, False, True]
        names = [one.key.name for one in by_words.keys]
        assert [one.key.name for one in by_seed.keys][:2] == names[1:]
        assert opened_backup(by_seed.backup) == SEED
        # A passphrase makes another seed.
        other = await validators.derive(
            entered(running, "mnemonic", PHRASE.encode() + b"\nTREZOR"),
            start=0,
            count=1,
        )
        assert other.keys[0].key.name not in names

    lab.booted(vp, derive)
    outside = b"".join(record.data for record in vp.records.values()) + bytes(vp.seen)
    outside += b"".join(mark.data for mark in vp.watermarks.values())
    assert SEED not in outside
    assert b"abandon" not in outside


def test_the_first_key_is_the_one_that_deposit_tools_make(lab: Any, vp: Any) -> None:
    async def derive(running: Any) -> str:
        made = await running.validators.derive(
            entered(running, "mnemonic", PHRASE.encode()), start=0, count=1
        )
        return made.keys[0].key.name

    # The same phrase through py_ecc and the EIP-2333 of test_validator_seeds.
    assert lab.booted(vp, derive) == (
        "0xb3e445d43871965d890a398f719348a1405ac72e35b92727"
        "cc570026f54471af7ea7b2040622a8fd0b5bfb2a209b5911"
    )


def test_a_new_seed_leaves_as_a_backup_and_makes_the_same_keys(
    lab: Any, vp: Any
) -> None:
    async def make(running: Any) -> None:
        validators = running.validators
        made = await validators.derive(
            WrappedSeed(form="new"), start=0, count=2, backup_recipient=OFFLINE_PUBLIC
        )
        phrase = opened_backup(made.backup)
        assert len(phrase.split()) == 24
        assert Mnemonic(Language.ENGLISH).is_mnemonic_valid(phrase.decode())
        again = await validators.derive(
            entered(running, "mnemonic", phrase), start=0, count=2
        )
        assert [one.key for one in again.keys] == [one.key for one in made.keys]
        other = await validators.derive(
            WrappedSeed(form="new"), start=0, count=1, backup_recipient=OFFLINE_PUBLIC
        )
        assert other.keys[0].key.name != made.keys[0].key.name

    lab.booted(vp, make)


def test_what_is_no_seed_makes_no_key(lab: Any, vp: Any) -> None:
    async def derive(running: Any) -> None:
        validators = running.validators

        def good() -> WrappedSeed:
            return entered(running, "mnemonic", PHRASE.encode())

        for seed, more in (
            (entered(running, "mnemonic", b"abandon"), {}),
            (entered(running, "seed", bytes(31)), {}),
            (entered(running, "seed", bytes(65)), {}),
            (entered(running, "seed", SEED, said="mnemonic"), {}),
            (entered(running, "seed", SEED, deployment="other"), {}),
            (WrappedSeed(form="seed"), {}),
            (WrappedSeed(form="new"), {}),
            (WrappedSeed("new", "AAAA"), {"backup_recipient": OFFLINE_PUBLIC}),
            (WrappedSeed(form="new"), {"backup_recipient": bytes(32)}),
            (WrappedSeed(form="new"), {"backup_recipient": b"short"}),
            (good(), {"count": 0}),
            (good(), {"count": 257}),
            (good(), {"start": -1}),
            (good(), {"start": 1 << 32}),
        ):
            with pytest.raises(Malformed):
                await validators.derive(seed, **{"start": 0, "count": 1} | more)
        assert validators.facts.loaded == 0
        assert vp.watermarks == {}

    lab.booted(vp, derive)


# --- items of the AWS reference ---


def reference_key(lab: Any) -> str:
    """A KMS key as the reference has it: attestation is demanded, no context is."""
    from nitrosigner.emulator.kms import RunningKms

    kms: RunningKms = lab.kms
    statement = [
        {
            "Sid": "Manage",
            "Effect": "Allow",
            "Principal": {"AWS": kms.principal("administrator").arn},
            "Action": ["kms:DescribeKey", "kms:PutKeyPolicy", "kms:GetKeyPolicy"],
            "Resource": "*",
        },
        {
            "Sid": "Load",
            "Effect": "Allow",
            "Principal": {"AWS": kms.principal("gateway").arn},
            "Action": "kms:Encrypt",
            "Resource": "*",
        },
        {
            "Sid": "Open",
            "Effect": "Allow",
            "Principal": {"AWS": kms.principal("parent").arn},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {
                "StringEqualsIgnoreCase": {
                    "kms:RecipientAttestation:ImageSha384": lab.pcr0.hex()
                }
            },
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    client = boto(lab, "administrator")
    arn: str = client.create_key(Policy=policy, BypassPolicyLockoutSafetyCheck=True)[
        "KeyMetadata"
    ]["Arn"]
    client.close()
    return arn


def boto(lab: Any, role: str) -> Any:
    principal = lab.kms.principal(role)
    return boto3.session.Session().client(
        "kms",
        region_name=lab.kms.region,
        endpoint_url=lab.kms.url,
        verify=str(lab.kms.ca),
        aws_access_key_id=principal.access_key_id,
        aws_secret_access_key=principal.secret_access_key,
        aws_session_token=principal.session_token,
    )


def loaded_item(lab: Any, arn: str, document: str, **changes: Any) -> bytes:
    """What load_validator_keys.py puts into DynamoDB, before its base64."""
    fields = {
        "keystore_b64": base64.b64encode(document.encode()).decode(),
        "password_b64": base64.b64encode(PASSWORD.encode()).decode(),
        "mnemonic_b64": base64.b64encode(PHRASE.encode()).decode(),
    } | changes
    client = boto(lab, "gateway")
    blob: bytes = client.encrypt(KeyId=arn, Plaintext=json.dumps(fields).encode())[
        "CiphertextBlob"
    ]
    client.close()
    return blob


def test_an_item_of_the_reference_is_taken_and_its_mnemonic_is_not(lab: Any) -> None:
    arn = reference_key(lab)
    told = Validators(network="mainnet", reference_kms_key_arn=arn)
    vp = lab.parent(lab.sign(lab.wanted(validators=told)))
    item = loaded_item(lab, arn, keystore())

    async def take(running: Any) -> None:
        validators = running.validators
        made = await validators.import_reference(NAME, item, at(3))
        assert (made.key.name, made.new) == (NAME, True)
        assert not (await validators.import_reference(NAME[2:], item, NO_HISTORY)).new
        other = "0x" + G2ProofOfPossession.SkToPk(10).hex()
        for public_key, blob, code in (
            (other, item, Code.KEY_MISMATCH),
            (NAME, loaded_item(lab, arn, "{}"), Code.MALFORMED_KEYSTORE),
            (NAME, loaded_item(lab, arn, keystore(), password_b64="!"), Code.MALFORMED_KEY),
            (NAME, loaded_item(lab, arn, keystore(), password_b64=3), Code.MALFORMED_KEY),
            (NAME, item[:-1] + bytes([item[-1] ^ 1]), Code.KMS_REFUSED),
            (NAME, b"", Code.KMS_REFUSED),
        ):  # fmt: skip
            with pytest.raises((Refused, Malformed)) as caught:
                await validators.import_reference(public_key, blob, NO_HISTORY)
            assert caught.value.code is code
        assert validators.facts.loaded == 1

    lab.booted(vp, take)


# --- messages ---


def booted_with_key(lab: Any, vp: Any, use: Any) -> Any:
    async def whole(running: Any) -> Any:
        await running.validators.import_keystore(keystore(), PASSWORD, NO_HISTORY)
        return await use(running.validators)

    return lab.booted(vp, whole)


@pytest.mark.parametrize(
    ("prefix", "amount"), [(1, 32 * 10**9), (2, 2048 * 10**9), (1, 10**9)]
)
def test_a_deposit_passes_the_checks_of_deposit_tools(
    lab: Any, vp: Any, prefix: int, amount: int
) -> None:
    credentials = bytes([prefix]) + bytes(11) + ADDRESS
    made = booted_with_key(
        lab,
        vp,
        lambda validators: validators.deposit_data(
            NAME, withdrawal_credentials=credentials, amount=amount
        ),
    )
    message = DepositMessage(
        pubkey=Bytes48(PUBLIC_KEY),
        withdrawal_credentials=Bytes32(credentials),
        amount=uint64(amount),
    )
    data = DepositData(
        pubkey=Bytes48(PUBLIC_KEY),
        withdrawal_credentials=Bytes32(credentials),
        amount=uint64(amount),
        signature=Bytes96(made.signature),
    )
    root = signing_root(message, "03000000", GENESIS, bytes(32))
    assert G2ProofOfPossession.Verify(PUBLIC_KEY, root, made.signature)
    assert made.message_root == bytes(message.hash_tree_root())
    assert made.data_root == bytes(data.hash_tree_root())
    assert (made.public_key, made.amount, made.network) == (
        PUBLIC_KEY,
        amount,
        "mainnet",
    )
    assert (made.fork_version, made.withdrawal_credentials) == (GENESIS, credentials)


@pytest.mark.parametrize(
    ("credentials", "amount"),
    [
        (b"\x01" + bytes(11) + ADDRESS, 10**9 - 1),
        (b"\x01" + bytes(11) + ADDRESS, 32 * 10**9 + 1),
        (b"\x02" + bytes(11) + ADDRESS, 2048 * 10**9 + 1),
        (b"\x01" + bytes(11) + ADDRESS, -1),
        (b"\x03" + bytes(11) + ADDRESS, 32 * 10**9),
        (b"\x01" + bytes(31), 32 * 10**9),
        (b"\x01" + b"\x01" * 11 + ADDRESS, 32 * 10**9),
        (b"\x01" + bytes(10) + ADDRESS, 32 * 10**9),
        (b"", 32 * 10**9),
    ],
)
def test_a_deposit_that_would_be_lost_is_malformed(
    lab: Any, vp: Any, credentials: bytes, amount: int
) -> None:
    async def ask(validators: Any) -> None:
        with pytest.raises(Malformed):
            await validators.deposit_data(
                NAME, withdrawal_credentials=credentials, amount=amount
            )

    booted_with_key(lab, vp, ask)


def test_an_exit_is_good_for_ever(lab: Any, vp: Any) -> None:
    made = booted_with_key(
        lab,
        vp,
        lambda validators: validators.voluntary_exit(
            NAME, validator_index=77, epoch=300_000
        ),
    )
    message = VoluntaryExit(epoch=uint64(300_000), validator_index=uint64(77))
    root = signing_root(message, "04000000", CAPELLA, CHAIN)
    assert G2ProofOfPossession.Verify(PUBLIC_KEY, root, made.signature)
    assert (made.epoch, made.validator_index) == (300_000, 77)


def test_a_disabled_or_deleted_key_signs_none_of_them(lab: Any, vp: Any) -> None:
    async def ask(validators: Any) -> None:
        await validators.disable(NAME)
        for code in (Code.KEY_DISABLED, Code.KEY_DELETED):
            for asked in (
                validators.voluntary_exit(NAME, validator_index=1, epoch=1),
                validators.deposit_data(
                    NAME,
                    withdrawal_credentials=b"\x01" + bytes(11) + ADDRESS,
                    amount=10**9,
                ),
                validators.bls_to_execution_change(
                    NAME, validator_index=1, to_execution_address=ADDRESS
                ),
            ):
                with pytest.raises(Refused) as caught:
                    await asked
                assert caught.value.code is code
            await validators.delete(NAME)

    booted_with_key(lab, vp, ask)


def change_root(index: int, public_key: bytes) -> bytes:
    message = BLSToExecutionChange(
        validator_index=uint64(index),
        from_bls_pubkey=Bytes48(public_key),
        to_execution_address=Bytes20(ADDRESS),
    )
    return signing_root(message, "0a000000", GENESIS, CHAIN)


def test_a_change_of_credentials_is_signed_by_a_key_that_is_kept(
    lab: Any, vp: Any
) -> None:
    made = booted_with_key(
        lab,
        vp,
        lambda validators: validators.bls_to_execution_change(
            NAME, validator_index=5, to_execution_address=ADDRESS
        ),
    )
    assert made.from_bls_public_key == PUBLIC_KEY
    assert made.network == "mainnet"
    root = change_root(5, PUBLIC_KEY)
    assert G2ProofOfPossession.Verify(PUBLIC_KEY, root, made.signature)


def test_a_change_of_credentials_is_signed_by_a_withdrawal_key_that_is_not(
    lab: Any, vp: Any
) -> None:
    async def ask(running: Any) -> None:
        validators = running.validators
        derived = await validators.derive(
            entered(running, "mnemonic", PHRASE.encode()), start=0, count=2
        )
        loaded = validators.facts.loaded
        names = [one.key.name for one in derived.keys]
        made = await validators.bls_to_execution_change(
            names[1],
            validator_index=5,
            to_execution_address=ADDRESS,
            seed=entered(running, "mnemonic", PHRASE.encode()),
            index=1,
        )
        assert "0x" + made.from_bls_public_key.hex() not in names
        assert G2ProofOfPossession.Verify(
            made.from_bls_public_key,
            change_root(5, made.from_bls_public_key),
            made.signature,
        )
        assert validators.facts.loaded == loaded
        for name, seed, index, verdict in (
            (names[0], entered(running, "seed", SEED), 1, Refused),
            (names[1], entered(running, "seed", SEED), 0, Refused),
            (names[1], entered(running, "seed", SEED), 1 << 32, Malformed),
            (names[1], WrappedSeed(form="new"), 1, Malformed),
        ):
            with pytest.raises(verdict):
                await validators.bls_to_execution_change(
                    name,
                    validator_index=5,
                    to_execution_address=ADDRESS,
                    seed=seed,
                    index=index,
                )
        for address in (b"", bytes(20), bytes(21)):
            with pytest.raises(Malformed):
                await validators.bls_to_execution_change(
                    names[0], validator_index=5, to_execution_address=address
                )

    lab.booted(vp, ask)
